package meta

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/vfs"
)

// Problem is a broken invariant of the records (doc/metadata.md).
type Problem struct {
	// Rule is the invariant's group: record, name, link, orphan, chunk, block,
	// counter, quota or history.
	Rule  string  `json:"rule"`
	Ino   vfs.Ino `json:"ino,omitempty"`
	Block uint64  `json:"block,omitempty"`
	Text  string  `json:"text"`
}

func (p Problem) String() string {
	switch {
	case p.Ino != 0:
		return fmt.Sprintf("%s: inode %d: %s", p.Rule, p.Ino, p.Text)
	case p.Block != 0:
		return fmt.Sprintf("%s: block %d: %s", p.Rule, p.Block, p.Text)
	}
	return p.Rule + ": " + p.Text
}

// CheckSummary counts what a check has seen.
type CheckSummary struct {
	Inodes      int64 `json:"inodes"`
	Directories int64 `json:"directories"`
	Bytes       int64 `json:"bytes"` // allocated
	Chunks      int64 `json:"chunks"`
	Extents     int64 `json:"extents"`
	Blocks      int64 `json:"blocks"`
	Retired     int64 `json:"retired"` // of the blocks: in the delete queue
	History     int64 `json:"history"` // records
	Problems    int64 `json:"problems"`
}

// tallyLimit is how many inodes or blocks are counted at a time: the records are
// read again for the next ones. A tally takes about 100 bytes.
const tallyLimit = 1 << 20

// Check verifies the invariants over one state of the store, while the volume may
// be in use. report is called for each problem. The error is one of reading.
func (e *Engine) Check(ctx context.Context, report func(Problem)) (CheckSummary, error) {
	var sum CheckSummary
	err := e.view(ctx, func(v *view) error {
		c := &checker{ctx: ctx, v: v, in: view{e: e, r: v.r}, report: report}
		err := c.run()
		sum = c.CheckSummary
		return err
	})
	return sum, fail("check", "", err)
}

// checker is a check under way. Its methods each scan some kinds of records.
type checker struct {
	CheckSummary
	ctx    context.Context
	v      *view // for scans
	in     view  // for reads within them
	report func(Problem)

	lastIno   vfs.Ino
	lastBlock uint64
}

func (c *checker) run() error {
	passes := []func() error{c.inodes, c.tree, c.blocks, c.orphans, c.counters, c.quotas, c.history}
	for _, pass := range passes {
		if err := pass(); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) problem(rule string, ino vfs.Ino, format string, args ...any) {
	c.Problems++
	c.report(Problem{Rule: rule, Ino: ino, Text: fmt.Sprintf(format, args...)})
}

func (c *checker) blockProblem(id uint64, format string, args ...any) {
	c.Problems++
	c.report(Problem{Rule: "block", Block: id, Text: fmt.Sprintf(format, args...)})
}

// each scans the records of a kind, until ctx ends.
func (c *checker) each(kind byte, fn func(key, value []byte) error) error {
	n := 0
	return c.v.r.Scan([]byte{kind}, []byte{kind + 1}, func(key, value []byte) (bool, error) {
		if n++; n%1024 == 0 && c.ctx.Err() != nil {
			return false, c.ctx.Err()
		}
		if size := fixedKey(kind); size != 0 && len(key) != size {
			c.problem("record", 0, "key %q has a length of %d", key, len(key))
			return true, nil
		}
		err := fn(key, value)
		if errors.Is(err, kv.ErrCorrupt) { // what this record says cannot be followed
			c.problem("record", 0, "%v", err)
			err = nil
		}
		return true, err
	})
}

// inodes looks at each inode with what it has of its own.
func (c *checker) inodes() error {
	return c.each(kindInode, func(key, value []byte) error {
		ino, err := keyIno(key)
		if err != nil {
			return err
		}
		c.Inodes++
		c.lastIno = max(c.lastIno, ino)
		var n inode
		if err := n.decode(value); err != nil {
			c.problem("record", ino, "%v", err)
			return nil
		}
		c.Bytes += n.usage()
		if n.isDir() {
			c.Directories++
		}
		return c.inode(ino, &n)
	})
}

func (c *checker) inode(ino vfs.Ino, n *inode) error {
	switch n.kind() {
	case syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK, syscall.S_IFIFO, syscall.S_IFSOCK, syscall.S_IFCHR, syscall.S_IFBLK:
	default:
		c.problem("record", ino, "type of mode %o", n.mode)
	}
	f := c.v.e.format.Load()
	key := appendInlineKey(nil, ino)
	data, err := c.in.value(key)
	switch {
	case err != nil:
		return err
	case (data != nil) != (n.flags&flagInline != 0):
		c.problem("chunk", ino, "flag of inline content is %t, but it is the other way", n.flags&flagInline != 0)
	case data != nil:
		have, err := f.inlineSize(data)
		if err != nil || have == 0 || have != n.alloc || n.alloc > n.size {
			c.problem("chunk", ino, "inline content of %d bytes (%v), allocated are %d, size %d", have, err, n.alloc, n.size)
		}
	}
	if target, err := c.in.value(appendTargetKey(nil, ino)); err != nil {
		return err
	} else if (target != nil) != n.isSymlink() || target != nil && f.targetSize(string(target)) != n.size {
		c.problem("record", ino, "mode %o and size %d with a link target of %d bytes", n.mode, n.size, len(target))
	}
	if err := c.xattrs(ino, n); err != nil {
		return err
	}
	return c.chunks(ino, n)
}

func (c *checker) xattrs(ino vfs.Ino, n *inode) error {
	names, err := c.in.xattrNames(ino)
	if err != nil {
		return err
	}
	var flags inodeFlags
	for _, name := range names {
		flags |= flagXattr
		if name != vfs.XattrACLAccess && name != vfs.XattrACLDefault {
			continue
		}
		b, err := c.in.xattr(ino, name)
		if err != nil {
			return err
		}
		a, err := parseACL(b)
		switch {
		case err != nil || a == nil:
			c.problem("record", ino, "%s is unreadable", name)
		case name == vfs.XattrACLDefault:
			flags |= flagDefaultACL
		default:
			flags |= flagACL
			if a.mode() != n.mode&0o777 {
				c.problem("record", ino, "mode %o does not show the access ACL %v", n.mode, a)
			}
		}
	}
	if have := n.flags & (flagXattr | flagACL | flagDefaultACL); have != flags {
		c.problem("record", ino, "flags of extended attributes are %b instead of %b", have, flags)
	}
	return nil
}

func (c *checker) chunks(ino vfs.Ino, n *inode) error {
	size := uint64(c.v.e.format.Load().ChunkSize)
	var alloc uint64
	err := c.in.chunks(ino, 0, 1<<32-1, func(index uint32, list []Extent) (bool, error) {
		c.Chunks++
		c.Extents += int64(len(list))
		alloc += sumExtents(list)
		if err := checkExtents(list, uint32(size)); err != nil || len(list) == 0 {
			c.problem("chunk", ino, "chunk %d: %d extents: %v", index, len(list), err)
			return true, nil
		}
		for _, x := range list {
			if x.Block != 0 && uint64(index)*size+x.end() > n.size {
				c.problem("chunk", ino, "chunk %d has data behind the file's size of %d", index, n.size)
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	switch {
	case alloc > 0 && n.flags&flagInline != 0:
		c.problem("chunk", ino, "inline content and chunks")
	case alloc > 0 && !n.isRegular():
		c.problem("chunk", ino, "chunks, but it is no file")
	case n.flags&flagInline == 0 && alloc != n.alloc:
		c.problem("chunk", ino, "%d bytes are allocated, its extents have %d", n.alloc, alloc)
	}
	return nil
}

// blocks compares blocks with the extents that point into them, for as many blocks
// at a time as tallyLimit allows, and with the delete queue.
func (c *checker) blocks() error {
	var count int64
	err := c.each(kindBlock, func(_, _ []byte) error {
		count++
		return nil
	})
	if err != nil {
		return err
	}
	parts := uint64(count/tallyLimit + 1)
	for part := uint64(0); part < parts; part++ {
		if err := c.blocksPart(part, parts); err != nil {
			return err
		}
	}
	err = c.each(kindPending, func(key, _ []byte) error {
		id, err := splitBlockKey(key)
		if err != nil {
			return err
		}
		b, err := c.in.value(appendBlockKey(nil, id))
		if err == nil && b == nil {
			c.blockProblem(id, "is pending, but has no record")
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.each(kindQueue, func(key, value []byte) error {
		stamp, id, err := splitQueueKey(key)
		if err != nil {
			return err
		}
		q, err := decodeQueue(value)
		if err != nil {
			c.blockProblem(id, "%v", err)
			return nil
		}
		b, err := c.in.value(appendBlockKey(nil, id))
		if err != nil {
			return err
		}
		r, err := decodeBlock(b)
		if err != nil || r.refs != 0 || r.retired != stamp || r.size != q.size || r.created != q.created {
			c.blockProblem(id, "is in the delete queue since %d with size %d, its record says %+v (%v)", stamp, q.size, r, err)
		}
		return nil
	})
}

func (c *checker) blocksPart(part, parts uint64) error {
	type use struct{ refs, live uint64 }
	uses := make(map[uint64]use)
	var list []Extent
	err := c.each(kindChunk, func(key, value []byte) (err error) {
		if list, err = decodeChunk(list[:0], value); err != nil {
			ino, index, _ := splitChunkKey(key)
			c.problem("record", ino, "chunk %d: %v", index, err)
			return nil
		}
		for _, x := range list {
			if x.Block == 0 || x.Block%parts != part {
				continue
			}
			u := uses[x.Block]
			u.refs++
			u.live += uint64(x.Len)
			uses[x.Block] = u
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = c.each(kindBlock, func(key, value []byte) error {
		id, err := splitBlockKey(key)
		if err != nil || id%parts != part {
			return err
		}
		c.Blocks++
		c.lastBlock = max(c.lastBlock, id)
		r, err := decodeBlock(value)
		if err != nil {
			c.blockProblem(id, "%v", err)
			return nil
		}
		if u := uses[id]; u.refs != r.refs || u.live != r.live {
			c.blockProblem(id, "counts %d references of %d bytes, has %d of %d", r.refs, r.live, u.refs, u.live)
		}
		delete(uses, id)
		if r.refs > 0 {
			return nil
		}
		c.Retired++
		q, err := c.in.value(appendQueueKey(nil, r.retired, id))
		if err == nil && q == nil {
			c.blockProblem(id, "has no references, but is not in the delete queue")
		}
		return err
	})
	for id := range uses {
		c.blockProblem(id, "has references but no record")
	}
	return err
}

// orphans checks that inodes without a name are held, and only those.
func (c *checker) orphans() error {
	err := c.each(kindOrphan, func(key, _ []byte) error {
		session, ino, err := splitOrphanKey(key)
		if err != nil {
			return err
		}
		var n inode
		if err := c.in.inode(ino, &n); err == syscall.ESTALE || err == nil && n.nlink != 0 {
			c.problem("orphan", ino, "session %d holds it as one without a name, but it is not", session)
		} else if err != nil {
			return err
		}
		if session == systemSession {
			return nil
		}
		if b, err := c.in.value(appendSessionKey(nil, session)); err != nil || b != nil {
			return err
		}
		c.problem("orphan", ino, "is held by session %d, which does not exist", session)
		return nil
	})
	if err != nil {
		return err
	}
	return c.each(kindInode, func(key, value []byte) error {
		ino, err := keyIno(key)
		if err != nil {
			return err
		}
		var n inode
		if n.decode(value) != nil || n.nlink != 0 {
			return nil
		}
		held := false
		err = c.eachOrphanSession(func(session uint64) (bool, error) {
			b, err := c.in.value(appendOrphanKey(nil, session, ino))
			held = b != nil
			return !held, err
		})
		if err == nil && !held {
			c.problem("orphan", ino, "has no name and nobody holds it")
		}
		return err
	})
}

// eachOrphanSession calls fn with the sessions that may hold inodes without a
// name.
func (c *checker) eachOrphanSession(fn func(uint64) (bool, error)) error {
	if more, err := fn(systemSession); !more || err != nil {
		return err
	}
	return c.in.sessions(fn)
}

// sessions calls fn with each session's id.
func (v *view) sessions(fn func(uint64) (bool, error)) error {
	return v.r.Scan([]byte{kindSession}, []byte{kindSession + 1}, func(key, _ []byte) (bool, error) {
		id, err := splitBlockKey(key) // of the same form
		if err != nil {
			return false, err
		}
		return fn(id)
	})
}

func (c *checker) counters() error {
	for _, x := range []struct {
		name string
		want int64
		more bool // the counter may be greater
	}{
		{counterInodes, c.Inodes, false},
		{counterBytes, c.Bytes, false},
		{counterIno, int64(c.lastIno) + 1, true},
		{counterBlock, int64(c.lastBlock) + 1, true},
	} {
		have, err := c.v.counter(keyCounter(x.name))
		if err != nil {
			return err
		}
		if have < x.want || have > x.want && !x.more {
			c.problem("counter", 0, "counter %q is %d instead of %d", x.name, have, x.want)
		}
	}
	return nil
}

// quotas walks the subtree of each directory quota.
func (c *checker) quotas() error {
	return c.each(kindQuota, func(key, value []byte) error {
		ino, err := keyIno(key)
		if err != nil {
			return err
		}
		if _, err := decodeLimit(value); err != nil {
			c.problem("quota", ino, "%v", err)
		}
		var n inode
		if err := c.in.inode(ino, &n); err == syscall.ESTALE || err == nil && (!n.isDir() || n.nlink == 0) {
			c.problem("quota", ino, "there is no such directory")
			return nil
		} else if err != nil {
			return err
		}
		sum, err := c.in.subtree(ino)
		if err != nil {
			return err
		}
		bytes, err := c.in.counter(appendUsageKey(nil, ino, usageBytes))
		if err != nil {
			return err
		}
		inodes, err := c.in.counter(appendUsageKey(nil, ino, usageInodes))
		if err == nil && (bytes != sum.bytes || inodes != sum.inodes) {
			c.problem("quota", ino, "counts %d bytes and %d inodes, has %d and %d", bytes, inodes, sum.bytes, sum.inodes)
		}
		return err
	})
}

// history checks that history records can be read.
func (c *checker) history() error {
	bound, err := c.v.counter(keyCounter(counterStamp))
	if err != nil {
		return err
	}
	return c.each(kindHistory, func(key, value []byte) error {
		c.History++
		old, stamp, err := splitHistoryKey(key)
		if err == nil {
			_, err = oldValue(old, value)
		}
		if err != nil && err != kv.ErrNotFound {
			c.problem("history", 0, "%v", err)
		} else if stamp > uint64(bound) {
			c.problem("history", 0, "record %q is of %d, after the last stamp %d", old, stamp, bound)
		}
		return nil
	})
}
