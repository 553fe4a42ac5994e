package flist

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/vfs"
)

// PackOptions say how Pack makes an image.
type PackOptions struct {
	// Put stores a block. It is called from several goroutines.
	Put func(ctx context.Context, id, sealed []byte) error
	// Workers is how many blocks are made and stored at once; 0: four a processor.
	Workers int
	// Progress, if not nil, is called now and then with what has been done so far, by one
	// goroutine at a time.
	Progress func(PackStats)
}

// PackStats count what an image holds.
type PackStats struct {
	Inodes      int64 `json:"inodes"` // names: further names of an inode count
	Directories int64 `json:"directories"`
	Bytes       int64 `json:"bytes"`       // content of files
	Blocks      int64 `json:"blocks"`      // non-empty blocks of files
	StoredBytes int64 `json:"storedBytes"` // cipher text of blocks that were not met before
}

const (
	// pendingEntries bounds the entries of directories whose blocks are still on their way.
	pendingEntries = 4096
	// knownBlocks bounds the ids that are remembered so that a block is not stored twice.
	knownBlocks = 1 << 16
)

type packer struct {
	w     Writer
	o     PackOptions
	g     *errgroup.Group
	ctx   context.Context
	queue []*packDir
	held  int // entries in queue

	inodes, dirs, bytes, blocks, stored atomic.Int64

	mu    sync.Mutex
	known map[string]bool
}

// packDir is a directory that has been read and waits for its blocks.
type packDir struct {
	path    string
	attr    Attr
	xattrs  map[string][]byte
	entries []NewEntry
	wait    sync.WaitGroup
}

// Pack writes the directory tree dir to an image and its content to Put. The writer
// is neither finished nor aborted. What changes meanwhile is packed as it was read.
func Pack(ctx context.Context, dir string, w Writer, o PackOptions) (PackStats, error) {
	if o.Workers <= 0 {
		o.Workers = 4 * runtime.GOMAXPROCS(0)
	}
	p := &packer{w: w, o: o, known: map[string]bool{}}
	p.g, p.ctx = errgroup.WithContext(ctx)
	p.g.SetLimit(o.Workers)
	err := p.tree(dir)
	if werr := p.g.Wait(); werr != nil {
		err = werr // it came first: the others follow from it
	}
	return p.stats(), err
}

func (p *packer) stats() PackStats {
	return PackStats{Inodes: p.inodes.Load(), Directories: p.dirs.Load(), Bytes: p.bytes.Load(), Blocks: p.blocks.Load(), StoredBytes: p.stored.Load()}
}

func (p *packer) tree(root string) error {
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil {
		return &vfs.Error{Op: "pack", Name: root, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return &vfs.Error{Op: "pack", Name: root, Err: syscall.ENOTDIR}
	}
	p.inodes.Add(1)
	// Depth first: the directories that still come are those beside the path.
	todo := []*packDir{{attr: attrOf(&st)}}
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if err := p.dir(root, d); err != nil {
			return err
		}
		for i := len(d.entries) - 1; i >= 0; i-- {
			if e := &d.entries[i]; e.Attr.Type() == syscall.S_IFDIR {
				todo = append(todo, &packDir{path: joinPath(d.path, e.Name), attr: e.Attr})
			}
		}
		p.queue, p.held = append(p.queue, d), p.held+len(d.entries)+1
		for p.held > pendingEntries && len(p.queue) > 1 {
			if err := p.write(); err != nil {
				return err
			}
		}
	}
	for len(p.queue) > 0 {
		if err := p.write(); err != nil {
			return err
		}
	}
	return nil
}

// write hands the oldest directory to the writer.
func (p *packer) write() error {
	d := p.queue[0]
	p.queue, p.held = p.queue[1:], p.held-len(d.entries)-1
	d.wait.Wait()
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	if err := p.w.Dir(d.path, d.attr, d.xattrs, d.entries); err != nil {
		return err
	}
	p.dirs.Add(1)
	if p.o.Progress != nil {
		p.o.Progress(p.stats())
	}
	return nil
}

// dir reads a directory and starts on the content of its files.
func (p *packer) dir(root string, d *packDir) error {
	full := filepath.Join(root, d.path)
	f, err := os.OpenFile(full, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil && d.path == "" {
		f, err = os.OpenFile(full, os.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if d.xattrs, err = readXattrs(full); err != nil {
		return err
	}
	list, err := os.ReadDir(full) // in order
	if err != nil {
		return err
	}
	d.entries = make([]NewEntry, 0, len(list))
	for _, item := range list {
		var st unix.Stat_t
		if err := unix.Fstatat(int(f.Fd()), item.Name(), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			if errors.Is(err, unix.ENOENT) {
				continue // removed since
			}
			return &vfs.Error{Op: "stat", Name: filepath.Join(full, item.Name()), Err: err}
		}
		d.entries = append(d.entries, NewEntry{Name: item.Name(), Attr: attrOf(&st)})
		e := &d.entries[len(d.entries)-1]
		if st.Nlink > 1 && e.Attr.Type() != syscall.S_IFDIR {
			e.Link = st.Ino ^ st.Dev<<48 // equal for one inode
		}
	}
	for i := range d.entries {
		if err := p.entry(full, d, &d.entries[i]); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) entry(dir string, d *packDir, e *NewEntry) (err error) {
	p.inodes.Add(1)
	path := filepath.Join(dir, e.Name)
	if e.Attr.Type() != syscall.S_IFDIR { // those of directories are read with them
		if e.Xattrs, err = readXattrs(path); err != nil {
			return err
		}
	}
	switch e.Attr.Type() {
	case syscall.S_IFLNK:
		e.Target, err = os.Readlink(path)
		return err
	case syscall.S_IFREG:
		return p.file(path, d, e)
	}
	return nil
}

// file reads a file and makes its blocks in the background.
func (p *packer) file(path string, d *packDir, e *NewEntry) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	n := int((e.Attr.Size + BlockSize - 1) / BlockSize)
	e.Blocks = make([]Block, n)
	size := uint64(0)
	for i := range n {
		if p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		// A buffer waits for a place among the workers before it is filled.
		buf := packBuffers.Get().(*[BlockSize]byte)
		k, err := io.ReadFull(f, buf[:min(BlockSize, e.Attr.Size-size)])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			packBuffers.Put(buf)
			return err
		}
		size += uint64(k)
		if k == 0 {
			packBuffers.Put(buf)
			e.Blocks = e.Blocks[:i] // it has become shorter
			break
		}
		d.wait.Add(1)
		at := &e.Blocks[i]
		p.g.Go(func() error {
			defer d.wait.Done()
			defer packBuffers.Put(buf)
			return p.block(at, buf[:k])
		})
		if k < BlockSize {
			e.Blocks = e.Blocks[:i+1]
			break
		}
	}
	e.Attr.Size = size
	return nil
}

var packBuffers = sync.Pool{New: func() any { return new([BlockSize]byte) }}

func (p *packer) block(at *Block, plain []byte) error {
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	b, sealed := p.w.Version().Seal(plain)
	*at = b
	p.bytes.Add(int64(len(plain)))
	p.blocks.Add(1)
	p.mu.Lock()
	known := p.known[string(b.ID)]
	if len(p.known) >= knownBlocks {
		clear(p.known)
	}
	p.mu.Unlock()
	if known {
		return nil
	}
	if err := p.o.Put(p.ctx, b.ID, sealed); err != nil {
		return err
	}
	p.mu.Lock()
	if !p.known[string(b.ID)] {
		p.known[string(b.ID)] = true
		p.stored.Add(int64(len(sealed)))
	}
	p.mu.Unlock()
	return nil
}

func attrOf(st *unix.Stat_t) Attr {
	a := Attr{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: uint64(st.Size), Rdev: makeDevice(unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))),
		Mtime: vfs.Time{Sec: st.Mtim.Sec, Nsec: uint32(st.Mtim.Nsec)}, Ctime: vfs.Time{Sec: st.Ctim.Sec, Nsec: uint32(st.Ctim.Nsec)},
	}
	return a
}

// readXattrs reads all extended attributes of a path, without following a link.
func readXattrs(path string) (map[string][]byte, error) {
	n, err := unix.Llistxattr(path, nil)
	if err != nil || n == 0 {
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOENT) {
			err = nil
		}
		return nil, xattrFault(path, err)
	}
	names := make([]byte, n+1024)
	if n, err = unix.Llistxattr(path, names); err != nil {
		return nil, xattrFault(path, err)
	}
	all := map[string][]byte{}
	for _, name := range strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 64<<10)
		k, err := unix.Lgetxattr(path, name, value)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			continue
		}
		if err != nil {
			return nil, xattrFault(path, err)
		}
		all[name] = append([]byte{}, value[:k]...)
	}
	return all, nil
}

func xattrFault(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("extended attributes of %s: %w", path, err)
}
