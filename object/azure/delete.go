package azure

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"golang.org/x/sync/errgroup"
)

// deletesAtOnce is the number of requests of one Delete under way at once.
const deletesAtOnce = 16

// Delete implements object.Store, by Blob Batch 256 at a time, several at once.
// Servers that lack batches, and hierarchical accounts, get a request for each key.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	return s.deleteKeys(ctx, s.deleteOne, !s.cfg.Hierarchical, keys)
}

func (s *Store) deleteKeys(ctx context.Context, one func(ctx context.Context, key string) error, batches bool, keys []string) error {
	const op = "delete"
	if err := ctx.Err(); err != nil {
		return &object.Error{Op: op, Err: err}
	}
	d := deletion{failed: make(map[string]error)}
	var good []string
	seen := make(map[string]bool, len(keys))
	for _, key := range keys {
		if seen[key] {
			continue
		}
		seen[key] = true
		if err := s.begin(ctx, op, key); err != nil {
			d.failed[key] = err
			continue
		}
		good = append(good, key)
	}
	var group errgroup.Group
	group.SetLimit(deletesAtOnce)
	single := func(keys []string) {
		for _, key := range keys {
			group.Go(func() error { d.fail(key, one(ctx, key)); return nil })
		}
	}
	if batches && len(good) > 1 && !s.noBatch.Load() {
		var again [][]string
		var mu sync.Mutex
		for part := range slices.Chunk(good, deleteBatch) {
			group.Go(func() error {
				if !s.deleteBatch(ctx, &d, part) {
					mu.Lock()
					again = append(again, part)
					mu.Unlock()
				}
				return nil
			})
		}
		_ = group.Wait() // the errors are in d
		for _, part := range again {
			single(part)
		}
	} else {
		single(good)
	}
	_ = group.Wait()
	switch {
	case len(d.failed) == 0:
		return nil
	case ctx.Err() != nil:
		return &object.Error{Op: op, Err: errors.Join(ctx.Err(), &object.DeleteError{Failed: d.failed})}
	}
	return &object.DeleteError{Failed: d.failed}
}

// deletion collects what one Delete could not remove.
type deletion struct {
	mu     sync.Mutex
	failed map[string]error
}

func (d *deletion) fail(key string, err error) {
	if err == nil || errors.Is(err, object.ErrNotFound) {
		return
	}
	d.mu.Lock()
	d.failed[key] = err
	d.mu.Unlock()
}

func (s *Store) deleteOne(ctx context.Context, key string) error {
	c, err := s.blob(key)
	if err != nil {
		return &object.Error{Op: "delete", Key: key, Err: err}
	}
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	include := blob.DeleteSnapshotsOptionTypeInclude
	_, err = c.Delete(w.Context(), &blob.DeleteOptions{DeleteSnapshots: &include})
	return s.fail("delete", key, w, err)
}

// deleteBatch deletes keys in one request. It returns false if that cannot be done
// and they are to be deleted one by one.
func (s *Store) deleteBatch(ctx context.Context, d *deletion, keys []string) bool {
	c, err := s.container()
	if err != nil {
		for _, key := range keys {
			d.fail(key, &object.Error{Op: "delete", Key: key, Err: err})
		}
		return true
	}
	b, err := c.NewBatchBuilder()
	if err != nil {
		return false
	}
	for _, key := range keys {
		if err := b.Delete(s.cfg.Prefix+key, nil); err != nil {
			return false
		}
	}
	w := watchdog.Watch(ctx, s.cfg.StallTimeout)
	defer w.End()
	out, err := c.SubmitBatch(w.Context(), b, nil)
	if err != nil {
		if ferr := s.fail("delete", "", w, err); ctx.Err() != nil || errors.Is(ferr, object.ErrUnavailable) || errors.Is(ferr, object.ErrNoBucket) {
			for _, key := range keys {
				d.fail(key, ferr)
			}
			return true
		}
		// No batches here, or no right to them: each key shall say what is wrong.
		s.noBatch.Store(true)
		return false
	}
	told := make([]bool, len(keys))
	var again []string
	for _, r := range out.Responses {
		if r.ContentID == nil || *r.ContentID < 0 || *r.ContentID >= len(keys) {
			continue
		}
		i := *r.ContentID
		told[i] = true
		var re *azcore.ResponseError
		if r.Error == nil || errors.As(r.Error, &re) && re.StatusCode == http.StatusNotFound && re.ErrorCode == "BlobNotFound" {
			continue
		}
		again = append(again, keys[i]) // a snapshot, a lease, …: in its own words
	}
	for i, ok := range told {
		if !ok {
			again = append(again, keys[i])
		}
	}
	for _, key := range again {
		d.fail(key, s.deleteOne(ctx, key))
	}
	return true
}
