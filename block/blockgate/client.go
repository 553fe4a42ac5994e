package blockgate

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/wire"
	"github.com/massif-fs/massif/vfs"
)

// ClientConfig says where the gate is and who asks. URL and Session are required.
type ClientConfig struct {
	// URL of the metadata server, as in "https://meta.example.com:7700".
	URL string
	// TLS verifies the metadata server, as the client's credentials say (pinned
	// CA); nil: the system's certificates.
	TLS *tls.Config
	// Dial, if not nil, makes the connections to the metadata server.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Session gives the name and bearer secret of the client's session with the
	// metadata server, asked for each request: a session may be begun anew. Its
	// error is final for the request; let it wrap object.ErrAccess where the
	// session is over for good, object.ErrUnavailable where it may come back.
	Session func(ctx context.Context) (name, secret string, err error)

	// BucketTLS verifies the bucket's server; nil: the system's certificates.
	BucketTLS *tls.Config
	// PlainBucket accepts signed URLs without TLS, which everybody on the way can
	// read and use; without it only on this machine.
	PlainBucket bool

	// Prefix is that of block.Config; empty: block.DefaultPrefix.
	Prefix string
	// Grants and Files bound what is remembered: signed requests (about 1 KiB
	// each), and which file a block belongs to (about 50 bytes); 0: 4096 and 65536.
	Grants, Files int

	ConnectTimeout time.Duration // TCP and TLS, each; 0: 10 s
	StallTimeout   time.Duration // a request without progress; 0: 30 s; the error wraps ETIMEDOUT
	UserAgent      string
}

// Client is the client's half: an object.Store that has the blocks of a volume and
// no other keys, for block.New. It puts no options but IfAbsent, which it adds itself;
// a block that is there with the same bytes counts as put. Delete, List and Copy
// give ErrUnsupported: they are the server's. Wrap it in object/retry.
type Client struct {
	cfg    ClientConfig
	base   *url.URL
	book   book
	gate   *http.Client
	bucket *http.Client

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

var (
	_ object.Store       = (*Client)(nil)
	_ object.RangeReader = (*Client)(nil)
)

// NewClient makes a Client. It sends nothing.
func NewClient(cfg ClientConfig) (*Client, error) {
	base, err := url.Parse(cfg.URL)
	if err != nil || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Scheme != "https" && base.Scheme != "http" {
		return nil, &object.Error{Op: "open", Err: fmt.Errorf("%w: the metadata server's address is not an https URL", object.ErrInvalid)}
	}
	if cfg.Session == nil {
		return nil, &object.Error{Op: "open", Err: fmt.Errorf("%w: a block gate's client needs a session", object.ErrInvalid)}
	}
	if cfg.Prefix == "" {
		cfg.Prefix = block.DefaultPrefix
	}
	if cfg.Grants <= 0 {
		cfg.Grants = 4096
	}
	if cfg.Files <= 0 {
		cfg.Files = 1 << 16
	}
	if cfg.ConnectTimeout <= 0 {
		cfg.ConnectTimeout = 10 * time.Second
	}
	if cfg.StallTimeout <= 0 {
		cfg.StallTimeout = 30 * time.Second
	}
	base.Path = strings.TrimSuffix(base.Path, "/") + Path
	c := &Client{cfg: cfg, base: base}
	if c.gate, err = c.client(cfg.TLS, cfg.Dial); err == nil {
		c.bucket, err = c.client(cfg.BucketTLS, nil)
	}
	if err != nil {
		return nil, fail("open", "", err)
	}
	c.gate.Transport.(*http.Transport).Proxy = nil // the metadata protocol uses none either
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.book.open(c)
	return c, nil
}

func (c *Client) client(verify *tls.Config, dial func(context.Context, string, string) (net.Conn, error)) (*http.Client, error) {
	t, err := wire.Options{ConnectTimeout: c.cfg.ConnectTimeout}.Transport()
	if err != nil {
		return nil, err
	}
	if verify != nil {
		t.TLSClientConfig = verify.Clone()
	}
	t.TLSClientConfig.NextProtos = []string{"http/1.1"} // the port speaks the metadata protocol, too
	t.MaxResponseHeaderBytes = 64 << 10
	if dial != nil {
		t.DialContext = dial
	}
	return &http.Client{CheckRedirect: wire.NoRedirect, Transport: t}, nil
}

// Refer tells that a chunk of a file points to blocks. It is called with what the
// metadata says, before the blocks are read.
func (c *Client) Refer(ino vfs.Ino, chunk uint32, ids ...block.ID) {
	c.book.refer(place{ino, chunk}, ids)
}

// String names the store.
func (c *Client) String() string {
	return (&url.URL{Scheme: c.base.Scheme, Host: c.base.Host, Path: c.base.Path}).String()
}

// Capabilities implements object.Store.
func (c *Client) Capabilities() object.Capabilities {
	return object.Capabilities{PutIfAbsent: true, Remote: true}
}

// Close ends requests for grants and idle connections.
func (c *Client) Close() error {
	c.cancel()
	c.wg.Wait()
	c.gate.CloseIdleConnections()
	c.bucket.CloseIdleConnections()
	return nil
}

// name is what a key of this store stands for.
type name struct {
	key   string
	id    block.ID
	plain bool // plain bytes, by block.PlainKey
}

func (c *Client) parse(ctx context.Context, op, key string) (name, error) {
	err := object.ValidKey(key)
	if err == nil {
		if id, ok := block.ParseKey(c.cfg.Prefix, key); ok {
			return name{key, id, false}, fail(op, key, ctx.Err())
		}
		if id, ok := block.ParsePlainKey(c.cfg.Prefix, key); ok {
			return name{key, id, true}, fail(op, key, ctx.Err())
		}
		err = fmt.Errorf("%w: a block gate has blocks only", object.ErrInvalid)
	}
	return name{}, fail(op, key, err)
}

// fail makes the *object.Error of a failed operation.
func fail(op, key string, err error) error {
	var oe *object.Error
	if err == nil || errors.As(err, &oe) {
		return err
	}
	return &object.Error{Op: op, Key: key, Err: err}
}

func unsupported(op, key string) error {
	return fail(op, key, fmt.Errorf("%w: that is the metadata server's business", object.ErrUnsupported))
}

// Delete implements object.Store.
func (c *Client) Delete(_ context.Context, keys ...string) error {
	if len(keys) == 0 {
		return nil
	}
	return unsupported("delete", keys[0])
}

// List implements object.Store.
func (c *Client) List(_ context.Context, opts object.ListOptions) (object.Page, error) {
	return object.Page{}, unsupported("list", opts.Prefix)
}

// Copy implements object.Store.
func (c *Client) Copy(_ context.Context, _, src string, _ *object.PutOptions) (object.Info, error) {
	return object.Info{}, unsupported("copy", src)
}

// Head implements object.Store. It reads a byte: a signed request is for one method.
func (c *Client) Head(ctx context.Context, key string) (object.Info, error) {
	const op = "head"
	n, err := c.parse(ctx, op, key)
	if err != nil {
		return object.Info{}, err
	}
	if n.plain {
		return object.Info{}, unsupported(op, key)
	}
	body, info, err := c.get(ctx, n, 0, 1)
	if err != nil {
		return object.Info{}, fail(op, key, err)
	}
	return info, fail(op, key, body.Close())
}

// Get implements object.Store.
func (c *Client) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, object.Info, error) {
	const op = "get"
	if off < 0 {
		return nil, object.Info{}, fail(op, key, fmt.Errorf("%w: negative offset", object.ErrInvalid))
	}
	nm, err := c.parse(ctx, op, key)
	if err == nil && nm.plain {
		err = unsupported(op, key)
	}
	if err != nil {
		return nil, object.Info{}, err
	}
	empty := io.NopCloser(bytes.NewReader(nil))
	if n == 0 {
		info, err := c.Head(ctx, key)
		return empty, info, err
	}
	body, info, err := c.get(ctx, nm, off, n)
	if errors.Is(err, wire.ErrRange) {
		info, err := c.Head(ctx, key)
		return empty, info, err
	}
	if err != nil {
		return nil, object.Info{}, fail(op, key, err)
	}
	return body, info, nil
}

// ReadRange implements object.RangeReader.
func (c *Client) ReadRange(ctx context.Context, key string, p []byte, off int64) (int, error) {
	const op = "read"
	if off < 0 {
		return 0, fail(op, key, fmt.Errorf("%w: negative offset", object.ErrInvalid))
	}
	n, err := c.parse(ctx, op, key)
	if err != nil {
		return 0, err
	}
	if n.plain {
		got, err := c.plain(ctx, n.id, p, off)
		return got, fail(op, key, err)
	}
	if len(p) == 0 {
		_, err := c.Head(ctx, key)
		return 0, err
	}
	body, _, err := c.get(ctx, n, off, int64(len(p)))
	if errors.Is(err, wire.ErrRange) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, fail(op, key, err)
	}
	return body.ReadInto(p, op, key)
}

// Put implements object.Store: it creates the object of a block. size must be
// known. A body that can be read again is protected by its checksum on the way.
func (c *Client) Put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	info, err := c.put(ctx, key, body, size, opts)
	return info, fail("put", key, err)
}

func (c *Client) put(ctx context.Context, key string, body io.Reader, size int64, opts *object.PutOptions) (object.Info, error) {
	n, err := c.parse(ctx, "put", key)
	if err != nil {
		return object.Info{}, err
	}
	if err := opts.Validate(); err != nil {
		return object.Info{}, err
	}
	if n.plain || opts != nil && (opts.IfMatch != "" || opts.ContentType != "" || len(opts.Metadata) > 0 || opts.StorageClass != "") {
		return object.Info{}, fmt.Errorf("%w: blocks are created without properties", object.ErrUnsupported)
	}
	if m, ok := body.(object.MemoryBody); ok {
		if err := object.CheckLength(m, size); err != nil {
			return object.Info{}, err
		}
		size = int64(m.Len())
	}
	if err := checkSize(size); err != nil {
		if size < 0 {
			err = fmt.Errorf("%w: a body of unknown length", object.ErrUnsupported)
		}
		return object.Info{}, err
	}
	out, err := newOutgoing(body, size)
	if err != nil {
		return object.Info{}, err
	}
	info, err := c.send(ctx, n, out)
	if errors.Is(err, object.ErrExists) && (opts == nil || !opts.IfAbsent) {
		return c.same(ctx, n, out, err)
	}
	return info, err
}

// same decides a Put whose object is there already: numbers of blocks are never
// given out twice, so it is our own, of an attempt whose answer was lost, if its bytes
// are ours.
func (c *Client) same(ctx context.Context, n name, out *outgoing, exists error) (object.Info, error) {
	if out.seeker == nil {
		return object.Info{}, exists
	}
	there, info, err := c.get(ctx, n, 0, -1)
	if err != nil {
		if errors.Is(err, object.ErrNotFound) || errors.Is(err, block.ErrInParts) {
			err = exists
		}
		return object.Info{}, err
	}
	defer there.Close()
	h := crc32.New(castagnoli)
	if _, err := io.Copy(h, there); err != nil {
		return object.Info{}, err
	}
	if info.Size != out.size || h.Sum32() != *out.sum {
		return object.Info{}, exists
	}
	return info, nil
}
