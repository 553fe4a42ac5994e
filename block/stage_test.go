package block

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/crashpoint"
	"github.com/massif-fs/massif/internal/testseed"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/file"
	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/vfs"
	"golang.org/x/sys/unix"
)

// switched is a store that can be down.
type switched struct {
	object.Store
	down atomic.Bool
	puts atomic.Int64
}

func (s *switched) Unwrap() object.Store { return s.Store }

func (s *switched) Put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	if s.down.Load() {
		return object.Info{}, &object.Error{Op: "put", Key: key, Err: object.ErrUnavailable}
	}
	s.puts.Add(1)
	return s.Store.Put(ctx, key, body, size, opts)
}

func withStage(dir string, change func(*StageConfig)) func(*Config) {
	return func(c *Config) {
		c.Compression = LZ4
		c.Stage = &StageConfig{Dir: dir}
		if change != nil {
			change(c.Stage)
		}
	}
}

func mustRead(t testing.TB, s *fixture, id ID, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if err := s.ReadAt(context.Background(), Ref{id, uint32(len(want))}, got, 0); err != nil {
		t.Errorf("block %d: %v", id, err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("block %d: wrong bytes", id)
	}
}

func drain(t testing.TB, s *fixture) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestStage(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	objects := &switched{Store: mem.New()}
	objects.down.Store(true)
	s := open(t, asRemote{objects}, withStage(dir, nil))
	const n = 40
	var wg sync.WaitGroup
	for id := ID(1); id <= n; id++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := s.Put(ctx, id, childBlock(id)); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	for id := ID(1); id <= n; id++ {
		mustRead(t, s, id, childBlock(id))
		if ok, err := s.Exists(ctx, Ref{id, uint32(len(childBlock(id)))}); !ok || err != nil {
			t.Error(ok, err)
		}
	}
	if q := s.StageQueue(); q.Blocks != n || q.Bytes == 0 || q.Oldest.IsZero() {
		t.Errorf("%+v", q)
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := s.Drain(short); vfs.ErrnoOf(err) != syscall.ETIMEDOUT {
		t.Error(err)
	}
	waitFor(t, func() bool { return s.StageQueue().LastError != nil })
	if err := s.Delete(ctx, []ID{3, 4}); err != nil {
		t.Fatal(err)
	}
	s.shut(t)
	if has, err := StageHasBlocks(dir); !has || err != nil {
		t.Error(has, err)
	}

	// A new process finds the blocks and uploads them when the store is back.
	s = open(t, asRemote{objects}, withStage(dir, nil))
	if q := s.StageQueue(); q.Blocks != n-2 {
		t.Errorf("%+v", q)
	}
	if _, err := tryOpen(objects, 64<<20, withStage(dir, nil)); vfs.ErrnoOf(err) != syscall.EBUSY {
		t.Error(err)
	}
	objects.down.Store(false)
	drain(t, s)
	q := s.StageQueue()
	if q.Blocks != 0 || q.Bytes != 0 || q.LastError != nil || q.Uploaded != n-2 {
		t.Errorf("%+v", q)
	}
	seen := 0
	s.Walk(ctx, func(id ID, _ int64, _ time.Time) error { seen++; return nil })
	if seen != n-2 {
		t.Error(seen)
	}
	for id := ID(1); id <= n; id++ {
		if id != 3 && id != 4 {
			mustRead(t, s, id, childBlock(id))
		}
	}
	s.shut(t)
	if has, err := StageHasBlocks(dir); has || err != nil {
		t.Error("segments are left:", has, err)
	}
}

// TestStageFull: Put waits while the stage is full, and goes on when uploads have
// made room.
func TestStageFull(t *testing.T) {
	ctx := context.Background()
	objects := &switched{Store: mem.New()}
	objects.down.Store(true)
	const limit = 2 << 20
	s := open(t, objects, func(c *Config) { c.Stage = &StageConfig{Dir: t.TempDir(), MaxBytes: limit} })
	block := content(1, 0, 300_000)
	id := ID(0)
	for {
		id++
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		err := s.Put(short, id, block)
		cancel()
		if err != nil {
			if vfs.ErrnoOf(err) != syscall.ETIMEDOUT {
				t.Fatal(err)
			}
			break
		}
		if q := s.StageQueue(); q.DiskBytes > limit || id > 100 {
			t.Fatalf("%+v", q)
		}
	}
	if id < 5 {
		t.Errorf("full after %d blocks", id)
	}
	done := make(chan error)
	go func() {
		for i := range ID(30) {
			if err := s.Put(ctx, id+i, block); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	objects.down.Store(false)
	if err := s.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	drain(t, s)
	for i := ID(1); i < id+30; i++ {
		mustRead(t, s, i, block)
	}
	if err := s.Put(ctx, 1000, make([]byte, 3<<20)); vfs.ErrnoOf(err) != syscall.ENOSPC {
		t.Error(err)
	}
}

// TestStageDiskFull: a full disk is ENOSPC, and nothing acknowledged suffers.
func TestStageDiskFull(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	if err := unix.Mount("massif-test", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skip("no tmpfs:", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	objects := &switched{Store: mem.New()}
	objects.down.Store(true)
	s := open(t, objects, func(c *Config) { c.Stage = &StageConfig{Dir: dir} })
	block := content(1, 0, 300_000)
	id := ID(1)
	for ; id < 100; id++ {
		if err := s.Put(ctx, id, block); err != nil {
			if vfs.ErrnoOf(err) != syscall.ENOSPC {
				t.Fatal(err)
			}
			break
		}
	}
	if id < 5 || id == 100 {
		t.Fatal(id)
	}
	if err := s.Put(ctx, 500, block[:1000]); err != nil {
		t.Error("a small block that fits:", err)
	}
	s.shut(t)
	objects.down.Store(false)
	s = open(t, objects, func(c *Config) { c.Stage = &StageConfig{Dir: dir} })
	drain(t, s)
	for i := ID(1); i < id; i++ {
		mustRead(t, s, i, block)
	}
	mustRead(t, s, 500, block[:1000])
	if q := s.StageQueue(); q.Damaged != 0 {
		t.Errorf("%+v", q)
	}
	for i := range ID(30) {
		if err := s.Put(ctx, 1000+i, block); err != nil {
			t.Fatal("the stage did not recover:", err)
		}
		drain(t, s)
	}
	s.shut(t)
}

func TestStageMaxAge(t *testing.T) {
	ctx := context.Background()
	objects := &switched{Store: mem.New()}
	s := open(t, objects, withStage(t.TempDir(), func(c *StageConfig) { c.MaxAge = time.Hour }))
	if err := s.Put(ctx, 1, []byte("short-lived")); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(ctx, 2, []byte("long-lived")); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, []ID{1}); err != nil {
		t.Fatal(err)
	}
	drain(t, s)
	if n := objects.puts.Load(); n != 1 {
		t.Errorf("%d uploads", n)
	}
	mustRead(t, s, 2, []byte("long-lived"))
}

// TestStageDamage changes bytes of a segment while no process uses it: only what
// was hit is lost, loudly, and wrong bytes are never uploaded or returned.
func TestStageDamage(t *testing.T) {
	ctx := context.Background()
	rnd := rand.New(rand.NewPCG(5, 5))
	for round := range 24 {
		dir := t.TempDir()
		objects := &switched{Store: mem.New()}
		objects.down.Store(true)
		s := open(t, objects, withStage(dir, nil))
		const n = 12
		for id := ID(1); id <= n; id++ {
			if err := s.Put(ctx, id, childBlock(id)); err != nil {
				t.Fatal(err)
			}
		}
		s.shut(t)
		names, err := filepath.Glob(filepath.Join(dir, "segment-*"))
		if err != nil || len(names) != 1 {
			t.Fatal(names, err)
		}
		p, err := os.ReadFile(names[0])
		if err != nil {
			t.Fatal(err)
		}
		cut := false
		switch round % 3 {
		case 0:
			p[segmentHeader+rnd.IntN(len(p)-segmentHeader)] ^= 1 << rnd.IntN(8)
		case 1:
			p = p[:rnd.IntN(len(p))]
			cut = true
		case 2:
			at := segmentHeader + rnd.IntN(len(p)-segmentHeader)
			clear(p[at:min(len(p), at+100_000)])
			cut = true
		}
		if err := os.WriteFile(names[0], p, 0o600); err != nil {
			t.Fatal(err)
		}
		objects.down.Store(false)
		s = open(t, objects, withStage(dir, nil))
		drain(t, s)
		lost := 0
		for id := ID(1); id <= n; id++ {
			want := childBlock(id)
			got := make([]byte, len(want))
			switch err := s.ReadAt(ctx, Ref{id, uint32(len(want))}, got, 0); {
			case err != nil && vfs.ErrnoOf(err) == syscall.EIO:
				lost++
			case err != nil:
				t.Error(err)
			case !bytes.Equal(got, want):
				t.Errorf("round %d block %d: wrong bytes", round, id)
			}
		}
		if lost > 1 && !cut {
			t.Errorf("round %d: one flipped bit lost %d blocks", round, lost)
		}
		err = s.Walk(ctx, func(id ID, _ int64, _ time.Time) error {
			return s.Verify(ctx, Ref{id, uint32(len(childBlock(id)))})
		})
		if err != nil {
			t.Error("something damaged was uploaded:", err)
		}
		s.shut(t)
	}
}

func TestStageOtherVolume(t *testing.T) {
	dir := t.TempDir()
	s := open(t, downStore{mem.New()}, withStage(dir, nil))
	if err := s.Put(context.Background(), 1, []byte("data")); err != nil {
		t.Fatal(err)
	}
	s.shut(t)
	_, err := tryOpen(mem.New(), 64<<20, func(c *Config) { c.Volume = [16]byte{9}; c.Stage = &StageConfig{Dir: dir} })
	if vfs.ErrnoOf(err) != syscall.EINVAL {
		t.Error(err)
	}
}

// TestStageKill kills a process that stages blocks, at random and between the steps
// that make something durable, with a store that is down and with one that works,
// and looks whether all that it acknowledged is there.
func TestStageKill(t *testing.T) {
	points := []string{"", "stage.segment.create", "stage.write.after", "stage.sync.after", "stage.upload.after", "stage.note.after", "stage.sweep.before"}
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	dir, store := t.TempDir(), t.TempDir()
	rnd := rand.New(rand.NewPCG(testseed.Of(t, 1), 1))
	acked := map[ID]bool{}
	next, kills := 1, 0
	for round := range rounds {
		for _, point := range points {
			if round == 0 && (point == "stage.upload.after" || point == "stage.sweep.before") {
				continue // the store is down
			}
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"="+dir, fmt.Sprintf("%s_FIRST=%d", childEnv, next))
			if round > 0 {
				cmd.Env = append(cmd.Env, childEnv+"_STORE="+store)
			}
			after := 1 + rnd.IntN(60) // acknowledgements
			if point != "" {
				hit := 1
				if point != "stage.segment.create" && point != "stage.sweep.before" {
					hit += rnd.IntN(10)
				}
				cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%s:%d", crashpoint.EnvAt, point, hit))
				after = 60
			}
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for i := 0; lines.Scan(); i++ {
				id, err := strconv.Atoi(lines.Text())
				if err != nil {
					t.Fatal(err)
				}
				acked[ID(id)] = true
				next = max(next, id+1)
				if i >= after {
					cmd.Process.Kill()
				}
			}
			cmd.Wait()
			kills++
			next += 10 // what was in progress
		}
		objects, err := file.Open(store, file.Options{Create: true, NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		s := open(t, objects, func(c *Config) { c.Volume = [16]byte{}; c.Stage = &StageConfig{Dir: dir} })
		for id := range acked {
			mustRead(t, s, id, childBlock(id))
		}
		if round == rounds-1 {
			drain(t, s)
			for id := range acked {
				mustRead(t, s, id, childBlock(id))
			}
		}
		if q := s.StageQueue(); q.Damaged != 0 {
			t.Errorf("%+v", q)
		}
		s.shut(t)
		if err := objects.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d acknowledged blocks survived %d kills", len(acked), kills)
}

// TestStageConcurrent writes, reads and deletes while uploads run and fail.
func TestStageConcurrent(t *testing.T) {
	ctx := context.Background()
	objects := &switched{Store: mem.New()}
	s := open(t, asRemote{objects}, withStage(t.TempDir(), func(c *StageConfig) { c.MaxBytes = 8 << 20 }))
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 40 {
				id := ID(w*1000 + i + 1)
				want := content(uint64(id), i%4, i*1000+1)
				if err := s.Put(ctx, id, want); err != nil {
					t.Error(err)
				}
				mustRead(t, s, id, want)
				if i%10 == 5 {
					objects.down.Store(w%2 == 0)
				}
				if i%3 == 0 {
					if err := s.Delete(ctx, []ID{id}); err != nil {
						t.Error(err)
					}
					if err := s.ReadAt(ctx, Ref{id, uint32(len(want))}, make([]byte, 1), 0); !errors.Is(err, ErrMissing) {
						t.Errorf("deleted block: %v", err)
					}
				}
			}
		}()
	}
	wg.Wait()
	objects.down.Store(false)
	drain(t, s)
	for w := range 4 {
		for i := range 40 {
			if i%3 != 0 {
				id := ID(w*1000 + i + 1)
				mustRead(t, s, id, content(uint64(id), i%4, i*1000+1))
			}
		}
	}
	left := 0
	s.Walk(ctx, func(id ID, _ int64, _ time.Time) error {
		if (int(id)%1000-1)%3 == 0 {
			left++
		}
		return nil
	})
	if left > 0 {
		t.Errorf("%d deleted blocks are in the store", left)
	}
}

// TestStageTwice stages a block again while its upload is in progress: whatever
// becomes of the first copy, the second one is kept.
func TestStageTwice(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	objects := &slowPut{Store: mem.New(), begun: make(chan struct{}, 10), gate: make(chan struct{})}
	s := open(t, objects, func(c *Config) { c.Uploads = 1; withStage(dir, nil)(c) })
	if err := s.Put(ctx, 1, []byte("block")); err != nil {
		t.Fatal(err)
	}
	<-objects.begun
	if err := s.Put(ctx, 1, []byte("block")); err != nil {
		t.Fatal(err)
	}
	objects.gate <- struct{}{} // the first upload fails
	<-objects.begun            // the second copy is tried, so the first is done with
	mustRead(t, s, 1, []byte("block"))
	s.shut(t)
	s = open(t, mem.New(), withStage(dir, nil))
	drain(t, s)
	mustRead(t, s, 1, []byte("block"))
}

// slowPut lets a Put fail when the gate says so.
type slowPut struct {
	object.Store
	begun, gate chan struct{}
}

func (s *slowPut) Put(ctx context.Context, key string, _ io.Reader, _ int64, _ *object.PutOptions) (object.Info, error) {
	s.begun <- struct{}{}
	select {
	case <-s.gate:
	case <-ctx.Done():
	}
	return object.Info{}, &object.Error{Op: "put", Key: key, Err: object.ErrUnavailable}
}
