// Package storeurl opens object stores by URL, so that every command and
// specification names them in one way:
//
//	file:///DIR                        a directory
//	s3://BUCKET/PREFIX?endpoint=URL    a bucket, or a part of one
//	az://CONTAINER/PREFIX?account=NAME   a container of Azure Blob Storage
//	adls://CONTAINER/PREFIX?account=NAME the same in an account with a hierarchical
//	                                     namespace (ADLS Gen2)
//	gs://BUCKET/PREFIX                 a bucket of Google Cloud Storage
//	mem://NAME                         memory, as long as the process lives
//
// Parameters of file URLs:
//
//	sync=false            leave it to the kernel when data reaches the disk
//
// Parameters of s3 URLs (package object/s3 tells what they mean):
//
//	endpoint=URL          a server other than Amazon's
//	region=NAME
//	path-style=BOOL       the bucket in the path of requests, or in the host's name;
//	                      otherwise as the server wants it as a rule
//	profile=NAME          of the shared configuration files
//	config-file=FILE, credentials-file=FILE
//	anonymous=BOOL        sign nothing
//	sse=KIND              AES256 (or true), aws:kms, aws:kms:dsse
//	sse-kms-key-id=ID
//	storage-class=NAME
//	checksum=KIND         crc32c, crc64nvme, none
//	conditional-put=BOOL  false for servers that ignore conditions
//	any-key=BOOL          the server keeps apart keys like "a//b" and "a/b"
//	requester-pays=BOOL   pay for requests to somebody else's bucket
//	customer-key-file=FILE  a key of 256 bits for encryption at rest (SSE-C)
//
// Parameters of az and adls URLs (package object/azure):
//
//	account=NAME          of the storage account; default: AZURE_STORAGE_ACCOUNT
//	endpoint=URL          of the account, elsewhere than at core.windows.net
//	auth=MODE             key, sas, msi, spn, azcli, workloadidentity, anonymous;
//	                      otherwise told by the credentials that are there
//	sas-file=FILE         a SAS, read again when it has changed
//	identity-client-id=ID, identity-object-id=ID, identity-resource-id=ID
//	tenant-id=ID, client-id=ID, certificate-file=FILE, token-file=FILE
//	aad-endpoint=URL, auth-resource=URL
//	storage-class=TIER    Hot, Cool, Cold, Archive, …
//	encryption-scope=NAME
//	customer-key-file=FILE  a key of 256 bits in base64 for encryption at rest
//	checksum=KIND         crc64, md5, none
//	content-md5=BOOL      keep and compare the MD5 of objects
//	api-version=DATE
//	keep-directories=BOOL adls: a directory stays when its last object is deleted
//
// Parameters of gs URLs (package object/gcs):
//
//	endpoint=URL          a server other than Google's
//	credentials-file=FILE of a service account, a user or a workload identity
//	anonymous=BOOL        show no credentials
//	user-project=PROJECT  who pays, where the reader has to
//	kms-key=NAME
//	storage-class=NAME
//
// Parameters of all stores that are reached over a network:
//
//	part-size=SIZE, concurrency=N
//	connect-timeout=DURATION, stall-timeout=DURATION, slow-timeout=DURATION
//	proxy=URL             otherwise HTTPS_PROXY, HTTP_PROXY and NO_PROXY
//	ca-file=FILE
//
// A URL never holds secrets: URLs are shown in lists, logs and by ps. Credentials
// come from the environment, from shared configuration files, or from Options.
// URLs with credentials are refused, and so are unknown parameters, by name.
package storeurl

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/azure"
	"github.com/massif-fs/massif/object/file"
	"github.com/massif-fs/massif/object/gcs"
	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/object/s3"
)

// Options are what a URL does not say.
type Options struct {
	Create   bool // make the directory of a file URL if missing
	ReadOnly bool // for directories: change nothing, so that write protection is no obstacle
	NoSync   bool // for directories: as sync=false

	S3Credentials *s3.Credentials // instead of those of environment and files
	// AzureCredentials come before those of the environment, and those of the URL
	// before both.
	AzureCredentials azure.Credentials
	AzureCustomerKey azure.Secret // instead of that of a customer-key-file
	UserAgent        string       // as in "massif/1.2"
}

// Location is a parsed URL.
type Location struct {
	Scheme string       // file, s3, az, adls, gs or mem
	Path   string       // of a file URL, absolute
	Sync   bool         // of a file URL
	S3     s3.Config    // of an s3 URL
	Azure  azure.Config // of an az or adls URL
	GCS    gcs.Config   // of a gs URL
	Name   string       // of a mem URL

	customerKey string // file with the customer's key of an az or adls URL

	raw string
}

// String returns the URL as it was given.
func (l *Location) String() string { return l.raw }

// Open opens the store at rawURL. The error says in a sentence what is wrong; it
// wraps object.ErrInvalid if that is the URL. An S3 store is opened without a
// request: its Check method makes one.
func Open(ctx context.Context, rawURL string, opts Options) (object.Store, error) {
	l, err := Parse(rawURL)
	if err != nil {
		return nil, err
	}
	return l.Open(ctx, opts)
}

// Open opens the store.
func (l *Location) Open(ctx context.Context, opts Options) (object.Store, error) {
	switch l.Scheme {
	case "file":
		s, err := file.Open(l.Path, file.Options{Create: opts.Create, ReadOnly: opts.ReadOnly, NoSync: opts.NoSync || !l.Sync})
		if err != nil {
			return nil, err
		}
		return s, nil
	case "s3":
		s, err := s3.Open(ctx, l.s3Config(opts))
		if err != nil {
			return nil, err
		}
		return s, nil
	case "az", "adls":
		return l.openAzure(ctx, opts)
	case "gs":
		cfg := l.GCS
		cfg.UserAgent = opts.UserAgent
		s, err := gcs.Open(ctx, cfg)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	return mem.Named(l.Name), nil
}

// Buckets lists the buckets or containers of the account that a URL belongs to,
// whichever bucket it names. Credentials that may not ask that give object.ErrAccess;
// stores that have no accounts give object.ErrUnsupported.
func (l *Location) Buckets(ctx context.Context, opts Options) ([]string, error) {
	switch l.Scheme {
	case "s3":
		return s3.Buckets(ctx, l.s3Config(opts))
	case "az", "adls":
		cfg, err := l.azureConfig(opts)
		if err != nil {
			return nil, err
		}
		return azure.Containers(ctx, cfg)
	}
	return nil, &object.Error{Op: "list buckets", Err: fmt.Errorf("%w: %s stores have no account", object.ErrUnsupported, l.Scheme)}
}

// Hierarchical asks the account of an az or adls URL whether it has a hierarchical
// namespace.
func (l *Location) Hierarchical(ctx context.Context, opts Options) (bool, error) {
	cfg, err := l.azureConfig(opts)
	if err != nil {
		return false, err
	}
	return azure.Hierarchical(ctx, cfg)
}

func (l *Location) s3Config(opts Options) s3.Config {
	cfg := l.S3
	cfg.UserAgent = opts.UserAgent
	if !cfg.Anonymous {
		cfg.Credentials = opts.S3Credentials
	}
	return cfg
}

// Check finds out whether a store can be used, and with write whether it can be
// written, where the driver has a way to find out. Wrappers are looked through.
func Check(ctx context.Context, s object.Store, write bool) error {
	if c, ok := object.As[interface {
		Check(ctx context.Context, write bool) error
	}](s); ok {
		return c.Check(ctx, write)
	}
	_, err := s.List(ctx, object.ListOptions{Limit: 1})
	return err
}

// Parse checks a URL without opening anything.
func Parse(rawURL string) (*Location, error) {
	l, err := parse(rawURL)
	if err != nil {
		if !errors.Is(err, object.ErrInvalid) {
			err = fmt.Errorf("%w: %w", object.ErrInvalid, err)
		}
		return nil, &object.Error{Op: "store URL", Err: err}
	}
	l.raw = rawURL
	return l, nil
}

func parse(rawURL string) (*Location, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // without the URL, which may hold a secret
		}
		return nil, fmt.Errorf("not a URL: %w", err)
	}
	if u.User != nil {
		return nil, errors.New("the URL holds credentials; give them by the environment (AWS_ACCESS_KEY_ID, AZURE_STORAGE_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, …), a profile or a file")
	}
	if u.Fragment != "" || strings.HasSuffix(rawURL, "#") {
		return nil, errors.New("the URL has a fragment; write '#' as %23")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("the parameters after '?' are not well-formed")
	}
	q := &params{values: query}
	var l *Location
	switch u.Scheme {
	case "file":
		l, err = parseFile(u, q)
	case "s3":
		l, err = parseS3(u, q)
	case "az", "adls":
		l, err = parseAzure(u, q)
	case "gs":
		l, err = parseGCS(u, q)
	case "mem":
		if u.Opaque != "" || u.Host == "" || u.Path != "" && u.Path != "/" {
			return nil, errors.New("write mem://NAME")
		}
		l = &Location{Name: u.Host}
	case "":
		return nil, fmt.Errorf("%q is not a URL; write file:///DIR, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX, gs://BUCKET/PREFIX or mem://NAME", rawURL)
	default:
		return nil, fmt.Errorf("unknown kind of store %q; there are file, s3, az, adls, gs and mem", u.Scheme)
	}
	if err == nil {
		err = q.finish()
	}
	if err != nil {
		return nil, err
	}
	l.Scheme = u.Scheme
	return l, nil
}

func parseFile(u *url.URL, q *params) (*Location, error) {
	if u.Opaque != "" || u.Host != "" && u.Host != "localhost" || !strings.HasPrefix(u.Path, "/") {
		return nil, errors.New("a directory is named by its absolute path, as in file:///srv/objects")
	}
	if strings.IndexByte(u.Path, 0) >= 0 {
		return nil, errors.New("the path contains a NUL byte")
	}
	l := &Location{Path: u.Path, Sync: true}
	q.bool("sync", &l.Sync)
	return l, nil
}

func parseS3(u *url.URL, q *params) (*Location, error) {
	bucket, prefix, err := place(u, "bucket")
	if err != nil {
		return nil, err
	}
	cfg := s3.Config{Bucket: bucket, Prefix: prefix}
	q.string("endpoint", &cfg.Endpoint)
	q.string("region", &cfg.Region)
	if _, given := q.values["path-style"]; given {
		q.bool("path-style", &cfg.PathStyle)
		cfg.VirtualHost = !cfg.PathStyle
	}
	q.string("profile", &cfg.Profile)
	var configFile, credentialsFile string
	q.string("config-file", &configFile)
	if configFile != "" {
		cfg.ConfigFiles = []string{configFile}
	}
	q.string("credentials-file", &credentialsFile)
	if credentialsFile != "" {
		cfg.CredentialFiles = []string{credentialsFile}
	}
	q.bool("anonymous", &cfg.Anonymous)
	q.string("sse", &cfg.SSE)
	switch cfg.SSE {
	case "true":
		cfg.SSE = "AES256"
	case "false":
		cfg.SSE = ""
	}
	q.string("sse-kms-key-id", &cfg.SSEKMSKeyID)
	q.string("storage-class", &cfg.StorageClass)
	var sum string
	q.string("checksum", &sum)
	cfg.Checksum = s3.Checksum(sum)
	conditional := true
	q.bool("conditional-put", &conditional)
	cfg.NoConditionalPut = !conditional
	q.bool("any-key", &cfg.AnyKey)
	q.bool("requester-pays", &cfg.RequesterPays)
	q.string("customer-key-file", &cfg.CustomerKeyFile)
	q.reach(reach{&cfg.PartSize, &cfg.Concurrency, &cfg.ConnectTimeout, &cfg.StallTimeout, &cfg.SlowTimeout, &cfg.Proxy, &cfg.CAFile})
	if err := q.finish(); err != nil {
		return nil, err
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Location{S3: cfg}, nil
}

// place is the bucket or container of a URL, and the prefix, which ends with '/'.
func place(u *url.URL, what string) (bucket, prefix string, err error) {
	if u.Opaque != "" || u.Host == "" {
		return "", "", fmt.Errorf("no %s is named; write %s://%s/PREFIX", what, u.Scheme, strings.ToUpper(what))
	}
	if u.Port() != "" {
		return "", "", fmt.Errorf("a %s has no port; name the server as ?endpoint=http://HOST:PORT", what)
	}
	prefix = strings.TrimPrefix(u.Path, "/")
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	return u.Host, prefix, nil
}

// reach is what all stores have that are reached over a network.
type reach struct {
	partSize                                  *int64
	concurrency                               *int
	connectTimeout, stallTimeout, slowTimeout *time.Duration
	proxy, caFile                             *string
}

func (q *params) reach(r reach) {
	q.size("part-size", r.partSize)
	q.count("concurrency", r.concurrency)
	q.duration("connect-timeout", r.connectTimeout)
	q.duration("stall-timeout", r.stallTimeout)
	q.duration("slow-timeout", r.slowTimeout)
	q.string("proxy", r.proxy)
	if u, err := url.Parse(*r.proxy); err == nil && u.User != nil {
		q.fail("proxy", "a URL must not hold secrets; give a proxy with a password by HTTPS_PROXY")
	}
	q.string("ca-file", r.caFile)
}

// params are the parameters of a URL. Each is taken out when it is read; finish
// refuses those that nobody knew.
type params struct {
	values url.Values
	err    error
}

func (q *params) take(name string) (string, bool) {
	v, ok := q.values[name]
	delete(q.values, name)
	if !ok {
		return "", false
	}
	if len(v) > 1 {
		q.fail(name, "it is given twice")
	}
	if v[0] == "" {
		q.fail(name, "it is empty")
	}
	return v[0], true
}

// fail does not show values: the wrong place for a secret is a likely mistake.
func (q *params) fail(name, why string) {
	if q.err == nil {
		q.err = fmt.Errorf("parameter %s: %s", name, why)
	}
}

func (q *params) string(name string, v *string) {
	if s, ok := q.take(name); ok {
		*v = s
	}
}

func (q *params) bool(name string, v *bool) {
	s, ok := q.take(name)
	if !ok {
		return
	}
	switch s {
	case "true", "1", "yes":
		*v = true
	case "false", "0", "no":
		*v = false
	default:
		q.fail(name, "write true or false")
	}
}

func (q *params) duration(name string, v *time.Duration) {
	s, ok := q.take(name)
	if !ok {
		return
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		q.fail(name, "write a duration such as 30s or 2m")
		return
	}
	*v = d
}

func (q *params) count(name string, v *int) {
	s, ok := q.take(name)
	if !ok {
		return
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		q.fail(name, "write a number of 1 or more")
		return
	}
	*v = int(n)
}

// size takes bytes, or a number with KiB, MiB or GiB.
func (q *params) size(name string, v *int64) {
	s, ok := q.take(name)
	if !ok {
		return
	}
	shift := 0
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			s, shift = n, 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		q.fail(name, "write a size such as 16MiB")
		return
	}
	*v = int64(n) << shift
}

// secrets are parameters that people may try.
var secrets = []string{"access-key", "access_key", "access-key-id", "access_key_id", "secret-key", "secret_key", "secret-access-key", "secret_access_key", "session-token", "session_token", "token", "password",
	"account-key", "account_key", "sas", "sas-token", "sas_token", "sig", "client-secret", "client_secret", "clientsecret", "customer-key", "credentials"}

func (q *params) finish() error {
	if q.err != nil {
		return q.err
	}
	for name := range q.values {
		if slices.Contains(secrets, strings.ToLower(name)) {
			return fmt.Errorf("parameter %s: a URL must not hold secrets; use the environment, a profile or a credentials file", name)
		}
	}
	names := make([]string, 0, len(q.values))
	for name := range q.values {
		names = append(names, strconv.Quote(name))
	}
	slices.Sort(names)
	if len(names) > 0 {
		return fmt.Errorf("unknown parameter %s", strings.Join(names, ", "))
	}
	return nil
}
