// Package s3 keeps objects in a bucket of Amazon S3 or of a server that speaks its
// protocol, through aws-sdk-go-v2.
//
// The driver makes one attempt at each request: package object/retry retries, for
// every kind of store alike. What it adds to the SDK is what a file system must be
// sure of: bodies have the length they were announced with or do not become
// objects, answers that were cut short are errors, a connection that stands still
// ends with ETIMEDOUT, listings of servers that ignore parts of the request are
// put right or refused, and errors name the cause in words, with bucket and
// endpoint.
//
// # Uploads
//
// A body of up to one part is one PUT; longer ones, and those of unknown length
// that turn out longer, are multipart uploads with several parts under way at
// once, each from a buffer of the store's pool. Memory is bounded by
// Config.PartSize × Config.Concurrency for all uploads together; a body that is
// in memory already (object.MemoryBody) is sent as it is.
//
// Bodies carry a CRC-32C that the server verifies. Over HTTPS that replaces the
// SHA-256 of the signature, which costs far more time; over HTTP the body is
// signed as well.
package s3

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/wire"
)

// Checksum says how bodies are protected on their way to the server.
type Checksum string

const (
	CRC32C    Checksum = "crc32c"    // the default
	CRC64NVME Checksum = "crc64nvme" // Amazon's newer default
	// NoChecksum is for servers that refuse checksum headers. Bodies are then
	// protected by the SHA-256 of the signature.
	NoChecksum Checksum = "none"
)

// Credentials are static keys. They are never printed.
type Credentials struct {
	AccessKey    string
	SecretKey    string
	SessionToken string // of temporary credentials, else empty
}

// String hides the secrets from every kind of printing.
func (c Credentials) String() string { return "credentials of " + c.AccessKey }

// GoString is String.
func (c Credentials) GoString() string { return c.String() }

// Config says where the bucket is and how to reach it. Only Bucket is required.
// What is empty comes from the environment and the shared configuration files, as
// for Amazon's own tools.
type Config struct {
	Bucket string
	// Prefix begins the keys of all objects, as in "volumes/a/".
	Prefix string
	// Endpoint is the URL of a server other than Amazon's.
	Endpoint string
	Region   string // default with an Endpoint: us-east-1
	// PathStyle puts the bucket into the path of URLs, VirtualHost into the host's
	// name. With neither it is the host's name at Amazon, as Amazon wants it, and
	// the path at other endpoints, which works without an entry in their DNS.
	PathStyle, VirtualHost bool

	Profile         string   // of the shared configuration files
	ConfigFiles     []string // instead of ~/.aws/config
	CredentialFiles []string // instead of ~/.aws/credentials
	Credentials     *Credentials
	Anonymous       bool // sign nothing

	// SSE is the encryption at rest that is asked for: "", "AES256" (SSE-S3),
	// "aws:kms" or "aws:kms:dsse".
	SSE         string
	SSEKMSKeyID string // for SSE-KMS; empty: the bucket's or the account's key
	// CustomerKeyFile names a file with a key of 256 bits, raw, in base64 or in hex,
	// with which the server encrypts (SSE-C), and without which it gives nothing
	// back. Over HTTPS only.
	CustomerKeyFile string
	// RequesterPays says that we pay for requests to somebody else's bucket.
	RequesterPays bool
	// StorageClass of new objects that ask for none themselves.
	StorageClass string
	// NoConditionalPut says that the server ignores conditions of PUT, so that
	// the store does not claim to have that ability. Check finds out too.
	NoConditionalPut bool
	// AnyKey says that a server other than Amazon's keeps apart keys that would
	// be equal if they were paths ("a//b", "a/./b", "x/../a/b" and "a/b"), and
	// lists keys with control characters as they are. Many do not, and would give
	// one object for another, so that without AnyKey such keys are refused.
	AnyKey   bool
	Checksum Checksum

	// PartSize is the size of the parts of long uploads, in bytes; 0: 8 MiB, at
	// least 5 MiB. Parts grow where an object would need more than 10,000.
	PartSize int64
	// Concurrency is the number of parts under way at once, for all uploads
	// together; 0: 8.
	Concurrency int
	// MaxIdleConns is the number of idle connections kept; 0: 64.
	MaxIdleConns int

	ConnectTimeout time.Duration // TCP and TLS, each; 0: 10 s
	// StallTimeout is how long a request may make no progress: no byte of a body
	// going either way, no answer; 0: 30 s. The error wraps ETIMEDOUT.
	StallTimeout time.Duration
	// SlowTimeout is StallTimeout of requests that the server may think about for
	// long: copies, and the completion of uploads; 0: 5 min.
	SlowTimeout time.Duration

	// Proxy is the URL of a proxy for all requests; empty: the environment's.
	Proxy string
	// CAFile names a file of PEM certificates to trust beside the system's.
	CAFile string
	// UserAgent is appended to the SDK's, as in "massif/1.2".
	UserAgent string
}

const (
	mib            = 1 << 20
	minPart        = 5 * mib
	maxPart        = 5 << 30
	maxParts       = 10_000
	maxSingleCopy  = 5 << 30
	deleteBatch    = 1000
	copyPart       = 512 * mib
	defaultPart    = 8 * mib
	abortTimeout   = 30 * time.Second
	conflictRounds = 8
)

// Store is a bucket, or the part of one below Config.Prefix. It implements
// object.Store, object.RangeReader, object.Multipart and object.Presigner.
type Store struct {
	cfg    Config
	client *s3.Client
	signer *s3.PresignClient
	http   *http.Transport
	where  string // bucket and endpoint, for errors

	secure  bool // HTTPS
	buffers *wire.Buffers
	key256  *customerKey // nil: none
	noCond  atomic.Bool  // conditions of PUT do not work
	noBatch atomic.Bool  // the server has no DeleteObjects
}

var (
	_ object.Store       = (*Store)(nil)
	_ object.RangeReader = (*Store)(nil)
	_ object.Multipart   = (*Store)(nil)
	_ object.Presigner   = (*Store)(nil)
)

// Open makes a Store. It sends nothing: Check does. The errors are those of a
// configuration that cannot be meant.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s, err := open(ctx, cfg)
	if err != nil {
		return nil, &object.Error{Op: "open", Err: err}
	}
	return s, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", object.ErrInvalid, fmt.Sprintf(format, args...))
}

func open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	transport, err := cfg.transport()
	if err != nil {
		return nil, err
	}
	load := []func(*config.LoadOptions) error{
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
		config.WithLogger(logging.Nop{}),
		config.WithDefaultRegion("us-east-1"),
	}
	if cfg.Region != "" {
		load = append(load, config.WithRegion(cfg.Region))
	}
	if cfg.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(cfg.Profile))
	}
	if len(cfg.ConfigFiles) > 0 {
		load = append(load, config.WithSharedConfigFiles(cfg.ConfigFiles))
	}
	if len(cfg.CredentialFiles) > 0 {
		load = append(load, config.WithSharedCredentialsFiles(cfg.CredentialFiles))
	}
	switch {
	case cfg.Anonymous:
		load = append(load, config.WithCredentialsProvider(aws.AnonymousCredentials{}))
	case cfg.Credentials != nil:
		c := cfg.Credentials
		load = append(load, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(c.AccessKey, c.SecretKey, c.SessionToken)))
	}
	if cfg.Checksum == NoChecksum {
		load = append(load,
			config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
			config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired))
	}
	ac, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("%w: configuration of the S3 client: %w", object.ErrInvalid, err)
	}
	if !cfg.Anonymous && cfg.Credentials == nil {
		cfg.withReload(&ac, load)
	}
	if cfg.Endpoint == "" && ac.BaseEndpoint != nil {
		cfg.Endpoint = *ac.BaseEndpoint // AWS_ENDPOINT_URL
	}
	cfg.Region = ac.Region
	s := &Store{cfg: cfg, http: transport, secure: true}
	s.where = fmt.Sprintf("bucket %q at Amazon S3 in %s", cfg.Bucket, cfg.Region)
	if cfg.Endpoint != "" {
		s.where = fmt.Sprintf("bucket %q at %s", cfg.Bucket, cfg.Endpoint)
		s.secure = strings.HasPrefix(cfg.Endpoint, "https:")
	}
	if cfg.CustomerKeyFile != "" {
		if !s.secure {
			return nil, invalid("a customer's key is sent over https only")
		}
		if s.key256, err = readCustomerKey(cfg.CustomerKeyFile); err != nil {
			return nil, err
		}
	}
	s.noCond.Store(cfg.NoConditionalPut)
	s.buffers = wire.NewBuffers(cfg.PartSize, cfg.Concurrency)
	s.client = s3.NewFromConfig(ac, func(o *s3.Options) {
		o.HTTPClient = &http.Client{Transport: transport, CheckRedirect: wire.NoRedirect}
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
		}
		o.UsePathStyle = cfg.PathStyle || cfg.Endpoint != "" && !cfg.VirtualHost
		o.ContinueHeaderThresholdBytes = -1 // a round trip for each large body
		o.DisableLogOutputChecksumValidationSkipped = true
		if cfg.RequesterPays || s.key256 != nil {
			o.APIOptions = append(o.APIOptions, s.addHeaders)
		}
		if cfg.UserAgent != "" {
			name, version, _ := strings.Cut(cfg.UserAgent, "/")
			o.APIOptions = append(o.APIOptions, awsmiddleware.AddUserAgentKeyValue(name, version))
		}
	})
	s.signer = newSigner(s.client)
	return s, nil
}

// Validate returns nil if Open would find nothing wrong with the configuration
// itself. It reads no files and sends nothing.
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
	if cfg.Endpoint != "" {
		if err := wire.CheckEndpoint(cfg.Endpoint); err != nil {
			return err
		}
	}
	if err := cfg.wire().Validate(); err != nil {
		return err
	}
	if cfg.PathStyle && cfg.VirtualHost {
		return invalid("path style and virtual host exclude each other")
	}
	if cfg.Anonymous && cfg.Credentials != nil {
		return invalid("anonymous access and credentials exclude each other")
	}
	if c := cfg.Credentials; c != nil && (c.AccessKey == "" || c.SecretKey == "") {
		return invalid("access key or secret key is empty")
	}
	switch cfg.SSE {
	case "", "AES256", "aws:kms", "aws:kms:dsse":
	default:
		return invalid("unknown server-side encryption %q (AES256, aws:kms, aws:kms:dsse)", cfg.SSE)
	}
	if cfg.CustomerKeyFile != "" && cfg.SSE != "" {
		return invalid("a customer's key and encryption %s exclude each other", cfg.SSE)
	}
	if cfg.SSEKMSKeyID != "" && !strings.HasPrefix(cfg.SSE, "aws:kms") {
		return invalid("a KMS key goes with encryption aws:kms")
	}
	switch cfg.Checksum {
	case "":
		cfg.Checksum = CRC32C
	case CRC32C, CRC64NVME, NoChecksum:
	default:
		return invalid("unknown checksum %q (crc32c, crc64nvme, none)", cfg.Checksum)
	}
	if cfg.PartSize == 0 {
		cfg.PartSize = defaultPart
	}
	if cfg.PartSize < minPart || cfg.PartSize > maxPart {
		return invalid("part size %d is not between 5 MiB and 5 GiB", cfg.PartSize)
	}
	if cfg.StallTimeout <= 0 {
		cfg.StallTimeout = 30 * time.Second
	}
	if cfg.SlowTimeout <= 0 {
		cfg.SlowTimeout = 5 * time.Minute
	}
	if cfg.Concurrency <= 0 {
		cfg.Concurrency = 8
	}
	return nil
}

func (cfg *Config) transport() (*http.Transport, error) {
	o := cfg.wire()
	if o.CAFile == "" {
		o.CAFile = os.Getenv("AWS_CA_BUNDLE") // as Amazon's tools do
	}
	return o.Transport()
}

func (cfg *Config) wire() wire.Options {
	return wire.Options{Proxy: cfg.Proxy, CAFile: cfg.CAFile, ConnectTimeout: cfg.ConnectTimeout, MaxIdleConns: cfg.MaxIdleConns}
}

// String returns the s3 URL of the store, without secrets.
func (s *Store) String() string {
	u := "s3://" + s.cfg.Bucket + "/" + s.cfg.Prefix
	if s.cfg.Endpoint != "" {
		u += "?endpoint=" + url.QueryEscape(s.cfg.Endpoint)
	}
	return u
}

// Capabilities implements object.Store.
func (s *Store) Capabilities() object.Capabilities {
	cond := !s.noCond.Load()
	return object.Capabilities{PutIfAbsent: cond, PutIfMatch: cond, Metadata: true, Remote: true}
}

// Close closes idle connections.
func (s *Store) Close() error {
	s.http.CloseIdleConnections()
	return nil
}

// key returns the bucket's name for a key of the store.
func (s *Store) key(key string) *string { return aws.String(s.cfg.Prefix + key) }

// begin is what every operation on keys begins with.
func (s *Store) begin(ctx context.Context, op string, keys ...string) error {
	for _, key := range keys {
		if err := object.ValidKey(key); err != nil {
			return &object.Error{Op: op, Key: key, Err: err}
		}
		if len(s.cfg.Prefix)+len(key) > object.MaxKey {
			err := invalid("with the prefix %q the key has more than %d bytes", s.cfg.Prefix, object.MaxKey)
			return &object.Error{Op: op, Key: key, Err: err}
		}
		if s.cfg.Endpoint != "" && !s.cfg.AnyKey {
			var err error
			switch {
			case ambiguous(s.cfg.Prefix + key):
				err = invalid("keys with empty, \".\" or \"..\" parts are safe at Amazon S3 only")
			case !inXML(key):
				err = invalid("keys with control characters are safe at Amazon S3 only")
			}
			if err != nil {
				return &object.Error{Op: op, Key: key, Err: err}
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return &object.Error{Op: op, Key: strings.Join(keys, " → "), Err: err}
	}
	return nil
}

// ambiguous reports whether a key is not what it would be as a cleaned path. A '/'
// at its end is all right.
func ambiguous(key string) bool {
	for {
		part, rest, more := strings.Cut(key, "/")
		if part == "." || part == ".." || part == "" && more {
			return true
		}
		if !more {
			return false
		}
		key = rest
	}
}

// checkPut checks the options of a new object.
func (s *Store) checkPut(opts *object.PutOptions) error {
	if err := opts.Validate(); err != nil {
		return err
	}
	if opts != nil && (opts.IfAbsent || opts.IfMatch != "") && s.noCond.Load() {
		return fmt.Errorf("%w: %s has no conditional put", object.ErrUnsupported, s.where)
	}
	return nil
}
