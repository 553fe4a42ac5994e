package meta

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/vfs"
)

// leaseClient is a session that keeps what it has leased, as LeasedSession says.
type leaseClient struct {
	LeasedSession
	mu      sync.Mutex
	gen     uint64 // counts recalls
	attrs   map[vfs.Ino]vfs.Attr
	names   map[string]vfs.Ino // in the root; 0: there is none
	recalls []Recall
	hits    int
	hold    chan struct{} // recalls wait for it; nil: they do not
}

func newLeaseClient(t testing.TB, e *Engine) *leaseClient {
	t.Helper()
	s, err := e.NewSession(bg, SessionInfo{})
	if err != nil {
		t.Fatal(err)
	}
	c := &leaseClient{LeasedSession: s.(LeasedSession), attrs: map[vfs.Ino]vfs.Attr{}, names: map[string]vfs.Ino{}}
	c.OnRecall(c.recall)
	return c
}

func (c *leaseClient) recall(r Recall) {
	c.mu.Lock()
	hold := c.hold
	c.mu.Unlock()
	if hold != nil {
		<-hold
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	c.recalls = append(c.recalls, r)
	if r.Kind.Has(LeaseAttr) {
		delete(c.attrs, r.Ino)
	}
	if r.Kind.Has(LeaseNames) && r.Ino == vfs.Root {
		if r.Name == "" {
			clear(c.names)
		} else {
			delete(c.names, r.Name)
		}
	}
}

func (c *leaseClient) take() []Recall {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.recalls
	c.recalls = nil
	return r
}

func (c *leaseClient) attr(ino vfs.Ino) (vfs.Attr, error) {
	c.mu.Lock()
	a, ok := c.attrs[ino]
	gen := c.gen
	if ok {
		c.hits++
	}
	c.mu.Unlock()
	if ok {
		return a, nil
	}
	err := c.GetAttr(bg, root, ino, &a)
	leased := c.Leased(ino).Has(LeaseAttr)
	c.mu.Lock()
	if err == nil && leased && c.gen == gen {
		c.attrs[ino] = a
	}
	c.mu.Unlock()
	return a, err
}

func (c *leaseClient) lookup(name string) (vfs.Ino, error) {
	c.mu.Lock()
	ino, ok := c.names[name]
	gen := c.gen
	if ok {
		c.hits++
	}
	c.mu.Unlock()
	if ok {
		return ino, nil
	}
	var a vfs.Attr
	err := c.Lookup(bg, root, vfs.Root, name, &a)
	if err == syscall.ENOENT {
		a.Ino, err = 0, nil
	}
	leased := c.Leased(vfs.Root).Has(LeaseNames)
	c.mu.Lock()
	if err == nil && leased && c.gen == gen {
		c.names[name] = a.Ino
	}
	c.mu.Unlock()
	return a.Ino, err
}

func (v *testVolume) wantRecalls(c *leaseClient, want ...Recall) {
	v.Helper()
	got := c.take()
	slices.SortFunc(got, func(a, b Recall) int { return int(a.Ino) - int(b.Ino) })
	if !slices.Equal(got, want) {
		v.Fatalf("recalls %+v, want %+v", got, want)
	}
}

func TestLeases(t *testing.T) {
	v := newVolume(t)
	f := v.file(vfs.Root, "f")
	d := v.mkdir(vfs.Root, "d")
	a, b := newLeaseClient(t, v.e), newLeaseClient(t, v.e)
	for _, c := range []*leaseClient{a, b} {
		if _, err := c.attr(f); err != nil {
			t.Fatal(err)
		}
		if _, err := c.lookup("none"); err != nil {
			t.Fatal(err)
		}
		if l := c.Leased(f); l != LeaseAttr {
			t.Fatal(l)
		}
		if l := c.Leased(vfs.Root); l != LeaseNames {
			t.Fatal(l)
		}
	}
	// A change of a's own ends only b's lease.
	var out vfs.Attr
	v.ok(a.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o600}, &out))
	v.wantRecalls(a)
	v.wantRecalls(b, Recall{Kind: LeaseAttr, Ino: f})
	if l := b.Leased(f); l != 0 {
		t.Fatal(l)
	}
	// A session without leases ends everybody's.
	v.ok(v.s.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o644}, &out))
	v.wantRecalls(a, Recall{Kind: LeaseAttr, Ino: f})
	v.wantRecalls(b)
	// Names: only the one that changes.
	v.ok(a.Mknod(bg, root, vfs.Root, "none", syscall.S_IFREG|0o644, 0, &out))
	v.wantRecalls(b, Recall{Kind: LeaseNames, Ino: vfs.Root, Name: "none"})
	if l := a.Leased(out.Ino); !l.Has(LeaseAttr) {
		t.Fatalf("what it made is leased as %v", l)
	}
	if l := b.Leased(vfs.Root); l != LeaseNames {
		t.Fatal(l)
	}
	if ino, err := b.lookup("none"); err != nil || ino != out.Ino {
		t.Fatal(ino, err)
	}
	// Data, and the attributes with it.
	list, err := b.Extents(bg, f, 0, nil)
	v.ok(err)
	if len(list) != 0 || b.Leased(f) != LeaseData {
		t.Fatal(list, b.Leased(f))
	}
	if _, err := b.attr(f); err != nil {
		t.Fatal(err)
	}
	v.write(f, 100, 50)
	v.wantRecalls(b, Recall{Kind: LeaseAttr | LeaseData, Ino: f, Off: 0, Len: 150})
	if l := b.Leased(f); l != LeaseData {
		t.Fatalf("the rest of the data is leased as %v", l)
	}
	// A layout that changes is not known any more either.
	id, err := v.s.AllocBlocks(bg, 1)
	v.ok(err)
	have, err := v.s.Extents(bg, f, 0, nil)
	v.ok(err)
	v.ok(v.s.Replace(bg, f, 0, have, []Extent{{Pos: 100, Len: 50, Block: id, Size: 50}}, []Block{{id, 50}}))
	got := b.take()
	if len(got) != 1 || got[0].Kind != LeaseData || got[0].Ino != f || got[0].Len != MinChunkSize {
		t.Fatalf("%+v", got)
	}
	// Everything of what goes.
	if _, err := b.attr(d); err != nil {
		t.Fatal(err)
	}
	v.ok(b.ReadDir(bg, root, d, 0, true, func(*vfs.DirEntry) bool { return true }))
	v.ok(a.Rmdir(bg, root, vfs.Root, "d"))
	got = b.take()
	if !slices.ContainsFunc(got, func(r Recall) bool { return r.Ino == d && r.Kind == LeaseAttr|LeaseNames }) {
		t.Fatalf("%+v", got)
	}
	v.ok(a.Close())
	v.ok(b.Close())
	v.wantNoLeases()
}

// wantNoLeases checks that nothing is left in the table.
func (v *testVolume) wantNoLeases() {
	v.Helper()
	if OverTheWire != nil {
		return // v.s has some
	}
	for i := range v.e.leases.shards {
		sh := &v.e.leases.shards[i]
		sh.mu.Lock()
		for ino, st := range sh.m {
			if st.s != nil || st.busy != 0 || st.more != nil && (len(st.more.others) > 0 || len(st.more.pending) > 0) {
				v.Errorf("inode %d: %+v %+v", ino, st, st.more)
			}
		}
		sh.mu.Unlock()
	}
}

// TestLeaseWait: a change waits for the recall, nothing else does, and what is read
// meanwhile is not leased.
func TestLeaseWait(t *testing.T) {
	v := newVolume(t)
	f := v.file(vfs.Root, "f")
	a, b := newLeaseClient(t, v.e), newLeaseClient(t, v.e)
	b.attr(f)
	b.hold = make(chan struct{})
	changed := make(chan error, 2)
	change := func(mode uint32) {
		var out vfs.Attr
		changed <- a.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetMode, Mode: mode}, &out)
	}
	go change(0o600)
	for b.Leased(f) != 0 {
		time.Sleep(time.Millisecond)
	}
	// Another change waits for the same recall.
	go change(0o601)
	c := newLeaseClient(t, v.e)
	got, err := c.attr(f)
	v.ok(err)
	if got.Mode&0o777 != 0o644 || c.Leased(f) != 0 {
		t.Fatalf("%o %v", got.Mode, c.Leased(f))
	}
	// The directory is not locked.
	v.file(vfs.Root, "g")
	v.ok(v.e.UpdateSettings(bg, func(f *Format) error { f.InlineLimit++; return nil }))
	select {
	case err := <-changed:
		t.Fatal("it did not wait", err)
	case <-time.After(20 * time.Millisecond):
	}
	// Who is interrupted changes nothing.
	ctx, cancel := context.WithCancel(bg)
	stopped := make(chan error)
	go func() {
		var out vfs.Attr
		stopped <- v.s.SetAttr(ctx, root, f, &vfs.SetAttr{Valid: vfs.SetMode, Mode: 0o777}, &out)
	}()
	time.Sleep(5 * time.Millisecond)
	cancel()
	v.want(<-stopped, syscall.EINTR)
	close(b.hold)
	v.ok(<-changed)
	v.ok(<-changed)
	b.mu.Lock()
	b.hold = nil
	b.mu.Unlock()
	if got, err := b.attr(f); err != nil || got.Mode&0o777 != 0o600 && got.Mode&0o777 != 0o601 || b.Leased(f) != LeaseAttr {
		t.Fatalf("%o %v %v", got.Mode, err, b.Leased(f))
	}
	for _, c := range []*leaseClient{a, b, c} {
		v.ok(c.Close())
	}
	v.wantNoLeases()
}

// TestLeaseStorm: where leases are recalled all the time none are given for a while.
func TestLeaseStorm(t *testing.T) {
	v := newVolume(t)
	a, b := newLeaseClient(t, v.e), newLeaseClient(t, v.e)
	for i := range 200 {
		c, other := a, b
		if i%2 == 1 {
			c, other = b, a
		}
		name := fmt.Sprint(i)
		if ino, err := other.lookup(name); err != nil || ino != 0 {
			t.Fatal(ino, err)
		}
		var out vfs.Attr
		v.ok(c.Mknod(bg, root, vfs.Root, name, syscall.S_IFREG, 0, &out))
	}
	if n := len(a.take()) + len(b.take()); n > 3*stormRecalls {
		t.Errorf("%d recalls", n)
	}
	if l := a.Leased(vfs.Root) | b.Leased(vfs.Root); l != 0 {
		t.Errorf("leased as %v", l)
	}
	v.ok(a.Close())
	v.ok(b.Close())
}

func TestLeaseLimit(t *testing.T) {
	v := newVolume(t)
	v.e.leases.limit = 1000
	a := newLeaseClient(t, v.e)
	for i := range 3000 {
		f := v.file(vfs.Root, fmt.Sprint(i))
		if _, err := a.attr(f); err != nil {
			t.Fatal(err)
		}
	}
	if n := a.LeasedSession.(*session).leases.count.Load(); n > 1000 || n < 500 {
		t.Errorf("leases on %d inodes", n)
	}
	v.ok(a.Close())
	if len(a.recalls) < 2000 {
		t.Errorf("%d recalls", len(a.recalls))
	}
	v.wantNoLeases()
}

// TestLeaseOrder: what a client serves from its cache is never older than what
// others were told was done, whatever runs at the same time.
func TestLeaseOrder(t *testing.T) {
	v := newVolume(t)
	const files, clients = 3, 4
	var inos [files]vfs.Ino
	var done [files]atomic.Int64 // the mtime that the last setattr that returned has set
	var doneName atomic.Int64    // the inode that the name meant when the last rename returned
	for i := range inos {
		inos[i] = v.file(vfs.Root, fmt.Sprint(i))
		v.ok(v.s.SetAttr(bg, root, inos[i], &vfs.SetAttr{Valid: vfs.SetMtime}, new(vfs.Attr)))
	}
	var stop atomic.Bool
	var all sync.WaitGroup
	var list []*leaseClient
	steps := 1500
	if testing.Short() {
		steps = 300
	}
	var writers sync.WaitGroup
	for n := range clients {
		c := newLeaseClient(t, v.e)
		list = append(list, c)
		for range 2 {
			all.Go(func() {
				r := rand.New(rand.NewPCG(uint64(n), 1))
				for !stop.Load() {
					if i := r.IntN(files + 1); i < files {
						least := done[i].Load()
						a, err := c.attr(inos[i])
						if err != nil || a.Mtime.Sec < least {
							t.Errorf("client %d sees %d of %d, which was %d before: %v", n, a.Mtime.Sec, inos[i], least, err)
							return
						}
					} else {
						least := doneName.Load()
						ino, err := c.lookup("name")
						if err != nil || int64(ino) < least {
							t.Errorf("client %d finds %d, it was %d before: %v", n, ino, least, err)
							return
						}
					}
				}
			})
		}
		if n < files {
			writers.Go(func() { // of one file each: only its cache need not be corrected by it
				for k := range steps {
					set := vfs.SetAttr{Valid: vfs.SetMtime, Mtime: vfs.Time{Sec: int64(k)}}
					if err := v.s.SetAttr(bg, root, inos[n], &set, new(vfs.Attr)); err != nil {
						t.Error(err)
						return
					}
					done[n].Store(int64(k))
					time.Sleep(time.Duration(k%3) * 100 * time.Microsecond)
				}
			})
		}
	}
	writers.Go(func() {
		for range steps {
			f := v.file(vfs.Root, "new")
			if err := v.s.Rename(bg, root, vfs.Root, "new", vfs.Root, "name", 0, new(vfs.Attr)); err != nil {
				t.Error(err)
				return
			}
			doneName.Store(int64(f))
		}
	})
	writers.Wait()
	stop.Store(true)
	all.Wait()
	hits := 0
	for _, c := range list {
		v.ok(c.Close())
		hits += c.hits
	}
	if hits == 0 {
		t.Error("nothing was ever cached")
	}
	v.wantNoLeases()
}

func TestRecallQueue(t *testing.T) {
	var mu sync.Mutex
	var seen []int64
	gate := make(chan struct{})
	q := NewRecallQueue(func(r Recall) {
		if r.Ino == 2 {
			close(gate)
			return
		}
		<-gate // another inode does not wait for this one
		mu.Lock()
		seen = append(seen, r.Off)
		mu.Unlock()
	})
	var acks atomic.Int64
	for i := range int64(10) {
		q.Add(Recall{Ino: 1, Off: i}, func() { acks.Add(1) })
	}
	q.Add(Recall{Ino: 2}, func() { acks.Add(1) })
	q.Close()
	if acks.Load() != 11 || !slices.IsSorted(seen) || len(seen) != 10 {
		t.Fatal(acks.Load(), seen)
	}
	late := errors.New("not acknowledged")
	q.Add(Recall{}, func() { late = nil })
	if late != nil {
		t.Error(late)
	}
}
