package volume

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/internal/crashpoint"
	"github.com/massif-fs/massif/meta"
)

// What an fsync flushes is kept in the metadata at first, if it is little
// (meta.Pending): then one flush of one log makes all of it durable. The settler
// moves it to the store a moment later, unless it has been overwritten by then.

const (
	// pendingFlush is how many bytes a flush may put into the metadata.
	pendingFlush = 256 << 10
	// settleAfter is the default of Config.SettleAfter: what is overwritten again
	// and again never reaches the store.
	settleAfter = time.Second
	// settleBatch bounds the objects moved at a time, settleUploads those in flight.
	settleBatch   = 64
	settleUploads = 4
	// settleAtClose bounds how long Close tries to move what is pending. What is
	// left is safe, and moved when the volume is next opened.
	settleAtClose = 30 * time.Second
)

// pendable tells whether a flush may keep its packs in the metadata: not where
// others read the store themselves.
func (fs *FS) pendable(packs []pack) bool {
	if fs.cfg.Pending == nil || fs.shared || fs.pendingOff.Load() > 0 || fs.blocks.Staged() {
		return false
	}
	var bytes int64
	for i := range packs {
		if bytes += int64(packs[i].size); bytes > pendingFlush {
			return false
		}
	}
	return fs.cfg.Pending.PendingRoom(bytes)
}

var objectPool = sync.Pool{New: func() any { b := make([]byte, 0, pendingFlush+16<<10); return &b }}

// pend gives the objects of packs to the metadata; done is called when their commit
// has returned.
func (fs *FS) pend(ctx context.Context, packs []pack, blocks []meta.Block) (done func(), err error) {
	buf := objectPool.Get().(*[]byte)
	all := (*buf)[:0]
	ends := make([]int, len(packs))
	for i := range packs {
		if all, err = fs.blocks.Object(ctx, block.ID(blocks[i].ID), all, packs[i].data...); err != nil {
			return nil, err
		}
		ends[i] = len(all)
	}
	begin := 0
	for i, end := range ends { // from here on the commit follows
		fs.cfg.Pending.Pend(blocks[i].ID, all[begin:end:end])
		begin = end
	}
	return func() { objectPool.Put(buf) }, nil
}

// settler moves pending blocks to the store, until the FS is closed.
func (fs *FS) settler() {
	pause := fs.cfg.SettleAfter
	if crashpoint.Armed() {
		pause = 20 * time.Millisecond // see maintain
	}
	tick := time.NewTicker(pause)
	defer tick.Stop()
	var newest uint64 // what was pending at the tick before
	for {
		select {
		case <-fs.ctx.Done():
			return
		case <-tick.C:
		}
		err := fs.settle(fs.ctx, newest)
		fs.report("moving small writes to the store", err)
		newest = 0
		if ids := fs.cfg.Pending.PendingBlocks(); len(ids) > 0 {
			newest = ids[len(ids)-1]
		}
	}
}

// Settle moves all pending blocks to the store.
func (fs *FS) Settle(ctx context.Context) error {
	if fs.cfg.Pending == nil || fs.cfg.ReadOnly {
		return nil
	}
	return fs.settle(ctx, 1<<64-1)
}

// HoldPending makes fsync put everything into the store until the returned function
// is called, and moves there what is pending: for whoever wants the metadata to
// refer only to what is in the store.
func (fs *FS) HoldPending(ctx context.Context) (release func(), err error) {
	fs.pendingOff.Add(1)
	release = func() { fs.pendingOff.Add(-1) }
	// Flushes under way may bring more: after they are over there is none.
	if err = fs.flushAll(ctx); err == nil {
		err = fs.Settle(ctx)
	}
	if err != nil {
		release()
	}
	return release, err
}

// settle moves the pending blocks up to the given one.
func (fs *FS) settle(ctx context.Context, newest uint64) error {
	for {
		fs.settleMu.Lock() // nothing is deleted meanwhile
		n, err := fs.settleSome(ctx, newest)
		fs.settleMu.Unlock()
		if n == 0 || err != nil {
			return err
		}
	}
}

// settleSome is settle for one batch.
func (fs *FS) settleSome(ctx context.Context, newest uint64) (int, error) {
	var batch []uint64
	for _, id := range fs.cfg.Pending.PendingBlocks() {
		if id > newest || len(batch) == settleBatch {
			break
		}
		batch = append(batch, id)
	}
	if len(batch) == 0 {
		return 0, nil
	}
	// What is deleted below must not be all that a crash leaves of a commit.
	if err := fs.sess.Sync(ctx); err != nil {
		return 0, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(settleUploads)
	for _, id := range batch {
		g.Go(func() error { return fs.settleBlock(gctx, id) })
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	crashpoint.Hit("settle.put")
	if err := fs.cfg.Pending.Settle(ctx, batch); err != nil {
		return 0, err
	}
	crashpoint.Hit("settle.after")
	return len(batch), nil
}

func (fs *FS) settleBlock(ctx context.Context, id uint64) error {
	gone, err := fs.cfg.Pending.Overwritten(ctx, id)
	if err != nil || gone {
		return err // it need never be in the store
	}
	object, err := fs.cfg.Pending.PendingObject(ctx, id)
	if err != nil || object == nil {
		return err
	}
	return fs.blocks.PutObject(ctx, block.ID(id), object)
}
