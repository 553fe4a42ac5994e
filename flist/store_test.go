package flist

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openStore(t testing.TB, url string) Store {
	t.Helper()
	s, err := OpenStore(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// testStore checks what any store that can be written promises.
func testStore(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	b, sealed := V2.Seal(randomBytes(9, 100000))
	if _, err := s.Get(ctx, b.ID); !errors.Is(err, ErrNotFound) {
		t.Fatalf("an absent block: %v", err)
	}
	for range 2 {
		if err := s.Put(ctx, b.ID, sealed); err != nil {
			t.Fatal(err)
		}
		got, err := s.Get(ctx, b.ID)
		if err != nil || !bytes.Equal(got, sealed) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
}

func TestDirStore(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, "dir://"+dir)
	testStore(t, s)
	// An older layout has blocks beside each other.
	b, sealed := V2.Seal([]byte("old"))
	if err := os.WriteFile(filepath.Join(dir, b.String()), sealed, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(t.Context(), b.ID); err != nil || !bytes.Equal(got, sealed) {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, b.String()), make([]byte, MaxSealed+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), b.ID); !errors.Is(err, errTooLong) {
		t.Fatal(err)
	}
}

func TestObjectStore(t *testing.T) {
	testStore(t, openStore(t, "file://"+filepath.Join(t.TempDir(), "new")))
}

func TestBucket(t *testing.T) {
	endpoint, bucket, creds := testserver.S3(t)
	s := openStore(t, strings.Replace(endpoint, "http://", "s3://"+creds.AccessKey+":"+creds.SecretKey+"@", 1)+"/"+bucket)
	if strings.Contains(s.String(), creds.SecretKey) {
		t.Fatal("the name has the secret")
	}
	testStore(t, s)
}

func TestRedis(t *testing.T) {
	addr := testserver.Redis(t)
	testStore(t, openStore(t, "redis://"+addr))
}

func TestWebStore(t *testing.T) {
	dir := t.TempDir()
	d := openStore(t, "dir://"+dir)
	b, sealed := V2.Seal(randomBytes(4, 1000))
	if err := d.Put(t.Context(), b.ID, sealed); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/base/", http.StripPrefix("/base/", http.FileServer(http.Dir(dir))))
	mux.HandleFunc("/api/v1/block/{id}", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer letmein" {
			http.Error(w, "no", http.StatusForbidden)
		} else if r.PathValue("id") == b.String() {
			w.Write(sealed)
		} else {
			http.NotFound(w, r)
		}
	})
	mux.HandleFunc("/endless/", func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, MaxSealed+1)) })
	server := httptest.NewServer(mux)
	defer server.Close()
	for _, url := range []string{server.URL + "/base", "server://" + server.URL + "?token=letmein"} {
		s := openStore(t, url)
		if got, err := s.Get(t.Context(), b.ID); err != nil || !bytes.Equal(got, sealed) {
			t.Fatalf("%s: %v", url, err)
		}
		if _, err := s.Get(t.Context(), make([]byte, 32)); !errors.Is(err, ErrNotFound) {
			t.Fatalf("%s: %v", url, err)
		}
		if err := s.Put(t.Context(), b.ID, sealed); !errors.Is(err, ErrReadOnly) {
			t.Fatalf("%s: %v", url, err)
		}
		if strings.Contains(s.String(), "letmein") {
			t.Fatal("the name has the token")
		}
	}
	s := openStore(t, "server://"+server.URL+"?token=wrong")
	if _, err := s.Get(t.Context(), b.ID); err == nil || errors.Is(err, ErrNotFound) || strings.Contains(err.Error(), "wrong") {
		t.Fatal(err)
	}
	if _, err := openStore(t, server.URL+"/endless").Get(t.Context(), b.ID); !errors.Is(err, errTooLong) {
		t.Fatal(err)
	}
}

// zdbServer speaks as much of 0-db as the store uses: one namespace with a password. It
// refuses, as 0-db does, whatever a Redis client sends of its own accord.
type zdbServer struct {
	l    net.Listener
	wg   sync.WaitGroup
	mu   sync.Mutex
	data map[string]string
	odd  []string
	open map[net.Conn]bool
}

func startZDB(t testing.TB) *zdbServer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &zdbServer{l: l, data: map[string]string{}, open: map[net.Conn]bool{}}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.open[c] = true
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for c := range s.open {
			c.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

func (s *zdbServer) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	write := false
	for {
		args, err := readCommand(r)
		if err != nil {
			return
		}
		s.mu.Lock()
		reply := "-Command not supported\r\n"
		switch {
		case args[0] == "SELECT" && len(args) == 3 && args[1] == "images" && args[2] == "pass":
			write, reply = true, "+OK\r\n"
		case args[0] == "SELECT":
			reply = "-Namespace protected and private\r\n"
		case !write:
			reply = "-Namespace protected and private\r\n"
		case strings.EqualFold(args[0], "EXISTS"):
			reply = ":0\r\n"
			if _, ok := s.data[args[1]]; ok {
				reply = ":1\r\n"
			}
		case strings.EqualFold(args[0], "GET"):
			reply = "$-1\r\n"
			if v, ok := s.data[args[1]]; ok {
				reply = fmt.Sprintf("$%d\r\n%s\r\n", len(v), v)
			}
		case strings.EqualFold(args[0], "SET"):
			reply = fmt.Sprintf("$%d\r\n%s\r\n", len(args[1]), args[1])
			if s.data[args[1]] == args[2] {
				reply = "$-1\r\n"
			}
			s.data[args[1]] = args[2]
		default:
			s.odd = append(s.odd, args[0])
		}
		s.mu.Unlock()
		if _, err := c.Write([]byte(reply)); err != nil {
			return
		}
	}
}

func readCommand(r *bufio.Reader) ([]string, error) {
	number := func(prefix byte) (int, error) {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		if line[0] != prefix {
			return 0, errors.New("no array of strings")
		}
		return strconv.Atoi(strings.TrimSpace(line[1:]))
	}
	n, err := number('*')
	if err != nil {
		return nil, err
	}
	args := make([]string, n)
	for i := range args {
		size, err := number('$')
		if err != nil {
			return nil, err
		}
		p := make([]byte, size+2)
		for k := 0; k < len(p); {
			m, err := r.Read(p[k:])
			if err != nil {
				return nil, err
			}
			k += m
		}
		args[i] = string(p[:size])
	}
	return args, nil
}

func TestZDB(t *testing.T) {
	server := startZDB(t)
	s := openStore(t, "zdb://:pass@"+server.l.Addr().String()+"/images")
	if strings.Contains(s.String(), "pass") {
		t.Fatal("the name has the password")
	}
	testStore(t, s)
	// A value that appears between the question and the answer is no error.
	if err := s.(*zdbStore).client.Do(t.Context(), "SET", "k", "v").Err(); err != nil {
		t.Fatal(err)
	}
	server.mu.Lock()
	odd := server.odd
	server.mu.Unlock()
	if len(odd) > 0 {
		t.Errorf("the client also sent %v", odd)
	}
	wrong := openStore(t, "zdb://:other@"+server.l.Addr().String()+"/images")
	if _, err := wrong.Get(t.Context(), make([]byte, 32)); err == nil || errors.Is(err, ErrNotFound) || strings.Contains(err.Error(), "other") {
		t.Fatal(err)
	}
}

func TestStoreURLs(t *testing.T) {
	for _, url := range []string{
		"", "x", "ftp://host/x", "dir://host/x", "dir:relative", "http:///x", "https://host/x?a=b", "zdb://", "zdb://host/a/b", "s3://host:1", "server://nonsense", "s3://a:topsecret@host:1/b/c", "%zz://topsecret",
	} {
		s, err := OpenStore(t.Context(), url)
		if err == nil {
			s.Close()
			t.Errorf("%q is taken", url)
		} else if strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%q: the error shows the secret: %v", url, err)
		}
	}
}

// memStore is a store for tests of the router.
type memStore struct {
	name   string
	mu     sync.Mutex
	blocks map[string][]byte
	err    error
	gets   int
}

func (m *memStore) Get(_ context.Context, id []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets++
	if m.err != nil {
		return nil, m.err
	}
	p, ok := m.blocks[string(id)]
	if !ok {
		return nil, ErrNotFound
	}
	return bytes.Clone(p), nil
}

func (m *memStore) Put(_ context.Context, id, p []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blocks[string(id)] = p
	return m.err
}
func (m *memStore) String() string { return m.name }
func (m *memStore) Close() error   { return nil }

func TestRouter(t *testing.T) {
	b, sealed := V2.Seal([]byte("content"))
	_, other := V2.Seal([]byte("something else"))
	good := func() *memStore { return &memStore{name: "good", blocks: map[string][]byte{string(b.ID): sealed}} }
	lacks := func() *memStore { return &memStore{name: "lacks", blocks: map[string][]byte{}} }
	down := func() *memStore { return &memStore{name: "down", err: errors.New("connection refused")} }
	wrong := func(p []byte) *memStore { return &memStore{name: "wrong", blocks: map[string][]byte{string(b.ID): p}} }
	for what, c := range map[string]struct {
		pools [][]*memStore
		ok    bool
	}{
		"one":               {[][]*memStore{{good()}}, true},
		"none":              {nil, false},
		"one lacks it":      {[][]*memStore{{lacks(), good()}}, true},
		"one is down":       {[][]*memStore{{down(), good()}}, true},
		"one is wrong":      {[][]*memStore{{wrong(other), wrong(sealed[:5]), wrong(nil), good()}}, true},
		"the second pool":   {[][]*memStore{{lacks(), down()}, {good()}}, true},
		"all lack it":       {[][]*memStore{{lacks()}, {lacks()}}, false},
		"all are wrong":     {[][]*memStore{{wrong(other)}}, false},
		"all but one, down": {[][]*memStore{{down(), lacks()}}, false},
	} {
		r := &Router{version: V2}
		for pool, stores := range c.pools {
			for _, s := range stores {
				route := Everything("x")
				route.Pool = pool
				r.stores = append(r.stores, &routed{Route: route, store: s})
			}
		}
		plain, err := r.Fetch(t.Context(), b, make([]byte, BlockSize))
		if c.ok && (err != nil || string(plain) != "content") {
			t.Errorf("%s: %q, %v", what, plain, err)
		}
		if !c.ok && vfs.ErrnoOf(err) != syscall.EIO {
			t.Errorf("%s: %q, %v", what, plain, err)
		}
	}
	// Of two shards only the one that has the block is asked, and of two replicas the one
	// that failed last.
	lower, upper := lacks(), lacks()
	r := &Router{version: V2, stores: []*routed{{Route: Route{Start: []byte{0}, End: []byte{0x7f}}, store: lower}, {Route: Route{Start: []byte{0x80}, End: []byte{0xff}}, store: upper}}}
	if err := r.Put(t.Context(), b.ID, sealed); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Fetch(t.Context(), b, make([]byte, BlockSize)); err != nil || lower.gets+upper.gets != 1 {
		t.Fatalf("%v, %d and %d requests", err, lower.gets, upper.gets)
	}
	bad, fine := down(), good()
	r = &Router{version: V2, stores: []*routed{{Route: Everything(""), store: bad}, {Route: Everything(""), store: fine}}}
	for range 20 {
		if _, err := r.Fetch(t.Context(), b, make([]byte, BlockSize)); err != nil {
			t.Fatal(err)
		}
	}
	if bad.gets > 1 {
		t.Errorf("the store that is down was asked %d times", bad.gets)
	}
	if err := (&Router{version: V2}).Put(t.Context(), b.ID, sealed); err == nil {
		t.Error("a block went nowhere")
	}
}

func TestRouterYAML(t *testing.T) {
	routes, err := parseRouterYAML([]byte("pools:\n  near: {\"00:7F\": \"zdb://a:1\", \"8\": \"redis://b:2\"}\n  far: {\"AB\": \"ardb://c:3\"}\nlookup: [far, near]\ncache: [near]\n"))
	if err != nil || len(routes) != 3 {
		t.Fatalf("%+v, %v", routes, err)
	}
	for _, r := range routes {
		if (r.URL == "ardb://c:3") != (r.Pool == 0) {
			t.Errorf("%+v", r)
		}
	}
	text, err := formatRouterYAML(routes)
	if err != nil {
		t.Fatal(err)
	}
	again, err := parseRouterYAML(text)
	if err != nil || len(again) != 3 {
		t.Fatalf("%s: %+v, %v", text, again, err)
	}
	id, _ := hex.DecodeString("ab00112233445566778899aabbccddee")
	n := 0
	for i := range routes {
		if routes[i].has(id) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d routes for %x", n, id)
	}
	for s, ok := range map[string]bool{"00-7f=dir:///x": true, "dir:///x": true, "zdb://h/n?a=b": true, "7f-00=dir:///x": false, "0-f=x": false, "00-zz=x": false} {
		if _, err := ParseRoute(s); (err == nil) != ok {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func FuzzRouterYAML(f *testing.F) {
	f.Add([]byte("pools: {a: {\"00:FF\": \"zdb://h:1\"}}\nlookup: [a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		routes, err := parseRouterYAML(data)
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
		for i := range routes {
			routes[i].has(make([]byte, 16))
		}
	})
}
