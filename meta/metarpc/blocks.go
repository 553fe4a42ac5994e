package metarpc

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strconv"
	"syscall"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/block/blockgate"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// A session's blocks: what it may read and write through a block gate, and what
// blocks it may name in a commit. Both ask the same question, whether a
// number was given to it, because a client that could commit any number could make
// a file of its own point to anybody's block, and read it.

// blockName is what a session is called at the block gate.
func blockName(volume string, id uint64) string { return volume + "/" + strconv.FormatUint(id, 10) }

func (ss *session) blockName() string { return blockName(ss.vol.Engine.Settings().UUID, ss.id) }

// blockBearer is the secret that a session shows there: made of its own, so that
// whoever learns it cannot resume the session.
func blockBearer(secret []byte) string {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("massif block gate"))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// BlockSession is how this client shows who it is to the block gate
// (blockgate.ClientConfig.Session).
func (c *Client) BlockSession(context.Context) (name, secret string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != nil {
		return "", "", fmt.Errorf("%w: %w", object.ErrAccess, c.ended)
	}
	return blockName(c.format.Load().UUID, c.session), blockBearer(c.secret), nil
}

// BlockAuthority tells a block gate what this server's sessions may do. volume finds
// where the blocks of a volume are, by the name in its Grant.
func (s *Server) BlockAuthority(volume func(name string) (*blockgate.Volume, error)) blockgate.Authority {
	return &blockAuthority{s, volume}
}

type blockAuthority struct {
	s      *Server
	volume func(string) (*blockgate.Volume, error)
}

// Authenticate implements blockgate.Authority.
func (a *blockAuthority) Authenticate(_ context.Context, name, secret string) (blockgate.Session, error) {
	a.s.mu.Lock()
	ss, closing := a.s.named[name], a.s.closing
	a.s.mu.Unlock()
	if closing {
		return nil, fmt.Errorf("%w: %w", object.ErrUnavailable, errServerCloses)
	}
	if ss == nil || subtle.ConstantTimeCompare([]byte(blockBearer(ss.secret)), []byte(secret)) != 1 {
		return nil, blockgate.ErrSession
	}
	if ss.grant.valid() != nil {
		return nil, blockgate.ErrSession
	}
	v, err := a.volume(ss.grant.Volume)
	if err != nil {
		return nil, err
	}
	return &blockSession{ss, name, v}, nil
}

// blockSession is a session as the block gate sees it.
type blockSession struct {
	ss     *session
	name   string
	volume *blockgate.Volume
}

func (b *blockSession) Name() string              { return b.name }
func (b *blockSession) Volume() *blockgate.Volume { return b.volume }
func (b *blockSession) Whole() bool               { return !b.ss.confined() }
func (b *blockSession) Done() <-chan struct{}     { return b.ss.over }

// Uses implements blockgate.Session.
func (b *blockSession) Uses(ctx context.Context, ino vfs.Ino, chunk uint32, id block.ID) (size uint32, ranges []block.Range, err error) {
	if err := b.ss.vol.Engine.AwaitSessions(ctx, b.ss.halt); err != nil {
		return 0, nil, err
	}
	ino = b.ss.real(ino)
	sees, err := b.ss.sees(ctx, ino)
	if err != nil {
		return 0, nil, err
	}
	if !sees {
		return 0, nil, blockgate.ErrDenied
	}
	extents, err := b.ss.ms.Extents(ctx, ino, chunk, nil)
	if vfs.ErrnoOf(err) == syscall.ESTALE {
		return 0, nil, blockgate.ErrDenied
	}
	for _, e := range extents {
		if e.Block == uint64(id) {
			size, ranges = e.Size, append(ranges, block.Range{Off: e.Off, Len: e.Len})
		}
	}
	return size, ranges, err
}

// MayWrite implements blockgate.Session.
func (b *blockSession) MayWrite(_ context.Context, id block.ID) error {
	if b.ss.readOnly || !b.ss.numbers.Has(id) {
		return blockgate.ErrDenied
	}
	return nil
}

// claim takes the numbers of new blocks, which no grant is given for from then on:
// EINVAL if one was not allocated to this session, or has been named before. undo
// gives them back, for a commit that failed.
func (ss *session) claim(blocks []meta.Block) (undo func(), err error) {
	done := 0
	undo = func() {
		for _, b := range blocks[:done] {
			ss.numbers.Allocated(block.ID(b.ID), 1)
		}
	}
	for _, b := range blocks {
		if !ss.numbers.Committed(block.ID(b.ID)) {
			undo()
			return nil, vfs.WithErrno(syscall.EINVAL, fmt.Errorf("block %d is not a new one of this session", b.ID))
		}
		done++
	}
	return undo, nil
}

// checkWrites returns EINVAL if a file is to point to another block than those that
// come with the commit: only the server makes files share blocks.
func checkWrites(blocks []meta.Block, writes []meta.FileWrite) error {
	fresh := freshBlocks(blocks)
	for i := range writes {
		for _, c := range writes[i].Chunks {
			for _, e := range c.Extents {
				if e.Block != 0 && !fresh.holds(e) {
					return foreign(e)
				}
			}
		}
	}
	return nil
}

// checkReplace is checkWrites for new extents in place of old ones, which the engine
// compares with what is there: parts of the old that stay where they are will do,
// too.
func checkReplace(blocks []meta.Block, old, fresh []meta.Extent) error {
	if len(old) == 0 {
		return nil // the engine refuses it
	}
	come := freshBlocks(blocks)
	for _, e := range fresh {
		if e.Block == 0 || come.holds(e) {
			continue
		}
		stays := false
		for _, o := range old {
			stays = stays || o.Block == e.Block && o.Size == e.Size && e.Pos >= o.Pos && uint64(e.Pos)+uint64(e.Len) <= uint64(o.Pos)+uint64(o.Len) &&
				e.Off-o.Off == e.Pos-o.Pos
		}
		if !stays {
			return foreign(e)
		}
	}
	return nil
}

func foreign(e meta.Extent) error {
	return vfs.WithErrno(syscall.EINVAL, fmt.Errorf("an extent points to block %d (%d bytes at %d of %d), which this session did not bring", e.Block, e.Len, e.Off, e.Size))
}

type newBlocks map[uint64]uint32 // sizes

func freshBlocks(blocks []meta.Block) newBlocks {
	m := make(newBlocks, len(blocks))
	for _, b := range blocks {
		m[b.ID] = b.Size
	}
	return m
}

func (m newBlocks) holds(e meta.Extent) bool {
	size, ok := m[e.Block]
	return ok && e.Size == size && uint64(e.Off)+uint64(e.Len) <= uint64(size)
}
