package file

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// keyLocks serialises what replaces or removes an object, among the goroutines of
// this process and among the processes that have the store open: whoever has
// compared an ETag must be sure that the object is still that one when it renames
// over it. Creating an object needs no lock, link(2) is atomic.
//
// A key hashes to one of lockStripes; within the process that is a mutex, among
// processes the byte of that number in the file .massif/lock, locked as an open
// file description lock, which ends with the process whatever happens to it.
type keyLocks struct {
	fd      int // of the lock file, -1 if there is none
	stripes [lockStripes]sync.Mutex
}

const lockStripes = 256

// work reports whether the file system has locks.
func (l *keyLocks) work() bool {
	fl := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: lockStripes, Len: 1} // nobody's stripe
	err := retry(func() error { return unix.FcntlFlock(uintptr(l.fd), unix.F_OFD_SETLK, &fl) })
	if err == unix.EAGAIN || err == unix.EACCES {
		return true // another process is just finding out
	}
	fl.Type = unix.F_UNLCK
	_ = retry(func() error { return unix.FcntlFlock(uintptr(l.fd), unix.F_OFD_SETLK, &fl) })
	return err == nil
}

// stripe must be the same in all processes: FNV-1a.
func stripe(key string) int {
	h := uint32(2166136261)
	for i := range len(key) {
		h = (h ^ uint32(key[i])) * 16777619
	}
	return int(h>>24^h>>12^h) & (lockStripes - 1)
}

// lock locks all the keys and returns what unlocks them.
func (l *keyLocks) lock(ctx context.Context, keys ...string) (func(), error) {
	var held []int
	unlock := func() {
		for _, n := range held {
			l.unlockStripe(n)
		}
	}
	stripes := make([]int, 0, 2)
	for _, key := range keys {
		stripes = append(stripes, stripe(key))
	}
	slices.Sort(stripes) // one order for all, against deadlock
	for _, n := range slices.Compact(stripes) {
		if err := l.lockStripe(ctx, n); err != nil {
			unlock()
			return nil, err
		}
		held = append(held, n)
	}
	return unlock, nil
}

func (l *keyLocks) lockStripe(ctx context.Context, n int) error {
	l.stripes[n].Lock()
	if l.fd < 0 {
		return nil
	}
	// Others hold a stripe for some microseconds, so asking again is as quick as
	// waiting in the kernel, and can be given up.
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 5*time.Millisecond) {
		fl := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: int64(n), Len: 1}
		err := unix.FcntlFlock(uintptr(l.fd), unix.F_OFD_SETLK, &fl)
		switch err {
		case nil:
			return nil
		case unix.EINTR:
			continue
		case unix.EAGAIN, unix.EACCES:
		default:
			l.stripes[n].Unlock()
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			l.stripes[n].Unlock()
			return ctx.Err()
		}
	}
}

func (l *keyLocks) unlockStripe(n int) {
	if l.fd >= 0 {
		fl := unix.Flock_t{Type: unix.F_UNLCK, Whence: unix.SEEK_SET, Start: int64(n), Len: 1}
		// Giving a lock back can fail only for a bad descriptor.
		_ = retry(func() error { return unix.FcntlFlock(uintptr(l.fd), unix.F_OFD_SETLK, &fl) })
	}
	l.stripes[n].Unlock()
}

var hashSeed = maphash.MakeSeed()

// shardOf spreads keys over n parts of a structure in memory.
func shardOf(key string, n int) int { return int(maphash.String(hashSeed, key) % uint64(n)) }
