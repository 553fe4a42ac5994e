package localdir

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/tree/namespace"
)

// watcher tells of changes below a directory by inotify(7). Each directory has a watch
// of its own; of one that appears, first the watch is set and then what is in it already is told as
// created, so that nothing is lost (but something may be told twice). Other file systems
// that are mounted below are left out: the namespace itself may be one of them.
type watcher struct {
	root string
}

// batchTime is for how long events are collected.
const batchTime = 100 * time.Millisecond

const watched = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_CLOSE_WRITE | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW

// watch implements namespace.Backend.Watch.
func (w *watcher) watch(fn func([]namespace.Event)) (stop func(), err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(w.root, &st); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("inotify: %w", err)
	}
	r := &watchRun{dev: st.Dev, root: w.root, fd: fd, file: os.NewFile(uintptr(fd), "inotify"), dirs: map[int32]string{}, wds: map[string]int32{}, moved: map[int32]string{}, fn: fn, quit: make(chan struct{}), done: make(chan struct{})}
	if err := r.add("", false); err != nil {
		r.file.Close()
		return nil, err
	}
	go r.run()
	return func() {
		close(r.quit)
		r.file.SetReadDeadline(time.Unix(1, 0))
		<-r.done
	}, nil
}

// watchRun is a watcher that runs.
type watchRun struct {
	root  string
	dev   uint64 // file system of the root
	fd    int
	file  *os.File
	dirs  map[int32]string // path of each watch
	wds   map[string]int32
	fn    func([]namespace.Event)
	batch []namespace.Event
	// moved are the watches of directories that were moved away; those that have not
	// got another path by the end of the batch lie outside.
	moved map[int32]string
	quit  chan struct{}
	done  chan struct{}
}

// add watches a directory and those below it. With tell, what is in them is told.
func (r *watchRun) add(dir string, tell bool) error {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(r.root, dir), &st); err == nil && st.Dev != r.dev {
		return nil
	}
	wd, err := unix.InotifyAddWatch(r.fd, filepath.Join(r.root, dir), watched)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		return nil // gone again
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("inotify: more directories than fs.inotify.max_user_watches allows: %w", err)
	case err != nil:
		return fmt.Errorf("inotify: %w", err)
	}
	if old, ok := r.dirs[int32(wd)]; ok && r.wds[old] == int32(wd) { // it was renamed
		delete(r.wds, old)
	}
	r.dirs[int32(wd)], r.wds[dir] = dir, int32(wd)
	entries, err := os.ReadDir(filepath.Join(r.root, dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("inotify: %w", err)
	}
	for _, e := range entries {
		p := path.Join(dir, e.Name())
		if tell {
			r.event(namespace.EventCreate, p)
		}
		if e.IsDir() {
			if err := r.add(p, tell); err != nil {
				return err
			}
		} else if tell && e.Type().IsRegular() {
			r.event(namespace.EventModify, p)
		}
	}
	return nil
}

// leave notes that a directory was moved away. Its watches stay for now: if it was moved to
// another place in the tree, add finds them there, and nothing is lost in between.
func (r *watchRun) leave(dir string) {
	for p, wd := range r.wds {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			r.moved[wd] = p
		}
	}
}

// settle drops the watches of directories that were moved out of the tree.
func (r *watchRun) settle() {
	for wd, p := range r.moved {
		if r.dirs[wd] == p {
			unix.InotifyRmWatch(r.fd, uint32(wd)) // it may be gone already
			delete(r.dirs, wd)
			if r.wds[p] == wd {
				delete(r.wds, p)
			}
		}
	}
	clear(r.moved)
}

func (r *watchRun) event(t namespace.EventType, p string) {
	e := namespace.Event{Type: t, Path: p}
	for i := len(r.batch) - 1; i >= 0 && r.batch[i].Path == p; i-- {
		if r.batch[i] == e {
			return
		}
	}
	r.batch = append(r.batch, e)
}

func (r *watchRun) run() {
	defer close(r.done)
	defer r.file.Close() // by who uses its number
	buf := make([]byte, 64<<10)
	for {
		r.file.SetReadDeadline(time.Time{})
		select {
		case <-r.quit: // its deadline may have been the one just replaced
			return
		default:
		}
		n, err := r.file.Read(buf)
		if err != nil {
			return // closed
		}
		r.handle(buf[:n])
		// What follows at once belongs to the same batch.
		r.file.SetReadDeadline(time.Now().Add(batchTime))
		for {
			n, err := r.file.Read(buf)
			if err != nil {
				break
			}
			r.handle(buf[:n])
		}
		r.settle()
		if len(r.batch) > 0 {
			r.fn(r.batch)
			r.batch = nil
		}
	}
}

// handle takes records of inotify apart.
func (r *watchRun) handle(p []byte) {
	for len(p) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(p))
		mask := binary.NativeEndian.Uint32(p[4:])
		size := int(binary.NativeEndian.Uint32(p[12:]))
		name := strings.TrimRight(string(p[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size]), "\x00")
		p = p[unix.SizeofInotifyEvent+size:]
		r.record(wd, mask, name)
	}
}

func (r *watchRun) record(wd int32, mask uint32, name string) {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		r.batch = append(r.batch, namespace.Event{Type: namespace.EventOverflow})
		return
	}
	dir, ok := r.dirs[wd]
	if !ok {
		return
	}
	if mask&unix.IN_IGNORED != 0 { // the directory is gone
		delete(r.dirs, wd)
		if r.wds[dir] == wd {
			delete(r.wds, dir)
		}
		return
	}
	p := path.Join(dir, name)
	switch isDir := mask&unix.IN_ISDIR != 0; {
	case mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		r.event(namespace.EventCreate, p)
		if isDir {
			// A directory that was moved here is told alone, a new one with what has been
			// made in it before the watch was set.
			if err := r.add(p, mask&unix.IN_CREATE != 0); err != nil {
				r.batch = append(r.batch, namespace.Event{Type: namespace.EventOverflow})
			}
		}
	case mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0:
		r.event(namespace.EventDelete, p)
		if isDir && mask&unix.IN_MOVED_FROM != 0 {
			r.leave(p)
		}
	case mask&unix.IN_CLOSE_WRITE != 0:
		r.event(namespace.EventModify, p)
	}
}
