// Package shared tests volumes that several mounts change at the same time.
//
// The mounts of a test are served by the test's process: one metadata engine, with a
// session for each mount, over one object store in memory. What uses kernel mounts runs
// in a child process (the same test binary, told by the environment), because a Go
// process that touches a mapping of its own mount can stop itself for ever.
package shared

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/object"
	objmem "github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/tree/volume"
)

var format = meta.Format{Name: "shared", UUID: "00000000-0000-4000-8000-000000000001", ChunkSize: meta.MinChunkSize,
	Compression: "lz4", InlineLimit: meta.DefaultInlineLimit}

var bg = context.Background()

// remoteVar has all tests use a metadata server.
const remoteVar = "MASSIF_SHARED_REMOTE"

// mountsVar tells a child process where the mounts are.
const mountsVar = "MASSIF_TEST_SHARED_MOUNTS"

func TestMain(m *testing.M) {
	syscall.Umask(0)
	if where := os.Getenv(serverVar); where != "" {
		if err := serveMetadata(where); err != nil {
			fmt.Fprintln(os.Stderr, "metadata server:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(mountsVar) != "" {
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m)
}

// cluster is a volume and the clients that have it open.
type cluster struct {
	t       testing.TB
	engine  *meta.Engine
	store   object.Store
	log     *slog.Logger
	clients []*client
}

// client is what one machine has of a volume.
type client struct {
	fs     *volume.FS
	blocks *block.Store
	server *fuse.Server
	dir    string
}

func newCluster(t testing.TB, clients int) *cluster {
	t.Helper()
	c := &cluster{t: t, store: objmem.New(), log: slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	db := mem.New()
	c.must(meta.Create(bg, db, format))
	var err error
	c.engine, err = meta.Open(bg, db, meta.Options{Logger: c.log})
	c.must(err)
	t.Cleanup(func() {
		if !t.Failed() {
			problems, err := c.problems()
			if err != nil || len(problems) > 0 {
				t.Errorf("the metadata are not in order: %v %v", problems, err)
			}
		}
		for _, err := range []error{c.engine.Close(), db.Close(), c.store.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	for range clients {
		c.clients = append(c.clients, c.open(c.session()))
	}
	return c
}

// logWriter passes log lines on to the test.
type logWriter struct{ t testing.TB }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) session() meta.Session {
	s, err := c.engine.NewSession(bg, meta.SessionInfo{Host: fmt.Sprint("client", len(c.clients))})
	c.must(err)
	return s
}

// open opens the volume through a session. It is closed by the test's end.
func (c *cluster) open(s meta.Session) *client {
	c.t.Helper()
	cl := new(client)
	budget := cache.NewBudget(64 << 20)
	bufs, err := cache.NewBuffers(budget)
	c.must(err)
	memory, err := cache.NewMemory(bufs, 8<<20)
	c.must(err)
	cl.blocks, err = block.New(bg, block.Config{Store: c.store, Budget: budget, Buffers: bufs, Memory: memory, Compression: block.LZ4, Logger: c.log})
	c.must(err)
	cl.fs, err = volume.New(volume.Config{Session: s, Blocks: cl.blocks, Budget: budget, DirtyLimit: 8 << 20,
		FlushInterval: 200 * time.Millisecond, Logger: c.log})
	c.must(err)
	c.t.Cleanup(func() {
		errs := []error{cl.fs.Close(), cl.blocks.Close()}
		memory.Close()
		for _, err := range append(errs, bufs.Close()) {
			if err != nil {
				c.t.Errorf("closing a client: %v", err)
			}
		}
	})
	return cl
}

// problems checks the metadata's invariants.
func (c *cluster) problems() ([]string, error) {
	var found []string
	_, err := c.engine.Check(bg, func(p meta.Problem) { found = append(found, fmt.Sprint(p)) })
	return found, err
}

// needFUSE skips tests that cannot mount here.
func needFUSE(t testing.TB) {
	t.Helper()
	why := ""
	if os.Geteuid() != 0 {
		why = "mounting in tests needs root"
	} else if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		why = "no FUSE here: " + err.Error()
	} else {
		f.Close()
	}
	switch {
	case why == "":
	case os.Getenv("MASSIF_REQUIRE_TOOLS") == "1":
		t.Fatal(why)
	default:
		t.Skip(why)
	}
}

// mount mounts a client.
func (c *cluster) mount(cl *client) string {
	c.t.Helper()
	cl.dir = c.t.TempDir()
	var err error
	cl.server, err = fuse.Mount(cl.fs, cl.dir, fuse.Options{AllowOther: true, Logger: c.log})
	c.must(err)
	c.t.Cleanup(func() {
		if err := cl.server.Unmount(); err != nil {
			c.t.Errorf("unmount: %v", err)
			cl.server.Abort()
		}
	})
	return cl.dir
}

// onMounts mounts a volume clients times and calls run with the mount points, in a
// child process.
func onMounts(t *testing.T, clients int, run func(t *testing.T, dirs []string)) {
	if list := os.Getenv(mountsVar); list != "" {
		run(t, strings.Split(list, ":"))
		return
	}
	if os.Getenv(remoteVar) != "" {
		onRemote(t, clients, direct, peace, run)
		return
	}
	needFUSE(t)
	c := newCluster(t, clients)
	var dirs []string
	for _, cl := range c.clients {
		dirs = append(dirs, c.mount(cl))
	}
	inChild(t, mountsVar+"="+strings.Join(dirs, ":"))
}

// inChild runs the calling test in a child process with a variable in its environment.
func inChild(t *testing.T, variable string) {
	t.Helper()
	var parts []string
	for part := range strings.SplitSeq(t.Name(), "/") {
		parts = append(parts, "^"+regexp.QuoteMeta(part)+"$")
	}
	limit := 2 * time.Minute
	if d, ok := t.Deadline(); ok {
		limit = min(limit, time.Until(d)-5*time.Second)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit+2*time.Second)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run="+strings.Join(parts, "/"), "-test.v", "-test.count=1", "-test.timeout="+limit.String())
	if testing.Short() {
		child.Args = append(child.Args, "-test.short")
	}
	child.Env = append(os.Environ(), variable)
	child.WaitDelay = 5 * time.Second
	out, err := child.CombinedOutput()
	if err != nil {
		t.Errorf("in the child process: %v\n%s", err, out)
	} else if testing.Verbose() {
		io.WriteString(os.Stdout, "    "+strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "\n    ")+"\n")
	}
}
