package azure

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
	"golang.org/x/sync/errgroup"
)

// Copy implements object.Store, inside the service: by Copy Blob From URL where the
// object is small and nothing of it changes, by Put Block From URL and a block list
// otherwise, so that the copy too is complete or absent. Servers without that
// request copy in the background, which is waited for; until it is done the copy is
// nothing that Head or Get would give.
func (s *Store) Copy(ctx context.Context, dst, src string, opts *object.PutOptions) (object.Info, error) {
	const op = "copy"
	if err := s.begin(ctx, op, src, dst); err != nil {
		return object.Info{}, err
	}
	var o object.PutOptions
	if opts != nil {
		o = *opts
	}
	err := o.Validate()
	if dst == src {
		err = invalid("copy onto itself")
	}
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: src, Err: err}
	}
	from, err := s.head(ctx, op, src)
	if err != nil {
		return object.Info{}, err
	}
	if err := s.conditionHolds(ctx, op, dst, &o); err != nil {
		return object.Info{}, err
	}
	asItIs := o.ContentType == "" && o.Metadata == nil
	if o.ContentType == "" {
		o.ContentType = from.ContentType
	}
	if o.Metadata == nil {
		o.Metadata = from.Metadata
	}
	c := &copying{s: s, dst: dst, src: src, from: from, opts: &o}
	if err := c.authorize(ctx); err != nil {
		return object.Info{}, &object.Error{Op: op, Key: src, Err: err}
	}
	// Keys of the customer cannot be given for the source of Copy Blob From URL.
	if asItIs && from.Size <= syncCopyLimit && s.cpk == nil {
		info, err := c.whole(ctx)
		if !errors.Is(err, object.ErrUnsupported) {
			return info, err
		}
	}
	if !s.noStage.Load() {
		info, err := c.blocks(ctx)
		if !errors.Is(err, object.ErrUnsupported) {
			return info, err
		}
		s.noStage.Store(true)
	}
	return c.background(ctx, asItIs)
}

// syncCopyLimit and copyBlockSize are changed by tests only.
var (
	syncCopyLimit int64 = maxSyncCopy
	copyBlockSize int64 = copyBlock
)

// copying is one Copy.
type copying struct {
	s        *Store
	dst, src string
	from     object.Info
	opts     *object.PutOptions

	source string  // URL of src, with a SAS where there is one: a secret
	bearer *string // that the service shows to itself for src
}

// copySASLife is how long the SAS lives by which the service reads a source.
const copySASLife = 24 * time.Hour

func (c *copying) authorize(ctx context.Context) error {
	s := c.s
	b, err := s.blob(c.src)
	if err != nil {
		return err
	}
	switch {
	case s.auth.key != nil:
		c.source, err = b.GetSASURL(sas.BlobPermissions{Read: true}, time.Now().Add(copySASLife), nil)
		if err != nil {
			return invalid("no SAS can be made for the source")
		}
	case s.auth.token != nil:
		t, err := s.auth.token.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{storageScope}})
		if err != nil {
			return s.explain(nil, err)
		}
		c.source, c.bearer = b.URL(), new(string)
		*c.bearer = "Bearer " + t.Token
	default:
		c.source = b.URL() // with the SAS in use
	}
	if _, err := url.Parse(c.source); err != nil {
		return invalid("the source has no URL")
	}
	return nil
}

// storageScope is that of tokens for Azure Storage.
const storageScope = "https://storage.azure.com/.default"

// sameSource: what the head said must be what is copied.
func (c *copying) sameSource() *blob.SourceModifiedAccessConditions {
	tag := azcore.ETag(`"` + c.from.ETag + `"`)
	return &blob.SourceModifiedAccessConditions{SourceIfMatch: &tag}
}

func (c *copying) whole(ctx context.Context) (object.Info, error) {
	const op = "copy"
	s := c.s
	b, err := s.blob(c.dst)
	if err != nil {
		return object.Info{}, &object.Error{Op: op, Key: c.dst, Err: err}
	}
	w := watchdog.Watch(ctx, s.cfg.SlowTimeout)
	defer w.End()
	out, err := b.CopyFromURL(w.Context(), c.source, &blob.CopyFromURLOptions{
		CopySourceAuthorization:        c.bearer,
		Tier:                           s.tier(c.opts),
		SourceModifiedAccessConditions: c.sameSource(),
		BlobAccessConditions:           conditions(c.opts),
		CPKScopeInfo:                   s.cfg.scope(),
	})
	if err == nil && etag(out.ETag) == "" {
		err = s.nonsense("no ETag of the copy")
	}
	if err != nil {
		return object.Info{}, conditionError(s.fail(op, c.dst, w, err), c.opts)
	}
	return s.stored(c.dst, c.from.Size, out.ETag, out.LastModified, c.opts), nil
}

func (c *copying) blocks(ctx context.Context) (object.Info, error) {
	s := c.s
	up := s.newUpload(c.dst, c.opts)
	size := copyBlockSize
	for size*maxBlocks < c.from.Size {
		size *= 2
	}
	ids := make([]string, (c.from.Size+size-1)/size)
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(2 * s.cfg.Concurrency) // they cost the service, not us
	for i := range ids {
		off := int64(i) * size
		ids[i] = up.blockID(i + 1)
		group.Go(func() error { return c.block(gctx, ids[i], off, min(size, c.from.Size-off)) })
	}
	if err := group.Wait(); err != nil {
		if cerr := ctx.Err(); cerr != nil {
			err = &object.Error{Op: "copy", Key: c.src, Err: cerr}
		}
		return object.Info{}, err
	}
	return up.commit(ctx, "copy", ids, c.from.Size)
}

func (c *copying) block(ctx context.Context, id string, off, n int64) error {
	s := c.s
	b, err := s.blob(c.dst)
	if err != nil {
		return &object.Error{Op: "copy", Key: c.dst, Err: err}
	}
	w := watchdog.Watch(ctx, s.cfg.SlowTimeout)
	defer w.End()
	in := &blockblob.StageBlockFromURLOptions{
		CopySourceAuthorization:        c.bearer,
		SourceModifiedAccessConditions: c.sameSource(),
		Range:                          blob.HTTPRange{Offset: off, Count: n},
		CPKInfo:                        s.cpk,
		CPKScopeInfo:                   s.cfg.scope(),
	}
	if s.cpk != nil {
		algorithm := blob.EncryptionAlgorithmTypeAES256
		in.SourceCustomerProvidedKey = &blob.SourceCPKInfo{
			SourceEncryptionAlgorithm: &algorithm, SourceEncryptionKey: s.cpk.EncryptionKey, SourceEncryptionKeySHA256: s.cpk.EncryptionKeySHA256,
		}
	}
	_, err = b.StageBlockFromURL(w.Context(), id, c.source, in)
	return s.fail("copy", c.src, w, err)
}

// background copies by Copy Blob, and changes the properties of the copy
// afterwards.
func (c *copying) background(ctx context.Context, asItIs bool) (object.Info, error) {
	const op = "copy"
	s := c.s
	fail := func(w *watchdog.Dog, err error) (object.Info, error) {
		return object.Info{}, conditionError(s.fail(op, c.dst, w, err), c.opts)
	}
	b, err := s.blob(c.dst)
	if err != nil {
		return fail(nil, err)
	}
	w := watchdog.Watch(ctx, s.cfg.SlowTimeout)
	defer w.End()
	out, err := b.StartCopyFromURL(w.Context(), c.source, &blob.StartCopyFromURLOptions{
		Metadata: encodeMetadata(c.opts.Metadata), Tier: s.tier(c.opts),
		SourceModifiedAccessConditions: c.sameSource(), AccessConditions: conditions(c.opts),
	})
	if err != nil {
		return fail(w, err)
	}
	wait := 10 * time.Millisecond
	for status := out.CopyStatus; status == nil || *status != blob.CopyStatusTypeSuccess; {
		if status != nil && *status != blob.CopyStatusTypePending {
			return fail(w, s.halfCopied(*status))
		}
		select {
		case <-ctx.Done():
			c.giveUp(ctx, b, out.CopyID)
			return fail(w, ctx.Err())
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
		w.Kick()
		now, err := b.GetProperties(w.Context(), nil)
		if err != nil {
			return fail(w, err)
		}
		if now.CopyID != nil && out.CopyID != nil && *now.CopyID != *out.CopyID {
			return fail(w, fmt.Errorf("%w: the destination was replaced while it was copied", object.ErrPrecondition))
		}
		status = now.CopyStatus
	}
	w.Kick()
	if !asItIs {
		if _, err := b.SetHTTPHeaders(w.Context(), *s.headers(c.opts), nil); err != nil {
			return fail(w, err)
		}
		if len(c.opts.Metadata) == 0 && len(c.from.Metadata) > 0 {
			if _, err := b.SetMetadata(w.Context(), nil, nil); err != nil {
				return fail(w, err)
			}
		}
	}
	return s.head(ctx, op, c.dst)
}

// giveUp ends a copy in the background when its caller has gone.
func (c *copying) giveUp(ctx context.Context, b *blockblob.Client, id *string) {
	if id == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.s.cfg.StallTimeout)
	defer cancel()
	_, _ = b.AbortCopyFromURL(ctx, *id, nil) // what is left is taken for absent
}
