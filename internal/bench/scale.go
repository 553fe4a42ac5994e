package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/meta/metarpc"
	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/vfs"
)

// Scale measures a metadata server: operations per second against the number of
// clients, and the disk and memory that files and sessions cost.
//
// The server is a process of its own; the clients are sessions of this process, each
// over a TLS connection of its own, as a mount has. Neither kernel nor FUSE is in the
// figures, but the clients' work is in those of time.
type Scale struct {
	Work string
	// Clients are the numbers of clients to try.
	Clients []int
	// Time is how long each number is tried.
	Time time.Duration
	// Files and Sessions are how many the costs are measured with.
	Files, Sessions int
	Log             func(format string, args ...any)
}

// server is the metadata server under measurement.
type server struct {
	*process
	state, addr string
	ports       []string
}

func (s *Scale) serve(ctx context.Context, state string, ports []string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	env := []string{serverEnv + "=" + filepath.Join(state, "memory")}
	p, addr, err := massifServers(ctx, self, env, state, ports)
	if err != nil {
		return nil, err
	}
	return &server{p, state, addr, ports}, nil
}

// dial begins a session.
func (s *server) dial(ctx context.Context, cached bool) (*metarpc.Client, error) {
	tree := &mount.SharedTree{Creds: filepath.Join(s.state, "home", "creds", s.addr, "bench")}
	return tree.Session(ctx, cached, slog.New(slog.DiscardHandler))
}

func (s *server) dialMany(ctx context.Context, n int, cached bool) ([]*metarpc.Client, error) {
	clients := make([]*metarpc.Client, 0, n)
	for range n {
		c, err := s.dial(ctx, cached)
		if err != nil {
			return nil, errors.Join(err, closeAll(clients))
		}
		clients = append(clients, c)
	}
	return clients, nil
}

func closeAll(clients []*metarpc.Client) error {
	var errs []error
	for _, c := range clients {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Run measures and prints two tables.
func (s *Scale) Run(ctx context.Context, out io.Writer) (err error) {
	state, err := os.MkdirTemp(s.Work, "massif-scale-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(state)) }()
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	srv, err := s.serve(ctx, state, ports)
	if err != nil {
		return err
	}
	defer func() {
		if srv != nil {
			err = errors.Join(err, srv.stop())
		}
	}()
	fmt.Fprintf(out, "%s\n%s\n\n", time.Now().Format("2006-01-02 15:04"), machine())
	if err := s.rates(ctx, srv, out); err != nil {
		return err
	}
	return s.costs(ctx, &srv, out)
}

// rates prints operations per second against clients.
func (s *Scale) rates(ctx context.Context, srv *server, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "clients\tcached op/s\tuncached op/s\tcreate µs\tlookup µs\tgetattr µs\trename µs\tunlink µs\tserver µs/op\t")
	for _, n := range s.Clients {
		s.Log("%d clients", n)
		cached, err := s.rate(ctx, srv, n, true)
		if err != nil {
			return err
		}
		r, err := s.rate(ctx, srv, n, false)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%d\t%.0f\t%.0f\t", n, cached.perSecond, r.perSecond)
		for _, us := range r.latency {
			fmt.Fprintf(w, "%.0f\t", us)
		}
		fmt.Fprintf(w, "%.0f\t\n", r.server)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, `
each client, in a directory of its own and one call at a time: create, lookup, getattr, rename, unlink of a file, durably
cached: with leases; the client then answers lookup and getattr itself. uncached: every operation is a call
µs: mean latency, uncached; server: its processor time for an uncached operation`)
	return err
}

const cycleOps = 5

// rated is what some clients reached.
type rated struct {
	perSecond float64
	latency   [cycleOps]float64 // µs
	server    float64           // µs of processor time an operation
}

// rate has n clients work for the time.
func (s *Scale) rate(ctx context.Context, srv *server, n int, cached bool) (r rated, err error) {
	clients, err := srv.dialMany(ctx, n, cached)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, closeAll(clients)) }()
	dirs := make([]vfs.Ino, n)
	for i, c := range clients {
		if dirs[i], err = makeDir(ctx, c, fmt.Sprintf("rate-%t-%d-%d", cached, n, i)); err != nil {
			return r, err
		}
	}
	var before, after usage
	before.gather(srv.pid())
	var stop atomic.Bool
	timer := time.AfterFunc(s.Time, func() { stop.Store(true) })
	defer timer.Stop()
	begin := time.Now()
	took := make([][cycleOps]time.Duration, n)
	rounds := make([]int, n)
	err = together(clients, func(i int, c *metarpc.Client) error {
		for ; !stop.Load() && ctx.Err() == nil; rounds[i]++ {
			if err := cycle(ctx, c, dirs[i], rounds[i], &took[i]); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return r, err
	}
	seconds := time.Since(begin).Seconds()
	after.gather(srv.pid())
	total := 0
	var sums [cycleOps]time.Duration
	for i := range clients {
		total += rounds[i]
		for j, t := range took[i] {
			sums[j] += t
		}
	}
	total = max(total, 1)
	for j := range sums {
		r.latency[j] = float64(sums[j].Microseconds()) / float64(total)
	}
	r.perSecond = float64(total*cycleOps) / seconds
	r.server = float64((after.cpu - before.cpu).Microseconds()) / float64(total*cycleOps)
	return r, nil
}

// together runs something for each client at once.
func together(clients []*metarpc.Client, do func(i int, c *metarpc.Client) error) error {
	errs := make([]error, len(clients))
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() { errs[i] = do(i, c) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

var superuser = &vfs.Caller{}

func makeDir(ctx context.Context, c meta.Session, name string) (vfs.Ino, error) {
	var a vfs.Attr
	err := c.Mkdir(ctx, superuser, vfs.Root, name, 0o755, &a)
	return a.Ino, err
}

// cycle is the life of a file; took gets the time of each step added.
func cycle(ctx context.Context, c meta.Session, dir vfs.Ino, i int, took *[cycleOps]time.Duration) error {
	name, other := fmt.Sprintf("f%06d", i), fmt.Sprintf("r%06d", i)
	var made, a vfs.Attr
	for step, do := range [cycleOps]func() error{
		func() error { return c.Mknod(ctx, superuser, dir, name, syscall.S_IFREG|0o644, 0, &made) },
		func() error { return c.Lookup(ctx, superuser, dir, name, &a) },
		func() error { return c.GetAttr(ctx, superuser, made.Ino, &a) },
		func() error { return c.Rename(ctx, superuser, dir, name, dir, other, 0, &a) },
		func() error { return c.Unlink(ctx, superuser, dir, other, &a) },
	} {
		begin := time.Now()
		if err := do(); err != nil {
			return fmt.Errorf("step %d of file %d: %w", step, i, err)
		}
		took[step] += time.Since(begin)
	}
	return nil
}

// costs prints what files and sessions take of the server. It restarts the server
// and leaves in srv the one that runs.
func (s *Scale) costs(ctx context.Context, srv **server, out io.Writer) error {
	restart := func() (heap, disk float64, err error) {
		old := *srv
		*srv = nil
		if err := old.stop(); err != nil {
			return 0, 0, err
		}
		if disk, err = diskUsage(filepath.Join(old.state, "server", "meta", "volumes")); err != nil {
			return 0, 0, err
		}
		if *srv, err = s.serve(ctx, old.state, old.ports); err != nil {
			return 0, 0, err
		}
		heap, err = (*srv).heap()
		return heap, disk, err
	}
	// Twice: what the first start finds in its log the second has in tables.
	if _, _, err := restart(); err != nil {
		return err
	}
	heap0, disk0, err := restart()
	if err != nil {
		return err
	}
	s.Log("%d files", s.Files)
	if err := s.makeFiles(ctx, *srv); err != nil {
		return err
	}
	if _, _, err := restart(); err != nil {
		return err
	}
	heap1, disk1, err := restart()
	if err != nil {
		return err
	}
	s.Log("%d sessions", s.Sessions)
	clients, err := (*srv).dialMany(ctx, s.Sessions, true)
	if err != nil {
		return err
	}
	defer func() { closeAll(clients) }()
	heap2, err := (*srv).heap()
	if err != nil {
		return err
	}
	err = together(clients, func(i int, c *metarpc.Client) error { return s.look(ctx, c, i) })
	if err != nil {
		return err
	}
	heap3, err := (*srv).heap()
	if err != nil {
		return err
	}
	var used usage
	used.gather((*srv).pid())
	files, sessions := float64(s.Files), float64(s.Sessions)
	fmt.Fprintf(out, "\nmeasured with %d empty files in directories of %d, and %d sessions; the server's memory is its live heap after a collection\n\n", s.Files, perDir, s.Sessions)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "metadata on disk\t%.0f bytes a file\n", (disk1-disk0)/files)
	fmt.Fprintf(w, "memory, server without files and sessions\t%.1f MiB\n", heap0/mib)
	fmt.Fprintf(w, "memory, files that nobody uses\t%.1f bytes a file\textrapolated: %.0f MiB a million\n", (heap1-heap0)/files, (heap1-heap0)/files*1e6/mib)
	fmt.Fprintf(w, "memory, idle sessions\t%.1f KiB a session\n", (heap2-heap1)/sessions/kib)
	fmt.Fprintf(w, "memory, files of which one client holds name and attributes\t%.0f bytes a file\textrapolated: %.0f MiB a million\n", (heap3-heap2)/files, (heap3-heap2)/files*1e6/mib)
	fmt.Fprintf(w, "peak resident size of the server\t%.0f MiB\n", float64(used.peak)/mib)
	return w.Flush()
}

// makeFiles makes the files, from sixteen sessions that end then.
func (s *Scale) makeFiles(ctx context.Context, srv *server) (err error) {
	clients, err := srv.dialMany(ctx, 16, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll(clients)) }()
	var next atomic.Int64
	return together(clients, func(_ int, c *metarpc.Client) error {
		for {
			first := int(next.Add(perDir)) - perDir
			if first >= s.Files {
				return nil
			}
			dir, err := makeDir(ctx, c, costDir(first/perDir))
			if err != nil {
				return err
			}
			if err := fill(ctx, c, dir, min(perDir, s.Files-first)); err != nil {
				return err
			}
		}
	})
}

func costDir(i int) string { return fmt.Sprintf("cost-%04d", i) }

// fill makes empty files, a few at a time: their flushes are then shared.
func fill(ctx context.Context, c meta.Session, dir vfs.Ino, n int) error {
	const lanes = 8
	errs := make([]error, lanes)
	var wg sync.WaitGroup
	for l := range lanes {
		wg.Go(func() {
			for i := l; i < n && errs[l] == nil; i += lanes {
				var a vfs.Attr
				errs[l] = c.Mknod(ctx, superuser, dir, fmt.Sprintf("f%06d", i), syscall.S_IFREG|0o644, 0, &a)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// look has the i-th session look at its share of the files.
func (s *Scale) look(ctx context.Context, c meta.Session, i int) error {
	for d := i; d*perDir < s.Files; d += s.Sessions {
		var dir, a vfs.Attr
		if err := c.Lookup(ctx, superuser, vfs.Root, costDir(d), &dir); err != nil {
			return err
		}
		for f := range min(perDir, s.Files-d*perDir) {
			if err := c.Lookup(ctx, superuser, dir.Ino, fmt.Sprintf("f%06d", f), &a); err != nil {
				return err
			}
		}
	}
	return nil
}

// diskUsage is the size of all files below dir, in bytes.
func diskUsage(dir string) (total float64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += float64(info.Size())
		}
		return err
	})
	return total, err
}
