package bucket

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/massif-fs/massif/object"
)

// # Moving a directory
//
// A store without directories moves one object by object: all are copied, then the old
// ones are deleted. A file in the cache directory tells how far it came, a line for each copy
// in the order of the keys. A move that fails or is cut off before the last copy is undone: the
// copies are deleted, if they are still what was copied. From then on it is finished, now or
// by the next mount: an old object is deleted if it is still what was copied; one that was
// changed or added since is copied first.

// moveHead is the first line of a move's file.
type moveHead struct {
	From string `json:"from"` // prefixes, with '/'
	To   string `json:"to"`
}

// moveLine is one of the others.
type moveLine struct {
	Rest string `json:"rest,omitempty"` // of the keys
	Old  string `json:"old,omitempty"`  // ETags
	New  string `json:"new,omitempty"`
	Done bool   `json:"done,omitempty"` // all are copied
}

const (
	copiesAtOnce = 32
	deleteBatch  = 1000
	maxMoveLine  = 16 << 10
)

// moveTree moves what is in a directory. The node is held still. moved without an error, or with
// one: some of the old objects are still there.
func (fs *FS) moveTree(ctx context.Context, n *node, oldPath, newPath string) (moved bool, err error) {
	if fs.real != nil {
		if err := fs.real.RenameDir(ctx, newPath, oldPath); err != nil {
			return false, err
		}
		return true, fs.movedAtOnce(ctx, n, oldPath, newPath)
	}
	if fs.cfg.Markers == FolderMarkers {
		if err := fs.moveFolderMarker(ctx, oldPath, newPath); err != nil {
			return false, err
		}
	}
	m := &moveHead{oldPath + "/", newPath + "/"}
	f, err := os.CreateTemp(fs.disk.path(movesDir), "move")
	if err != nil {
		return false, err
	}
	defer f.Close()
	updates := make(map[*node][2]version)
	if err = fs.copyTree(ctx, n, m, f, updates); err != nil {
		back := context.WithoutCancel(ctx)
		if uerr := fs.undoMove(back, m, f); uerr != nil {
			return false, errors.Join(err, fmt.Errorf("copies of what was moved are left below %s: %w", m.To, uerr))
		}
		if fs.cfg.Markers == FolderMarkers {
			err = errors.Join(err, fs.moveFolderMarker(back, newPath, oldPath))
		}
		return false, errors.Join(err, os.Remove(f.Name()))
	}
	for n, v := range updates {
		fs.rebase(n, v[0], v[1])
	}
	if err := fs.finishMove(context.WithoutCancel(ctx), m, f); err != nil {
		return true, fmt.Errorf("everything is below %s, but not all is removed below %s; the next mount goes on: %w", m.To, m.From, err)
	}
	return true, os.Remove(f.Name())
}

// moveFolderMarker moves Azure's kind of marker, which lies beside the directory.
func (fs *FS) moveFolderMarker(ctx context.Context, oldPath, newPath string) error {
	_, err := fs.store.Copy(ctx, newPath, oldPath, nil)
	if errors.Is(err, object.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = fs.store.Delete(ctx, oldPath)
	}
	return err
}

// copyTree copies all objects and writes a line for each.
func (fs *FS) copyTree(ctx context.Context, n *node, m *moveHead, f *os.File, updates map[*node][2]version) error {
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	if err := enc.Encode(m); err != nil {
		return err
	}
	opts := object.ListOptions{Prefix: m.From}
	for {
		page, err := fs.store.List(ctx, opts)
		if err != nil {
			return err
		}
		lines := make([]moveLine, len(page.Objects))
		var group errgroup.Group // a copy that has begun ends: what is there must be known
		group.SetLimit(copiesAtOnce)
		for i, o := range page.Objects {
			rest := o.Key[len(m.From):]
			if object.ValidKey(m.To+rest) != nil {
				_ = group.Wait()
				return syscall.ENAMETOOLONG
			}
			group.Go(func() error {
				if err := ctx.Err(); err != nil {
					return err
				}
				info, err := fs.copyObject(context.WithoutCancel(ctx), m.To+rest, &o)
				if err == nil {
					lines[i] = moveLine{Rest: rest, Old: o.ETag, New: info.ETag}
				}
				return err
			})
		}
		err = group.Wait()
		for i, l := range lines {
			if l.New == "" {
				continue
			}
			if err := enc.Encode(l); err != nil {
				return err
			}
			if k := fs.below(n, l.Rest); k != nil {
				o := page.Objects[i]
				updates[k] = [2]version{{o.Key, l.Old, o.Size}, {m.To + l.Rest, l.New, o.Size}}
			}
		}
		// On the disk before more is copied: what a crash leaves is known.
		if err = errors.Join(err, w.Flush()); err != nil {
			return err
		}
		if page.Next == "" {
			break
		}
		opts.Token = page.Next
	}
	if err := enc.Encode(moveLine{Done: true}); err != nil {
		return err
	}
	return errors.Join(w.Flush(), f.Sync(), syncDir(filepath.Dir(f.Name())))
}

// copyObject copies an object, or a marker, which not every server copies.
func (fs *FS) copyObject(ctx context.Context, dst string, src *object.Info) (object.Info, error) {
	fs.stats.copies.Add(1)
	if src.Size > 0 || !strings.HasSuffix(src.Key, "/") {
		return fs.store.Copy(ctx, dst, src.Key, nil)
	}
	info, err := fs.head(ctx, src.Key)
	if errors.Is(err, object.ErrNotFound) { // a directory of the server's own
		err = nil
	}
	if err != nil {
		return object.Info{}, err
	}
	return fs.putSmall(ctx, dst, nil, info.Metadata, false)
}

// below finds the node of an object below a directory, if it is in the table.
func (fs *FS) below(n *node, rest string) *node {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for rest != "" && n != nil {
		name, more, deeper := cutKey(rest)
		if !deeper {
			child := n.children[name]
			if child == nil {
				if link, ok := strings.CutSuffix(name, linkSuffix); ok {
					child = n.children[link]
				}
			}
			if child != nil && child.isDir() {
				return nil
			}
			return child
		}
		n, rest = n.children[name], more
		if n != nil && !n.isDir() {
			return nil
		}
	}
	return n // a marker
}

// readMove reads a move's file.
func readMove(r io.Reader, fn func(l *moveLine) error) (m moveHead, done bool, err error) {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxMoveLine)
	first := true
	for s.Scan() {
		if first {
			first = false
			if err := json.Unmarshal(s.Bytes(), &m); err != nil || m.From == "" || m.To == "" {
				return m, false, errRecord
			}
			continue
		}
		var l moveLine
		if json.Unmarshal(s.Bytes(), &l) != nil {
			break // the last line, cut off
		}
		if l.Done {
			return m, true, nil
		}
		if fn != nil {
			if err := fn(&l); err != nil {
				return m, false, err
			}
		}
	}
	return m, false, s.Err()
}

// undoMove deletes the copies of a move that are still what was copied.
func (fs *FS) undoMove(ctx context.Context, m *moveHead, f *os.File) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var batch []string
	flush := func() error {
		err := fs.store.Delete(ctx, batch...)
		batch = batch[:0]
		return err
	}
	_, _, err := readMove(f, func(l *moveLine) error {
		info, err := fs.head(ctx, m.To+l.Rest)
		switch {
		case errors.Is(err, object.ErrNotFound) || err == nil && info.ETag != l.New:
			return nil
		case err != nil:
			return err
		}
		if batch = append(batch, m.To+l.Rest); len(batch) == deleteBatch {
			return flush()
		}
		return nil
	})
	if err == nil && len(batch) > 0 {
		err = flush()
	}
	return err
}

// finishMove deletes the old objects of a move whose copies are complete.
func (fs *FS) finishMove(ctx context.Context, m *moveHead, f *os.File) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s := bufio.NewScanner(f)
	s.Buffer(make([]byte, 0, 4096), maxMoveLine)
	var l moveLine
	next := func() {
		l = moveLine{Done: true}
		if s.Scan() {
			l = moveLine{}
			if json.Unmarshal(s.Bytes(), &l) != nil {
				l.Done = true
			}
		}
	}
	s.Scan() // the head
	next()
	opts := object.ListOptions{Prefix: m.From}
	var errs []error
	for {
		page, err := fs.store.List(ctx, opts)
		if err != nil {
			return err
		}
		var batch []string
		for _, o := range page.Objects {
			rest := o.Key[len(m.From):]
			for !l.Done && l.Rest < rest {
				next()
			}
			if l.Done || l.Rest != rest || l.Old != o.ETag {
				if _, err := fs.copyObject(ctx, m.To+rest, &o); err != nil {
					errs = append(errs, err)
					continue
				}
			}
			batch = append(batch, o.Key)
		}
		if len(batch) > 0 {
			if err := fs.store.Delete(ctx, batch...); err != nil {
				errs = append(errs, err)
			}
		}
		if page.Next == "" {
			return errors.Join(errs...)
		}
		opts.Token = page.Next
	}
}

// finishMoves ends the moves that an earlier mount has left.
func (fs *FS) finishMoves(ctx context.Context) error {
	files, err := os.ReadDir(fs.disk.path(movesDir))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range files {
		errs = append(errs, fs.finishOne(ctx, fs.disk.path(movesDir, e.Name())))
	}
	return errors.Join(errs...)
}

func (fs *FS) finishOne(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	m, done, err := readMove(f, nil)
	switch {
	case errors.Is(err, errRecord): // it had not begun
	case err != nil:
		return err
	case done:
		fs.log.Info("finishing the rename of a directory that was cut off", "from", m.From, "to", m.To)
		err = fs.finishMove(ctx, &m, f)
	default:
		fs.log.Info("undoing the rename of a directory that was cut off", "from", m.From, "to", m.To)
		err = fs.undoMove(ctx, &m, f)
	}
	if err != nil && !errors.Is(err, errRecord) {
		return err
	}
	return os.Remove(path)
}

// movedAtOnce tells the nodes below a directory that their objects have other keys.
func (fs *FS) movedAtOnce(ctx context.Context, n *node, oldPath, newPath string) error {
	fs.mu.Lock()
	var used []*node
	var all func(n *node)
	all = func(n *node) {
		for _, child := range n.children {
			child.mu.Lock()
			child.checked = time.Time{}
			content := child.content
			child.mu.Unlock()
			if content != nil && child.kind == syscall.S_IFREG {
				used = append(used, child)
			}
			if child.isDir() {
				all(child)
			}
		}
	}
	all(n)
	fs.mu.Unlock()
	for _, child := range used {
		child.mu.Lock()
		stored, etag, size := child.stored, child.etag, child.size
		child.mu.Unlock()
		old := fs.key(child)
		if !stored {
			continue
		}
		to := newPath + strings.TrimPrefix(old, oldPath)
		info, err := fs.head(ctx, to)
		if err != nil {
			return err
		}
		fs.rebase(child, version{old, etag, size}, version{to, info.ETag, size})
	}
	return nil
}
