package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long something may take that happens for certain.
const patience = time.Minute

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
		time.Sleep(time.Millisecond)
	}
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// message reads the next message of a connection.
func message(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	frame, err := readFrame(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(frame)
}

func TestEndlessRequest(t *testing.T) {
	server, path := startServer(t, map[string]Handler{"echo": echo})
	c := dial(t, path)
	chunk := bytes.Repeat([]byte("["), 1<<20)
	sent := 0
	for sent < 1<<30 { // a line of 1 GiB, as far as it gets
		n, err := c.Write(chunk)
		sent += n
		if err != nil {
			break
		}
	}
	if sent > maxFrame+1<<24 {
		t.Errorf("%d bytes of a request were taken", sent)
	}
	if got := exchange(t, path, `{"cmd": "echo"}`); !strings.Contains(got, "result") {
		t.Errorf("another client: %q", got)
	}
	eventually(t, "memory given back", func() bool { return server.receiving.n.Load() == 0 })
}

func TestTooMuchAtOnce(t *testing.T) {
	server, path := startServer(t, map[string]Handler{"echo": echo})
	server.receiving.n.Add(maxReceiving - 100) // others are sending
	if got := exchange(t, path, `{"cmd": "echo", "id": 1}`); !strings.Contains(got, "result") {
		t.Errorf("a small request: %q", got)
	}
	if got := exchange(t, path, strings.Repeat(" ", 200)); !strings.Contains(got, errReceiving.Error()) {
		t.Errorf("a large request: %q", got)
	}
	eventually(t, "memory given back", func() bool { return server.receiving.n.Load() == maxReceiving-100 })
}

func TestDeepRequest(t *testing.T) {
	_, path := startServer(t, map[string]Handler{"echo": echo})
	deep := strings.Repeat(`{"args":`, 1<<20) + "\n\n"
	nested := `{"cmd":"echo","args":{"text":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "}}\n\n"
	got := exchange(t, path, deep+strings.Repeat("[", 1<<20)+"\n\n"+nested+`{"cmd": "echo", "id": 9}`)
	if strings.Count(got, ClassRequest) != 2 || strings.Count(got, ClassSchema) != 1 || !strings.Contains(got, `"id": 9`) {
		t.Errorf("deep requests: %.500q", got)
	}
}

func TestHalfOpenConnections(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 300
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil && uint64(2*n+100) > limit.Cur {
		n = int(limit.Cur/2) - 100
	}
	server, path := startServer(t, map[string]Handler{"echo": echo})
	server.mu.Lock()
	server.maxConns = n / 2
	server.mu.Unlock()
	for range n {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, `{"cmd": "ec`); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
	}
	if got := exchange(t, path, `{"cmd": "echo"}`); !strings.Contains(got, "result") {
		t.Errorf("beside %d half-open connections: %q", n, got)
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	if len(server.conns) > server.maxConns {
		t.Errorf("%d connections are kept", len(server.conns))
	}
}

// A connection with a watch is kept, whoever else comes.
func TestWatchersAreKept(t *testing.T) {
	var ended atomic.Int32
	server, path := startServer(t, map[string]Handler{"watch": func(_ context.Context, c *Call) (any, error) {
		return nil, c.Conn().OnClose(func() { ended.Add(1) })
	}})
	server.mu.Lock()
	server.maxConns = 2
	server.mu.Unlock()
	w := dial(t, path)
	io.WriteString(w, `{"cmd": "watch"}`+"\n\n")
	r := bufio.NewReader(w)
	message(t, r)
	for range 10 {
		dial(t, path)
	}
	io.WriteString(w, `{"cmd": "zz", "id": 7}`+"\n\n")
	if got := message(t, r); !strings.Contains(got, `"id": 7`) {
		t.Errorf("the watcher: %q", got)
	}
	w.Close()
	eventually(t, "end of the watch", func() bool { return ended.Load() == 1 })
}

func TestEvents(t *testing.T) {
	_, path := startServer(t, map[string]Handler{"touch": func(_ context.Context, c *Call) (any, error) {
		c.Conn().Notify([]Event{{"create", "é/x", 1, 2}, {"modify", "é/x", 1, 2}})
		c.Conn().Notify([]Event{{"create", "é/x", 3, 2}})
		c.Conn().Notify(nil)
		return "done", nil
	}})
	c := dial(t, path)
	io.WriteString(c, `{"cmd": "touch", "id": 0}`+"\n\n")
	got := map[string]bool{}
	r := bufio.NewReader(c)
	for range 3 {
		got[message(t, r)] = true
	}
	for _, want := range []string{
		"{\n  \"event\": [\n    {\n      \"type\": \"create\",\n      \"path\": \"\\u00e9/x\",\n      \"watch-id\": 1,\n      \"storage-id\": 2\n    },\n" +
			"    {\n      \"type\": \"modify\",\n      \"path\": \"\\u00e9/x\",\n      \"watch-id\": 1,\n      \"storage-id\": 2\n    }\n  ]\n}\n",
		"{\n  \"event\": [\n    {\n      \"type\": \"create\",\n      \"path\": \"\\u00e9/x\",\n      \"watch-id\": 3,\n      \"storage-id\": 2\n    }\n  ]\n}\n",
		"{\n  \"result\": \"done\",\n  \"id\": 0\n}\n",
	} {
		if !got[want] {
			t.Errorf("no message %q in %v", want, got)
		}
	}
}

// A client that does not read its events costs bounded memory and nobody's time, and
// learns that it has missed some.
func TestDeafWatcher(t *testing.T) {
	var conn atomic.Pointer[Conn]
	_, path := startServer(t, map[string]Handler{
		"echo":  echo,
		"watch": func(_ context.Context, c *Call) (any, error) { conn.Store(c.Conn()); return nil, nil },
	})
	deaf := dial(t, path)
	io.WriteString(deaf, `{"cmd": "watch"}`+"\n\n")
	r := bufio.NewReader(deaf)
	message(t, r)
	const events = 20000
	for i := range events {
		conn.Load().Notify([]Event{{"modify", fmt.Sprint(i), 4, 5}})
		conn.Load().mu.Lock()
		if size := conn.Load().size; size > maxEvents {
			t.Fatalf("%d bytes are waiting", size)
		}
		conn.Load().mu.Unlock()
	}
	if got := exchange(t, path, `{"cmd": "echo"}`); !strings.Contains(got, "result") {
		t.Errorf("another client: %q", got)
	}
	for i := 0; ; i++ {
		var m struct{ Event []Event }
		if err := json.Unmarshal([]byte(message(t, r)), &m); err != nil {
			t.Fatal(err)
		}
		if e := m.Event[0]; e.Type == "overflow" {
			if e.WatchID != 4 || e.StorageID != 5 || i == 0 || i == events {
				t.Errorf("after %d events: %+v", i, e)
			}
			break
		} else if e.Path != fmt.Sprint(i) {
			t.Fatalf("event %d is %+v", i, e)
		}
	}
	// From here on it hears again.
	conn.Load().Notify([]Event{{"modify", "again", 4, 5}})
	if got := message(t, r); !strings.Contains(got, `"again"`) {
		t.Errorf("after the overflow: %q", got)
	}
}

func TestPanicIsAnError(t *testing.T) {
	_, path := startServer(t, map[string]Handler{"panic": func(context.Context, *Call) (any, error) { panic("x") }})
	got := exchange(t, path, `{"cmd": "panic", "id": 1}`+"\n\n"+`{"cmd": "zz", "id": 2}`)
	if !strings.Contains(got, "failed inside") || !strings.Contains(got, `"id": 2`) {
		t.Errorf("got %q", got)
	}
}

func TestLivingSocketStays(t *testing.T) {
	first, path := startServer(t, map[string]Handler{"echo": echo})
	if s, err := Serve(context.Background(), path, nil, slog.New(slog.DiscardHandler)); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second server: %v", err)
		if err == nil {
			s.Close()
		}
	}
	if got := exchange(t, path, `{"cmd": "echo"}`); !strings.Contains(got, "result") {
		t.Errorf("the first one: %q", got)
	}
	// What took the place of the socket meanwhile is not removed by its end.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Serve(context.Background(), path, nil, slog.New(slog.DiscardHandler)); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("in place of a file: %v", err)
	}
	if data, err := os.ReadFile(path); string(data) != "mine" {
		t.Errorf("the file: %q, %v", data, err)
	}
}

// The socket is private even where the umask takes nothing away.
func TestPrivateFromBirth(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	_, path := startServer(t, nil)
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("socket: %v %v", info.Mode(), err)
	}
}

func TestUsers(t *testing.T) {
	for _, c := range []struct {
		peer, own uint32
		ok        bool
	}{{0, 1000, true}, {1000, 1000, true}, {1001, 1000, false}, {1000, 0, false}} {
		if err := checkUser(c.peer, c.own); (err == nil) != c.ok {
			t.Errorf("user %d at a server of %d: %v", c.peer, c.own, err)
		}
	}
}

const testSchemas = `{"mount": {"type": "object", "additionalProperties": false, "required": ["items"], "properties": {
  "storage-id": {"type": "number", "description": "storage ID, as returned by paths"},
  "lazy": {"type": "boolean"},
  "items": {"type": "array", "items": {"type": "object", "properties": {"paths": {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": "^/([^/].*)?$"}}}}}}}}`

func TestSchema(t *testing.T) {
	schemas, err := ParseSchemas([]byte(testSchemas))
	if err != nil {
		t.Fatal(err)
	}
	_, path := startServer(t, map[string]Handler{"mount": Validated(schemas["mount"], func(context.Context, *Call) (any, error) { return nil, nil })})
	for args, want := range map[string]string{
		`{"items": []}`:                          "",
		`{"items": [], "storage_id": 4.0}`:       "",
		`{}`:                                     "'items' is a required property\nExpected object",
		`{"items": [], "storage-id": "XXX"}`:     "storage-id: 'XXX' is not of type 'number'\nExpected number (storage ID, as returned by paths)",
		`{"items": [], "storage-id": true}`:      "storage-id: True is not of type 'number'\nExpected number (storage ID, as returned by paths)",
		`{"items": [{"paths": []}]}`:             "items.0.paths: [] is too short\nExpected array",
		`{"items": [{"paths": ["x"]}]}`:          "items.0.paths.0: 'x' does not match '^/([^/].*)?$'\nExpected string",
		`{"items": [{"paths": ["//x"]}]}`:        "items.0.paths.0: '//x' does not match '^/([^/].*)?$'\nExpected string",
		`{"items": [], "zz": 1}`:                 "Additional properties are not allowed ('zz' was unexpected)\nExpected object",
		`{"items": [], "zz": 1, "a": {"b": []}}`: "Additional properties are not allowed ('a', 'zz' were unexpected)\nExpected object",
		`{"lazy": 1, "items": {}}`:               "items: {} is not of type 'array'\nExpected array\nlazy: 1 is not of type 'boolean'\nExpected boolean",
	} {
		got := exchange(t, path, `{"cmd": "mount", "args": `+args+`}`)
		var answer struct{ Error *Error }
		if err := json.Unmarshal([]byte(got), &answer); err != nil {
			t.Fatalf("%s: %v", got, err)
		}
		switch {
		case want == "" && answer.Error != nil:
			t.Errorf("%s: %v", args, answer.Error)
		case want != "" && (answer.Error == nil || answer.Error.Class != ClassSchema || answer.Error.Desc != want):
			t.Errorf("%s: %+v, want %q", args, answer.Error, want)
		}
	}
	for _, bad := range []string{`[]`, `{"a": {"type": "thing"}}`, `{"a": {"pattern": "("}}`, `{"a": {"maxItems": 3}}`} {
		if _, err := ParseSchemas([]byte(bad)); err == nil {
			t.Errorf("schema %s is accepted", bad)
		}
	}
}

func FuzzArguments(f *testing.F) {
	schemas, err := ParseSchemas([]byte(testSchemas))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"cmd": "mount", "args": {"items": [{"paths": ["/x", 3]}], "zz": null}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		req, bad := parseRequest(data)
		if bad != nil {
			return
		}
		ran := false
		h := Validated(schemas["mount"], func(_ context.Context, c *Call) (any, error) {
			ran = true
			if c.Args()["items"] == nil {
				t.Fatalf("ran without items: %q", data)
			}
			return nil, nil
		})
		_, err := h(context.Background(), &Call{args: req.Args})
		if ran == (err != nil) {
			t.Fatalf("%q: ran %v, %v", data, ran, err)
		}
		var e *Error
		if err != nil && (!errors.As(err, &e) || len(e.Desc) > 4096*maxViolations) {
			t.Fatalf("%q: %v", data, err)
		}
	})
}
