package flist

import (
	"archive/tar"
	"compress/gzip"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/crypto/blake2b"

	"github.com/massif-fs/massif/vfs"
)

// Writer writes an image file. Directories come before what is below them; each
// comes once, with all its entries. Methods are called by one goroutine.
type Writer interface {
	Version() Version
	// Dir writes a directory, named by its path ("" is the root, "a/b"), with its
	// entries. Those that are directories follow by calls of their own.
	Dir(path string, a Attr, xattrs map[string][]byte, entries []NewEntry) error
	// SetTag says something about the image: a tag, or in version 1 a row of metadata.
	SetTag(key, value string) error
	SetRoutes(routes Routes) error
	// Finish completes the file: it appears under its name in one step, durable.
	Finish() error
	// Abort removes what was written. After Finish it does nothing.
	Abort() error
}

// NewEntry is an entry of a directory that is written.
type NewEntry struct {
	Name   string
	Attr   Attr
	Target string  // of a link
	Blocks []Block // of a file
	Xattrs map[string][]byte
	// Link, if not 0, is equal in all names of one inode. Version 1 makes copies of them.
	Link uint64
}

// partial is a file under construction beside the place where it will be.
type partial struct {
	path string // final
	temp string
	db   *sql.DB
	tx   *sql.Tx
	done bool
}

func newPartial(path string, tables string) (*partial, error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("%s exists", path)
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".flist-")
	if err != nil {
		return nil, err
	}
	p := &partial{path: path, temp: dir}
	if p.db, err = createSQLite(p.file()); err == nil {
		if _, err = p.db.Exec(tables); err == nil {
			p.tx, err = p.db.Begin()
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("image %s: %w", path, err), p.Abort())
	}
	return p, nil
}

func (p *partial) file() string { return filepath.Join(p.temp, databaseName) }

func (p *partial) exec(query string, args ...any) error {
	if _, err := p.tx.Exec(query, args...); err != nil {
		return fmt.Errorf("image %s: %w", p.path, err)
	}
	return nil
}

// commit ends the database.
func (p *partial) commit() error {
	err := p.tx.Commit()
	p.tx = nil
	err = errors.Join(err, p.db.Close())
	p.db = nil
	return err
}

// publish gives a complete file its name. It never replaces another one.
func (p *partial) publish(from string) error {
	f, err := os.Open(from)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err == nil {
		err = os.Link(from, p.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("image %s: %w", p.path, err), p.Abort())
	}
	dir, err := os.Open(filepath.Dir(p.path))
	if err == nil {
		err = errors.Join(dir.Sync(), dir.Close())
	}
	return errors.Join(err, p.Abort())
}

// Abort removes what is under construction.
func (p *partial) Abort() error {
	if p.done {
		return nil
	}
	p.done = true
	var errs []error
	if p.tx != nil {
		errs = append(errs, p.tx.Rollback())
	}
	if p.db != nil {
		errs = append(errs, p.db.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(p.temp))...)
}

// Create begins an image of a version at path, which must not exist.
func Create(v Version, path string) (Writer, error) {
	if v == V1 {
		p, err := newPartial(path, v1Tables)
		if err != nil {
			return nil, err
		}
		return &v1Writer{partial: p, acis: map[string]bool{}}, nil
	}
	p, err := newPartial(path, v2Tables)
	if err != nil {
		return nil, err
	}
	return &v2Writer{partial: p, dirs: map[string]int64{}, links: map[uint64]int64{}}, nil
}

const v1Tables = `
CREATE TABLE entries (key VARCHAR(64) PRIMARY KEY, value BLOB);
CREATE TABLE metadata (key VARCHAR(64) PRIMARY KEY, value TEXT);`

type v1Writer struct {
	*partial
	router []byte
	acis   map[string]bool // records that are written, by key
}

func (w *v1Writer) Version() Version { return V1 }

// aci writes the record of an owner and mode if it is new, and returns its key.
func (w *v1Writer) aci(a *Attr) (string, error) {
	rec := aciRecord{mode: uint16(a.Mode & 0o7777), uid: int64(a.UID), gid: int64(a.GID)}
	rec.uname, rec.gname = strconv.Itoa(int(a.UID)), strconv.Itoa(int(a.GID))
	if u, err := user.LookupId(rec.uname); err == nil {
		rec.uname = u.Username
	}
	if g, err := user.LookupGroupId(rec.gname); err == nil {
		rec.gname = g.Name
	}
	h, err := blake2b.New(8, nil)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(h, "user:%s\ngroup:%s\nmode:0o%o\nuid:%d\ngid:%d", rec.uname, rec.gname, rec.mode, a.UID, a.GID)
	key := hex.EncodeToString(h.Sum(nil))
	if w.acis[key] {
		return key, nil
	}
	value, err := rec.marshal()
	if err != nil {
		return "", err
	}
	w.acis[key] = true
	return key, w.exec("INSERT INTO entries (key, value) VALUES (?, ?)", key, value)
}

// v1Time is a time of version 1: seconds from 1970 to 2106.
func v1Time(t vfs.Time) uint32 { return uint32(min(max(t.Sec, 0), 1<<32-1)) }

func (w *v1Writer) Dir(path string, a Attr, _ map[string][]byte, entries []NewEntry) error {
	acl, err := w.aci(&a)
	if err != nil {
		return err
	}
	d := &dirRecord{mtime: v1Time(a.Mtime), ctime: v1Time(a.Ctime), name: baseName(path), location: path, parent: pathKey(dirName(path)), acl: acl}
	for i := range entries {
		e := &entries[i]
		if err := checkEntry(e.Name, e.Attr.Mode); err != nil {
			return err
		}
		rec := entryRecord{name: e.Name, size: e.Attr.Size, mtime: v1Time(e.Attr.Mtime), ctime: v1Time(e.Attr.Ctime)}
		if rec.acl, err = w.aci(&e.Attr); err != nil {
			return err
		}
		switch e.Attr.Type() {
		case syscall.S_IFDIR:
			rec.kind, rec.key = kindDir, pathKey(joinPath(path, e.Name))
		case syscall.S_IFREG:
			rec.kind, rec.blocks = kindFile, e.Blocks
		case syscall.S_IFLNK:
			rec.kind, rec.target = kindLink, e.Target
		default:
			rec.kind, rec.device = kindSpecial, "(nothing)"
			switch e.Attr.Type() {
			case syscall.S_IFIFO:
				rec.special = specialFIFO
			case syscall.S_IFSOCK:
				rec.special = specialSocket
			case syscall.S_IFBLK, syscall.S_IFCHR:
				rec.special = specialChar
				if e.Attr.Type() == syscall.S_IFBLK {
					rec.special = specialBlock
				}
				major, minor := splitDevice(e.Attr.Rdev)
				rec.device = fmt.Sprintf("%d,%d", major, minor)
			}
		}
		d.entries = append(d.entries, rec)
	}
	value, err := d.marshal()
	if err != nil {
		return fmt.Errorf("directory /%s: %w", path, err)
	}
	return w.exec("INSERT INTO entries (key, value) VALUES (?, ?)", pathKey(path), value)
}

func (w *v1Writer) SetTag(key, value string) error {
	return w.exec("INSERT OR REPLACE INTO metadata (key, value) VALUES (?, ?)", key, value)
}

func (w *v1Writer) SetRoutes(routes Routes) (err error) {
	w.router, err = formatRouterYAML(routes)
	return err
}

func (w *v1Writer) Finish() error {
	if err := w.commit(); err != nil {
		return errors.Join(fmt.Errorf("image %s: %w", w.path, err), w.Abort())
	}
	packed := filepath.Join(w.temp, "flist")
	if err := w.pack(packed); err != nil {
		return errors.Join(fmt.Errorf("image %s: %w", w.path, err), w.Abort())
	}
	return w.publish(packed)
}

func (w *v1Writer) pack(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(f)
	t := tar.NewWriter(z)
	err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755})
	if err == nil {
		err = addFile(t, w.file())
	}
	if err == nil && w.router != nil {
		err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + routerName, Mode: 0o644, Size: int64(len(w.router))})
		if err == nil {
			_, err = t.Write(w.router)
		}
	}
	return errors.Join(err, t.Close(), z.Close(), f.Close())
}

func addFile(t *tar.Writer, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + databaseName, Mode: 0o644, Size: st.Size(), ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err = f.WriteTo(t)
	return err
}

const v2Tables = `
CREATE TABLE inode (ino INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER, name VARCHAR(255), size INTEGER, uid INTEGER, gid INTEGER, mode INTEGER, rdev INTEGER, ctime INTEGER, mtime INTEGER);
CREATE INDEX parents ON inode (parent);
CREATE INDEX names ON inode (name);
CREATE TABLE extra (ino INTEGER PRIMARY KEY, data VARCHAR(4096));
CREATE TABLE block (ino INTEGER, id VARCHAR(32), key VARCHAR(32));
CREATE INDEX block_ino ON block (ino);
CREATE TABLE tag (key VARCHAR(10) PRIMARY KEY, value VARCHAR(255));
CREATE TABLE route (start INTEGER, "end" INTEGER, url VARCHAR(2048));
CREATE TABLE massif_time (ino INTEGER PRIMARY KEY, mtime_ns INTEGER, ctime_ns INTEGER);
CREATE TABLE massif_xattr (ino INTEGER, name BLOB, value BLOB, PRIMARY KEY (ino, name)) WITHOUT ROWID;
CREATE TABLE massif_link (ino INTEGER PRIMARY KEY, target INTEGER);
CREATE INDEX massif_targets ON massif_link (target);`

type v2Writer struct {
	*partial
	dirs  map[string]int64 // numbers of directories that still come
	links map[uint64]int64
}

func (w *v2Writer) Version() Version { return V2 }

func (w *v2Writer) inode(parent int64, name string, a *Attr) (int64, error) {
	size := a.Size
	if a.Type() != syscall.S_IFREG {
		size = 0
	}
	major, minor := splitDevice(a.Rdev)
	rdev := uint64(minor&0xff) | uint64(major&0xfff)<<8 | uint64(minor&^0xff)<<12
	r, err := w.tx.Exec("INSERT INTO inode (parent, name, size, uid, gid, mode, rdev, ctime, mtime) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
		parent, name, int64(size), int64(a.UID), int64(a.GID), int64(a.Mode), int64(rdev), a.Ctime.Sec, a.Mtime.Sec)
	if err != nil {
		return 0, fmt.Errorf("image %s: %w", w.path, err)
	}
	ino, err := r.LastInsertId()
	if err == nil && (a.Mtime.Nsec != 0 || a.Ctime.Nsec != 0) {
		err = w.exec("INSERT INTO massif_time (ino, mtime_ns, ctime_ns) VALUES (?, ?, ?)", ino, int64(a.Mtime.Nsec), int64(a.Ctime.Nsec))
	}
	return ino, err
}

func (w *v2Writer) setXattrs(ino int64, xattrs map[string][]byte) error {
	names := make([]string, 0, len(xattrs))
	for name := range xattrs {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		value := xattrs[name]
		if value == nil {
			value = []byte{}
		}
		if err := w.exec("INSERT INTO massif_xattr (ino, name, value) VALUES (?, ?, ?)", ino, []byte(name), value); err != nil {
			return err
		}
	}
	return nil
}

func (w *v2Writer) Dir(path string, a Attr, xattrs map[string][]byte, entries []NewEntry) error {
	ino, known := w.dirs[path]
	switch {
	case path == "" && !known:
		var err error
		if ino, err = w.inode(0, "/", &a); err != nil {
			return err
		}
		if ino != int64(Root) {
			return errors.New("the root directory came late or twice")
		}
	case !known:
		return fmt.Errorf("directory /%s came before its parent, or twice", path)
	}
	delete(w.dirs, path)
	if err := w.setXattrs(ino, xattrs); err != nil {
		return err
	}
	for i := range entries {
		if err := w.entry(ino, path, &entries[i]); err != nil {
			return err
		}
	}
	return nil
}

func (w *v2Writer) entry(parent int64, path string, e *NewEntry) error {
	if err := checkEntry(e.Name, e.Attr.Mode); err != nil {
		return err
	}
	ino, err := w.inode(parent, e.Name, &e.Attr)
	if err != nil {
		return err
	}
	switch e.Attr.Type() {
	case syscall.S_IFDIR:
		w.dirs[joinPath(path, e.Name)] = ino
		return nil // its attributes come with Dir
	case syscall.S_IFLNK:
		if err := w.exec("INSERT INTO extra (ino, data) VALUES (?, ?)", ino, []byte(e.Target)); err != nil {
			return err
		}
	case syscall.S_IFREG:
		// Further names have the blocks, too: for readers that do not know massif_link.
		for _, b := range e.Blocks {
			if err := w.exec("INSERT INTO block (ino, id, key) VALUES (?, ?, ?)", ino, b.ID, b.Key); err != nil {
				return err
			}
		}
	}
	if e.Link != 0 {
		if first, ok := w.links[e.Link]; ok {
			return w.exec("INSERT INTO massif_link (ino, target) VALUES (?, ?)", ino, first)
		}
		w.links[e.Link] = ino
	}
	return w.setXattrs(ino, e.Xattrs)
}

func (w *v2Writer) SetTag(key, value string) error {
	return w.exec("INSERT OR REPLACE INTO tag (key, value) VALUES (?, ?)", key, value)
}

func (w *v2Writer) SetRoutes(routes Routes) error {
	if err := w.exec("DELETE FROM route"); err != nil {
		return err
	}
	for _, r := range routes {
		if len(r.Start) != 1 || len(r.End) != 1 {
			return errors.New("version 2 divides blocks by the first byte of their ids")
		}
		if err := w.exec(`INSERT INTO route (start, "end", url) VALUES (?, ?, ?)`, int64(r.Start[0]), int64(r.End[0]), r.URL); err != nil {
			return err
		}
	}
	return nil
}

func (w *v2Writer) Finish() error {
	if len(w.dirs) > 0 {
		return errors.Join(fmt.Errorf("image %s: %d directories were announced and never came", w.path, len(w.dirs)), w.Abort())
	}
	if err := w.commit(); err != nil {
		return errors.Join(fmt.Errorf("image %s: %w", w.path, err), w.Abort())
	}
	return w.publish(w.file())
}
