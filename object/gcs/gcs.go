// Package gcs keeps objects in a bucket of Google Cloud Storage.
//
// It speaks the JSON interface itself and takes from Google's libraries only what
// finds credentials (cloud.google.com/go/auth): the storage SDK would more than
// double the size of the program and the time that each of its starts takes, mostly
// for gRPC, which is not used here, and retries by itself, which package
// object/retry does for every kind of store. Objects are read by the XML interface,
// whose answers carry their metadata.
//
// ETags are generations: numbers that the service gives each content of a name, and
// by which it decides conditions.
//
// # Uploads
//
// A body of up to one part is one request with the object's CRC-32C, which the
// service verifies; longer ones are resumable uploads, part after part, whose
// CRC-32C goes with the last one and is compared with that of the object once more.
// Nothing is seen before the last part. An upload that fails is cancelled; one that
// cannot be, or whose process died, the service drops after a week.
package gcs

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/wire"
)

// Config says where the bucket is and how to reach it. Only Bucket is required.
type Config struct {
	Bucket string
	// Prefix begins the keys of all objects, as in "volumes/a/".
	Prefix string
	// Endpoint is the URL of a server other than https://storage.googleapis.com;
	// default: STORAGE_EMULATOR_HOST, which is also used without credentials.
	Endpoint string

	// CredentialsFile holds a service account's key, a user's credentials or a
	// workload identity's configuration; default: GOOGLE_APPLICATION_CREDENTIALS,
	// gcloud's file, the metadata server. It is read again when it has changed.
	CredentialsFile string
	Anonymous       bool // show no credentials
	// Tokens, if not nil, gives OAuth tokens instead, and until when they are good.
	// It may be called concurrently.
	Tokens func(context.Context) (token string, until time.Time, err error)

	// UserProject is the project that pays, for buckets whose readers have to.
	UserProject string
	// KMSKey is the resource name of the key that objects are encrypted with;
	// default: the bucket's.
	KMSKey string
	// StorageClass of new objects that ask for none themselves.
	StorageClass string

	// PartSize is the size of the parts of long uploads, in bytes; 0: 16 MiB. It is
	// a multiple of 256 KiB.
	PartSize int64
	// Concurrency is the number of parts in memory at once, for all uploads
	// together; 0: 8.
	Concurrency int

	MaxIdleConns   int           // idle connections kept; 0: 64
	ConnectTimeout time.Duration // TCP and TLS, each; 0: 10 s
	// StallTimeout is how long a request may make no progress; 0: 30 s. The error
	// wraps ETIMEDOUT.
	StallTimeout time.Duration
	// SlowTimeout is StallTimeout of copies; 0: 5 min.
	SlowTimeout time.Duration
	Proxy       string // URL of a proxy for all requests; empty: the environment's
	CAFile      string // PEM certificates to trust beside the system's
	UserAgent   string // as in "massif/1.2"
}

const (
	kib         = 1 << 10
	mib         = 1 << 20
	partUnit    = 256 * kib
	defaultPart = 16 * mib
	maxObject   = 5 << 40
	service     = "https://storage.googleapis.com"
)

// Store is a bucket, or the part of one below Config.Prefix. It implements
// object.Store and object.RangeReader.
type Store struct {
	cfg     Config
	http    *http.Transport
	client  *http.Client
	auth    *authority
	where   string // bucket and endpoint, for errors
	buffers *wire.Buffers
}

var (
	_ object.Store       = (*Store)(nil)
	_ object.RangeReader = (*Store)(nil)
)

// Open makes a Store. It sends nothing: Check does. The errors are those of a
// configuration that cannot be meant.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s, err := open(cfg)
	if err != nil {
		return nil, &object.Error{Op: "open", Err: err}
	}
	return s, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", object.ErrInvalid, fmt.Sprintf(format, args...))
}

func open(cfg Config) (*Store, error) {
	if host := os.Getenv("STORAGE_EMULATOR_HOST"); host != "" && cfg.Endpoint == "" {
		if !strings.Contains(host, "://") {
			host = "http://" + host
		}
		cfg.Endpoint = host
		if cfg.CredentialsFile == "" && cfg.Tokens == nil {
			cfg.Anonymous = true
		}
	}
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	transport, err := cfg.wire().Transport()
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, http: transport, where: fmt.Sprintf("bucket %q at Google Cloud Storage", cfg.Bucket)}
	if cfg.Endpoint != service {
		s.where = fmt.Sprintf("bucket %q at %s", cfg.Bucket, cfg.Endpoint)
	}
	s.client = &http.Client{Transport: transport, CheckRedirect: wire.NoRedirect}
	s.auth = &authority{cfg: &s.cfg, client: s.client}
	s.buffers = wire.NewBuffers(cfg.PartSize, cfg.Concurrency)
	return s, nil
}

// Validate returns nil if Open would find nothing wrong with the configuration
// itself. It reads no files and no environment and sends nothing.
func (cfg Config) Validate() error { return cfg.fill() }

// fill checks the configuration and puts in what it leaves open.
func (cfg *Config) fill() error {
	if cfg.Bucket == "" {
		return invalid("no bucket is named")
	}
	if strings.ContainsAny(cfg.Bucket, "/\\ ?#") {
		return invalid("%q is no bucket's name", cfg.Bucket)
	}
	if cfg.Prefix != "" {
		if err := object.ValidKey(cfg.Prefix); err != nil {
			return fmt.Errorf("prefix: %w", err)
		}
	}
	if cfg.Endpoint == "" {
		cfg.Endpoint = service
	}
	cfg.Endpoint = strings.TrimRight(cfg.Endpoint, "/")
	if err := wire.CheckEndpoint(cfg.Endpoint); err != nil {
		return err
	}
	if cfg.Anonymous && (cfg.CredentialsFile != "" || cfg.Tokens != nil) {
		return invalid("anonymous access and credentials exclude each other")
	}
	if cfg.PartSize == 0 {
		cfg.PartSize = defaultPart
	}
	if cfg.PartSize < partUnit || cfg.PartSize > 1<<30 || cfg.PartSize%partUnit != 0 {
		return invalid("part size %d is no multiple of 256 KiB up to 1 GiB", cfg.PartSize)
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = 8
	}
	if cfg.StallTimeout <= 0 {
		cfg.StallTimeout = 30 * time.Second
	}
	if cfg.SlowTimeout <= 0 {
		cfg.SlowTimeout = 5 * time.Minute
	}
	return cfg.wire().Validate()
}

func (cfg *Config) wire() wire.Options {
	return wire.Options{Proxy: cfg.Proxy, CAFile: cfg.CAFile, ConnectTimeout: cfg.ConnectTimeout, MaxIdleConns: cfg.MaxIdleConns}
}

// String returns the gs URL of the store, without secrets.
func (s *Store) String() string {
	u := "gs://" + s.cfg.Bucket + "/" + s.cfg.Prefix
	if s.cfg.Endpoint != service {
		u += "?endpoint=" + url.QueryEscape(s.cfg.Endpoint)
	}
	return u
}

// Capabilities implements object.Store.
func (s *Store) Capabilities() object.Capabilities {
	return object.Capabilities{PutIfAbsent: true, PutIfMatch: true, Metadata: true, Remote: true}
}

// Close closes idle connections.
func (s *Store) Close() error {
	s.http.CloseIdleConnections()
	return nil
}

// begin is what every operation on keys begins with.
func (s *Store) begin(ctx context.Context, op string, keys ...string) error {
	for _, key := range keys {
		err := object.ValidKey(key)
		if err == nil && len(s.cfg.Prefix)+len(key) > object.MaxKey {
			err = invalid("with the prefix %q the key has more than %d bytes", s.cfg.Prefix, object.MaxKey)
		}
		if err == nil {
			if why := refused(s.cfg.Prefix + key); why != "" {
				err = invalid("%s", why)
			}
		}
		if err != nil {
			return &object.Error{Op: op, Key: key, Err: err}
		}
	}
	if err := ctx.Err(); err != nil {
		return &object.Error{Op: op, Key: strings.Join(keys, " → "), Err: err}
	}
	return nil
}

// refused returns why the service would not keep a name, "" if it does.
func refused(name string) string {
	switch {
	case name == "." || name == "..":
		return `Google Cloud Storage has no objects "." and ".."`
	case strings.ContainsAny(name, "\r\n"):
		return "Google Cloud Storage keeps no line breaks in names"
	case strings.HasPrefix(name, ".well-known/acme-challenge/"):
		return "Google Cloud Storage keeps nothing below .well-known/acme-challenge/"
	}
	return ""
}
