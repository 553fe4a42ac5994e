package metarpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// FuzzFrames reads frames from anything: no frame is longer than allowed, and memory
// is taken only as bytes come.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{9, 0, 0, 0, 6, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add(append([]byte{0, 0, 2, 0, 2}, make([]byte, 2<<16)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newFrameReader(bytes.NewReader(b))
		left := len(b)
		for {
			r.waiting()
			_, body, err := r.next(1 << 20)
			if err != nil {
				if err == io.EOF && left != 0 {
					t.Fatalf("%d bytes are left", left)
				}
				return
			}
			if left -= frameHeader + len(body); left < 0 {
				t.Fatal("more bytes than there are")
			}
		}
	})
}

func FuzzHello(f *testing.F) {
	h := Hello{Token: "t", Volume: "v", Info: meta.SessionInfo{Host: "h", PID: 3}, minVersion: 1, maxVersion: 2, session: 9, secret: make([]byte, 32)}
	var e encoder
	h.encode(&e)
	f.Add(e.b)
	w := welcome{version: 1, session: 3, secret: make([]byte, 32), format: testFormat(), lease: 1e9, life: 2e9}
	e = encoder{}
	if err := w.encode(&e); err != nil {
		f.Fatal(err)
	}
	f.Add(e.b)
	w = welcome{err: syscall.EACCES, unknown: true}
	e = encoder{}
	if err := w.encode(&e); err != nil {
		f.Fatal(err)
	}
	f.Add(e.b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var h Hello
		if h.decode(b) == nil {
			var e encoder
			h.encode(&e)
			var again Hello
			if err := again.decode(e.b); err != nil || again.Token != h.Token || again.session != h.session {
				t.Fatalf("%v: %+v, %+v", err, h, again)
			}
		}
		var w welcome
		_ = w.decode(b)
	})
}

// FuzzCalls lets a session's reader have anything: what is no call changes nothing and
// harms nobody.
func FuzzCalls(f *testing.F) {
	db := mem.New()
	if err := meta.Create(bg, db, testFormat()); err != nil {
		f.Fatal(err)
	}
	e, err := meta.Open(bg, db, meta.Options{Logger: quiet})
	if err != nil {
		f.Fatal(err)
	}
	s := NewServer(ServerConfig{Logger: quiet})
	v := &Volume{Engine: e, Relaxed: true}
	f.Cleanup(func() {
		s.Close()
		e.Close()
	})
	g := &Grant{Volume: "test"}
	caller := &vfs.Caller{UID: 1, GID: 2}
	call := func(o op, build func(e *encoder)) {
		x := encoder{b: binary.LittleEndian.AppendUint64(nil, 7)}
		x.u8(uint8(o))
		if ops[o].slot {
			x.b = append(x.b, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0)
		}
		build(&x)
		f.Add(uint8(frameCall), x.b)
	}
	call(opCreate, func(e *encoder) { e.caller(caller); e.ino(1); e.str("created"); e.uint(0o600) })
	call(opMknod, func(e *encoder) { e.caller(caller); e.ino(1); e.str("name"); e.uint(0o100644); e.uint(0) })
	call(opLookup, func(e *encoder) { e.caller(caller); e.ino(1); e.str("name") })
	call(opReadDir, func(e *encoder) { e.caller(caller); e.ino(1); e.uint(0); e.bool(true); e.uint(100) })
	call(opSetLock, func(e *encoder) { e.ino(1); e.lock(&vfs.Lock{Type: vfs.LockRead, End: 9}); e.bool(false) })
	call(opCommit, func(e *encoder) {
		e.blocks([]meta.Block{{ID: 1, Size: 2}})
		e.uint(1)
		e.write(&meta.FileWrite{Ino: 2, Size: 3, Chunks: []meta.Chunk{{Extents: []meta.Extent{{Len: 2, Block: 1, Size: 2}}}}, Base: &meta.FileBase{}})
	})
	call(opRename, func(e *encoder) {
		e.caller(caller)
		e.ino(1)
		e.str("a")
		e.ino(1)
		e.str("b")
		e.uint(0)
	})
	call(opSetXattr, func(e *encoder) { e.caller(caller); e.ino(1); e.str("user.x"); e.bytes([]byte("y")); e.uint(0) })
	again := encoder{}
	again.bytes(append([]byte{1, 1, 2, 3, 4}, make([]byte, receiptMAC)...))
	again.u8(uint8(opRmdir))
	again.b = append(again.b, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0)
	again.caller(caller)
	again.ino(1)
	again.str("d")
	f.Add(uint8(frameAgain), again.b)
	f.Add(uint8(frameUses), []byte{1, 1, 1, 2})
	f.Add(uint8(frameRestore), []byte{1, 1, 1, 0, 0})
	f.Add(uint8(framePing), make([]byte, 8))
	f.Add(uint8(frameAck), []byte{1})
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		ms, err := e.NewSession(bg, meta.SessionInfo{})
		if err != nil {
			t.Fatal(err)
		}
		ss := s.host(ms.(hosted), &Hello{cache: true}, g, v)
		ss.secret = make([]byte, secretSize)
		if err := s.enter(ss); err != nil {
			t.Fatal(err)
		}
		here, there := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, there) }()
		l := newLink(here)
		ss.reading.Lock()
		h := &handler{ss: ss, l: l}
		_ = ss.receive(h, frameKind(kind), bytes.Clone(body))
		ss.end(syscall.EIO)
		ss.reading.Unlock()
		l.close(io.EOF)
		l.w.tasks.Wait()
		there.Close()
	})
}

// FuzzReplies lets a client have anything from its server.
func FuzzReplies(f *testing.F) {
	var e encoder
	a := vfs.Attr{Ino: 2, Mode: 0o100644, Nlink: 1}
	reply := func(o op, build func(e *encoder)) {
		e := encoder{}
		e.u8(statusOK)
		build(&e)
		f.Add(uint8(frameReply), uint8(o), e.b)
	}
	reply(opLookup, func(e *encoder) { e.u8(replyNames | replyAttr); e.attr(&a) })
	reply(opLookup, func(e *encoder) { e.u8(replyNames | replyMissing) })
	reply(opGetAttr, func(e *encoder) { e.u8(replyAttr); e.attr(&a) })
	reply(opReadDir, func(e *encoder) {
		e.u8(replyNames)
		e.b = append(e.b, 0, 1, 0, 0, 0)
		e.entry(&vfs.DirEntry{Name: "n", Ino: 2, HasAttr: true, Attr: a, Cookie: 3})
	})
	reply(opExtents, func(e *encoder) { e.u8(replyData); e.extents([]meta.Extent{{Len: 3, Block: 4, Size: 5}}) })
	reply(opInline, func(e *encoder) { e.u8(replyData); e.bool(true); e.bytes([]byte("abc")) })
	e.uint(7)
	e.u8(3)
	e.ino(2)
	e.str("n")
	e.int(0)
	e.int(-1)
	f.Add(uint8(frameRecall), uint8(0), e.b)
	e = encoder{}
	e.uint(1)
	e.u8(1)
	e.u8(0)
	e.attr(&a)
	e.uint(1)
	e.change(&vfs.Change{Kind: vfs.ChangeEntry, Parent: 1, Name: "n", Ino: 2})
	f.Add(uint8(frameOwn), uint8(0), e.b)
	f.Add(uint8(framePong), uint8(0), make([]byte, 9))
	f.Add(uint8(frameDurable), uint8(0), []byte{5})
	e = encoder{b: make([]byte, 8)}
	e.bytes(append([]byte{1, 1, 2, 3, 4}, make([]byte, receiptMAC)...))
	e.u8(statusOK)
	f.Add(uint8(frameEarly), uint8(opRmdir), e.b)
	e = encoder{}
	e.u8(statusOK)
	e.uint(1)
	e.uint(3)
	e.uint(1)
	e.error(syscall.EIO)
	f.Add(uint8(frameSettled), uint8(0), e.b)
	f.Fuzz(func(t *testing.T, kind, o uint8, body []byte) {
		ctx, cancel := context.WithCancel(bg)
		defer cancel()
		c := &Client{cfg: ClientConfig{Logger: quiet}, log: quiet, pending: map[uint64]*call{}, nextID: 1, over: make(chan struct{}),
			permits: make(chan struct{}, 4), slots: make(chan int32, changeSlots), waitSlots: make(chan int32, waitSlots), ctx: ctx, cancel: cancel, lease: 1e9}
		c.slots <- 0
		c.uses.init()
		c.locks.init()
		c.space.init()
		c.cache.init(64)
		format := testFormat()
		c.format.Store(&format)
		here, there := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, there) }()
		l := newLink(here)
		if frameKind(kind) == frameReply && op(o).known() {
			k := c.begin(op(o))
			k.key = callKey{ino: 1, name: "n"}
			k.id = 1
			c.pending[1] = k
			body = append(binary.LittleEndian.AppendUint64(nil, 1), body...)
			if err := c.receive(l, frameReply, body); err != nil {
				t.Fatal(err)
			}
			<-k.done
		} else {
			_ = c.receive(l, frameKind(kind), body)
		}
		c.cache.until.Store(1 << 62)
		var a vfs.Attr
		c.cache.attr(1, &a)
		_, _ = c.cache.lookup(1, "n", &a)
		_, _ = c.cache.list(1, 0, make([]listedEntry, 0, 4))
		_, _ = c.cache.chunk(1, 0, nil)
		l.close(io.EOF)
		l.w.tasks.Wait()
		there.Close()
	})
}
