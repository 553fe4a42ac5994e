package flist

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Store keeps the cipher texts of blocks by id. All methods may be called
// concurrently. Whoever gets a block verifies it.
type Store interface {
	// Get returns a block: ErrNotFound if the store has it not. Longer answers than
	// MaxSealed are errors.
	Get(ctx context.Context, id []byte) ([]byte, error)
	// Put stores a block; one that is there already stays as it is.
	Put(ctx context.Context, id, sealed []byte) error
	// String names the store as a URL without secrets.
	String() string
	Close() error
}

var (
	// ErrNotFound says that a store has not the block.
	ErrNotFound = errors.New("the block is not there")
	// ErrReadOnly says that a kind of store cannot be written to.
	ErrReadOnly = errors.New("blocks cannot be written to this kind of store")
)

var errTooLong = fmt.Errorf("the answer is longer than a block can be")

// OpenStore opens a store of blocks by its URL. Nothing is contacted yet. Known are
//
//	dir:///DIR                                a directory: DIR/ab/abcd…
//	http://HOST/BASE, https://                the same on a web server, read-only
//	zdb://[:PASSWORD@]HOST[:PORT][/NAMESPACE] 0-db (port 9900) or a Redis server;
//	redis:// and ardb:// mean the same, zdb:///SOCKET a UNIX socket
//	s3://KEY:SECRET@HOST:PORT/BUCKET[?region=R], s3s:// with TLS
//	server://http://HOST[:PORT][?token=T]     the block interface of an rfs server, read-only
//	file://, az://, adls://, gs://, s3://BUCKET/PREFIX  object stores, as package storeurl has them
//
// An error never shows what may be a secret in the URL.
func OpenStore(ctx context.Context, rawURL string) (Store, error) {
	if nested, ok := strings.CutPrefix(rawURL, "server://"); ok {
		return openServer(nested)
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, errors.New("the URL of a block store is not well formed")
	}
	switch u.Scheme {
	case "dir":
		if u.Host != "" || u.Path == "" || u.RawQuery != "" {
			return nil, errors.New("write dir:///DIR, with three slashes")
		}
		return &dirStore{u.Path}, nil
	case "http", "https":
		return openWeb(u)
	case "zdb", "redis", "ardb":
		return openZDB(u)
	case "s3", "s3s", "s3+tls", "s3s+tls":
		if u.Port() != "" || u.User != nil {
			return openBucket(ctx, u)
		}
		return openObjects(ctx, rawURL)
	case "file", "az", "adls", "gs", "mem":
		return openObjects(ctx, rawURL)
	case "":
		return nil, errors.New("a block store is named by a URL, such as dir:///DIR, https://HOST/BASE or zdb://HOST:9900/NAMESPACE")
	}
	return nil, fmt.Errorf("unknown kind of block store %q; there are dir, http, https, zdb, redis, s3, s3s, server, file, az and gs", u.Scheme)
}

// WithoutSecrets takes user, password and token out of a store's URL.
func WithoutSecrets(rawURL string) string {
	prefix, rest := "", rawURL
	if nested, ok := strings.CutPrefix(rawURL, "server://"); ok {
		prefix, rest = "server://", nested
	}
	u, err := url.Parse(rest)
	if err != nil {
		return prefix + "(not a URL)"
	}
	u.User = nil
	q := u.Query()
	if q.Has("token") {
		q.Del("token")
		u.RawQuery = q.Encode()
	}
	return prefix + u.String()
}
