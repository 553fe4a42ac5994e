// Package azure keeps objects in a container of Azure Storage: block blobs of a
// flat account, or files of a hierarchical one (ADLS Gen2, Config.Hierarchical).
//
// Data travel by the Blob protocol (azure-sdk-for-go), also in hierarchical
// accounts, which take it as well, because there a blob is complete or absent: by
// the Data Lake protocol a file is seen while it is written. What only a tree can do
// (atomic renames, directories, owners and ACLs, and listings whose order is known)
// goes by the Data Lake protocol, in requests of our own: the SDK's client for it
// does not escape the names of what it renames and deletes directories with all
// that is in them.
//
// The driver makes one attempt at each request; package object/retry retries.
//
// # Uploads
//
// A body of up to one part is one Put Blob; longer ones, and those of unknown
// length that turn out longer, are blocks, several under way at once, that a block
// list makes an object of. Blocks that no list names are nobody's: the service drops
// them after a week. They cannot be dropped earlier without a moment in which an
// empty object is seen, so that Abort and AbortStale leave them to the service.
//
// Bodies carry a CRC-64 that the service verifies.
//
// # Names
//
// The service, or what people reach it with, confuses some names: '\' with '/',
// "a." with "a". Keys with a backslash, with control characters, or with a part that
// ends in '.' are refused, and in hierarchical accounts empty parts as well.
package azure

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/wire"
)

// Store is a container, or the part of one below Config.Prefix. It implements
// object.Store, object.RangeReader and object.Multipart, and, over a hierarchical
// account, object.Renamer and object.Tree.
type Store struct {
	cfg     Config
	auth    *authority
	http    *http.Transport
	where   string // container, account and host, for errors
	buffers *wire.Buffers
	cpk     *blob.CPKInfo
	noBatch atomic.Bool // the server has no batches
	noCRC   atomic.Bool // the server knows no CRC-64
	noStage atomic.Bool // the server has no Put Block From URL

	mu      sync.Mutex
	client  *container.Client
	clientN uint64 // generation of the credentials that client was made with
}

var (
	_ object.Store       = (*Store)(nil)
	_ object.RangeReader = (*Store)(nil)
	_ object.Multipart   = (*Store)(nil)
	_ object.Store       = (*Lake)(nil)
)

// Open makes a Store; over a hierarchical account it is a *Lake. It sends nothing:
// Check does. The errors are those of a configuration that cannot be meant.
func Open(ctx context.Context, cfg Config) (object.Store, error) {
	s, err := open(cfg)
	if err != nil {
		return nil, &object.Error{Op: "open", Err: err}
	}
	if cfg.Hierarchical {
		return &Lake{Store: s}, nil
	}
	return s, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", object.ErrInvalid, fmt.Sprintf(format, args...))
}

func open(cfg Config) (*Store, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	transport, err := cfg.wire().Transport()
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, http: transport}
	s.where = fmt.Sprintf("container %q of account %q at %s", cfg.Container, cfg.Account, cfg.host())
	s.buffers = wire.NewBuffers(cfg.PartSize, cfg.Concurrency)
	s.cpk, err = cfg.customerKey()
	if err != nil {
		return nil, err
	}
	s.auth, err = newAuthority(&cfg, s.options())
	if err != nil {
		return nil, err
	}
	return s, nil
}

// options are those of every client of the SDK: our transport, one attempt.
func (s *Store) options() azcore.ClientOptions {
	o := azcore.ClientOptions{
		Transport: &http.Client{Transport: s.http, CheckRedirect: wire.NoRedirect},
		Retry:     policy.RetryOptions{MaxRetries: -1},
		Telemetry: policy.TelemetryOptions{ApplicationID: s.cfg.UserAgent},
		Cloud:     s.cfg.cloud(),
	}
	if s.cfg.APIVersion != "" {
		o.PerCallPolicies = append(o.PerCallPolicies, version(s.cfg.APIVersion))
	}
	return o
}

// version makes requests of a version of the protocol, before they are signed; the
// storage clients know no other way.
type version string

func (v version) Do(req *policy.Request) (*http.Response, error) {
	h := req.Raw().Header
	delete(h, "x-ms-version") // as the clients write it
	h.Set("x-ms-version", string(v))
	return req.Next()
}

// container returns the client of the container with the credentials of now.
func (s *Store) container() (*container.Client, error) {
	sas, n, err := s.auth.sas()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil && s.clientN == n {
		return s.client, nil
	}
	o := &container.ClientOptions{ClientOptions: s.options()}
	url := s.cfg.containerURL()
	var c *container.Client
	switch {
	case s.auth.key != nil:
		c, err = container.NewClientWithSharedKeyCredential(url, s.auth.key, o)
	case s.auth.token != nil:
		c, err = container.NewClient(url, s.auth.token, o)
	case sas != "":
		c, err = container.NewClientWithNoCredential(url+"?"+sas, o)
	default:
		c, err = container.NewClientWithNoCredential(url, o)
	}
	if err != nil {
		return nil, invalid("%s: the client cannot be made", s.where)
	}
	s.client, s.clientN = c, n
	return c, nil
}

func (s *Store) blob(key string) (*blockblob.Client, error) {
	c, err := s.container()
	if err != nil {
		return nil, err
	}
	return c.NewBlockBlobClient(s.cfg.Prefix + key), nil
}

// String returns the az or adls URL of the store, without secrets.
func (s *Store) String() string { return s.cfg.url() }

// Capabilities implements object.Store.
func (s *Store) Capabilities() object.Capabilities {
	return object.Capabilities{PutIfAbsent: true, PutIfMatch: true, Metadata: true, Remote: true}
}

// Close closes idle connections.
func (s *Store) Close() error {
	s.http.CloseIdleConnections()
	return nil
}

// Config returns the configuration, with what Open has put in.
func (s *Store) Config() Config { return s.cfg }

// begin is what every operation on keys begins with.
func (s *Store) begin(ctx context.Context, op string, keys ...string) error {
	for _, key := range keys {
		if err := s.validKey(key); err != nil {
			return &object.Error{Op: op, Key: key, Err: err}
		}
	}
	if err := ctx.Err(); err != nil {
		return &object.Error{Op: op, Key: strings.Join(keys, " → "), Err: err}
	}
	return nil
}

func (s *Store) validKey(key string) error {
	if err := object.ValidKey(key); err != nil {
		return err
	}
	full := s.cfg.Prefix + key
	if len(full) > object.MaxKey {
		return invalid("with the prefix %q the key has more than %d bytes", s.cfg.Prefix, object.MaxKey)
	}
	if why := refused(full, s.cfg.Hierarchical); why != "" {
		return invalid("%s", why)
	}
	return nil
}

// mostParts is how many parts a blob's name may have.
const mostParts = 254

// refused returns why the service would not keep a name as it is, "" if it does.
func refused(name string, tree bool) string {
	for i := range len(name) {
		switch c := name[i]; {
		case c == '\\':
			return `Azure Storage takes '\' in a name for '/'`
		case c < ' ', c == 0x7f:
			return "Azure Storage keeps no control characters in names"
		}
	}
	for _, r := range name {
		if r == 0xFFFE || r == 0xFFFF || r >= 0x80 && r < 0xA0 {
			return "Azure Storage keeps no control characters in names"
		}
	}
	parts := strings.Split(name, "/")
	if len(parts) > mostParts || tree && len(parts) > mostDepth {
		return fmt.Sprintf("the name has %d parts, more than Azure Storage keeps", len(parts))
	}
	for i, p := range parts {
		switch {
		case strings.HasSuffix(p, "."):
			return "Azure Storage drops a '.' at the end of a name"
		case p == "" && tree && i < len(parts)-1:
			return "a directory has a name"
		}
	}
	if tree && strings.HasSuffix(name, "/") {
		return "a key with '/' at its end is a directory"
	}
	return ""
}
