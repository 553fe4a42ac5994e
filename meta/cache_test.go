package meta

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/kv/pebble"
	"github.com/massif-fs/massif/vfs"
)

// TestCacheIsNeverStale reads a growing file on all ways, through a cache in which
// nothing stays for long: each read shows all that was committed before it began,
// and what one has shown the next one shows.
func TestCacheIsNeverStale(t *testing.T) {
	for _, driver := range []string{"mem", "pebble"} {
		t.Run(driver, func(t *testing.T) {
			var db kv.DB = mem.New()
			if driver == "pebble" {
				var err error
				if db, err = pebble.Open(t.TempDir(), pebble.Options{}); err != nil {
					t.Fatal(err)
				}
			}
			if err := Create(bg, db, testFormat()); err != nil {
				t.Fatal(err)
			}
			v := openVolume(t, db, newTestClock())
			var inos []vfs.Ino
			for i := range 200 {
				inos = append(inos, v.file(vfs.Root, string(rune('A'+i))))
			}
			v.e.cache = newAttrCache(cacheShards) // one in each shard
			const files = 3
			var done [files]atomic.Uint64
			var stop atomic.Bool
			var wg, readers sync.WaitGroup
			for f := range files {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for size := uint64(1); size <= 500; size++ {
						if _, err := v.s.Commit(bg, nil, []FileWrite{{Ino: inos[f], Size: size}}); err != nil {
							t.Error(err)
						}
						done[f].Store(size)
					}
				}()
			}
			for r := range 3 {
				readers.Add(1)
				go func() {
					defer readers.Done()
					var last [files]uint64
					var a vfs.Attr
					for i := r; !stop.Load(); i++ {
						f := i % files
						least := max(last[f], done[f].Load())
						var err error
						switch i / files % 3 {
						case 0:
							err = v.s.GetAttr(bg, root, inos[f], &a)
						case 1:
							err = v.s.Lookup(bg, root, vfs.Root, string(rune('A'+f)), &a)
						case 2:
							err = v.s.ReadDir(bg, root, vfs.Root, 0, true, func(d *vfs.DirEntry) bool {
								if a = d.Attr; a.Ino == inos[f] {
									return false
								}
								return true
							})
						}
						if err != nil || a.Ino != inos[f] || a.Size < least {
							t.Errorf("file %d has size %d after it was %d: %v", f, a.Size, least, err)
							return
						}
						last[f] = a.Size
						if err := v.s.GetAttr(bg, root, inos[files+i%100], &a); err != nil { // pushes others out
							t.Error(err)
						}
					}
				}()
			}
			wg.Wait()
			stop.Store(true)
			readers.Wait()
			v.verify()
			v.ok(v.e.Close())
			v.ok(db.Close())
		})
	}
}
