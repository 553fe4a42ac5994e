package metarpc

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// leaseCache is what a client knows under leases. Only the goroutine that reads the
// connection puts things in and takes them out, in the order in which the server
// sends them: what a reply brings with a lease, what a recall ends, what the
// client's own changes have done. So what is in it is true as long as the session's
// leases are good, which is until a time that heartbeats put off.
type leaseCache struct {
	until  atomic.Int64 // leases are good until then, on the clock of nanotime
	shards [cacheShards]cacheShard
	each   int // inodes of a shard
	names  int // names of a shard's directories
	queue  atomic.Pointer[meta.RecallQueue]
	alls   atomic.Int64 // recalls of everything that are not acknowledged yet
}

const (
	cacheShards = 64

	// DefaultCacheInodes is the default of ClientConfig.CacheInodes.
	DefaultCacheInodes = 1 << 17
	// namesPerInode: how many names are kept, for each inode that may be.
	namesPerInode = 4
	// maxCachedData is how much inline content of a file, and how many extents of it,
	// are kept.
	maxCachedData    = 4 << 10
	maxCachedExtents = 1 << 10
	maxCachedXattrs  = 16
)

type cacheShard struct {
	mu    sync.Mutex
	m     map[vfs.Ino]*cached
	hand  []vfs.Ino // in the order in which they came, for eviction
	names int
}

// cached is what is known of an inode.
type cached struct {
	leases meta.Leases // that the server has given
	attrs  bool        // attr is known
	used   bool        // since the hand passed
	// refused: what replies without a lease have told; voiding: what OnRecall's function
	// is being told not to know. See meta.LeasedSession.
	refused, voiding meta.Leases
	targeted         bool // target is known
	attr             vfs.Attr
	target           string
	xattrs           map[string][]byte // nil values: there is none
	data             *cachedData
	dir              *cachedDir
}

type cachedData struct {
	inlineKnown, inline bool
	content             []byte
	chunks              map[uint32][]meta.Extent
	extents             int
	empty               bool // no chunk has extents but those in chunks
}

type cachedDir struct {
	names    map[string]vfs.Ino // 0: there is none
	complete bool               // names not in names do not exist
	listing  []listedEntry
	next     uint64 // cookie that the listing goes on behind
	listed   bool   // it is complete
}

type listedEntry struct {
	name   string
	ino    vfs.Ino
	mode   uint32
	cookie uint64
}

func (c *leaseCache) init(inodes int) {
	if inodes == 0 {
		inodes = DefaultCacheInodes
	}
	c.each = max(inodes/cacheShards, 1)
	c.names = c.each * namesPerInode
	for i := range c.shards {
		c.shards[i].m = make(map[vfs.Ino]*cached)
	}
}

// valid tells whether leases are good.
func (c *leaseCache) valid() bool { return nanotime() < c.until.Load() }

func (c *leaseCache) shard(ino vfs.Ino) *cacheShard {
	return &c.shards[uint64(ino)*0x9e3779b97f4a7c15>>58]
}

// entry finds what is known of an inode, or makes room for it. With the shard
// locked.
func (s *cacheShard) entry(c *leaseCache, ino vfs.Ino) *cached {
	x := s.m[ino]
	if x == nil {
		for len(s.m) >= c.each {
			s.evict()
		}
		x = new(cached)
		s.m[ino] = x
		s.hand = append(s.hand, ino)
	}
	return x
}

// evict forgets an inode that was not used lately. The server may still think that it
// is leased: its recall will find nothing.
func (s *cacheShard) evict() {
	for tries := 0; ; tries++ {
		ino := s.hand[0]
		s.hand = s.hand[1:]
		x := s.m[ino]
		if x == nil {
			continue
		}
		// What Leased must say no to is forgotten only if there is nothing else.
		if x.used && tries < len(s.m) || x.refused|x.voiding != 0 && tries < 2*len(s.m) {
			x.used = false
			s.hand = append(s.hand, ino)
			continue
		}
		s.dropDir(x)
		delete(s.m, ino)
		return
	}
}

func (s *cacheShard) dropDir(x *cached) {
	if x.dir != nil {
		s.names -= len(x.dir.names)
		x.dir = nil
	}
}

// drop forgets what leases stand for.
func (s *cacheShard) drop(x *cached, kinds meta.Leases) {
	x.leases &^= kinds
	if kinds.Has(meta.LeaseAttr) {
		x.attrs, x.targeted, x.target, x.xattrs = false, false, "", nil
	}
	if kinds.Has(meta.LeaseNames) {
		s.dropDir(x)
	}
	if kinds.Has(meta.LeaseData) {
		x.data = nil
	}
}

// setName makes name in a directory mean ino.
func (s *cacheShard) setName(c *leaseCache, x *cached, name string, ino vfs.Ino) {
	d := x.dir
	if d == nil {
		d = &cachedDir{names: make(map[string]vfs.Ino)}
		x.dir = d
	}
	if _, ok := d.names[name]; !ok {
		if s.names >= c.names { // a new beginning for this directory
			s.names -= len(d.names)
			*d = cachedDir{names: make(map[string]vfs.Ino)}
		}
		s.names++
	}
	d.names[name] = ino
}

// What the client asks

// attr finds an inode's attributes.
func (c *leaseCache) attr(ino vfs.Ino, out *vfs.Attr) bool {
	if !c.valid() {
		return false
	}
	s := c.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.m[ino]
	if x == nil || !x.attrs {
		return false
	}
	x.used = true
	*out = x.attr
	return true
}

// lookup finds what a name means; known: that is known, and what err says is so.
func (c *leaseCache) lookup(parent vfs.Ino, name string, out *vfs.Attr) (known bool, err error) {
	if !c.valid() {
		return false, nil
	}
	s := c.shard(parent)
	s.mu.Lock()
	x := s.m[parent]
	if x == nil || x.dir == nil {
		s.mu.Unlock()
		return false, nil
	}
	x.used = true
	ino, found := x.dir.names[name]
	complete := x.dir.complete
	s.mu.Unlock()
	switch {
	case found && ino != 0:
		return c.attr(ino, out), nil
	case found || complete:
		return true, syscall.ENOENT
	}
	return false, nil
}

func (c *leaseCache) target(ino vfs.Ino) (target string, ok bool) {
	if !c.valid() {
		return "", false
	}
	s := c.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.m[ino]; x != nil && x.targeted {
		return x.target, true
	}
	return "", false
}

// xattr is an extended attribute; nil: there is none.
func (c *leaseCache) xattr(ino vfs.Ino, name string) (value []byte, known bool) {
	if !c.valid() {
		return nil, false
	}
	s := c.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.m[ino]; x != nil {
		if x.attrs && x.attr.NoXattrs {
			return nil, true
		}
		value, known = x.xattrs[name]
	}
	return value, known
}

func (c *leaseCache) inline(ino vfs.Ino) (content []byte, ok, known bool) {
	if !c.valid() {
		return nil, false, false
	}
	s := c.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.m[ino]; x != nil && x.data != nil && x.data.inlineKnown {
		return x.data.content, x.data.inline, true // content is never changed
	}
	return nil, false, false
}

func (c *leaseCache) chunk(ino vfs.Ino, index uint32, dst []meta.Extent) ([]meta.Extent, bool) {
	if !c.valid() {
		return dst, false
	}
	s := c.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.m[ino]
	if x == nil || x.data == nil {
		return dst, false
	}
	list, ok := x.data.chunks[index]
	return append(dst, list...), ok || x.data.empty
}

// list returns some entries of a directory behind cookie; known: they are all that
// there are behind it, or as many as fit.
func (c *leaseCache) list(ino vfs.Ino, cookie uint64, dst []listedEntry) (page []listedEntry, known bool) {
	if !c.valid() {
		return nil, false
	}
	s := c.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.m[ino]
	if x == nil || x.dir == nil || !x.dir.listed {
		return nil, false
	}
	x.used = true
	list := x.dir.listing
	at, found := slices.BinarySearchFunc(list, cookie, func(e listedEntry, cookie uint64) int {
		if e.cookie <= cookie {
			return -1
		}
		return 1
	})
	_ = found // nothing equals what lies between two entries
	return append(dst, list[at:min(len(list), at+cap(dst))]...), true
}

// What the server says

// Flags of a reply, behind its status.
const (
	replyNames   = 1 << iota // the directory's names are leased
	replyAttr                // the attributes are leased
	replyData                // the data are leased
	replyMissing             // there is no such name, and nothing follows
)

// learn takes a reply in that came with leases, or takes note that it had none.
func (c *Client) learn(k *call, body []byte) {
	d := decoder{b: body}
	if !ops[k.op].leased || d.u8() != statusOK || c.cfg.NoCache {
		return
	}
	lc := &c.cache
	flags := d.u8()
	switch k.op {
	case opLookup:
		var a vfs.Attr
		if flags&replyMissing == 0 {
			d.attr(&a)
		}
		if d.bad {
			return // the caller will say so
		}
		if k.key.name != ".." {
			lc.update(k.key.ino, meta.LeaseNames, flags&replyNames != 0, func(s *cacheShard, x *cached) { s.setName(lc, x, k.key.name, a.Ino) })
		}
		if a.Ino != 0 {
			lc.putAttr(&a, flags&replyAttr != 0)
		}
	case opGetAttr:
		var a vfs.Attr
		if d.attr(&a); !d.bad {
			lc.putAttr(&a, flags&replyAttr != 0)
		}
	case opReadlink:
		target := d.str(meta.MaxStoredTarget)
		lc.update(k.key.ino, meta.LeaseAttr, flags&replyAttr != 0 && !d.bad, func(_ *cacheShard, x *cached) { x.target, x.targeted = target, true })
	case opGetXattr:
		var value []byte
		if flags&replyMissing == 0 {
			value = append([]byte{}, d.bytes(meta.MaxStoredXattr)...)
		}
		lc.update(k.key.ino, meta.LeaseAttr, flags&replyAttr != 0 && !d.bad, func(_ *cacheShard, x *cached) {
			if len(value) <= maxCachedData && len(x.xattrs) < maxCachedXattrs {
				if x.xattrs == nil {
					x.xattrs = make(map[string][]byte)
				}
				x.xattrs[k.key.name] = value
			}
		})
	case opInline:
		ok := d.bool()
		var content []byte
		if ok {
			content = bytes.Clone(d.bytes(meta.MaxStoredInline))
		}
		lc.update(k.key.ino, meta.LeaseData, flags&replyData != 0 && !d.bad, func(_ *cacheShard, x *cached) {
			if len(content) <= maxCachedData {
				y := x.dataOf()
				y.inlineKnown, y.inline, y.content = true, ok, content
			}
		})
	case opExtents:
		list := d.extents(nil)
		lc.update(k.key.ino, meta.LeaseData, flags&replyData != 0 && !d.bad, func(_ *cacheShard, x *cached) {
			y := x.dataOf()
			if y.extents+len(list) > maxCachedExtents {
				*y = cachedData{}
			}
			if len(list) > maxCachedExtents {
				return
			}
			if y.chunks == nil {
				y.chunks = make(map[uint32][]meta.Extent)
			}
			y.extents += len(list) - len(y.chunks[k.key.index])
			y.chunks[k.key.index] = list
		})
	case opReadDir:
		c.learnPage(k, flags, d)
	}
}

func (x *cached) dataOf() *cachedData {
	if x.data == nil {
		x.data = new(cachedData)
	}
	return x.data
}

// update changes what is known of an inode, if there is a lease for it; if not, it
// notes that.
func (c *leaseCache) update(ino vfs.Ino, kind meta.Leases, leased bool, fn func(*cacheShard, *cached)) {
	s := c.shard(ino)
	s.mu.Lock()
	if !leased {
		s.entry(c, ino).refused |= kind
		s.mu.Unlock()
		return
	}
	x := s.entry(c, ino)
	x.leases |= kind
	fn(s, x)
	void := meta.Leases(0)
	if x.voiding == 0 {
		void = x.refused & kind
		x.refused &^= void
		x.voiding = void
	}
	s.mu.Unlock()
	if void != 0 {
		c.void(ino, void)
	}
}

func (c *leaseCache) putAttr(a *vfs.Attr, leased bool) {
	c.update(a.Ino, meta.LeaseAttr, leased, func(_ *cacheShard, x *cached) { x.attr, x.attrs = *a, true })
}

// void tells OnRecall's function that nothing is known of an inode, before Leased says
// that something is: a reply that had no lease may be on its way to a caller.
func (c *leaseCache) void(ino vfs.Ino, kinds meta.Leases) {
	c.tell(meta.Recall{Kind: kinds, Ino: ino, Len: -1}, func() {
		s := c.shard(ino)
		s.mu.Lock()
		if x := s.m[ino]; x != nil {
			x.voiding = 0
		}
		s.mu.Unlock()
	})
}

// tell hands a recall to OnRecall's function, if there is one.
func (c *leaseCache) tell(r meta.Recall, done func()) {
	if q := c.queue.Load(); q != nil {
		q.Add(r, done)
	} else {
		done()
	}
}

func (c *Client) learnPage(k *call, flags uint8, d decoder) {
	lc := &c.cache
	more := d.bool()
	n := int(min(d.fixed32(), pageEntries))
	list := make([]listedEntry, 0, min(n, pageEntries))
	var x vfs.DirEntry
	for ; n > 0 && !d.bad; n-- {
		leased := d.entry(&x)
		if d.bad {
			return
		}
		list = append(list, listedEntry{x.Name, x.Ino, x.Mode, x.Cookie})
		if x.HasAttr {
			lc.putAttr(&x.Attr, leased)
		}
	}
	lc.update(k.key.ino, meta.LeaseNames, flags&replyNames != 0, func(s *cacheShard, x *cached) {
		for i := range list {
			s.setName(lc, x, list[i].name, list[i].ino)
		}
		if x.dir == nil {
			x.dir = &cachedDir{names: make(map[string]vfs.Ino)}
		}
		y := x.dir
		if k.key.cookie == 0 {
			y.listing, y.next, y.listed = nil, 0, false
		}
		if y.listed || k.key.cookie != y.next || len(y.listing)+len(list) > lc.names {
			return
		}
		y.listing = append(y.listing, list...)
		if len(list) > 0 {
			y.next = list[len(list)-1].cookie
		}
		if !more {
			// Names that were dropped for want of room would be taken for missing.
			y.listed, y.complete = true, len(y.names) >= len(y.listing)
		}
	})
}

// recall drops what a recall is about. Leased says so from now on.
func (c *leaseCache) recall(r *meta.Recall) {
	if r.All {
		c.clear()
		return
	}
	s := c.shard(r.Ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.m[r.Ino]
	if x == nil {
		return
	}
	kinds := r.Kind
	if kinds.Has(meta.LeaseNames) && r.Name != "" {
		kinds &^= meta.LeaseNames
		s.forgetName(x, r.Name)
	}
	if kinds.Has(meta.LeaseData) && (r.Off > 0 || r.Len >= 0) {
		kinds &^= meta.LeaseData
		x.data = nil // what is left is soon asked for again
	}
	s.drop(x, kinds)
}

// forgetName: what name means is not known any more.
func (s *cacheShard) forgetName(x *cached, name string) {
	d := x.dir
	if d == nil {
		return
	}
	if _, ok := d.names[name]; ok {
		delete(d.names, name)
		s.names--
	}
	d.complete, d.listed, d.listing, d.next = false, false, nil, 0
}

// released takes note that the client does not use an inode any more: one without a
// name may be gone.
func (c *leaseCache) released(ino vfs.Ino) {
	s := c.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.m[ino]; x != nil && x.attrs && x.attr.Nlink == 0 {
		s.drop(x, meta.LeaseAttr|meta.LeaseNames|meta.LeaseData)
	}
}

// clear forgets everything.
func (c *leaseCache) clear() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		clear(s.m)
		s.hand, s.names = nil, 0
		s.mu.Unlock()
	}
}

// dropAll forgets everything and tells OnRecall's function.
func (c *leaseCache) dropAll() { c.dropAllThen(func() {}) }

func (c *leaseCache) dropAllThen(done func()) {
	c.alls.Add(1)
	c.clear()
	c.tell(meta.Recall{All: true}, func() {
		c.alls.Add(-1)
		done()
	})
}

// stop ends all leases: when it returns nothing is used of what they were for.
func (c *leaseCache) stop() {
	c.until.Store(0)
	done := make(chan struct{})
	c.dropAllThen(func() { close(done) })
	<-done
}

// own takes in what the client's own change has done.
func (c *Client) own(body []byte) error {
	lc := &c.cache
	d := decoder{b: body}
	for n := d.count(3); n > 0 && !d.bad; n-- {
		leases, flags := meta.Leases(d.u8()), d.u8()
		var a vfs.Attr
		if flags&ownGone != 0 {
			a.Ino = d.ino()
		} else {
			d.attr(&a)
		}
		if !d.bad {
			lc.ownAttr(&a, leases, flags)
		}
	}
	for n := d.count(6); n > 0 && !d.bad; n-- {
		ch := d.change()
		if !d.bad {
			lc.ownChange(&ch)
		}
	}
	return d.done()
}

const (
	ownFresh = 1 << iota
	ownGone
)

func (c *leaseCache) ownAttr(a *vfs.Attr, leases meta.Leases, flags uint8) {
	s := c.shard(a.Ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.m[a.Ino]
	switch {
	case flags&ownGone != 0 || x != nil && !leases.Has(meta.LeaseAttr):
		if x != nil {
			s.drop(x, meta.LeaseAttr)
			if flags&ownGone != 0 {
				s.drop(x, meta.LeaseNames|meta.LeaseData)
			}
		}
		return
	case !leases.Has(meta.LeaseAttr):
		return
	}
	x = s.entry(c, a.Ino)
	x.leases |= leases
	x.attr, x.attrs, x.xattrs = *a, true, nil
	if flags&ownFresh != 0 {
		switch {
		case a.IsDir() && leases.Has(meta.LeaseNames):
			x.dir = &cachedDir{names: make(map[string]vfs.Ino), complete: true, listed: true}
		case a.IsRegular() && leases.Has(meta.LeaseData):
			x.data = &cachedData{inlineKnown: true, empty: true}
		}
	}
}

func (c *leaseCache) ownChange(ch *vfs.Change) {
	ino := ch.Ino
	if ch.Kind == vfs.ChangeEntry {
		ino = ch.Parent
	}
	s := c.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.m[ino]
	if x == nil {
		return
	}
	switch ch.Kind {
	case vfs.ChangeEntry:
		if x.dir == nil || !x.leases.Has(meta.LeaseNames) {
			return
		}
		s.setName(c, x, ch.Name, ch.Ino)
		if ch.Ino == 0 && x.dir.listed {
			x.dir.listing = slices.DeleteFunc(x.dir.listing, func(e listedEntry) bool { return e.name == ch.Name })
		} else {
			x.dir.listed, x.dir.listing, x.dir.next = false, nil, 0
		}
	case vfs.ChangeData:
		x.data = nil
	}
}

// Leased implements meta.LeasedSession.
func (c *Client) Leased(ino vfs.Ino) meta.Leases {
	lc := &c.cache
	if lc.queue.Load() == nil || lc.alls.Load() > 0 || !lc.valid() {
		return 0
	}
	s := lc.shard(ino)
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.m[ino]
	if x == nil {
		return 0
	}
	return x.leases &^ (x.refused | x.voiding)
}

// OnRecall implements meta.LeasedSession.
func (c *Client) OnRecall(fn func(meta.Recall)) { c.cache.queue.Store(meta.NewRecallQueue(fn)) }

var _ meta.LeasedSession = (*Client)(nil)
