package flist

import (
	"context"
	"database/sql"
	"errors"
	"syscall"

	"github.com/massif-fs/massif/vfs"
)

// v2 is an open image of version 2: an inode is a row of table inode.
type v2 struct {
	db     *sql.DB
	xattrs bool
	tag    bool
	route  bool

	byIno, byName, listing, blocks, target *sql.Stmt
	attrsOf                                *sql.Stmt
}

func openV2(ctx context.Context, path string) (_ *v2, err error) {
	im := &v2{}
	if im.db, err = openSQLite(ctx, path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, im.db.Close())
		}
	}()
	if err := needColumns(ctx, im.db, "inode", "ino", "parent", "name", "size", "uid", "gid", "mode", "rdev", "ctime", "mtime"); err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for _, t := range []struct {
		name    string
		columns []string
	}{
		{"extra", []string{"ino", "data"}}, {"block", []string{"ino", "id", "key"}}, {"tag", []string{"key", "value"}}, {"route", []string{"start", "end", "url"}},
		{"massif_time", []string{"ino", "mtime_ns", "ctime_ns"}}, {"massif_xattr", []string{"ino", "name", "value"}}, {"massif_link", []string{"ino", "target"}},
	} {
		cols, err := columns(ctx, im.db, t.name)
		if err != nil {
			return nil, err
		}
		if len(cols) == 0 {
			continue
		}
		if err := needColumns(ctx, im.db, t.name, t.columns...); err != nil {
			return nil, err
		}
		have[t.name] = true
	}
	im.xattrs, im.tag, im.route = have["massif_xattr"], have["tag"], have["route"]
	if err := im.prepare(ctx, have); err != nil {
		return nil, err
	}
	a, err := im.Attr(ctx, Root)
	switch {
	case errors.Is(err, syscall.ESTALE):
		return nil, badImage("it has no root directory")
	case err != nil:
		return nil, err
	case a.Type() != syscall.S_IFDIR:
		return nil, badImage("its root is no directory")
	}
	return im, nil
}

// prepare makes the queries. A row of massif_link says that an inode is a further name
// of another one: it is shown under that one's number. Links do not lead to links.
func (im *v2) prepare(ctx context.Context, have map[string]bool) error {
	ns, joins, nlink := "0, 0", "", "1"
	if have["massif_time"] {
		ns, joins = "coalesce(t.mtime_ns, 0), coalesce(t.ctime_ns, 0)", " LEFT JOIN massif_time t ON t.ino = i.ino"
	}
	name := "i"
	from := "inode i"
	if have["massif_link"] {
		// n has the name, i the rest.
		name = "n"
		from = "inode n LEFT JOIN massif_link l ON l.ino = n.ino JOIN inode i ON i.ino = coalesce(l.target, n.ino)"
		nlink = "1 + (SELECT count(*) FROM massif_link k WHERE k.target = i.ino)"
	}
	extra := "NULL"
	if have["extra"] {
		extra = "(SELECT length(CAST(x.data AS BLOB)) FROM extra x WHERE x.ino = i.ino)"
	}
	cols := "SELECT i.ino, " + name + ".ino, CAST(" + name + ".name AS BLOB), i.size, i.uid, i.gid, i.mode, i.rdev, i.ctime, i.mtime, " + ns + ", " + nlink + ", " + extra + " FROM " + from + joins
	for _, q := range []struct {
		stmt **sql.Stmt
		text string
		need bool
	}{
		{&im.byIno, cols + " WHERE " + name + ".ino = ?", true},
		{&im.byName, cols + " WHERE " + name + ".parent = ? AND " + name + ".name IN (CAST(? AS TEXT), CAST(? AS BLOB)) AND " + name + ".ino <> 1", true},
		{&im.listing, cols + " WHERE " + name + ".parent = ? AND " + name + ".ino > ? AND " + name + ".ino <> 1 ORDER BY " + name + ".ino LIMIT ?", true},
		{&im.blocks, "SELECT CAST(id AS BLOB), CAST(key AS BLOB) FROM block WHERE ino = ? AND length(id) <= 64 AND length(key) <= 64 ORDER BY rowid LIMIT ? OFFSET ?", have["block"]},
		{&im.target, "SELECT CAST(data AS BLOB) FROM extra WHERE ino = ? AND length(data) <= 4095", have["extra"]},
		{&im.attrsOf, "SELECT CAST(name AS BLOB), CAST(value AS BLOB) FROM massif_xattr WHERE ino = ? AND length(name) <= 255 AND length(value) <= 65536 ORDER BY name LIMIT 1024", im.xattrs},
	} {
		if !q.need {
			continue
		}
		var err error
		if *q.stmt, err = im.db.PrepareContext(ctx, q.text); err != nil {
			return damaged(ctx, err)
		}
	}
	return nil
}

func (im *v2) Version() Version { return V2 }

// Close closes the database, and with it the statements.
func (im *v2) Close() error { return im.db.Close() }

// scan reads a row of the columns of prepare.
func (im *v2) scan(row interface{ Scan(...any) error }) (Entry, error) {
	var e Entry
	a := &e.Attr
	var ino, own, size, uid, gid, mode, rdev int64
	var name []byte
	var mns, cns int64
	var target sql.NullInt64
	if err := row.Scan(&ino, &own, &name, &size, &uid, &gid, &mode, &rdev, &a.Ctime.Sec, &a.Mtime.Sec, &mns, &cns, &a.Nlink, &target); err != nil {
		return e, err
	}
	e.Name, e.Cookie = string(name), uint64(own)+firstCookie
	if ino < 1 || ino > int64(vfs.MaxIno>>1) || own < 1 || own > int64(vfs.MaxIno>>1) {
		return e, badImage("it has an inode with number %d", ino)
	}
	if mode < 0 || mode >= 1<<16 || uid < 0 || uid >= 1<<32-1 || gid < 0 || gid >= 1<<32-1 || size < 0 || size > maxFileSize || rdev < 0 || mns < 0 || mns > 999999999 || cns < 0 || cns > 999999999 {
		return e, badImage("inode %d has attributes that cannot be", ino)
	}
	a.Ino, a.Size, a.UID, a.GID, a.Mode = uint64(ino), uint64(size), uint32(uid), uint32(gid), uint32(mode)
	a.Mtime.Nsec, a.Ctime.Nsec = uint32(mns), uint32(cns)
	if e.Name != "/" || ino != int64(Root) {
		if err := checkEntry(e.Name, a.Mode); err != nil {
			return e, err
		}
	}
	switch a.Type() {
	case syscall.S_IFDIR:
		if own != ino {
			return e, badImage("directory %d has two names", ino) // it could lie in itself
		}
		a.Nlink, a.Size = 1, 4096
	case syscall.S_IFLNK:
		a.Size = uint64(target.Int64)
	case syscall.S_IFBLK, syscall.S_IFCHR:
		a.Rdev, a.Size = deviceOf(uint64(rdev)), 0
	}
	return e, nil
}

// deviceOf takes st_rdev as the C library has it (64 bits) to the kernel's 32.
func deviceOf(dev uint64) uint32 {
	major := uint32(dev>>8&0xfff | dev>>32&^0xfff)
	minor := uint32(dev&0xff | dev>>12&^0xff)
	return makeDevice(major, minor)
}

func (im *v2) Attr(ctx context.Context, ino uint64) (Attr, error) {
	e, err := im.scan(im.byIno.QueryRowContext(brief(ctx), int64(ino)))
	if errors.Is(err, sql.ErrNoRows) {
		return Attr{}, stale(ino)
	}
	return e.Attr, damaged(ctx, err)
}

// directory refuses inodes that are no directories.
func (im *v2) directory(ctx context.Context, ino uint64) error {
	a, err := im.Attr(ctx, ino)
	if err == nil && a.Type() != syscall.S_IFDIR {
		err = syscall.ENOTDIR
	}
	return err
}

func (im *v2) Parent(ctx context.Context, dir uint64) (uint64, error) {
	if dir == Root {
		return Root, nil
	}
	if err := im.directory(ctx, dir); err != nil {
		return 0, err
	}
	var parent int64
	err := im.db.QueryRowContext(brief(ctx), "SELECT parent FROM inode WHERE ino = ?", int64(dir)).Scan(&parent)
	return uint64(parent), damaged(ctx, err)
}

func (im *v2) Lookup(ctx context.Context, dir uint64, name string) (Attr, error) {
	e, err := im.scan(im.byName.QueryRowContext(brief(ctx), int64(dir), name, []byte(name)))
	if errors.Is(err, sql.ErrNoRows) {
		if err := im.directory(ctx, dir); err != nil {
			return Attr{}, err
		}
		return Attr{}, syscall.ENOENT
	}
	return e.Attr, damaged(ctx, err)
}

func (im *v2) ReadDir(ctx context.Context, dir uint64, after uint64, n int) ([]Entry, error) {
	last := int64(0)
	if after >= firstCookie {
		last = int64(after - firstCookie)
	}
	rows, err := im.listing.QueryContext(brief(ctx), int64(dir), last, n)
	if err != nil {
		return nil, damaged(ctx, err)
	}
	defer rows.Close()
	var all []Entry
	for rows.Next() {
		e, err := im.scan(rows)
		if err != nil {
			return nil, damaged(ctx, err)
		}
		all = append(all, e)
	}
	if err := rows.Err(); err != nil {
		return nil, damaged(ctx, err)
	}
	if len(all) == 0 && after == 0 {
		return nil, im.directory(ctx, dir)
	}
	return all, nil
}

func (im *v2) typed(ctx context.Context, ino uint64, typ uint32) error {
	a, err := im.Attr(ctx, ino)
	if err == nil && a.Type() != typ {
		err = syscall.EINVAL
	}
	return err
}

func (im *v2) Readlink(ctx context.Context, ino uint64) (string, error) {
	if err := im.typed(ctx, ino, syscall.S_IFLNK); err != nil {
		return "", err
	}
	var target []byte
	err := sql.ErrNoRows
	if im.target != nil {
		err = im.target.QueryRowContext(brief(ctx), int64(ino)).Scan(&target)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return "", badImage("link %d has no target", ino)
	}
	return string(target), damaged(ctx, err)
}

func (im *v2) Blocks(ctx context.Context, ino uint64, first, n int) ([]Block, error) {
	if err := im.typed(ctx, ino, syscall.S_IFREG); err != nil || im.blocks == nil {
		return nil, err
	}
	rows, err := im.blocks.QueryContext(brief(ctx), int64(ino), n, first)
	if err != nil {
		return nil, damaged(ctx, err)
	}
	defer rows.Close()
	var all []Block
	for rows.Next() {
		var b Block
		if err := rows.Scan(&b.ID, &b.Key); err != nil {
			return nil, damaged(ctx, err)
		}
		all = append(all, b)
	}
	return all, damaged(ctx, rows.Err())
}

func (im *v2) HasXattrs() bool { return im.xattrs }

func (im *v2) Xattrs(ctx context.Context, ino uint64) (map[string][]byte, error) {
	if !im.xattrs {
		return nil, nil
	}
	rows, err := im.attrsOf.QueryContext(brief(ctx), int64(ino))
	if err != nil {
		return nil, damaged(ctx, err)
	}
	defer rows.Close()
	var all map[string][]byte
	for rows.Next() {
		var name, value []byte
		if err := rows.Scan(&name, &value); err != nil {
			return nil, damaged(ctx, err)
		}
		if all == nil {
			all = map[string][]byte{}
		}
		all[string(name)] = value
	}
	return all, damaged(ctx, rows.Err())
}

func (im *v2) Inodes(ctx context.Context) (n uint64, err error) {
	err = im.db.QueryRowContext(brief(ctx), "SELECT count(*) FROM inode").Scan(&n)
	return n, damaged(ctx, err)
}

func (im *v2) Tags(ctx context.Context) (map[string]string, error) {
	if !im.tag {
		return nil, nil
	}
	return readTags(ctx, im.db, "tag")
}

func (im *v2) Routes(ctx context.Context) (Routes, error) {
	if !im.route {
		return nil, nil
	}
	rows, err := im.db.QueryContext(brief(ctx), `SELECT start, "end", CAST(url AS TEXT) FROM route WHERE length(url) <= 2048 ORDER BY rowid LIMIT ?`, maxRoutes)
	if err != nil {
		return nil, damaged(ctx, err)
	}
	defer rows.Close()
	var routes Routes
	for rows.Next() {
		var start, end int64
		var r Route
		if err := rows.Scan(&start, &end, &r.URL); err != nil {
			return nil, damaged(ctx, err)
		}
		if start < 0 || start > end || end > 255 {
			return nil, badImage("it has a route for blocks %d to %d", start, end)
		}
		r.Start, r.End = []byte{byte(start)}, []byte{byte(end)}
		routes = append(routes, r)
	}
	return routes, damaged(ctx, rows.Err())
}
