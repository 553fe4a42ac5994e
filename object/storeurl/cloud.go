package storeurl

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/azure"
	"github.com/massif-fs/massif/object/gcs"
)

func parseAzure(u *url.URL, q *params) (*Location, error) {
	container, prefix, err := place(u, "container")
	if err != nil {
		return nil, err
	}
	l := &Location{}
	cfg := azure.Config{Container: container, Prefix: prefix, Hierarchical: u.Scheme == "adls"}
	q.string("account", &cfg.Account)
	q.string("endpoint", &cfg.Endpoint)
	c := &cfg.Credentials
	var mode, sum string
	q.string("auth", &mode)
	c.Mode = azure.Mode(strings.ToLower(mode))
	q.string("sas-file", &c.SASFile)
	q.string("identity-client-id", &c.AppID)
	q.string("identity-object-id", &c.ObjectID)
	q.string("identity-resource-id", &c.ResourceID)
	q.string("tenant-id", &c.TenantID)
	q.string("client-id", &c.ClientID)
	q.string("certificate-file", &c.CertificateFile)
	q.string("token-file", &c.TokenFile)
	q.string("aad-endpoint", &c.AADEndpoint)
	q.string("auth-resource", &c.Resource)
	q.string("storage-class", &cfg.Tier)
	q.string("encryption-scope", &cfg.EncryptionScope)
	q.string("customer-key-file", &l.customerKey)
	q.string("checksum", &sum)
	cfg.Checksum = azure.Checksum(sum)
	q.bool("content-md5", &cfg.ContentMD5)
	q.string("api-version", &cfg.APIVersion)
	if cfg.Hierarchical {
		q.bool("keep-directories", &cfg.KeepDirectories)
	}
	q.reach(reach{&cfg.PartSize, &cfg.Concurrency, &cfg.ConnectTimeout, &cfg.StallTimeout, &cfg.SlowTimeout, &cfg.Proxy, &cfg.CAFile})
	if err := q.finish(); err != nil {
		return nil, err
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l.Azure = cfg
	return l, nil
}

func (l *Location) openAzure(ctx context.Context, opts Options) (object.Store, error) {
	cfg, err := l.azureConfig(opts)
	if err != nil {
		return nil, err
	}
	return azure.Open(ctx, cfg)
}

func (l *Location) azureConfig(opts Options) (azure.Config, error) {
	cfg := l.Azure
	cfg.UserAgent = opts.UserAgent
	cfg.Credentials = cfg.Credentials.Or(opts.AzureCredentials)
	cfg.CustomerKey = opts.AzureCustomerKey
	if l.customerKey != "" && cfg.CustomerKey == "" {
		p, err := os.ReadFile(l.customerKey)
		if err != nil {
			return cfg, &object.Error{Op: "open", Err: fmt.Errorf("%w: the customer's key: %w", object.ErrInvalid, err)}
		}
		cfg.CustomerKey = azure.Secret(strings.TrimSpace(string(p)))
	}
	return cfg, nil
}

func parseGCS(u *url.URL, q *params) (*Location, error) {
	bucket, prefix, err := place(u, "bucket")
	if err != nil {
		return nil, err
	}
	cfg := gcs.Config{Bucket: bucket, Prefix: prefix}
	q.string("endpoint", &cfg.Endpoint)
	q.string("credentials-file", &cfg.CredentialsFile)
	q.bool("anonymous", &cfg.Anonymous)
	q.string("user-project", &cfg.UserProject)
	q.string("kms-key", &cfg.KMSKey)
	q.string("storage-class", &cfg.StorageClass)
	q.reach(reach{&cfg.PartSize, &cfg.Concurrency, &cfg.ConnectTimeout, &cfg.StallTimeout, &cfg.SlowTimeout, &cfg.Proxy, &cfg.CAFile})
	if err := q.finish(); err != nil {
		return nil, err
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Location{GCS: cfg}, nil
}
