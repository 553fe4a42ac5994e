package metarpc

import (
	"context"
	"syscall"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// A session's scope. To a session whose grant has a root the volume is that directory
// and what is below it: its client calls the directory vfs.Root, and every inode that it
// names is looked for, by its directories up to the root, before a call is done.
// What is outside is ESTALE, as is what there is not: nothing can be learnt about
// it. Numbers in replies are those of the volume, but for the root's.
//
// A file that the session has in use (which it can begin only while it sees it) stays
// usable when its last name goes or leaves the scope, as an open file does. A
// directory does not.
//
// The check and the call are two steps. A move out of the scope by somebody else
// between them counts as one after the call.

// confined tells whether the session sees only a directory of the volume.
func (ss *session) confined() bool { return ss.grant.Root != 0 && ss.grant.Root != vfs.Root }

// real is the number of an inode that the client names.
func (ss *session) real(ino vfs.Ino) vfs.Ino {
	if ino == vfs.Root && ss.confined() {
		return ss.grant.Root
	}
	return ino
}

// shown is the inverse of real.
func (ss *session) shown(ino vfs.Ino) vfs.Ino {
	if ss.confined() && ino == ss.grant.Root {
		return vfs.Root
	}
	return ino
}

// sees tells whether an inode is in the session's scope, or a file in use by it since
// it was. One that is not there is not.
func (ss *session) sees(ctx context.Context, ino vfs.Ino) (bool, error) {
	if !ss.confined() {
		return true, nil
	}
	below, err := ss.vol.Engine.Below(ctx, ino, ss.grant.Root)
	if vfs.ErrnoOf(err) == syscall.ESTALE {
		return false, nil
	}
	if err != nil || below {
		return below, err
	}
	ss.usesMu.Lock()
	_, used := ss.used[ino]
	ss.usesMu.Unlock()
	if !used {
		return false, nil
	}
	var a vfs.Attr
	err = ss.ms.GetAttr(ctx, nil, ino, &a)
	if vfs.ErrnoOf(err) == syscall.ESTALE {
		return false, nil
	}
	return err == nil && a.Mode&syscall.S_IFMT != syscall.S_IFDIR, err
}

// inScope returns the number of an inode that the client names in a call, and sees
// to it that the call fails if the session does not see it.
func (h *handler) inScope(ino vfs.Ino) vfs.Ino {
	if !h.ss.confined() || h.d.bad || h.denied != nil {
		return ino
	}
	ino = h.ss.real(ino)
	sees, err := h.ss.vol.Engine.Below(context.Background(), ino, h.ss.grant.Root)
	if err == nil && !sees {
		h.borrowed = true
		sees, err = h.ss.sees(context.Background(), ino)
	}
	if err == nil && !sees {
		err = syscall.ESTALE
	}
	h.denied = err
	return ino
}

// ino reads an inode number.
func (h *handler) ino() vfs.Ino {
	ino := h.inScope(h.d.ino())
	h.spoken = append(h.spoken, ino)
	return ino
}

// read checks that all of the arguments have been read, and that the session sees the
// inodes among them.
func (h *handler) read() error {
	if err := h.d.done(); err != nil {
		return err
	}
	return h.denied
}

// scopeWrites is ino for the files of a commit, after read.
func (h *handler) scopeWrites(writes []meta.FileWrite) error {
	for i := range writes {
		writes[i].Ino = h.inScope(writes[i].Ino)
	}
	return h.denied
}

// above does the lookup of ".." for a confined session: the root's is itself.
func (h *handler) above(ctx context.Context, cr *vfs.Caller, dir vfs.Ino, a *vfs.Attr) error {
	if dir == h.ss.grant.Root {
		return h.ss.ms.GetAttr(ctx, cr, dir, a)
	}
	if err := h.ss.ms.Lookup(ctx, cr, dir, "..", a); err != nil {
		return err
	}
	// It may have moved since the call was let in.
	sees, err := h.ss.sees(ctx, a.Ino)
	if err == nil && !sees {
		err = syscall.ESTALE
	}
	return err
}

// attr writes attributes.
func (h *handler) attr(a *vfs.Attr) {
	h.spoken = append(h.spoken, a.Ino)
	a.Ino = h.ss.shown(a.Ino)
	h.e.attr(a)
}

// tells tells whether a change is the client's to know, and makes it speak of the
// client's root.
func (ss *session) tells(ch *vfs.Change) bool {
	if !ss.confined() {
		return true
	}
	at := ch.Parent
	if at == 0 {
		at = ch.Ino
	}
	// Not sees: changes are told under locks of those who make them, and a file
	// without a name is nobody else's to change.
	if below, err := ss.vol.Engine.Below(context.Background(), at, ss.grant.Root); err != nil || !below {
		return false
	}
	ch.Ino, ch.Parent = ss.shown(ch.Ino), ss.shown(ch.Parent)
	return true
}
