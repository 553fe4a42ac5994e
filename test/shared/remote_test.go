package shared

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/internal/testseed"
	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/kv/pebble"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/meta/metarpc"
	objmem "github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/vfs"
	"github.com/massif-fs/massif/vfs/vfstest"
)

// serverVar has a child process be a metadata server: the database's directory and the
// address, separated by '|'.
const serverVar = "MASSIF_TEST_SHARED_SERVER"

// everybody lets every client in.
type everybody struct{}

func (everybody) Authenticate(_ context.Context, h *metarpc.Hello) (*metarpc.Grant, error) {
	return &metarpc.Grant{Volume: h.Volume, Principal: "test"}, nil
}

// serverLease is how long a client of the server may use what it has leased without
// hearing from it.
const serverLease = time.Second

// serveMetadata is the server process. It ends by being killed, or with its input.
func serveMetadata(where string) error {
	dir, addr, _ := strings.Cut(where, "|")
	log := slog.New(slog.DiscardHandler)
	db, err := pebble.Open(dir, pebble.Options{Logger: log})
	if err != nil {
		return err
	}
	engine, err := meta.Open(bg, db, meta.Options{Logger: log, Grace: metarpc.DefaultLife, LeaseGrace: serverLease})
	if err != nil {
		return err
	}
	s := metarpc.NewServer(metarpc.ServerConfig{Auth: everybody{}, Logger: log, Lease: serverLease,
		Volume: func(string) (*metarpc.Volume, error) { return &metarpc.Volume{Engine: engine}, nil }})
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("serving")
	go func() {
		io.Copy(io.Discard, os.Stdin)
		l.Close()
	}()
	err = s.Serve(l)
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, s.Close(), engine.Close(), db.Close())
}

// remote is a volume whose metadata are served by a process of its own.
type remote struct {
	*cluster
	dir, addr string

	mu    sync.Mutex
	cmd   *exec.Cmd
	input io.Closer
}

func newRemote(t testing.TB, clients int, connect func(r *remote) string) *remote {
	t.Helper()
	r := &remote{dir: filepath.Join(t.TempDir(), "meta")}
	r.cluster = &cluster{t: t, store: objmem.New(), log: slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelError}))}
	r.create()
	r.addr = "127.0.0.1:" + testserver.Port(t)
	r.start()
	t.Cleanup(func() {
		r.stop()
		r.check()
		if err := r.store.Close(); err != nil {
			t.Error(err)
		}
	})
	addr := connect(r)
	for i := range clients {
		s, err := metarpc.Dial(bg, metarpc.ClientConfig{
			Connect: func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", addr) },
			Hello:   metarpc.Hello{Volume: "shared", Info: meta.SessionInfo{Host: fmt.Sprint("client", i)}},
			Logger:  r.log,
		})
		r.must(err)
		r.clients = append(r.clients, r.open(s))
	}
	return r
}

func (r *remote) create() {
	db, err := pebble.Open(r.dir, pebble.Options{})
	r.must(err)
	r.must(meta.Create(bg, db, format))
	r.must(db.Close())
}

// check looks whether the metadata that are left are in order.
func (r *remote) check() {
	db, err := pebble.Open(r.dir, pebble.Options{})
	if err != nil {
		r.t.Error(err)
		return
	}
	r.engine, err = meta.Open(bg, db, meta.Options{Logger: r.log})
	if err == nil {
		var problems []string
		problems, err = r.problems()
		if len(problems) > 0 {
			r.t.Errorf("the metadata are not in order: %v", problems)
		}
		err = errors.Join(err, r.engine.Close())
	}
	if err := errors.Join(err, db.Close()); err != nil {
		r.t.Error(err)
	}
}

func (r *remote) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverVar+"="+r.dir+"|"+r.addr)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	r.must(err)
	r.input, err = cmd.StdinPipe()
	r.must(err)
	r.must(cmd.Start())
	r.cmd = cmd
	if _, err := io.ReadFull(out, make([]byte, len("serving"))); err != nil {
		r.t.Errorf("the metadata server has not started: %v", err)
	}
}

// kill ends the server as a crash does.
func (r *remote) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cmd.Process.Kill()
	r.cmd.Wait()
}

func (r *remote) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.input.Close()
	if err := r.cmd.Wait(); err != nil {
		r.t.Errorf("the metadata server: %v", err)
	}
}

// onRemote is onMounts with a metadata server; trouble runs beside the child process
// until stop is closed.
func onRemote(t *testing.T, clients int, connect func(r *remote) string, trouble func(r *remote, stop <-chan struct{}), run func(t *testing.T, dirs []string)) {
	if list := os.Getenv(mountsVar); list != "" {
		run(t, strings.Split(list, ":"))
		return
	}
	needFUSE(t)
	r := newRemote(t, clients, connect)
	var dirs []string
	for _, cl := range r.clients {
		dirs = append(dirs, r.mount(cl))
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { trouble(r, stop) })
	inChild(t, mountsVar+"="+strings.Join(dirs, ":"))
	close(stop)
	wg.Wait()
}

func direct(r *remote) string { return r.addr }

func peace(*remote, <-chan struct{}) {}

// kills kills the server and starts it again every now and then.
func kills(r *remote, stop <-chan struct{}) {
	rnd := rand.New(rand.NewPCG(testseed.Of(r.t, 1), 0))
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(300+rnd.IntN(900)) * time.Millisecond):
		}
		r.kill()
		select {
		case <-stop:
		case <-time.After(time.Duration(rnd.IntN(300)) * time.Millisecond):
		}
		r.start()
	}
}

// journal does what leaves traces of each acknowledged operation, of each mount under
// names of its own, which no other mount changes: so an operation that is lost or done
// twice is found, at once or in the end.
func journal(t *testing.T, dirs []string, duration time.Duration) {
	deadline := time.Now().Add(duration)
	seed := testseed.Of(t, 1)
	var wg sync.WaitGroup
	finals := make([]map[string]string, len(dirs))
	for i, dir := range dirs {
		finals[i] = map[string]string{}
		wg.Go(func() {
			there := finals[i]
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			path := func(name string) string { return filepath.Join(dir, name) }
			any := func() string {
				for name := range there {
					return name
				}
				return ""
			}
			for k := 0; time.Now().Before(deadline) && !t.Failed(); k++ {
				name := fmt.Sprintf("m%d-%d", i, k)
				switch op := rnd.IntN(10); {
				case op < 4 || len(there) == 0:
					text := fmt.Sprint("made ", k)
					f, err := os.OpenFile(path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
					if err != nil {
						t.Errorf("create %s: %v", name, err)
						return
					}
					_, err = f.WriteString(text)
					if err := errors.Join(err, f.Close()); err != nil {
						t.Errorf("write %s: %v", name, err)
						return
					}
					there[name] = text
				case op < 6:
					old := any()
					if err := unix.Unlink(path(old)); err != nil {
						t.Errorf("unlink %s: %v", old, err)
						return
					}
					delete(there, old)
				case op < 8:
					old := any()
					if err := rename(path(old), path(name)); err != nil {
						t.Errorf("rename %s: %v", old, err)
						return
					}
					there[name] = there[old]
					delete(there, old)
				case op < 9:
					old := any()
					f, err := os.OpenFile(path(old), os.O_WRONLY|os.O_APPEND, 0)
					if err == nil {
						_, err = f.WriteString("+")
						err = errors.Join(err, f.Close())
					}
					if err != nil {
						t.Errorf("append %s: %v", old, err)
						return
					}
					there[old] += "+"
				default: // somebody else's look
					old := any()
					data, err := os.ReadFile(filepath.Join(dirs[rnd.IntN(len(dirs))], old))
					if err != nil || string(data) != there[old] {
						t.Errorf("%s reads %q, %v, want %q", old, data, err, there[old])
						return
					}
				}
			}
		})
	}
	wg.Wait()
	total := 0
	for _, there := range finals {
		total += len(there)
	}
	t.Logf("%d files are left", total)
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		check(t, err)
		if len(entries) != total {
			t.Errorf("%d entries in %s, want %d", len(entries), dir, total)
		}
		for _, there := range finals {
			for name, want := range there {
				if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != want {
					t.Errorf("%s reads %q, %v, want %q", name, data, err, want)
				}
			}
		}
	}
}

func duration() time.Duration {
	if testing.Short() {
		return 2 * time.Second
	}
	return 6 * time.Second
}

// TestRemote: the journal, over the wire and without trouble.
func TestRemote(t *testing.T) {
	onRemote(t, 3, direct, peace, func(t *testing.T, dirs []string) { journal(t, dirs, duration()/2) })
}

// TestServerKilled: no acknowledged operation is lost, and none is done twice, while the
// metadata server is killed again and again.
func TestServerKilled(t *testing.T) {
	onRemote(t, 3, direct, kills, func(t *testing.T, dirs []string) { journal(t, dirs, duration()) })
}

// TestConnectionCut: likewise while connections break in the middle of requests and
// answers.
func TestConnectionCut(t *testing.T) {
	var proxy *testserver.Proxy
	connect := func(r *remote) string {
		proxy = testserver.NewProxy(r.t, r.addr)
		return proxy.Addr()
	}
	cut := func(r *remote, stop <-chan struct{}) {
		rnd := rand.New(rand.NewPCG(testseed.Of(r.t, 1), 0))
		for {
			n := 1000 + rnd.Int64N(40_000)
			if f := (testserver.Fault{CutAnswer: n}); rnd.IntN(2) == 0 {
				proxy.Set(f)
			} else {
				proxy.Set(testserver.Fault{CutRequest: n})
			}
			select {
			case <-stop:
				proxy.Set(testserver.Fault{})
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	onRemote(t, 3, connect, cut, func(t *testing.T, dirs []string) { journal(t, dirs, duration()) })
}

// TestServerKilledLinearizable: what TestNamesLinearizable asks, while the server is
// killed.
func TestServerKilledLinearizable(t *testing.T) {
	onRemote(t, 3, direct, kills, func(t *testing.T, dirs []string) {
		for round, begin := 0, time.Now(); time.Since(begin) < duration(); round++ {
			namesLinearizable(t, dirs, round, 30)
		}
	})
}

// TestSuiteRemote runs the conformance suite of trees on a client of a metadata server.
func TestSuiteRemote(t *testing.T) {
	vfstest.Run(t, vfstest.Factory{
		New: func(t testing.TB) vfs.FS { return newRemote(t, 1, direct).clients[0].fs },
		Pair: func(t testing.TB) (one, two vfs.FS) {
			r := newRemote(t, 2, direct)
			return r.clients[0].fs, r.clients[1].fs
		},
	})
}
