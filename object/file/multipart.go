package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/massif-fs/massif/internal/crashpoint"
	"github.com/massif-fs/massif/object"
	"golang.org/x/sys/unix"
)

// A multipart upload is a directory below .massif/upload. Its file "upload" says
// as JSON what is uploaded; part n is the file "n". Complete joins the parts to
// a new file, inside the kernel. Parts are made durable only as part of the
// object: a crash of the machine ends the upload, as AbortStale finds.

// PartLimits implements object.Multipart.
func (s *Store) PartLimits() (minSize, maxSize int64, maxParts int) {
	return 0, 1 << 40, 100_000
}

// uploadState is the file "upload".
type uploadState struct {
	Key     string    `json:"key"`
	Started time.Time `json:"started"`
}

func decodeUpload(p []byte) (uploadState, error) {
	var u uploadState
	if err := json.Unmarshal(p, &u); err != nil {
		return u, fmt.Errorf("%w: upload: %w", object.ErrCorrupt, err)
	}
	if err := object.ValidKey(u.Key); err != nil {
		return u, fmt.Errorf("%w: upload: %w", object.ErrCorrupt, err)
	}
	return u, nil
}

type upload struct {
	s    *Store
	key  string
	dir  string // relative to the root
	opts object.PutOptions
	a    attrs
}

// CreateMultipart implements object.Multipart.
func (s *Store) CreateMultipart(ctx context.Context, key string, opts *object.PutOptions) (object.Upload, error) {
	const op = "create upload"
	if err := s.beginWrite(ctx, op, key); err != nil {
		return nil, err
	}
	u := &upload{s: s, key: key, dir: ownUpload + "/" + s.tempName()}
	if opts != nil {
		u.opts = *opts
	}
	if err := s.checkPut(&u.opts); err != nil {
		return nil, wrap(op, key, err)
	}
	u.a = attrsOf(&u.opts)
	if _, err := u.a.encode(); err != nil {
		return nil, wrap(op, key, err)
	}
	if err := retry(func() error { return unix.Mkdirat(s.root, u.dir, 0o777) }); err != nil {
		return nil, wrap(op, key, err)
	}
	p, err := json.Marshal(uploadState{key, time.Now()})
	if err == nil {
		err = os.WriteFile(filepath.Join(s.path, u.dir, "upload"), p, 0o666)
	}
	if err != nil {
		return nil, wrap(op, key, errors.Join(err, s.removeUpload(u.dir)))
	}
	return u, nil
}

// ended turns "the directory is missing" into what it means.
func (u *upload) ended(op string, err error) error {
	if err == unix.ENOENT || errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("upload: %w", object.ErrNotFound)
	}
	return wrap(op, u.key, err)
}

func (u *upload) part(n int) string { return fmt.Sprintf("%s/%d", u.dir, n) }

// PutPart implements object.Upload.
func (u *upload) PutPart(ctx context.Context, n int, body io.Reader, size int64) (object.Part, error) {
	const op = "put part"
	if err := u.s.beginWrite(ctx, op, u.key); err != nil {
		return object.Part{}, err
	}
	if _, _, most := u.s.PartLimits(); n < 1 || n > most {
		return object.Part{}, wrap(op, u.key, fmt.Errorf("%w: part number %d", object.ErrInvalid, n))
	}
	w, err := u.s.newTemp(u.s.temp)
	if err != nil {
		return object.Part{}, wrap(op, u.key, err)
	}
	defer w.close()
	if err := w.readFrom(ctx, body, size); err != nil {
		return object.Part{}, wrap(op, u.key, err)
	}
	if err := w.stamp(); err != nil {
		return object.Part{}, wrap(op, u.key, err)
	}
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(w.fd, &st) }); err != nil {
		return object.Part{}, wrap(op, u.key, err)
	}
	if err := w.nameIt(); err != nil {
		return object.Part{}, wrap(op, u.key, err)
	}
	if err := retry(func() error { return unix.Renameat(u.s.temp.fd, w.name, u.s.root, u.part(n)) }); err != nil {
		return object.Part{}, u.ended(op, err)
	}
	w.name = ""
	return object.Part{Number: n, Size: st.Size, ETag: etagOf(&st)}, nil
}

// Complete implements object.Upload.
func (u *upload) Complete(ctx context.Context, parts []object.Part) (object.Info, error) {
	const op = "complete upload"
	if err := u.s.beginWrite(ctx, op, u.key); err != nil {
		return object.Info{}, err
	}
	if _, err := os.Stat(filepath.Join(u.s.path, u.dir)); err != nil {
		return object.Info{}, u.ended(op, err)
	}
	if len(parts) == 0 {
		return object.Info{}, wrap(op, u.key, fmt.Errorf("%w: no parts", object.ErrInvalid))
	}
	parts = slices.SortedFunc(slices.Values(parts), func(a, b object.Part) int { return a.Number - b.Number })
	for i, p := range parts {
		if i > 0 && parts[i-1].Number == p.Number {
			return object.Info{}, wrap(op, u.key, fmt.Errorf("%w: part %d is named twice", object.ErrInvalid, p.Number))
		}
	}
	info, err := u.s.create(ctx, u.key, &u.opts, u.a, func(w *tempFile) error {
		for _, p := range parts {
			if err := u.appendPart(ctx, w, p); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return object.Info{}, wrap(op, u.key, err)
	}
	crashpoint.Hit("object.file.completed")
	// The object is there; what cannot be removed now AbortStale will find.
	_ = u.s.removeUpload(u.dir)
	return info, nil
}

func (u *upload) appendPart(ctx context.Context, w *tempFile, p object.Part) error {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(u.s.root, u.part(p.Number), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err == unix.ENOENT {
		return fmt.Errorf("%w: part %d was not uploaded", object.ErrInvalid, p.Number)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return err
	}
	if etagOf(&st) != p.ETag {
		return fmt.Errorf("%w: part %d is not the one that was uploaded last", object.ErrInvalid, p.Number)
	}
	return w.appendFile(ctx, fd, st.Size)
}

// Abort implements object.Upload.
func (u *upload) Abort(context.Context) error {
	return wrap("abort upload", u.key, u.s.removeUpload(u.dir))
}

// removeUpload removes an upload's directory, whatever is left of it. The rename
// ends the upload at one moment for everybody who still adds parts.
func (s *Store) removeUpload(dir string) error {
	dead := ownTemp + "/" + s.tempName()
	err := retry(func() error { return unix.Renameat(s.root, dir, s.root, dead) })
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	crashpoint.Hit("object.file.uploadended")
	return os.RemoveAll(filepath.Join(s.path, dead))
}

// AbortStale implements object.Multipart.
func (s *Store) AbortStale(ctx context.Context, prefix string, before time.Time) (int, error) {
	const op = "abort stale uploads"
	if s.opts.ReadOnly {
		return 0, wrap(op, prefix, unix.EROFS)
	}
	entries, err := os.ReadDir(filepath.Join(s.path, ownUpload))
	if err != nil {
		return 0, wrap(op, prefix, err)
	}
	n := 0
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return n, wrap(op, prefix, err)
		}
		dir := path.Join(ownUpload, e.Name())
		if !s.stale(dir, e, prefix, before) {
			continue
		}
		if err := s.removeUpload(dir); err != nil {
			return n, wrap(op, prefix, err)
		}
		n++
	}
	return n, nil
}

func (s *Store) stale(dir string, e fs.DirEntry, prefix string, before time.Time) bool {
	p, err := os.ReadFile(filepath.Join(s.path, dir, "upload"))
	if err == nil {
		if u, err := decodeUpload(p); err == nil {
			return strings.HasPrefix(u.Key, prefix) && u.Started.Before(before)
		}
	}
	// A crash came before the file was written: only the directory's age tells.
	info, err := e.Info()
	return err == nil && prefix == "" && info.ModTime().Before(before)
}
