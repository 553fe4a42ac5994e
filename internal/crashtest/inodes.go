package crashtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// meta changes a file's attributes: mode, time, an extended attribute, and hard links.
type meta struct {
	w       *loader
	made    bool
	n       uint64
	allowed []uint64 // numbers whose attributes may be there, each one whole by kind
}

func newMeta(w *loader) *meta { return &meta{w: w} }

func (m *meta) mode(n uint64) uint32   { return uint32(0o600 | n%0o100) }
func (m *meta) xattr(n uint64) string  { return fmt.Sprintf("value %d", n) }
func (m *meta) linked(n uint64) string { return m.w.path(fmt.Sprintf("link%d", n%3)) }

func (m *meta) act() error {
	path := m.w.path("attributes")
	m.n++
	m.allowed = append(m.allowed, m.n)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	fd := int(f.Fd())
	t := unix.Timespec{Sec: int64(1_000_000 + m.n), Nsec: 123_456_789}
	for _, do := range []func() error{
		func() error { return unix.Fchmod(fd, m.mode(m.n)) },
		func() error { return unix.Fsetxattr(fd, "user.n", []byte(m.xattr(m.n)), 0) },
		func() error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{t, t}, 0)
		},
		func() error {
			// A link that moves through three names.
			if err := os.Remove(m.linked(m.n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return os.Link(path, m.linked(m.n))
		},
	} {
		if err := do(); err != nil {
			return errors.Join(err, f.Close())
		}
		m.w.did(1)
	}
	if err := m.w.syncClose(f, nil); err != nil {
		return err
	}
	if err := m.w.syncDir(m.w.dir); err != nil {
		return err
	}
	m.allowed, m.made = []uint64{m.n}, true
	return nil
}

func (m *meta) verify() error {
	path := m.w.path("attributes")
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if err == unix.ENOENT && !m.made {
		m.allowed = nil
		return nil
	}
	if err != nil {
		return wrongf(path, "%w", err)
	}
	m.w.check()
	if err := m.verifyLinks(path, st); err != nil {
		return err
	}
	value := make([]byte, 100)
	n, err := unix.Lgetxattr(path, "user.n", value)
	if err != nil && (err != unix.ENODATA || m.made) {
		return wrongf(path, "its attribute: %w", err)
	}
	mode, xattr, time := !m.made, !m.made, !m.made
	for _, a := range m.allowed {
		mode = mode || st.Mode&0o7777 == m.mode(a)
		xattr = xattr || string(value[:max(n, 0)]) == m.xattr(a)
		time = time || st.Mtim.Sec == int64(1_000_000+a) && st.Mtim.Nsec == 123_456_789
	}
	if !mode || !xattr || !time {
		return wrongf(path, "mode %o, attribute %q, time %d.%d belong to none of %v", st.Mode, value[:max(n, 0)], st.Mtim.Sec, st.Mtim.Nsec, m.allowed)
	}
	return nil
}

// verifyLinks checks that all names there are one inode with that many links.
func (m *meta) verifyLinks(path string, st unix.Stat_t) error {
	links := uint64(1)
	for i := range uint64(3) {
		var other unix.Stat_t
		err := unix.Lstat(m.linked(i), &other)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return wrongf(m.linked(i), "%w", err)
		}
		if other.Ino != st.Ino {
			return wrongf(m.linked(i), "is inode %d, must be %d", other.Ino, st.Ino)
		}
		links++
	}
	if links != st.Nlink {
		return wrongf(path, "has %d links, %d names are there", st.Nlink, links)
	}
	if !m.made || len(m.allowed) != 1 {
		return nil
	}
	if _, err := os.Lstat(m.linked(m.allowed[0])); err != nil {
		return wrongf(path, "a link that was made durable: %w", err)
	}
	return nil
}

// unlinked keeps files open that have no name any more. They must go with the
// server: what they held is found by the check of orphans.
type unlinked struct {
	w    *loader
	n    int
	held []*os.File
}

func newUnlinked(w *loader) *unlinked { return &unlinked{w: w} }

func (u *unlinked) act() error {
	if len(u.held) >= 3 {
		f := u.held[0]
		u.held = u.held[1:]
		return f.Close()
	}
	u.n++
	path := u.w.path(fmt.Sprintf("unlinked%d", u.n))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	u.held = append(u.held, f)
	if err := os.Remove(path); err != nil {
		return err
	}
	if _, err := f.Write(fillRange(make([]byte, 1+u.w.rng.IntN(200_000)), uint64(u.n), 1, 0)); err != nil {
		return err
	}
	if u.w.rng.IntN(2) == 0 {
		return f.Sync()
	}
	u.w.did(1)
	return nil
}

func (u *unlinked) verify() error {
	u.drop()
	return nil
}

// drop closes what is left of a dead mount.
func (u *unlinked) drop() {
	for _, f := range u.held {
		f.Close() // its server is dead: an error says nothing new
	}
	u.held = nil
}
