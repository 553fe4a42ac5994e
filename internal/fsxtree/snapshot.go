package fsxtree

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Node is all that can be seen of one name, without the times of access.
type Node struct {
	Mode     uint32 // type and permissions
	UID, GID uint32
	Nlink    uint64
	Size     int64  // of regular files and links
	Rdev     uint64 // of devices
	MtimeNs  int64
	Sum      string // SHA-256 of a regular file's data
	Target   string // of a symbolic link
	Xattrs   string // name=value, sorted, one a line
	// SameAs is the first name, in order, that is the same inode; "" if this one is.
	SameAs string
}

// Snapshot is a whole tree by path below its top, "." being the top.
type Snapshot map[string]Node

// What leaves properties out of a comparison.
type What struct {
	NoMtime bool // times of modification
	NoOwner bool
	NoLinks bool // numbers of links, and which names are one inode
	NoXattr bool
	// NoSystemXattr leaves out all but user.*.
	NoSystemXattr bool
}

// Take reads a whole tree.
func Take(top string) (Snapshot, error) {
	s := Snapshot{}
	first := map[[2]uint64]string{}
	err := take(s, first, top, ".")
	return s, err
}

func take(s Snapshot, first map[[2]uint64]string, top, rel string) error {
	path := filepath.Join(top, rel)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	n := Node{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: st.Nlink, MtimeNs: st.Mtim.Nano()}
	var err error
	if n.Xattrs, err = xattrs(path); err != nil {
		return err
	}
	id := [2]uint64{st.Dev, st.Ino}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if same, ok := first[id]; ok {
			n.SameAs = same
		} else {
			first[id] = rel
		}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.Size = st.Size
		if n.Sum, err = sum(path); err != nil {
			return err
		}
	case unix.S_IFLNK:
		n.Size = st.Size
		if n.Target, err = os.Readlink(path); err != nil {
			return err
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		n.Rdev = st.Rdev
	case unix.S_IFDIR:
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range entries { // sorted by name
			if err := take(s, first, top, filepath.Join(rel, e.Name())); err != nil {
				return err
			}
		}
	}
	s[rel] = n
	return nil
}

func sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

// xattrs lists the extended attributes; file systems without any have none.
func xattrs(path string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err == unix.EOPNOTSUPP {
		return "", nil
	}
	if err != nil {
		return "", &os.PathError{Op: "llistxattr", Path: path, Err: err}
	}
	var lines []string
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", &os.PathError{Op: "lgetxattr " + name, Path: path, Err: err}
		}
		lines = append(lines, fmt.Sprintf("%s=%q", name, value[:n]))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n"), nil
}

// Diff describes how got differs from want, one line a name, at most 50 lines; ""
// if it does not.
func Diff(want, got Snapshot, what What) string {
	var names []string
	for name := range want {
		names = append(names, name)
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var lines []string
	for _, name := range names {
		w, inWant := want[name]
		g, inGot := got[name]
		switch {
		case !inGot:
			lines = append(lines, name+": missing")
		case !inWant:
			lines = append(lines, name+": must not be there")
		default:
			if w, g = what.strip(w), what.strip(g); w != g {
				lines = append(lines, name+":"+differences(w, g))
			}
		}
		if len(lines) == 50 {
			lines = append(lines, "… and perhaps more")
			break
		}
	}
	return strings.Join(lines, "\n")
}

func (w What) strip(n Node) Node {
	if w.NoMtime {
		n.MtimeNs = 0
	}
	if w.NoOwner {
		n.UID, n.GID = 0, 0
	}
	if w.NoLinks {
		n.Nlink, n.SameAs = 0, ""
	}
	if n.Mode&unix.S_IFMT == unix.S_IFDIR {
		n.Size = 0
	}
	switch {
	case w.NoXattr:
		n.Xattrs = ""
	case w.NoSystemXattr:
		var keep []string
		for line := range strings.SplitSeq(n.Xattrs, "\n") {
			if strings.HasPrefix(line, "user.") {
				keep = append(keep, line)
			}
		}
		n.Xattrs = strings.Join(keep, "\n")
	}
	return n
}

func differences(w, g Node) string {
	var s strings.Builder
	field := func(name string, want, got any) {
		if want != got {
			fmt.Fprintf(&s, " %s is %v, must be %v;", name, got, want)
		}
	}
	field("mode", fmt.Sprintf("%o", w.Mode), fmt.Sprintf("%o", g.Mode))
	field("uid", w.UID, g.UID)
	field("gid", w.GID, g.GID)
	field("nlink", w.Nlink, g.Nlink)
	field("size", w.Size, g.Size)
	field("rdev", w.Rdev, g.Rdev)
	field("mtime", w.MtimeNs, g.MtimeNs)
	field("data", w.Sum, g.Sum)
	field("target", w.Target, g.Target)
	field("xattrs", w.Xattrs, g.Xattrs)
	field("same inode as", w.SameAs, g.SameAs)
	return strings.TrimSuffix(s.String(), ";")
}
