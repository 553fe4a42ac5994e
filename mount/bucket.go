package mount

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/massif-fs/massif/cache"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/prefixed"
	"github.com/massif-fs/massif/object/retry"
	"github.com/massif-fs/massif/object/storeurl"
	"github.com/massif-fs/massif/tree/bucket"
)

func init() { RegisterKind("bucket", func() TreeConfig { return &BucketTree{} }) }

// What a bucket gets that does not say otherwise.
const (
	bucketAttrTimeout     = 10 * time.Second
	bucketNegativeTimeout = 5 * time.Second
	bucketKernelTimeout   = time.Second
	bucketPrefetch        = 4
	leastBucketCache      = 64 << 20
)

// Secret implements secretTree.
func (t *BucketTree) Secret() any {
	if t.Secrets == nil {
		return nil
	}
	return t.Secrets
}

// SetSecret implements secretTree.
func (t *BucketTree) SetSecret(data json.RawMessage) error { return json.Unmarshal(data, &t.Secrets) }

// storeURL is the URL of what is mounted.
func (t *BucketTree) storeURL() (string, error) {
	u, err := url.Parse(t.Store)
	if err != nil {
		return "", &UsageError{errors.New("the store is not a well-formed URL")}
	}
	if sub := strings.Trim(t.Subdirectory, "/"); sub != "" && u.Scheme != "file" && u.Scheme != "mem" {
		u.Path = strings.TrimSuffix(u.Path, "/") + "/" + sub
		u.RawPath = ""
	}
	if u.Scheme == "adls" { // a directory stays without files
		q := u.Query()
		if !q.Has("keep-directories") {
			q.Set("keep-directories", "true")
			u.RawQuery = q.Encode()
		}
	}
	return u.String(), nil
}

// openStore opens the store and finds out whether it can be used.
func (t *BucketTree) openStore(ctx context.Context, write bool) (object.Store, error) {
	address, err := t.storeURL()
	if err != nil {
		return nil, err
	}
	o := t.Secrets.Options()
	o.ReadOnly = !write
	store, err := storeurl.Open(ctx, address, o)
	if err != nil {
		return nil, err
	}
	if store.Capabilities().Remote {
		store = retry.New(store, retry.Options{Total: storePatience})
	}
	if err := storeurl.Check(ctx, store, write); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	if sub := strings.Trim(t.Subdirectory, "/"); sub != "" && (strings.HasPrefix(address, "file:") || strings.HasPrefix(address, "mem:")) {
		store = prefixed.New(store, sub+"/")
	}
	return store, nil
}

// Open implements TreeConfig.
func (t *BucketTree) Open(ctx context.Context, env *Env) (_ *Opened, err error) {
	o := env.Options
	switch {
	case o.RootSquash:
		return nil, &UsageError{errors.New("option \"root-squash\" is for volumes, not for buckets")}
	case o.AtTime != "":
		return nil, &UsageError{errors.New("option \"at-time\" is for volumes, not for buckets")}
	case t.Caching == "xload" && o.Writeback:
		return nil, &UsageError{errors.New("option \"writeback\" contradicts caching: xload, which is read-only")}
	}
	if t.Caching == "xload" {
		o.ReadOnly = true
	}
	limit := int64(defaultCacheSize)
	if o.CacheSize != nil {
		limit = int64(*o.CacheSize)
	}
	if limit < leastBucketCache {
		return nil, &UsageError{fmt.Errorf("option \"cache-size\": a bucket needs at least %v of the disk, where files are written before they are uploaded", Size(leastBucketCache))}
	}
	store, err := t.openStore(ctx, !o.ReadOnly)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", t.Store, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, store.Close())
		}
	}()
	cfg := t.config(o)
	cfg.Store, cfg.CacheLimit, cfg.Logger, cfg.Identity = store, limit, env.Log, store.String()
	cfg.Budget = cache.NewBudget(memoryLimit(o))
	fs, err := openBucket(ctx, env, cfg)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", t.Store, err)
	}
	return &Opened{
		FS: fs, Source: store.String(), DropCaches: fs.DropCaches, Close: store.Close,
		Stats: map[string]func() any{"bucket": func() any { return fs.Stats() }},
	}, nil
}

// openBucket opens the tree over the first cache directory of the bucket that no other mount
// on this machine has.
func openBucket(ctx context.Context, env *Env, cfg bucket.Config) (*bucket.FS, error) {
	dir := env.Options.CacheDir
	if dir == "" {
		home, err := Home()
		if err != nil {
			return nil, err
		}
		dir = filepath.Join(home, "buckets")
	}
	sum := sha256.Sum256([]byte(cfg.Identity))
	first := filepath.Join(dir, hex.EncodeToString(sum[:8]))
	if within(first, env.Point) {
		return nil, &UsageError{fmt.Errorf("cache directory %s lies inside the mount point", dir)}
	}
	cfg.CacheDir = first
	for i := 1; ; i++ {
		fs, err := bucket.New(ctx, cfg)
		if !errors.Is(err, syscall.EBUSY) || i == mostCaches {
			return fs, err
		}
		cfg.CacheDir = fmt.Sprintf("%s.%d", first, i)
	}
}

// config translates the spec.
func (t *BucketTree) config(o *Options) bucket.Config {
	high, low := t.thresholds()
	cfg := bucket.Config{
		ReadOnly: o.ReadOnly, Writeback: o.Writeback, Uploads: o.Uploads,
		CacheHigh: high, CacheLow: low, CacheTimeout: time.Duration(t.CacheTimeout), CacheEmptyAtStart: t.CacheEmptyAtStart, CacheDropAtEnd: t.CacheDropAtEnd,
		BlockSize: int64(t.BlockSize), Prefetch: bucketPrefetch, PrefetchOnOpen: t.PrefetchOnOpen, Parallel: t.Parallel,
		CreateEmpty: t.CreateEmpty, IgnoreSync: t.IgnoreSync,
		AttrTimeout: or(t.AttrTimeout, bucketAttrTimeout), ListTimeout: or(t.ListTimeout, bucketAttrTimeout), NegativeTimeout: or(t.NegativeTimeout, bucketNegativeTimeout),
		KernelAttr: or(t.KernelAttr, bucketKernelTimeout), KernelEntry: or(t.KernelEntry, bucketKernelTimeout), KernelNegative: or(t.KernelNegative, bucketKernelTimeout),
		NoKernelData: t.NoKernelData, MaxEntries: t.MaxEntries,
		NoMetadata: t.Metadata == "none", FailUnsupported: t.FailUnsupported,
		UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
		MarkedOnly: t.MarkedOnly, ListDelay: time.Duration(t.ListDelay), Capacity: int64(t.Capacity), MaxFileSize: int64(t.MaxFileSize),
	}
	switch t.Caching {
	case "file_cache":
		cfg.Caching = bucket.WholeFiles
	case "stream":
		cfg.Caching = bucket.Stream
	case "xload":
		cfg.Caching = bucket.Preload
	}
	switch t.Symlinks {
	case "rclonelink":
		cfg.Links = bucket.SuffixLinks
	case "none":
		cfg.Links = bucket.NoLinks
	}
	switch {
	case t.Markers == "none":
		cfg.Markers = bucket.NoMarkers
	case t.Markers == "folder", t.Markers == "" && strings.HasPrefix(t.Store, "az:"):
		cfg.Markers = bucket.FolderMarkers
	}
	if t.Prefetch != nil {
		cfg.Prefetch = *t.Prefetch
	}
	if t.FileMode != nil {
		cfg.FileMode = uint32(*t.FileMode)
	}
	if t.DirMode != nil {
		cfg.DirMode = uint32(*t.DirMode)
	}
	return cfg
}

func or(d *Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return time.Duration(*d)
}
