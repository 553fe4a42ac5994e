package azure

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/wire"
)

// Checksum says how bodies are protected on their way to the service.
type Checksum string

const (
	CRC64      Checksum = "crc64" // the default
	MD5        Checksum = "md5"   // for servers that know no CRC-64
	NoChecksum Checksum = "none"
)

// Config says where the container is and how to reach it. Container is required,
// and Account, here or in the environment.
type Config struct {
	Account   string // default: AZURE_STORAGE_ACCOUNT
	Container string
	// Prefix begins the keys of all objects, as in "volumes/a/".
	Prefix string
	// Endpoint is the URL of the account at a server other than
	// https://ACCOUNT.blob.core.windows.net, as in
	// http://127.0.0.1:10000/ACCOUNT; default: AZURE_STORAGE_BLOB_ENDPOINT.
	// ".dfs." in the host's name is taken for ".blob.", and the other way round
	// where the Data Lake protocol is spoken.
	Endpoint string
	// Hierarchical says that the account has a hierarchical namespace.
	Hierarchical bool
	// KeepDirectories, over a hierarchical account: a directory whose last file is
	// deleted stays. Without it such directories go, as they do in a flat store, but
	// for those made by Mkdir.
	KeepDirectories bool

	Credentials Credentials

	// Tier of new objects that ask for none themselves: Hot, Cool, Cold, Archive,
	// or a premium account's.
	Tier string
	// CustomerKey is a key of 256 bits in base64 with which the service encrypts
	// (and without which it gives nothing back). It is never printed.
	CustomerKey Secret
	// EncryptionScope names one of the account's.
	EncryptionScope string
	Checksum        Checksum
	// ContentMD5 keeps the MD5 of each object put in one call with it, and compares
	// it where an object that has one is read as a whole.
	ContentMD5 bool
	// APIVersion forces the version of the service's protocol; default:
	// AZURE_STORAGE_SERVICE_API_VERSION, else the SDK's.
	APIVersion string

	// PartSize is the size of the blocks of long uploads, in bytes; 0: 8 MiB.
	// Blocks grow where an object would need more than 50,000.
	PartSize int64
	// Concurrency is the number of blocks under way at once, for all uploads
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
	UserAgent   string // appended to the SDK's, as in "massif/1.2"
}

const (
	mib         = 1 << 20
	defaultPart = 8 * mib
	maxBlock    = 4000 * mib
	maxBlocks   = 50_000
	// mostDepth is how many parts the path of a file in a hierarchical account has.
	mostDepth = 63
	// maxSyncCopy is the largest object that Copy Blob From URL takes.
	maxSyncCopy = 256 * mib
	copyBlock   = 100 * mib // for Put Block From URL
	deleteBatch = 256
)

// Validate returns nil if Open would find nothing wrong with the configuration
// itself. It reads no files and no environment and sends nothing.
func (cfg Config) Validate() error {
	if cfg.Account == "" && cfg.Endpoint == "" {
		cfg.Account = "from-the-environment"
	}
	return cfg.fill()
}

// complete takes from the environment what the configuration leaves open.
func (cfg *Config) complete() error {
	for _, v := range []struct {
		to  *string
		env string
	}{{&cfg.Account, "AZURE_STORAGE_ACCOUNT"}, {&cfg.Endpoint, "AZURE_STORAGE_BLOB_ENDPOINT"}, {&cfg.APIVersion, "AZURE_STORAGE_SERVICE_API_VERSION"}} {
		if *v.to == "" {
			*v.to = os.Getenv(v.env)
		}
	}
	if cfg.CustomerKey == "" {
		cfg.CustomerKey = Secret(os.Getenv("AZURE_STORAGE_CPK_ENCRYPTION_KEY"))
	}
	return cfg.fill()
}

// fill checks the configuration and puts in what it leaves open.
func (cfg *Config) fill() error {
	if cfg.Container == "" {
		return invalid("no container is named")
	}
	if !containerName(cfg.Container) {
		return invalid("%q is no container's name (3 to 63 lower-case letters, digits and single hyphens; or $web, $root, $logs)", cfg.Container)
	}
	if cfg.Account == "" {
		return invalid("no storage account is named; write ?account=NAME or set AZURE_STORAGE_ACCOUNT")
	}
	if strings.ContainsAny(cfg.Account, "/\\ ?#@:") {
		return invalid("%q is no storage account's name", cfg.Account)
	}
	if cfg.Prefix != "" {
		if err := object.ValidKey(cfg.Prefix); err != nil {
			return fmt.Errorf("prefix: %w", err)
		}
		if why := refused(strings.TrimSuffix(cfg.Prefix, "/"), cfg.Hierarchical); why != "" {
			return invalid("prefix: %s", why)
		}
		if cfg.Hierarchical && !strings.HasSuffix(cfg.Prefix, "/") {
			return invalid("the prefix is a directory and ends with '/'")
		}
	}
	if cfg.Endpoint != "" {
		if !strings.Contains(cfg.Endpoint, "://") {
			cfg.Endpoint = "https://" + cfg.Endpoint
		}
		cfg.Endpoint = strings.TrimRight(cfg.Endpoint, "/")
		if err := wire.CheckEndpoint(cfg.Endpoint); err != nil {
			return err
		}
		cfg.Endpoint = swapHost(cfg.Endpoint, ".dfs.", ".blob.")
	}
	switch cfg.Checksum {
	case "":
		cfg.Checksum = CRC64
	case CRC64, MD5, NoChecksum:
	default:
		return invalid("unknown checksum %q (crc64, md5, none)", cfg.Checksum)
	}
	if _, err := cfg.customerKey(); err != nil {
		return err
	}
	if cfg.CustomerKey != "" && cfg.EncryptionScope != "" {
		return invalid("a customer's key and an encryption scope exclude each other")
	}
	if cfg.PartSize == 0 {
		cfg.PartSize = defaultPart
	}
	if cfg.PartSize < mib || cfg.PartSize > maxBlock {
		return invalid("part size %d is not between 1 MiB and 4000 MiB", cfg.PartSize)
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
	if err := cfg.wire().Validate(); err != nil {
		return err
	}
	return cfg.Credentials.validate()
}

// containerName reports whether the service allows the name.
func containerName(name string) bool {
	switch name {
	case "$web", "$root", "$logs", "$blobchangefeed":
		return true
	}
	if len(name) < 3 || len(name) > 63 || name[0] == '-' || name[len(name)-1] == '-' || strings.Contains(name, "--") {
		return false
	}
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// swapHost replaces a part of the host's name in a URL.
func swapHost(s, old, new string) string {
	u, err := url.Parse(s)
	if err != nil {
		return s
	}
	u.Host = strings.Replace(u.Host, old, new, 1)
	return u.String()
}

func (cfg *Config) wire() wire.Options {
	return wire.Options{Proxy: cfg.Proxy, CAFile: cfg.CAFile, ConnectTimeout: cfg.ConnectTimeout, MaxIdleConns: cfg.MaxIdleConns}
}

// base is the URL of the account, without a '/' at its end.
func (cfg *Config) base() string {
	if cfg.Endpoint != "" {
		return cfg.Endpoint
	}
	return "https://" + cfg.Account + ".blob.core.windows.net"
}

func (cfg *Config) containerURL() string { return cfg.base() + "/" + url.PathEscape(cfg.Container) }

// lakeURL is the URL of the container in the Data Lake protocol.
func (cfg *Config) lakeURL() string { return swapHost(cfg.containerURL(), ".blob.", ".dfs.") }

func (cfg *Config) host() string {
	u, err := url.Parse(cfg.base())
	if err != nil {
		return "?"
	}
	return u.Scheme + "://" + u.Host
}

// cloud is where identities of the account live, told by its endpoint.
func (cfg *Config) cloud() cloud.Configuration {
	c := cloud.AzurePublic
	switch host := cfg.host(); {
	case strings.HasSuffix(host, ".chinacloudapi.cn"):
		c = cloud.AzureChina
	case strings.HasSuffix(host, ".usgovcloudapi.net"):
		c = cloud.AzureGovernment
	}
	if cfg.Credentials.AADEndpoint != "" {
		c.ActiveDirectoryAuthorityHost = cfg.Credentials.AADEndpoint
	}
	return c
}

func (cfg *Config) customerKey() (*blob.CPKInfo, error) {
	if cfg.CustomerKey == "" {
		return nil, nil
	}
	key, err := base64.StdEncoding.DecodeString(string(cfg.CustomerKey))
	if err != nil || len(key) != 32 {
		return nil, invalid("the customer's key is not 32 bytes in base64")
	}
	sum := sha256.Sum256(key)
	text, digest := string(cfg.CustomerKey), base64.StdEncoding.EncodeToString(sum[:])
	algorithm := blob.EncryptionAlgorithmTypeAES256
	return &blob.CPKInfo{EncryptionAlgorithm: &algorithm, EncryptionKey: &text, EncryptionKeySHA256: &digest}, nil
}

func (cfg *Config) scope() *blob.CPKScopeInfo {
	if cfg.EncryptionScope == "" {
		return nil
	}
	return &blob.CPKScopeInfo{EncryptionScope: &cfg.EncryptionScope}
}

func (cfg *Config) url() string {
	scheme := "az"
	if cfg.Hierarchical {
		scheme = "adls"
	}
	u := scheme + "://" + cfg.Container + "/" + cfg.Prefix + "?account=" + url.QueryEscape(cfg.Account)
	if cfg.Endpoint != "" {
		u += "&endpoint=" + url.QueryEscape(cfg.Endpoint)
	}
	return u
}
