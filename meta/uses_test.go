package meta

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/massif-fs/massif/vfs"
)

// TestUses compares the table with plain maps.
func TestUses(t *testing.T) {
	table := newUseTable()
	type key struct {
		ino     vfs.Ino
		session uint64
	}
	counts := map[key]int{}
	nameless := map[vfs.Ino]bool{}
	users := func(ino vfs.Ino) (ids []uint64) {
		for k := range counts {
			if k.ino == ino {
				ids = append(ids, k.session)
			}
		}
		slices.Sort(ids)
		return ids
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 100000 {
		k := key{vfs.Ino(r.IntN(3) + 1), uint64(r.IntN(4) + 1)}
		switch r.IntN(5) {
		case 0, 1:
			table.open(k.ino, &session{id: k.session})
			counts[k]++
		case 2:
			n := 1 + r.IntN(3)
			if r.IntN(5) == 0 {
				n = -1
			}
			want := false
			if have := counts[k]; have > n && n > 0 {
				counts[k] = have - n
			} else if have > 0 {
				delete(counts, k)
				want = nameless[k.ino]
			}
			if len(users(k.ino)) == 0 {
				delete(nameless, k.ino)
			}
			if got := table.release(k.ino, k.session, n); got != want {
				t.Fatalf("release %+v: %t", k, got)
			}
		case 3:
			got := table.claim(k.ino)
			slices.Sort(got)
			if want := users(k.ino); !slices.Equal(got, want) {
				t.Fatalf("claim %d: %v instead of %v", k.ino, got, want)
			}
			if len(got) > 0 {
				nameless[k.ino] = true
			}
		case 4:
			table.revive(k.ino)
			delete(nameless, k.ino)
		}
	}
	for session := uint64(1); session < 5; session++ {
		for _, ino := range table.usedBy(session) {
			if counts[key{ino, session}] == 0 {
				t.Errorf("session %d does not use %d", session, ino)
			}
			delete(counts, key{ino, session})
		}
	}
	if len(counts) != 0 {
		t.Error(counts)
	}
}

// TestUsesAreSmall bounds the memory for what the kernel knows.
func TestUsesAreSmall(t *testing.T) {
	const n = 1 << 17
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	table := newUseTable()
	by := &session{id: 1}
	for ino := range vfs.Ino(n) {
		table.open(ino+1, by)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (after.HeapAlloc - before.HeapAlloc) / n; each > 100 {
		t.Errorf("%d bytes for each inode in use", each)
	} else {
		t.Logf("%d bytes for each", each)
	}
	runtime.KeepAlive(table)
}
