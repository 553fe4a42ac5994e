package flist

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// OpenOptions say how an image is opened.
type OpenOptions struct {
	// TempDir is where the database of a version 1 image is unpacked to; it is removed
	// by Close. Empty: the system's directory for temporary files.
	TempDir string
	// MaxUnpacked bounds that database, in bytes; 0: 8 GiB.
	MaxUnpacked int64
}

const (
	sqliteMagic = "SQLite format 3\x00"
	// databaseName is the one file of a version 1 container that has to be there.
	databaseName = "flistdb.sqlite3"
	routerName   = "router.yaml"
	// maxMembers bounds the files of a container.
	maxMembers = 1000
)

// Open opens an image file: an .fl, or an .flist (tar, plain or compressed with gzip
// or bzip2; or the bare database of one). Only its content tells which. Errors name the
// file.
func Open(ctx context.Context, file string, o OpenOptions) (Image, error) {
	im, err := open(ctx, file, o)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", file, err)
	}
	return im, nil
}

func open(ctx context.Context, file string, o OpenOptions) (Image, error) {
	if o.MaxUnpacked <= 0 {
		o.MaxUnpacked = 8 << 30
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, errors.Unwrap(err) // without the name
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(errors.New("it is no regular file"), err)
	}
	r := bufio.NewReaderSize(f, 64<<10)
	head, err := r.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var unpacked io.Reader = r
	switch {
	case bytes.HasPrefix(head, []byte(sqliteMagic)):
		return openDatabase(ctx, file, nil, nil)
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		if unpacked, err = gzip.NewReader(r); err != nil {
			return nil, badImage("it is not well-formed gzip")
		}
	case bytes.HasPrefix(head, []byte("BZh")):
		unpacked = bzip2.NewReader(r)
	case bytes.HasPrefix(head, []byte("\xfd7zXZ")):
		return nil, badImage("it is compressed with xz, which is not read here; compress it with gzip")
	case len(head) >= 262 && string(head[257:262]) == "ustar":
	default:
		return nil, badImage("it is neither an .fl nor an .flist")
	}
	return openTar(ctx, unpacked, o)
}

// openDatabase opens a SQLite file, which is of version 2 or 1 by its tables.
func openDatabase(ctx context.Context, file string, router []byte, cleanup func() error) (Image, error) {
	db, err := openSQLite(ctx, file)
	if err != nil {
		return nil, err
	}
	cols, err := columns(ctx, db, "inode")
	if err = errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	if len(cols) > 0 && cleanup == nil {
		im, err := openV2(ctx, file)
		if err != nil {
			return nil, err
		}
		return im, nil
	}
	im, err := openV1(ctx, file, router, cleanup)
	if err != nil {
		return nil, err
	}
	return im, nil
}

// openTar takes the two files that are known out of a version 1 container. Names in it
// are never used as paths.
func openTar(ctx context.Context, r io.Reader, o OpenOptions) (im Image, err error) {
	dir, err := os.MkdirTemp(o.TempDir, "flist-")
	if err != nil {
		return nil, err
	}
	cleanup := func() error { return os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			err = errors.Join(err, cleanup())
		}
	}()
	database := filepath.Join(dir, databaseName)
	var router []byte
	found, rocks := false, false
	t := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, badImage("its tar is not well formed")
		}
		if n >= maxMembers {
			return nil, badImage("its tar has more than %d files", maxMembers)
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "./"))
		if h.Typeflag != tar.TypeReg {
			continue
		}
		switch {
		case name == databaseName && !found:
			found = true
			if err := unpackTo(ctx, database, t, o.MaxUnpacked); err != nil {
				return nil, err
			}
		case name == routerName && router == nil:
			if router, err = io.ReadAll(io.LimitReader(t, maxRouterYAML+1)); err != nil {
				return nil, badImage("its tar is not well formed")
			}
		case name == "CURRENT" || strings.HasPrefix(name, "MANIFEST-"):
			rocks = true
		}
	}
	switch {
	case !found && rocks:
		return nil, badImage("it is of the first generation (2017 to 2018), with a RocksDB database, which is not read here")
	case !found:
		return nil, badImage("there is no %s in its tar", databaseName)
	}
	return openDatabase(ctx, database, router, cleanup)
}

func unpackTo(ctx context.Context, file string, r io.Reader, most int64) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, &untilDone{ctx, io.LimitReader(r, most+1)})
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader):
		err = badImage("it ends too early or is damaged")
	case err == nil && n > most:
		err = badImage("its database has more than %d bytes", most)
	}
	return errors.Join(err, f.Close())
}

// untilDone is a reader that fails when ctx is done.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(p)
}
