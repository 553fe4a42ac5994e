package test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// memoryGoal bounds the resident size of a server that may use 100 MiB for data,
// whatever the sizes of files and their number.
const memoryGoal = 200 << 20

// TestMemoryLargeFile writes and reads 2.5 GiB through several files at once.
func TestMemoryLargeFile(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	v := newVolume(t, options{create: []string{"--compression", "none"}, mount: []string{"--memory-limit", "100MiB"}})
	const streams, size = 4, 640 << 20
	sums := make([][]byte, streams)
	inParallel(t, streams, func(i int) error {
		f, err := os.Create(v.path(fmt.Sprint("large", i)))
		if err != nil {
			return err
		}
		h := sha256.New()
		rng := rand.NewChaCha8([32]byte{byte(i)})
		if _, err := io.CopyN(io.MultiWriter(f, h), rng, size); err != nil {
			return err
		}
		sums[i] = h.Sum(nil)
		if err := f.Sync(); err != nil {
			return err
		}
		return f.Close()
	})
	written := v.rss()
	v.remount()
	inParallel(t, streams, func(i int) error {
		h := sha256.New()
		if err := hashFile(h, v.path(fmt.Sprint("large", i))); err != nil {
			return err
		}
		if !bytes.Equal(h.Sum(nil), sums[i]) {
			return fmt.Errorf("large%d holds wrong bytes", i)
		}
		return nil
	})
	v.checkMemory(t, written)
}

// TestMemoryManyFiles makes 100,000 files, lists and reads them.
func TestMemoryManyFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	v := newVolume(t, options{mount: []string{"--memory-limit", "100MiB"}})
	const dirs, perDir = 100, 1000
	name := func(d, i int) string { return v.path(fmt.Sprintf("d%03d/f%04d", d, i)) }
	inParallel(t, 4, func(w int) error {
		for d := w; d < dirs; d += 4 {
			if err := os.Mkdir(filepath.Dir(name(d, 0)), 0o755); err != nil {
				return err
			}
			for i := range perDir {
				if err := os.WriteFile(name(d, i), []byte(name(d, i)), 0o644); err != nil {
					return err
				}
			}
		}
		return nil
	})
	written := v.rss()
	v.remount()
	inParallel(t, 4, func(w int) error {
		for d := w; d < dirs; d += 4 {
			entries, err := os.ReadDir(filepath.Dir(name(d, 0)))
			if err != nil || len(entries) != perDir {
				return fmt.Errorf("%d entries: %w", len(entries), err)
			}
			for i := range perDir {
				b, err := os.ReadFile(name(d, i))
				if err != nil || string(b) != name(d, i) {
					return fmt.Errorf("%s: %q, %w", name(d, i), b, err)
				}
			}
		}
		return nil
	})
	v.checkMemory(t, written)
	if err := os.RemoveAll(v.path("d000")); err != nil {
		t.Fatal(err)
	}
}

// checkMemory compares the server's peak, and that of the one before, with the goal.
func (v *volume) checkMemory(t *testing.T, before int64) {
	t.Helper()
	peak := max(before, v.peak, v.rss())
	t.Logf("peak memory: %d MiB writing, %d MiB reading", before>>20, v.rss()>>20)
	if peak > memoryGoal {
		t.Errorf("the server took %d MiB, must stay below %d MiB", peak>>20, memoryGoal>>20)
	}
}

func hashFile(h hash.Hash, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(h, f)
	return err
}

// inParallel calls do for 0 to n-1 at the same time.
func inParallel(t testing.TB, n int, do func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
