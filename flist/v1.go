package flist

import (
	"container/list"
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/url"
	"os/user"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/crypto/blake2b"

	"github.com/massif-fs/massif/vfs"
)

// v1 is an open image of version 1. A directory is one row of table entries, whose key
// is the hash of its path; so a key can be checked where it is met, and directories
// cannot contain themselves.
type v1 struct {
	db      *sql.DB
	router  []byte       // content of router.yaml, nil if there was none
	cleanup func() error // removes the unpacked database
	meta    bool         // there is a table metadata
	rootRow uint64
	width   int // bits of row numbers; see number

	mu    sync.Mutex
	dirs  map[uint64]*list.Element // by row, of *v1Dir
	used  list.List                // most recently used in front
	bytes int
	acis  map[string]aciRecord
}

type v1Dir struct {
	row   uint64
	key   string
	bytes int
	rec   *dirRecord
	inos  []uint64 // of the entries that are directories, by index; filled in under v1.mu
}

const (
	// v1DirBytes bounds the records of directories that are kept decoded; the one in use
	// may be larger.
	v1DirBytes = 16 << 20
	v1ACIs     = 1 << 16
	// maxV1Number bounds inode numbers: trees have 48 bits of them.
	maxV1Number = 47
)

// pathKey is the key of a directory's row.
func pathKey(location string) string {
	h, err := blake2b.New(16, nil)
	if err != nil {
		panic(err)
	}
	h.Write([]byte(location))
	return hex.EncodeToString(h.Sum(nil))
}

func openV1(ctx context.Context, path string, router []byte, cleanup func() error) (_ *v1, err error) {
	im := &v1{router: router, cleanup: cleanup, dirs: map[uint64]*list.Element{}, acis: map[string]aciRecord{}}
	if im.db, err = openSQLite(ctx, path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, im.db.Close())
		}
	}()
	if err := needColumns(ctx, im.db, "entries", "key", "value"); err != nil {
		return nil, err
	}
	meta, err := columns(ctx, im.db, "metadata")
	if err != nil {
		return nil, err
	}
	im.meta = meta["key"] && meta["value"]
	var lowest, highest sql.NullInt64
	if err := im.db.QueryRowContext(brief(ctx), "SELECT min(rowid), max(rowid) FROM entries").Scan(&lowest, &highest); err != nil {
		return nil, damaged(ctx, err)
	}
	if lowest.Int64 < 1 || highest.Int64 >= 1<<40 {
		return nil, badImage("its rows have numbers from %d to %d", lowest.Int64, highest.Int64)
	}
	im.width = bits.Len64(uint64(highest.Int64))
	if im.rootRow, err = im.rowOf(ctx, pathKey("")); err != nil {
		return nil, err
	}
	_, err = im.dir(ctx, im.rootRow)
	return im, err
}

func (im *v1) Version() Version { return V1 }

func (im *v1) Close() error {
	err := im.db.Close()
	if im.cleanup != nil {
		err = errors.Join(err, im.cleanup())
	}
	return err
}

// Numbers: that of a directory is its row, with the root's row and 1 exchanged; entry i
// of a directory has (i+1)<<width | row.

func (im *v1) dirNumber(row uint64) uint64 {
	switch row {
	case im.rootRow:
		return Root
	case Root:
		return im.rootRow
	}
	return row
}

// split takes a number apart: the row of the directory, and the index of the entry,
// -1 for the directory itself.
func (im *v1) split(ino uint64) (row uint64, index int) {
	row, i := ino&(1<<im.width-1), ino>>im.width
	if i == 0 {
		return im.dirNumber(row), -1 // the exchange is its own reverse
	}
	return row, int(i - 1)
}

func (im *v1) rowOf(ctx context.Context, key string) (uint64, error) {
	var row int64
	err := im.db.QueryRowContext(brief(ctx), "SELECT rowid FROM entries WHERE key = ?", key).Scan(&row)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, badImage("directory %s is missing", key)
	}
	return uint64(row), damaged(ctx, err)
}

// dir returns a directory by its row.
func (im *v1) dir(ctx context.Context, row uint64) (*v1Dir, error) {
	im.mu.Lock()
	if e := im.dirs[row]; e != nil {
		im.used.MoveToFront(e)
		im.mu.Unlock()
		return e.Value.(*v1Dir), nil
	}
	im.mu.Unlock()
	var key string
	var value []byte
	err := im.db.QueryRowContext(brief(ctx), "SELECT CAST(key AS TEXT), CASE WHEN length(value) <= ? THEN CAST(value AS BLOB) END FROM entries WHERE rowid = ?", maxRecord, int64(row)).Scan(&key, &value)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, stale(row)
	}
	if err != nil {
		return nil, damaged(ctx, err)
	}
	if len(key) != 32 {
		return nil, stale(row) // an owner record
	}
	rec, err := parseDir(value)
	if err != nil {
		return nil, err
	}
	if pathKey(rec.location) != key {
		return nil, badImage("directory %.80q lies under the key of another one", rec.location)
	}
	if bits.Len(uint(len(rec.entries)))+im.width > maxV1Number {
		return nil, badImage("directory %.80q has %d entries, more than there are inode numbers for", rec.location, len(rec.entries))
	}
	d := &v1Dir{row: row, key: key, bytes: len(value), rec: rec, inos: make([]uint64, len(rec.entries))}
	im.mu.Lock()
	defer im.mu.Unlock()
	if e := im.dirs[row]; e != nil {
		return e.Value.(*v1Dir), nil
	}
	im.dirs[row] = im.used.PushFront(d)
	im.bytes += d.bytes
	for im.bytes > v1DirBytes && im.used.Len() > 1 {
		old := im.used.Remove(im.used.Back()).(*v1Dir)
		delete(im.dirs, old.row)
		im.bytes -= old.bytes
	}
	return d, nil
}

// find returns the directory that an inode is an entry of, and its index there; the
// root has index -1 in itself.
func (im *v1) find(ctx context.Context, ino uint64) (*v1Dir, int, error) {
	row, index := im.split(ino)
	d, err := im.dir(ctx, row)
	switch {
	case err != nil:
		return nil, 0, err
	case index >= len(d.rec.entries) || index >= 0 && d.rec.entries[index].kind == kindDir:
		return nil, 0, stale(ino)
	case index >= 0 || row == im.rootRow:
		return d, index, nil
	}
	up, err := im.above(ctx, d)
	if err != nil {
		return nil, 0, err
	}
	i, ok := up.rec.byName[baseName(d.rec.location)]
	if !ok || up.rec.entries[i].key != d.key {
		return nil, 0, stale(ino)
	}
	return up, i, nil
}

func baseName(location string) string {
	for i := len(location) - 1; i >= 0; i-- {
		if location[i] == '/' {
			return location[i+1:]
		}
	}
	return location
}

func dirName(location string) string {
	for i := len(location) - 1; i >= 0; i-- {
		if location[i] == '/' {
			return location[:i]
		}
	}
	return ""
}

func joinPath(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func (im *v1) above(ctx context.Context, d *v1Dir) (*v1Dir, error) {
	row, err := im.rowOf(ctx, pathKey(dirName(d.rec.location)))
	if err != nil {
		return nil, err
	}
	return im.dir(ctx, row)
}

// attr describes entry i of a directory; -1: the root.
func (im *v1) attr(ctx context.Context, d *v1Dir, i int) (Attr, error) {
	if i < 0 {
		aci, err := im.aci(ctx, d.rec.acl)
		a := Attr{Ino: Root, Mode: syscall.S_IFDIR | uint32(aci.mode), UID: uint32(aci.uid), GID: uint32(aci.gid), Nlink: 1, Size: 4096}
		a.Mtime.Sec, a.Ctime.Sec = int64(d.rec.mtime), int64(d.rec.ctime)
		return a, err
	}
	e := &d.rec.entries[i]
	aci, err := im.aci(ctx, e.acl)
	if err != nil {
		return Attr{}, err
	}
	typ, rdev := e.mode()
	a := Attr{
		Ino: uint64(i+1)<<im.width | d.row, Mode: typ | uint32(aci.mode), UID: uint32(aci.uid), GID: uint32(aci.gid),
		Rdev: rdev, Nlink: 1, Mtime: vfs.Time{Sec: int64(e.mtime)}, Ctime: vfs.Time{Sec: int64(e.ctime)},
	}
	switch e.kind {
	case kindDir:
		a.Size = 4096
		a.Ino, err = im.subdir(ctx, d, i)
	case kindFile:
		a.Size = e.size
		if a.Size > maxFileSize {
			err = badImage("file %.40q has a size of %d bytes", e.name, e.size)
		}
	case kindLink:
		a.Size = uint64(len(e.target))
	}
	return a, err
}

// subdir returns the number of the directory that entry i is.
func (im *v1) subdir(ctx context.Context, d *v1Dir, i int) (uint64, error) {
	im.mu.Lock()
	ino := d.inos[i]
	im.mu.Unlock()
	if ino != 0 {
		return ino, nil
	}
	e := &d.rec.entries[i]
	if e.key != pathKey(joinPath(d.rec.location, e.name)) {
		return 0, badImage("directory %.80q does not have the key of its path", joinPath(d.rec.location, e.name))
	}
	row, err := im.rowOf(ctx, e.key)
	if err != nil {
		return 0, err
	}
	ino = im.dirNumber(row)
	im.mu.Lock()
	d.inos[i] = ino
	im.mu.Unlock()
	return ino, nil
}

// noACI is what holds where the record of owner and permissions is missing.
var noACI = aciRecord{mode: 0o400, uid: fallbackID, gid: fallbackID}

// fallbackID is the owner that old records mean whose user this machine does not know.
const fallbackID = 1000

func (im *v1) aci(ctx context.Context, key string) (aciRecord, error) {
	im.mu.Lock()
	a, ok := im.acis[key]
	im.mu.Unlock()
	if ok {
		return a, nil
	}
	var value []byte
	err := im.db.QueryRowContext(brief(ctx), "SELECT CASE WHEN length(value) <= 65536 THEN CAST(value AS BLOB) END FROM entries WHERE key = ?", key).Scan(&value)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		a = noACI
	case err != nil:
		return a, damaged(ctx, err)
	default:
		if a, err = parseACI(value); err != nil {
			return a, err
		}
		a.uid = resolveID(a.uid, a.uname, func(n string) (string, error) {
			u, err := user.Lookup(n)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
		a.gid = resolveID(a.gid, a.gname, func(n string) (string, error) {
			g, err := user.LookupGroup(n)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if len(im.acis) >= v1ACIs {
		clear(im.acis)
	}
	im.acis[key] = a
	return a, nil
}

// resolveID finds the number of an owner for old records, which have only a name, or a
// number as text.
func resolveID(id int64, name string, lookup func(string) (string, error)) int64 {
	if id >= 0 && id < 1<<32-1 {
		return id
	}
	text, err := lookup(name)
	if err != nil {
		text = name
	}
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return int64(n)
	}
	return fallbackID
}

func (im *v1) Attr(ctx context.Context, ino uint64) (Attr, error) {
	d, i, err := im.find(ctx, ino)
	if err != nil {
		return Attr{}, err
	}
	return im.attr(ctx, d, i)
}

// directory returns the directory with a number; ENOTDIR for other inodes.
func (im *v1) directory(ctx context.Context, ino uint64) (*v1Dir, error) {
	row, index := im.split(ino)
	if index >= 0 {
		if _, _, err := im.find(ctx, ino); err != nil {
			return nil, err
		}
		return nil, syscall.ENOTDIR
	}
	return im.dir(ctx, row)
}

func (im *v1) Parent(ctx context.Context, ino uint64) (uint64, error) {
	d, err := im.directory(ctx, ino)
	if err != nil || d.row == im.rootRow {
		return Root, err
	}
	up, err := im.above(ctx, d)
	if err != nil {
		return 0, err
	}
	return im.dirNumber(up.row), nil
}

func (im *v1) Lookup(ctx context.Context, dir uint64, name string) (Attr, error) {
	d, err := im.directory(ctx, dir)
	if err != nil {
		return Attr{}, err
	}
	i, ok := d.rec.byName[name]
	if !ok {
		return Attr{}, syscall.ENOENT
	}
	return im.attr(ctx, d, i)
}

const firstCookie = 3

func (im *v1) ReadDir(ctx context.Context, dir uint64, after uint64, n int) ([]Entry, error) {
	d, err := im.directory(ctx, dir)
	if err != nil {
		return nil, err
	}
	i := uint64(0)
	if after >= firstCookie {
		i = after - firstCookie + 1
	}
	var all []Entry
	for ; i < uint64(len(d.rec.entries)) && len(all) < n; i++ {
		a, err := im.attr(ctx, d, int(i))
		if err != nil {
			return nil, err
		}
		all = append(all, Entry{Name: d.rec.entries[i].name, Attr: a, Cookie: i + firstCookie})
	}
	return all, nil
}

func (im *v1) entry(ctx context.Context, ino uint64, kind uint16) (*entryRecord, error) {
	d, i, err := im.find(ctx, ino)
	if err != nil {
		return nil, err
	}
	if i < 0 || d.rec.entries[i].kind != kind {
		return nil, syscall.EINVAL
	}
	return &d.rec.entries[i], nil
}

func (im *v1) Readlink(ctx context.Context, ino uint64) (string, error) {
	e, err := im.entry(ctx, ino, kindLink)
	if err != nil {
		return "", err
	}
	if len(e.target) > vfs.MaxSymlink {
		return "", badImage("the target of link %.40q has %d bytes", e.name, len(e.target))
	}
	return e.target, nil
}

func (im *v1) Blocks(ctx context.Context, ino uint64, first, n int) ([]Block, error) {
	e, err := im.entry(ctx, ino, kindFile)
	if err != nil {
		return nil, err
	}
	if first >= len(e.blocks) {
		return nil, nil
	}
	return e.blocks[first:min(first+n, len(e.blocks))], nil
}

func (im *v1) Xattrs(ctx context.Context, ino uint64) (map[string][]byte, error) { return nil, nil }
func (im *v1) HasXattrs() bool                                                   { return false }

func (im *v1) Inodes(ctx context.Context) (n uint64, err error) {
	err = im.db.QueryRowContext(brief(ctx), "SELECT count(*) FROM entries WHERE length(key) = 32").Scan(&n)
	return n, damaged(ctx, err)
}

func (im *v1) Tags(ctx context.Context) (map[string]string, error) {
	if !im.meta {
		return nil, nil
	}
	return readTags(ctx, im.db, "metadata")
}

// Routes are those of router.yaml, else the server in the metadata row "backend".
func (im *v1) Routes(ctx context.Context) (Routes, error) {
	if im.router != nil {
		return parseRouterYAML(im.router)
	}
	tags, err := im.Tags(ctx)
	if err != nil || tags["backend"] == "" {
		return nil, err
	}
	var b struct {
		Host      string `json:"host"`
		Port      int    `json:"port"`
		Namespace string `json:"namespace"`
		Password  string `json:"password"`
		Socket    string `json:"socket"`
	}
	if err := json.Unmarshal([]byte(tags["backend"]), &b); err != nil {
		return nil, badImage("its metadata \"backend\" is not well formed")
	}
	u := url.URL{Scheme: "zdb", Path: b.Socket}
	if b.Socket == "" {
		if b.Host == "" || b.Port < 0 || b.Port > 65535 {
			return nil, badImage("its metadata \"backend\" names no server")
		}
		port := zdbPort
		if b.Port != 0 {
			port = fmt.Sprint(b.Port)
		}
		u.Host, u.Path = net.JoinHostPort(b.Host, port), "/"+b.Namespace
	}
	if b.Password != "" {
		u.User = url.UserPassword("", b.Password)
	}
	return Routes{Everything(u.String())}, nil
}

// readTags reads a table of keys and values, within bounds.
func readTags(ctx context.Context, db *sql.DB, table string) (map[string]string, error) {
	rows, err := db.QueryContext(brief(ctx), "SELECT CAST(key AS TEXT), CASE WHEN length(value) <= 1048576 THEN CAST(value AS TEXT) END FROM "+table+" LIMIT 1024")
	if err != nil {
		return nil, damaged(ctx, err)
	}
	defer rows.Close()
	tags := map[string]string{}
	for rows.Next() {
		var key string
		var value sql.NullString
		if err := rows.Scan(&key, &value); err != nil {
			return nil, damaged(ctx, err)
		}
		tags[key] = value.String
	}
	return tags, damaged(ctx, rows.Err())
}
