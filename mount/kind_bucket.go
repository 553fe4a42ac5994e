package mount

import (
	"errors"
	"fmt"
	"strings"

	"github.com/massif-fs/massif/object/azure"
	"github.com/massif-fs/massif/object/s3"
	"github.com/massif-fs/massif/object/storeurl"
)

// BucketTree is existing objects presented as files, one object a file
// (doc/bucket.md):
//
//	tree:
//	  kind: bucket
//	  store: s3://photos/2024?region=eu-central-1
//	  caching: block_cache
//
// Where data are cached and for how much of the disk, how much memory is used, whether
// the mount is read-only and whether writes are uploaded after close(2) are options of
// the mount: cache-dir, cache-size, memory-limit, ro, writeback.
type BucketTree struct {
	// Store is the URL of the bucket or of a part of it, as storeurl has it.
	Store string `yaml:"store" json:"store"`
	// Subdirectory is the part of the store that is mounted, as in "a/b".
	Subdirectory string `yaml:"subdirectory" json:"subdirectory,omitempty"`

	// Caching is how data travel; every mode keeps what it fetches in one disk cache.
	//
	//	block_cache   fetch what is read, and ahead of who reads on (the default)
	//	file_cache    fetch the whole file when it is first read
	//	stream        as block_cache, but a file's data are dropped at its last close
	//	xload         fetch everything when the mount begins; read-only
	Caching string `yaml:"caching" json:"caching,omitempty"`
	// CacheTimeout drops data that nobody has used for so long; 0: only for space.
	CacheTimeout Duration `yaml:"cache-timeout" json:"cache-timeout,omitempty"`
	// CacheHigh and CacheLow are percents of cache-size: above the first one data are
	// dropped, least recently used first, until the second one. Default: 90 and 80.
	CacheHigh int `yaml:"cache-high" json:"cache-high,omitempty"`
	CacheLow  int `yaml:"cache-low" json:"cache-low,omitempty"`
	// CacheEmptyAtStart begins with an empty cache. What is not uploaded yet stays.
	CacheEmptyAtStart bool `yaml:"cache-empty-at-start" json:"cache-empty-at-start,omitempty"`
	// CacheDropAtEnd removes the cache at the end of the mount.
	CacheDropAtEnd bool `yaml:"cache-drop-at-end" json:"cache-drop-at-end,omitempty"`
	// BlockSize is the unit of reading ahead; a read at random fetches less. Default: 4 MiB.
	BlockSize Size `yaml:"block-size" json:"block-size,omitempty"`
	// Prefetch is how many blocks are fetched ahead of who reads on. nil: 4; 0: none.
	Prefetch *int `yaml:"prefetch" json:"prefetch,omitempty"`
	// PrefetchOnOpen begins with the first blocks when a file is opened.
	PrefetchOnOpen bool `yaml:"prefetch-on-open" json:"prefetch-on-open,omitempty"`
	// Parallel is how many requests for data are under way at once. Default: 32.
	Parallel int `yaml:"parallel" json:"parallel,omitempty"`

	// CreateEmpty puts an empty object when a file is made, instead of the first one
	// at its close.
	CreateEmpty bool `yaml:"create-empty" json:"create-empty,omitempty"`
	// IgnoreSync lets fsync(2) do nothing: what is written is uploaded at close.
	IgnoreSync bool `yaml:"ignore-sync" json:"ignore-sync,omitempty"`

	// AttrTimeout, ListTimeout and NegativeTimeout are how long attributes of an
	// object, the listing of a directory, and the absence of a name are believed
	// without asking the store. nil: 10 s, 10 s and 5 s; 0: never.
	AttrTimeout     *Duration `yaml:"attr-timeout" json:"attr-timeout,omitempty"`
	ListTimeout     *Duration `yaml:"list-timeout" json:"list-timeout,omitempty"`
	NegativeTimeout *Duration `yaml:"negative-timeout" json:"negative-timeout,omitempty"`
	// MaxEntries is how many files and directories are remembered that nobody uses, and
	// of a larger directory the listing is not kept. Default: 100,000.
	MaxEntries int `yaml:"max-entries" json:"max-entries,omitempty"`
	// KernelAttr, KernelEntry and KernelNegative are how long the kernel believes
	// attributes, names and absent names. nil: 1 s each.
	KernelAttr     *Duration `yaml:"kernel-attr" json:"kernel-attr,omitempty"`
	KernelEntry    *Duration `yaml:"kernel-entry" json:"kernel-entry,omitempty"`
	KernelNegative *Duration `yaml:"kernel-negative" json:"kernel-negative,omitempty"`
	// NoKernelData has the kernel drop a file's pages at each open.
	NoKernelData bool `yaml:"no-kernel-data" json:"no-kernel-data,omitempty"`

	// Metadata says where mode, owner, times and extended attributes come from.
	//
	//	full   from the object's metadata, where they are kept as s3fs and rclone do
	//	       (the default); what has none gets FileMode and the object's own time
	//	none   they are not kept: a listing tells all there is to know
	Metadata string `yaml:"metadata" json:"metadata,omitempty"`
	// FailUnsupported has changes of what is not kept fail with EOPNOTSUPP; otherwise
	// they are forgotten with the inode.
	FailUnsupported bool `yaml:"fail-unsupported" json:"fail-unsupported,omitempty"`
	// FileMode and DirMode are the permission bits of what has none. nil: 0644 and 0755.
	FileMode *Octal `yaml:"file-mode" json:"file-mode,omitempty"`
	DirMode  *Octal `yaml:"dir-mode" json:"dir-mode,omitempty"`

	// Symlinks is how symbolic links are kept. Both kinds are read where one is chosen.
	//
	//	metadata     an object with the metadata is_symlink=true and the target as content
	//	             (the default; Azure's convention)
	//	rclonelink   an object NAME.rclonelink with the target as content (rclone's)
	//	none         there are none: making one fails with EOPNOTSUPP
	Symlinks string `yaml:"symlinks" json:"symlinks,omitempty"`
	// Markers is how a directory is kept that has no files.
	//
	//	slash    an empty object NAME/ (the default, but for az://)
	//	folder   an empty object NAME with the metadata hdi_isfolder=true (the default of az://)
	//	none     not: an empty directory is forgotten with the mount
	//
	// A hierarchical account (adls://) has real directories, whatever is said here.
	Markers string `yaml:"markers" json:"markers,omitempty"`
	// MarkedOnly takes only what has a marker for a directory (virtual-directory: false).
	MarkedOnly bool `yaml:"marked-only" json:"marked-only,omitempty"`

	// ListDelay shows the tree as empty for so long after the mount, to spare the
	// listings of programs that look at every new mount.
	ListDelay Duration `yaml:"list-delay" json:"list-delay,omitempty"`
	// Capacity is the size that df shows, which a bucket has not. Default: 1 PiB.
	Capacity Size `yaml:"capacity" json:"capacity,omitempty"`
	// MaxFileSize is the size above which a file cannot grow: EFBIG. Default: 5 TiB.
	MaxFileSize Size `yaml:"max-file-size" json:"max-file-size,omitempty"`

	// Secrets are credentials that come neither from the environment nor from files.
	// They are no part of a written spec.
	Secrets *BucketSecrets `yaml:"-" json:"-"`
}

// BucketSecrets are the credentials of a store. They go to the mount's process through
// a socket, and neither through its command line nor its environment.
type BucketSecrets struct {
	// Of s3://: a pair of keys, and the token of temporary ones.
	AccessKey    string `json:"accessKey,omitempty"`
	SecretKey    string `json:"secretKey,omitempty"`
	SessionToken string `json:"sessionToken,omitempty"`
	// Of az:// and adls://, as azure.Credentials; what is no secret stands in the URL.
	AccountKey    string `json:"accountKey,omitempty"`
	SAS           string `json:"sas,omitempty"`
	ClientSecret  string `json:"clientSecret,omitempty"`
	Token         string `json:"token,omitempty"`
	UserAssertion string `json:"userAssertion,omitempty"`
	CustomerKey   string `json:"customerKey,omitempty"` // 256 bits in base64
	// From, if not nil, is where the SAS is read again.
	From *SecretsFile `json:"from,omitempty"`
}

// Options are the secrets, which may be nil, as a store takes them.
func (s *BucketSecrets) Options() storeurl.Options {
	o := storeurl.Options{UserAgent: "massif"}
	if s == nil {
		return o
	}
	if s.AccessKey != "" {
		o.S3Credentials = &s3.Credentials{AccessKey: s.AccessKey, SecretKey: s.SecretKey, SessionToken: s.SessionToken}
	}
	o.AzureCredentials = azure.Credentials{
		AccountKey: azure.Secret(s.AccountKey), SAS: azure.Secret(s.SAS), ClientSecret: azure.Secret(s.ClientSecret),
		Token: azure.Secret(s.Token), UserAssertion: azure.Secret(s.UserAssertion),
	}
	if s.From != nil && s.SAS != "" {
		o.AzureCredentials.SAS, o.AzureCredentials.SASFunc = "", s.From.rereadSAS(s.SAS)
	}
	o.AzureCustomerKey = azure.Secret(s.CustomerKey)
	return o
}

// String hides the secrets from every kind of printing.
func (s *BucketSecrets) String() string { return "credentials" }

// GoString is String.
func (s *BucketSecrets) GoString() string { return s.String() }

// Validate implements TreeConfig.
func (t *BucketTree) Validate() error {
	wrong := func(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }
	if t.Store == "" {
		return wrong("a bucket needs the URL of its store, such as s3://BUCKET/PREFIX")
	}
	if _, err := storeurl.Parse(t.Store); err != nil {
		return &UsageError{err}
	}
	for _, part := range strings.Split(strings.Trim(t.Subdirectory, "/"), "/") {
		if t.Subdirectory != "" && (part == "" || part == "." || part == "..") {
			return wrong("subdirectory %q of a bucket: write a path without empty parts, \".\" and \"..\"", t.Subdirectory)
		}
	}
	for _, choice := range []struct {
		name, value string
		known       []string
	}{
		{"caching", t.Caching, []string{"block_cache", "file_cache", "stream", "xload"}},
		{"metadata", t.Metadata, []string{"full", "none"}},
		{"symlinks", t.Symlinks, []string{"metadata", "rclonelink", "none"}},
		{"markers", t.Markers, []string{"slash", "folder", "none"}},
	} {
		if err := oneOf(choice.name, choice.value, choice.known); err != nil {
			return &UsageError{err}
		}
	}
	high, low := t.thresholds()
	switch {
	case high < 1 || high > 100 || low < 0 || low >= high:
		return wrong("cache-high %d and cache-low %d of a bucket: write percents, the first one greater", high, low)
	case t.Prefetch != nil && (*t.Prefetch < 0 || *t.Prefetch > 1024):
		return wrong("prefetch %d of a bucket: write a number of blocks up to 1024", *t.Prefetch)
	case t.BlockSize != 0 && (t.BlockSize < 64<<10 || t.BlockSize > 1<<30):
		return wrong("block-size %v of a bucket: write a size from 64KiB to 1GiB", t.BlockSize)
	case t.Parallel < 0 || t.Parallel > 1024:
		return wrong("parallel %d of a bucket: write a number from 1 to 1024", t.Parallel)
	case t.MaxEntries < 0:
		return wrong("max-entries %d of a bucket must not be negative", t.MaxEntries)
	case t.MaxFileSize < 0 || t.Capacity < 0:
		return errors.New("sizes of a bucket must not be negative")
	case t.Symlinks == "metadata" && t.Metadata == "none":
		return wrong("symlinks: metadata of a bucket contradicts metadata: none; write rclonelink or none")
	}
	return nil
}

func (t *BucketTree) thresholds() (high, low int) {
	high, low = 90, 80
	if t.CacheHigh != 0 {
		high, low = t.CacheHigh, min(low, t.CacheHigh-1)
	}
	if t.CacheLow != 0 {
		low = t.CacheLow
	}
	return high, low
}

func oneOf(name, value string, known []string) error {
	if value == "" {
		return nil
	}
	for _, k := range known {
		if value == k {
			return nil
		}
	}
	return fmt.Errorf("%s %q of a bucket is not known; use one of %s", name, value, strings.Join(known, ", "))
}
