package block

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/faulty"
	"github.com/massif-fs/massif/object/intercept"
	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/vfs"
)

// TestSoak works on a store that fails in all ways at once, with every cache there
// is and little memory: no wrong byte, no hang, nothing acknowledged is lost, and
// all is well when the store is.
func TestSoak(t *testing.T) {
	rounds := 30
	if os.Getenv("MASSIF_SOAK") != "" {
		rounds = 1000
	}
	rules := []faulty.Rule{
		{Ops: []intercept.Op{intercept.Get, intercept.Read}, Probability: 0.03, Err: object.ErrUnavailable},
		{Ops: []intercept.Op{intercept.Get, intercept.Read}, Probability: 0.03, Corrupt: true},
		{Ops: []intercept.Op{intercept.Get, intercept.Read}, Probability: 0.03, Truncate: 1000},
		{Ops: []intercept.Op{intercept.Put}, Probability: 0.05, Err: object.ErrUnavailable, AfterEffect: true},
		{Ops: []intercept.Op{intercept.Put}, Probability: 0.05, CutSent: 5000, Err: object.ErrUnavailable},
		{Ops: []intercept.Op{intercept.Delete}, Probability: 0.1, Err: object.ErrUnavailable},
	}
	for _, staged := range []bool{false, true} {
		for _, v := range variants() {
			if v.name[len(v.name)-4:] == "true" == staged { // half of them each
				continue
			}
			if underRace && v.remote == staged {
				continue
			}
			t.Run(fmt.Sprintf("%s/staged=%v", v.name, staged), func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
				defer cancel()
				bad := faulty.New(mem.New(), 42, rules...)
				var objects object.Store = bad
				if v.remote {
					objects = asRemote{bad}
				}
				disk, err := cache.OpenDisk(cache.DiskConfig{Dir: t.TempDir(), Limit: 4 << 20, MinFree: 1,
					Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
				if err != nil {
					t.Fatal(err)
				}
				s, err := tryOpen(objects, 12<<20, func(c *Config) {
					v.change(c)
					c.Disk = disk
					if staged {
						c.Stage = &StageConfig{Dir: t.TempDir(), MaxBytes: 16 << 20}
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				var mu sync.Mutex
				held := map[ID][2]int{} // kind, size
				read := func(rnd *rand.Rand, id ID, b [2]int, strict bool) {
					want := content(uint64(id), b[0], b[1])
					off := rnd.IntN(b[1])
					p := make([]byte, 1+rnd.IntN(b[1]-off))
					err := s.ReadAt(ctx, Ref{id, uint32(b[1])}, p, uint32(off))
					switch {
					case err == nil && !bytes.Equal(p, want[off:off+len(p)]):
						t.Errorf("block %d: wrong bytes", id)
					case err != nil && (strict || vfs.ErrnoOf(err) != syscall.EIO):
						t.Error(err)
					}
				}
				var wg sync.WaitGroup
				for w := range 4 {
					wg.Add(1)
					go func() {
						defer wg.Done()
						rnd := rand.New(rand.NewPCG(uint64(w), 11))
						for i := range rounds {
							id := ID(w*10_000 + i + 1)
							b := [2]int{rnd.IntN(4), 1 + rnd.IntN([]int{500, 30_000, 600_000}[rnd.IntN(3)])}
							if s.Put(ctx, id, content(uint64(id), b[0], b[1])) == nil {
								mu.Lock()
								held[id] = b
								mu.Unlock()
							}
							s.Prefetch(Ref{id, uint32(b[1])}, 0, uint32(b[1]))
							for range 3 {
								other := ID(w*10_000 + rnd.IntN(i+1) + 1)
								mu.Lock()
								b, ok := held[other]
								mu.Unlock()
								if ok {
									read(rnd, other, b, false)
								}
							}
							if gone := ID(w*10_000 + rnd.IntN(i+1) + 1); i%4 == 0 {
								mu.Lock()
								delete(held, gone)
								mu.Unlock()
								_ = s.Delete(ctx, []ID{gone}) // may fail; then it is an orphan
							}
						}
					}()
				}
				wg.Wait()
				if bad.Injected() == 0 {
					t.Error("the store never failed")
				}
				bad.SetRules()
				if err := s.Drain(ctx); err != nil {
					t.Error(err)
				}
				rnd := rand.New(rand.NewPCG(9, 9))
				for id, b := range held {
					read(rnd, id, b, true)
					if err := s.Verify(ctx, Ref{id, uint32(b[1])}); err != nil {
						t.Error(err)
					}
				}
				if st := s.budget.Stats(); st.Peak > st.Limit {
					t.Errorf("%+v", st)
				}
				if err := disk.Close(); err != nil {
					t.Error(err)
				}
				s.shut(t)
			})
		}
	}
}
