package fsxtree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// worker works on one subtree.
type worker struct {
	cfg   Config
	index int
	dir   string
	rng   *rand.Rand
	root  *inode
	nodes int // names
	n     int
	log   []string
	held  []held
}

// held is an unlinked file that is kept open.
type held struct {
	f    *os.File
	node *inode
}

const (
	maxDepth = 7
	maxData  = 12 << 10 // bytes; past what a volume keeps inline
	maxHeld  = 8
	logLines = 40
)

// pool is the names that workers use: few, so that they often exist.
var pool = func() []string {
	names := strings.Split("a b c d e f g h i j k l m n", " ")
	return append(names, "with space", "-dash", ".hidden", "new\nline", "\xff\xfe not UTF-8", "grüße-世界",
		strings.Repeat("x", 255), strings.Repeat("y", 254)+"1", "..."+strings.Repeat("z", 100))
}()

func newWorker(cfg Config, index int, dir string) *worker {
	return &worker{
		cfg: cfg, index: index, dir: dir,
		rng:  rand.New(rand.NewPCG(cfg.Seed, uint64(index))),
		root: newInode(unix.S_IFDIR, 0o700),
	}
}

func (w *worker) failed(what string) error {
	return &Error{Seed: w.cfg.Seed, Worker: w.index, N: w.n, Log: slices.Clone(w.log), What: what}
}

// place is a name in a directory, existing or not.
type place struct {
	dir  *inode
	name string
	path string
}

func (p place) node() *inode { return p.dir.children[p.name] }

// pick draws a place: a walk down from the root that ends at random, and a name.
func (w *worker) pick() place {
	d, path := w.root, w.dir
	for depth := 0; depth < maxDepth && w.rng.IntN(3) != 0; depth++ {
		var dirs []string
		for _, name := range d.names() {
			if d.children[name].isDir() {
				dirs = append(dirs, name)
			}
		}
		if len(dirs) == 0 {
			break
		}
		name := dirs[w.rng.IntN(len(dirs))]
		d, path = d.children[name], filepath.Join(path, name)
	}
	name := pool[w.rng.IntN(len(pool))]
	if names := d.names(); len(names) > 0 && w.rng.IntN(2) == 0 {
		name = names[w.rng.IntN(len(names))]
	}
	return place{d, name, filepath.Join(path, name)}
}

// step does one operation.
func (w *worker) step() error {
	w.n++
	p := w.pick()
	kind := w.rng.IntN(100)
	if w.nodes > w.cfg.MaxNodes && kind < 46 {
		kind = 46 + w.rng.IntN(24) // remove rather than make
	}
	var desc string
	var want, got error
	switch {
	case kind < 16:
		desc, want, got = w.create(p)
	case kind < 24:
		desc, want, got = w.mkdir(p)
	case kind < 34:
		desc, want, got = w.link(p, w.pick())
	case kind < 40:
		desc, want, got = w.symlink(p)
	case kind < 43:
		desc, want, got = w.mkfifo(p)
	case kind < 46:
		desc, want, got = w.exists(p)
	case kind < 58:
		desc, want, got = w.unlink(p)
	case kind < 66:
		desc, want, got = w.rmdir(p)
	case kind < 80:
		desc, want, got = w.rename(p, w.pick())
	case kind < 86:
		desc, want, got = w.write(p)
	case kind < 89:
		desc, want, got = w.chmod(p)
	case kind < 93:
		desc, want, got = w.xattr(p)
	case kind < 97:
		desc, want, got = w.readdir(p)
	default:
		desc, want, got = w.examine(p)
	}
	if w.log = append(w.log, fmt.Sprintf("%6d %s", w.n, desc)); len(w.log) > logLines {
		w.log = w.log[1:]
	}
	if !same(want, got) {
		return w.failed(fmt.Sprintf("%s gave %v, must give %v", desc, got, want))
	}
	return nil
}

// same compares an expected errno (or nil) with an error.
func same(want, got error) bool {
	if want == nil || got == nil {
		return want == nil && got == nil
	}
	return errors.Is(got, want)
}

func (w *worker) short(path string) string {
	rel, _ := filepath.Rel(w.dir, path)
	return fmt.Sprintf("%q", rel)
}

// added notes a new name.
func (w *worker) added(p place, n *inode) {
	p.dir.put(p.name, n)
	w.nodes++
}

func (w *worker) bytes(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(w.rng.Uint32())
	}
	return p
}

func (w *worker) size() int {
	if w.rng.IntN(3) == 0 {
		return w.rng.IntN(maxData)
	}
	return w.rng.IntN(200)
}

func (w *worker) create(p place) (string, error, error) {
	data := w.bytes(w.size())
	desc := fmt.Sprintf("create %s with %d bytes", w.short(p.path), len(data))
	f, err := os.OpenFile(p.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if p.node() != nil {
		return desc, unix.EEXIST, err
	}
	if err != nil {
		return desc, nil, err
	}
	n := newInode(unix.S_IFREG, 0o600)
	w.added(p, n)
	_, err = f.Write(data)
	n.data = data
	return desc, nil, errors.Join(err, f.Close())
}

func (w *worker) mkdir(p place) (string, error, error) {
	desc := "mkdir " + w.short(p.path)
	err := unix.Mkdir(p.path, 0o700)
	if p.node() != nil {
		return desc, unix.EEXIST, err
	}
	if err == nil {
		w.added(p, newInode(unix.S_IFDIR, 0o700))
	}
	return desc, nil, err
}

func (w *worker) link(from, to place) (string, error, error) {
	desc := fmt.Sprintf("link %s %s", w.short(from.path), w.short(to.path))
	err := unix.Link(from.path, to.path)
	node := from.node()
	switch {
	case node == nil:
		return desc, unix.ENOENT, err
	case to.node() != nil:
		return desc, unix.EEXIST, err
	case node.isDir():
		return desc, unix.EPERM, err
	}
	if err == nil {
		node.nlink++
		w.added(to, node)
	}
	return desc, nil, err
}

func (w *worker) symlink(p place) (string, error, error) {
	target := strings.Repeat("t/", w.rng.IntN(50)) + "end"
	if w.rng.IntN(10) == 0 {
		target = strings.Repeat("s", 1+w.rng.IntN(4000))
	}
	desc := fmt.Sprintf("symlink %s of %d bytes", w.short(p.path), len(target))
	err := unix.Symlink(target, p.path)
	if p.node() != nil {
		return desc, unix.EEXIST, err
	}
	if err == nil {
		n := newInode(unix.S_IFLNK, 0o777)
		n.target = target
		w.added(p, n)
	}
	return desc, nil, err
}

func (w *worker) mkfifo(p place) (string, error, error) {
	desc := "mkfifo " + w.short(p.path)
	err := unix.Mkfifo(p.path, 0o600)
	if p.node() != nil {
		return desc, unix.EEXIST, err
	}
	if err == nil {
		w.added(p, newInode(unix.S_IFIFO, 0o600))
	}
	return desc, nil, err
}

func (w *worker) exists(p place) (string, error, error) {
	var st unix.Stat_t
	err := unix.Lstat(p.path, &st)
	if p.node() == nil {
		return "lstat " + w.short(p.path), unix.ENOENT, err
	}
	return "lstat " + w.short(p.path), nil, err
}

// unlink removes a name; now and then the file is kept open meanwhile and longer.
func (w *worker) unlink(p place) (string, error, error) {
	node := p.node()
	desc := "unlink " + w.short(p.path)
	var keep *os.File
	if node != nil && node.typ == unix.S_IFREG && w.rng.IntN(4) == 0 {
		desc += ", kept open"
		f, err := os.OpenFile(p.path, os.O_RDWR, 0)
		if err != nil {
			return desc, nil, err
		}
		keep = f
	}
	err := unix.Unlink(p.path)
	switch {
	case node == nil:
		return desc, unix.ENOENT, err
	case node.isDir():
		return desc, unix.EISDIR, err
	case err != nil:
		return desc, nil, err
	}
	p.dir.take(p.name)
	node.nlink--
	w.nodes--
	if keep == nil {
		return desc, nil, nil
	}
	w.held = append(w.held, held{keep, node})
	if len(w.held) <= maxHeld {
		return desc, nil, nil
	}
	old := w.held[0]
	w.held = w.held[1:]
	return desc + "; look at an older one", nil, errors.Join(old.check(), old.f.Close())
}

// check compares an open, unlinked file with the model.
func (h held) check() error {
	st, err := h.f.Stat()
	if err != nil {
		return err
	}
	if nlink := st.Sys().(*syscall.Stat_t).Nlink; nlink != h.node.nlink {
		return fmt.Errorf("an unlinked file has %d links, must have %d", nlink, h.node.nlink)
	}
	data, err := io.ReadAll(io.NewSectionReader(h.f, 0, 1<<30))
	if err == nil && !bytes.Equal(data, h.node.data) {
		err = fmt.Errorf("an unlinked file holds wrong data (%d bytes, must have %d)", len(data), len(h.node.data))
	}
	return err
}

func (w *worker) checkHeld() error {
	for _, h := range w.held {
		if err := h.check(); err != nil {
			return w.failed(err.Error())
		}
	}
	return nil
}

func (w *worker) rmdir(p place) (string, error, error) {
	node := p.node()
	err := unix.Rmdir(p.path)
	desc := "rmdir " + w.short(p.path)
	switch {
	case node == nil:
		return desc, unix.ENOENT, err
	case !node.isDir():
		return desc, unix.ENOTDIR, err
	case len(node.children) > 0:
		return desc, unix.ENOTEMPTY, err
	}
	if err == nil {
		p.dir.take(p.name)
		w.nodes--
	}
	return desc, nil, err
}

func (w *worker) rename(from, to place) (string, error, error) {
	var flags uint
	switch w.rng.IntN(6) {
	case 0:
		flags = unix.RENAME_NOREPLACE
	case 1:
		if !w.cfg.NoExchange {
			flags = unix.RENAME_EXCHANGE
		}
	}
	desc := fmt.Sprintf("rename %s %s flags %d", w.short(from.path), w.short(to.path), flags)
	err := unix.Renameat2(unix.AT_FDCWD, from.path, unix.AT_FDCWD, to.path, flags)
	replaced := to.node() != nil && to.node() != from.node() && flags == 0
	want := rename(from.dir, from.name, to.dir, to.name, flags)
	if want == nil && replaced {
		w.nodes--
	}
	return desc, want, err
}

// write changes the data of a file: overwrite, append or truncate.
func (w *worker) write(p place) (string, error, error) {
	node := p.node()
	desc := "write " + w.short(p.path)
	if node == nil || node.typ != unix.S_IFREG {
		return w.exists(p)
	}
	f, err := os.OpenFile(p.path, os.O_RDWR, 0)
	if err != nil {
		return desc, nil, err
	}
	switch w.rng.IntN(3) {
	case 0:
		size := w.size()
		desc = fmt.Sprintf("truncate %s %d -> %d", w.short(p.path), len(node.data), size)
		err = f.Truncate(int64(size))
		if size <= len(node.data) {
			node.data = node.data[:size:size]
		} else {
			node.data = append(node.data, make([]byte, size-len(node.data))...)
		}
	case 1:
		data := w.bytes(min(w.size(), maxData-min(maxData, len(node.data))))
		desc = fmt.Sprintf("append %d bytes to %s", len(data), w.short(p.path))
		_, err = f.WriteAt(data, int64(len(node.data)))
		node.data = append(node.data, data...)
	default:
		off := w.rng.IntN(maxData)
		data := w.bytes(1 + w.rng.IntN(2000))
		desc = fmt.Sprintf("write %d bytes at %d of %s", len(data), off, w.short(p.path))
		_, err = f.WriteAt(data, int64(off))
		if end := off + len(data); end > len(node.data) {
			node.data = append(node.data, make([]byte, end-len(node.data))...)
		}
		copy(node.data[off:], data)
	}
	return desc, nil, errors.Join(err, f.Close())
}

func (w *worker) chmod(p place) (string, error, error) {
	node := p.node()
	if node == nil || node.typ == unix.S_IFLNK {
		return w.exists(p)
	}
	perm := uint32(0o700 | w.rng.IntN(0o100))
	err := unix.Chmod(p.path, perm)
	if err == nil {
		node.perm = perm
	}
	return fmt.Sprintf("chmod %s %o", w.short(p.path), perm), nil, err
}

// xattr sets or removes an attribute, with and without create and replace.
func (w *worker) xattr(p place) (string, error, error) {
	node := p.node()
	if w.cfg.NoXattr || node == nil || node.typ != unix.S_IFREG && node.typ != unix.S_IFDIR {
		return w.exists(p)
	}
	name := fmt.Sprintf("user.%c", 'a'+w.rng.IntN(3))
	_, there := node.xattrs[name]
	if w.rng.IntN(3) == 0 {
		desc := fmt.Sprintf("removexattr %s %s", w.short(p.path), name)
		err := unix.Lremovexattr(p.path, name)
		if !there {
			return desc, unix.ENODATA, err
		}
		delete(node.xattrs, name)
		return desc, nil, err
	}
	value := w.bytes(w.rng.IntN(300))
	flags := w.rng.IntN(3) // 0, XATTR_CREATE, XATTR_REPLACE
	desc := fmt.Sprintf("setxattr %s %s, %d bytes, flags %d", w.short(p.path), name, len(value), flags)
	err := unix.Lsetxattr(p.path, name, value, flags)
	switch {
	case flags == unix.XATTR_CREATE && there:
		return desc, unix.EEXIST, err
	case flags == unix.XATTR_REPLACE && !there:
		return desc, unix.ENODATA, err
	}
	if err == nil {
		node.xattrs[name] = string(value)
	}
	return desc, nil, err
}

// readdir lists the directory of a place.
func (w *worker) readdir(p place) (string, error, error) {
	dir := filepath.Dir(p.path)
	desc := "readdir " + w.short(dir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return desc, nil, err
	}
	got := make([]string, 0, len(entries))
	for _, e := range entries {
		got = append(got, e.Name())
		node := p.dir.children[e.Name()]
		if node != nil && node.isDir() != e.IsDir() {
			return desc, nil, fmt.Errorf("entry %q has type %s", e.Name(), e.Type())
		}
	}
	if want := p.dir.names(); !slices.Equal(got, want) {
		return desc, nil, fmt.Errorf("the entries are %q, must be %q", got, want)
	}
	return desc, nil, nil
}

// examine compares one name with the model.
func (w *worker) examine(p place) (string, error, error) {
	node := p.node()
	if node == nil {
		return w.exists(p)
	}
	desc := "examine " + w.short(p.path)
	var st unix.Stat_t
	if err := unix.Lstat(p.path, &st); err != nil {
		return desc, nil, err
	}
	if st.Mode != node.typ|node.perm || st.Nlink != node.nlink {
		return desc, nil, fmt.Errorf("mode %o and %d links, must be %o and %d", st.Mode, st.Nlink, node.typ|node.perm, node.nlink)
	}
	switch node.typ {
	case unix.S_IFREG:
		data, err := os.ReadFile(p.path)
		if err == nil && !bytes.Equal(data, node.data) {
			err = fmt.Errorf("wrong data: %d bytes, must be %d", len(data), len(node.data))
		}
		return desc, nil, err
	case unix.S_IFLNK:
		target, err := os.Readlink(p.path)
		if err == nil && target != node.target {
			err = fmt.Errorf("target %q, must be %q", target, node.target)
		}
		return desc, nil, err
	}
	return desc, nil, nil
}
