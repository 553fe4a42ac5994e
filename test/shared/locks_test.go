package shared

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func increment(f *os.File) error {
	var b [16]byte
	n, _ := f.ReadAt(b[:], 0)
	v, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(fmt.Sprintf("%10d", v+1)), 0)
	return err
}

// TestLocks: programs on eight mounts that lock before they read and write lose nothing,
// whichever kind of lock they use, and whether they close the file or only unlock.
func TestLocks(t *testing.T) {
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	kinds := map[string]struct{ lock, unlock func(f *os.File) error }{
		"flock": {
			func(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX) },
			func(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) },
		},
		"fcntl": { // of the open file, so that goroutines of one process exclude each other
			func(f *os.File) error { l := whole; return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &l) },
			func(f *os.File) error {
				l := whole
				l.Type = unix.F_UNLCK
				return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
			},
		},
		"close": {
			func(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX) },
			func(f *os.File) error { return f.Close() },
		},
	}
	onMounts(t, 8, func(t *testing.T, dirs []string) {
		rounds := 15
		if testing.Short() {
			rounds = 5
		}
		for kind, do := range kinds {
			t.Run(kind, func(t *testing.T) {
				check(t, os.WriteFile(filepath.Join(dirs[0], kind), []byte("0"), 0o644))
				var wg sync.WaitGroup
				for _, dir := range dirs {
					wg.Go(func() {
						path := filepath.Join(dir, kind)
						f, err := os.OpenFile(path, os.O_RDWR, 0)
						for range rounds {
							if err == nil {
								err = do.lock(f)
							}
							if err == nil {
								err = increment(f)
							}
							if err == nil {
								err = do.unlock(f)
							}
							if err == nil && kind == "close" {
								f, err = os.OpenFile(path, os.O_RDWR, 0)
							}
							if err != nil {
								t.Error(err)
								return
							}
						}
						f.Close()
					})
				}
				wg.Wait()
				for _, dir := range dirs {
					b, err := os.ReadFile(filepath.Join(dir, kind))
					check(t, err)
					if got := strings.TrimSpace(string(b)); got != fmt.Sprint(rounds*len(dirs)) {
						t.Fatalf("%s of %d increments", got, rounds*len(dirs))
					}
				}
			})
		}
	})
}

// TestLockWait: a wait for a lock that another mount holds ends when that is given up,
// and when the waiting program gets a signal.
func TestLockWait(t *testing.T) {
	onMounts(t, 2, func(t *testing.T, dirs []string) {
		a, err := os.Create(filepath.Join(dirs[0], "l"))
		check(t, err)
		b, err := os.OpenFile(filepath.Join(dirs[1], "l"), os.O_RDWR, 0)
		check(t, err)
		defer b.Close()
		check(t, unix.Flock(int(a.Fd()), unix.LOCK_EX))
		if err := unix.Flock(int(b.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			t.Fatalf("a second lock: %v", err)
		}
		// A process of its own waits, and is ended by a signal.
		waiter := execFlock(t, filepath.Join(dirs[1], "l"))
		time.Sleep(100 * time.Millisecond)
		check(t, waiter.Process.Signal(syscall.SIGTERM))
		waiter.Wait()
		got := make(chan error, 1)
		go func() { got <- unix.Flock(int(b.Fd()), unix.LOCK_EX) }()
		select {
		case err := <-got:
			t.Fatalf("locked while another mount holds the lock: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		check(t, a.Close())
		select {
		case err := <-got:
			check(t, err)
		case <-time.After(20 * time.Second):
			t.Fatal("the lock did not become free")
		}
	})
}

// TestAppend: appends of all mounts to one file are all there, each in one piece.
func TestAppend(t *testing.T) {
	onMounts(t, 4, func(t *testing.T, dirs []string) {
		for _, size := range []int{20, 30_000} {
			t.Run(fmt.Sprint(size), func(t *testing.T) {
				rounds := 15
				if testing.Short() {
					rounds = 5
				}
				name := fmt.Sprint("log", size)
				check(t, os.WriteFile(filepath.Join(dirs[0], name), nil, 0o644))
				var wg sync.WaitGroup
				for i, dir := range dirs {
					wg.Go(func() {
						f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_APPEND, 0)
						for k := range rounds {
							line := fmt.Sprintf("%d:%d ", i, k)
							line += strings.Repeat("x", size-len(line)-1) + "\n"
							if err == nil {
								_, err = f.WriteString(line)
							}
							if err == nil && k%2 == 0 {
								err = f.Sync()
							}
						}
						if err := errors.Join(err, f.Close()); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				for _, dir := range dirs {
					data, err := os.ReadFile(filepath.Join(dir, name))
					check(t, err)
					seen := map[string]bool{}
					for line := range bytes.Lines(data) {
						if len(line) != size || line[0] == 0 {
							t.Fatalf("a line of %d bytes, %.20q", len(line), line)
						}
						id, _, _ := strings.Cut(string(line), " ")
						if seen[id] {
							t.Fatalf("%s is there twice", id)
						}
						seen[id] = true
					}
					if len(seen) != rounds*len(dirs) {
						t.Fatalf("%d of %d lines", len(seen), rounds*len(dirs))
					}
				}
			})
		}
	})
}

// TestSmallFile: mounts that change different bytes of one small file, which lies in the
// metadata as a whole, lose none of them; nor when it grows out of there meanwhile.
func TestSmallFile(t *testing.T) {
	onMounts(t, 4, func(t *testing.T, dirs []string) {
		rounds := 20
		if testing.Short() {
			rounds = 6
		}
		for round := range rounds {
			name := fmt.Sprint("s", round)
			check(t, os.WriteFile(filepath.Join(dirs[0], name), bytes.Repeat([]byte("."), 1000), 0o644))
			var wg sync.WaitGroup
			var grown atomic.Bool
			for i, dir := range dirs {
				wg.Go(func() {
					f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
					for k := range 10 {
						if err == nil {
							_, err = f.WriteAt([]byte{byte('a' + i)}, int64(k*len(dirs)+i))
						}
						if err == nil {
							err = f.Sync()
						}
						if i == 1 && k == 5 && round%2 == 1 {
							_, err = f.WriteAt([]byte("big"), 9000)
							grown.Store(true)
						}
					}
					if err := errors.Join(err, f.Close()); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			want := bytes.Repeat([]byte("."), 1000)
			for k := range 10 * len(dirs) {
				want[k] = byte('a' + k%len(dirs))
			}
			if grown.Load() {
				want = append(append(want, make([]byte, 8000)...), "big"...)
			}
			for _, dir := range dirs {
				got, err := os.ReadFile(filepath.Join(dir, name))
				check(t, err)
				if !bytes.Equal(got, want) {
					t.Fatalf("round %d: %d bytes %.60q, want %d bytes %.60q", round, len(got), got, len(want), want)
				}
			}
		}
	})
}
