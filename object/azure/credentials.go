package azure

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/massif-fs/massif/object"
)

// Mode is a way of authentication.
type Mode string

const (
	Key              Mode = "key"
	SAS              Mode = "sas"
	MSI              Mode = "msi" // managed identity
	SPN              Mode = "spn" // service principal
	AzCLI            Mode = "azcli"
	WorkloadIdentity Mode = "workloadidentity"
	Anonymous        Mode = "anonymous"
)

// Secret hides itself from every kind of printing.
type Secret string

// String tells only whether there is a secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(secret)"
}

// GoString is String.
func (s Secret) GoString() string { return s.String() }

// Credentials say who asks. What is needed depends on Mode; an empty Mode is
// guessed: MSI if an identity is named by AppID, ResourceID or ObjectID, else Key,
// SAS, SPN by what is there, else MSI.
//
// Of several sources the first one that says something counts, value by value: see
// Or and FromEnvironment.
type Credentials struct {
	Mode Mode

	AccountKey Secret // of Key, base64
	SAS        Secret // of SAS, with or without the leading '?'
	// SASFile holds the SAS. It is read again when it has changed, so that a SAS is
	// replaced without opening the store anew.
	SASFile string
	// SASFunc, if not nil, is asked for the SAS of each request. It may be called
	// concurrently and must be quick.
	SASFunc func() (string, error)

	// AppID (a client ID), ResourceID and ObjectID name the managed identity, one
	// of them at most; none is the system's.
	AppID, ResourceID, ObjectID string

	// Of SPN: the principal, and a secret, a certificate or a federated token.
	TenantID, ClientID string
	ClientSecret       Secret
	CertificateFile    string // PEM or PKCS #12 with the private key
	CertificatePass    Secret
	TokenFile          string // federated token, read again for each use
	Token              Secret // federated token
	UserAssertion      Secret // for a token on behalf of a user

	AADEndpoint string // login host; default: that of the account's cloud
	Resource    string // scope of tokens; default: https://storage.azure.com
}

// Or returns the credentials with what they leave open taken from other. What other
// has for another way of authentication does not matter if c says enough for one.
func (c Credentials) Or(other Credentials) Credentials {
	if c.Mode == "" {
		c.Mode = c.says()
	}
	or := func(a *string, b string) {
		if *a == "" {
			*a = b
		}
	}
	orSecret := func(a *Secret, b Secret) {
		if *a == "" {
			*a = b
		}
	}
	if c.Mode == "" {
		c.Mode = other.Mode
	}
	orSecret(&c.AccountKey, other.AccountKey)
	if c.SAS == "" && c.SASFile == "" && c.SASFunc == nil {
		c.SAS, c.SASFile, c.SASFunc = other.SAS, other.SASFile, other.SASFunc
	}
	if c.AppID == "" && c.ResourceID == "" && c.ObjectID == "" {
		c.AppID, c.ResourceID, c.ObjectID = other.AppID, other.ResourceID, other.ObjectID
	}
	or(&c.TenantID, other.TenantID)
	or(&c.ClientID, other.ClientID)
	if c.ClientSecret == "" && c.CertificateFile == "" && c.TokenFile == "" && c.Token == "" {
		c.ClientSecret, c.CertificateFile, c.CertificatePass = other.ClientSecret, other.CertificateFile, other.CertificatePass
		c.TokenFile, c.Token = other.TokenFile, other.Token
	}
	orSecret(&c.UserAssertion, other.UserAssertion)
	or(&c.AADEndpoint, other.AADEndpoint)
	or(&c.Resource, other.Resource)
	return c
}

// says is the way of authentication that the credentials are enough for, "" if
// there is none.
func (c Credentials) says() Mode {
	switch {
	case c.Mode != "":
		return c.Mode
	case c.AppID != "" || c.ResourceID != "" || c.ObjectID != "":
		return MSI
	case c.AccountKey != "":
		return Key
	case c.SAS != "" || c.SASFile != "" || c.SASFunc != nil:
		return SAS
	case c.ClientSecret != "" || c.CertificateFile != "" || c.TokenFile != "" || c.Token != "":
		return SPN
	}
	return ""
}

// FromEnvironment takes credentials from variables of Cloudfuse and blobfuse2
// (AZURE_STORAGE_…), and below them those of Azure's own tools. getenv is
// os.Getenv.
func FromEnvironment(getenv func(string) string) Credentials {
	first := func(names ...string) string {
		for _, n := range names {
			if v := getenv(n); v != "" {
				return v
			}
		}
		return ""
	}
	c := Credentials{
		Mode:          Mode(strings.ToLower(getenv("AZURE_STORAGE_AUTH_TYPE"))),
		AccountKey:    Secret(first("AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_KEY")),
		SAS:           Secret(getenv("AZURE_STORAGE_SAS_TOKEN")),
		AppID:         getenv("AZURE_STORAGE_IDENTITY_CLIENT_ID"),
		ResourceID:    getenv("AZURE_STORAGE_IDENTITY_RESOURCE_ID"),
		ObjectID:      getenv("AZURE_STORAGE_IDENTITY_OBJECT_ID"),
		TenantID:      getenv("AZURE_STORAGE_SPN_TENANT_ID"),
		ClientID:      getenv("AZURE_STORAGE_SPN_CLIENT_ID"),
		ClientSecret:  Secret(getenv("AZURE_STORAGE_SPN_CLIENT_SECRET")),
		TokenFile:     getenv("AZURE_OAUTH_TOKEN_FILE"),
		Token:         Secret(getenv("WORKLOAD_IDENTITY_TOKEN")),
		UserAssertion: Secret(getenv("AZURE_STORAGE_USER_ASSERTION")),
		AADEndpoint:   getenv("AZURE_STORAGE_AAD_ENDPOINT"),
		Resource:      getenv("AZURE_STORAGE_AUTH_RESOURCE"),
	}
	return c.Or(Credentials{
		TenantID:        getenv("AZURE_TENANT_ID"),
		ClientID:        getenv("AZURE_CLIENT_ID"),
		ClientSecret:    Secret(getenv("AZURE_CLIENT_SECRET")),
		CertificateFile: getenv("AZURE_CLIENT_CERTIFICATE_PATH"),
		CertificatePass: Secret(getenv("AZURE_CLIENT_CERTIFICATE_PASSWORD")),
		TokenFile:       getenv("AZURE_FEDERATED_TOKEN_FILE"),
		AADEndpoint:     getenv("AZURE_AUTHORITY_HOST"),
	})
}

// validate finds what contradicts itself.
func (c Credentials) validate() error {
	switch c.Mode {
	case "", Key, SAS, MSI, SPN, AzCLI, WorkloadIdentity, Anonymous:
	default:
		return invalid("unknown way of authentication %q (key, sas, msi, spn, azcli, workloadidentity, anonymous)", string(c.Mode))
	}
	n := 0
	for _, id := range []string{c.AppID, c.ResourceID, c.ObjectID} {
		if id != "" {
			n++
		}
	}
	if n > 1 && c.says() == MSI {
		return invalid("a managed identity is named by one of client ID, resource ID and object ID")
	}
	if c.AADEndpoint != "" {
		if u, err := url.Parse(c.AADEndpoint); err != nil || u.Scheme != "https" || u.Host == "" {
			return invalid("the login host is not an https URL")
		}
	}
	return nil
}

// authority gives out what authenticates requests: exactly one of key, token, a SAS
// and nothing.
type authority struct {
	key    *blob.SharedKeyCredential
	secret []byte // of key
	token  azcore.TokenCredential
	cred   Credentials

	mu    sync.Mutex
	text  string    // the SAS, without '?'
	mod   time.Time // of SASFile
	size  int64
	count uint64
}

// newAuthority sees to it that the credentials are there and well-formed. options
// are for requests for tokens.
func newAuthority(cfg *Config, options azcore.ClientOptions) (*authority, error) {
	c := cfg.Credentials.Or(FromEnvironment(os.Getenv))
	if err := c.validate(); err != nil {
		return nil, err
	}
	mode := c.says()
	if mode == "" {
		mode = MSI
	}
	a := &authority{cred: c}
	options.PerCallPolicies = nil // those are for the storage
	var err error
	switch mode {
	case Key:
		if a.secret, err = base64.StdEncoding.DecodeString(string(c.AccountKey)); err != nil || c.AccountKey == "" {
			return nil, denied("the account key is missing or not base64")
		}
		a.key, err = blob.NewSharedKeyCredential(cfg.Account, string(c.AccountKey))
	case SAS:
		if c.SAS == "" && c.SASFile == "" && c.SASFunc == nil {
			return nil, denied("there is no SAS")
		}
		_, _, err = a.sas()
	case Anonymous:
	default:
		a.token, err = c.tokens(mode, options)
		if err == nil && c.Resource != "" {
			a.token = scoped{a.token, scope(c.Resource)}
		}
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

func denied(format string, args ...any) error {
	return fmt.Errorf("%w: %s", object.ErrAccess, fmt.Sprintf(format, args...))
}

// sas returns the SAS of now, "" if there is none, and a number that changes with
// it.
func (a *authority) sas() (string, uint64, error) {
	c := &a.cred
	if a.key != nil || a.token != nil || c.SAS == "" && c.SASFile == "" && c.SASFunc == nil || c.says() == Anonymous {
		return "", 0, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	text := string(c.SAS)
	switch {
	case c.SASFunc != nil:
		var err error
		if text, err = c.SASFunc(); err != nil {
			return "", 0, denied("the SAS cannot be had: %v", err)
		}
	case c.SASFile != "":
		st, err := os.Stat(c.SASFile)
		if err == nil && (a.count == 0 || !st.ModTime().Equal(a.mod) || st.Size() != a.size) {
			var p []byte
			if p, err = os.ReadFile(c.SASFile); err == nil {
				a.mod, a.size = st.ModTime(), st.Size()
				text = string(p)
			}
		} else if err == nil {
			text = a.text
		}
		if err != nil {
			return "", 0, denied("the SAS cannot be read: %v", err)
		}
	}
	text = strings.TrimPrefix(strings.TrimSpace(text), "?")
	if text == a.text && a.count > 0 {
		return text, a.count, nil
	}
	q, err := url.ParseQuery(text)
	if err != nil || q.Get("sig") == "" {
		return "", 0, denied("the SAS is not one: it has no signature")
	}
	a.text = text
	a.count++
	return text, a.count, nil
}

// expired returns when the SAS in use ended, zero if it has not or there is none.
func (a *authority) expired() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	q, err := url.ParseQuery(a.text)
	if err != nil {
		return time.Time{}
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z", "2006-01-02"} {
		if end, err := time.Parse(layout, q.Get("se")); err == nil {
			if end.Before(time.Now()) {
				return end
			}
			break
		}
	}
	return time.Time{}
}

// tokens makes the source of tokens of a way of authentication.
func (c *Credentials) tokens(mode Mode, options azcore.ClientOptions) (azcore.TokenCredential, error) {
	options.Retry = policy.RetryOptions{MaxRetries: 1, RetryDelay: 200 * time.Millisecond}
	custom := c.AADEndpoint != ""
	cred, err := func() (azcore.TokenCredential, error) {
		switch mode {
		case MSI:
			o := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: options}
			switch {
			case c.AppID != "":
				o.ID = azidentity.ClientID(c.AppID)
			case c.ResourceID != "":
				o.ID = azidentity.ResourceID(c.ResourceID)
			case c.ObjectID != "":
				o.ID = azidentity.ObjectID(c.ObjectID)
			}
			return azidentity.NewManagedIdentityCredential(o)
		case AzCLI:
			return azidentity.NewAzureCLICredential(&azidentity.AzureCLICredentialOptions{TenantID: c.TenantID})
		case WorkloadIdentity:
			if c.TokenFile == "" && c.Token == "" {
				return c.managedAssertion(options)
			}
		}
		if c.TenantID == "" || c.ClientID == "" {
			return nil, denied("a service principal needs a tenant ID and a client ID")
		}
		switch {
		case c.ClientSecret != "" && c.UserAssertion != "":
			return azidentity.NewOnBehalfOfCredentialWithSecret(c.TenantID, c.ClientID, string(c.UserAssertion), string(c.ClientSecret),
				&azidentity.OnBehalfOfCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: custom})
		case c.ClientSecret != "":
			return azidentity.NewClientSecretCredential(c.TenantID, c.ClientID, string(c.ClientSecret),
				&azidentity.ClientSecretCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: custom})
		case c.CertificateFile != "":
			return c.certificate(options)
		case c.TokenFile != "" || c.Token != "":
			return c.assertion(c.federated, options)
		}
		return nil, denied("a service principal needs a secret, a certificate or a federated token")
	}()
	if err != nil && !errors.Is(err, object.ErrAccess) {
		return nil, denied("%s: %s", mode, firstLine(err.Error()))
	}
	return cred, err
}

func (c *Credentials) certificate(options azcore.ClientOptions) (azcore.TokenCredential, error) {
	p, err := os.ReadFile(c.CertificateFile)
	if err != nil {
		return nil, denied("the certificate cannot be read: %v", err)
	}
	certs, key, err := azidentity.ParseCertificates(p, []byte(c.CertificatePass))
	if err != nil {
		return nil, denied("%s holds no certificate with a key, or the password is wrong", c.CertificateFile)
	}
	return azidentity.NewClientCertificateCredential(c.TenantID, c.ClientID, certs, key,
		&azidentity.ClientCertificateCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: c.AADEndpoint != ""})
}

// federated returns the federated token of now.
func (c *Credentials) federated(context.Context) (string, error) {
	if c.Token != "" {
		return string(c.Token), nil
	}
	p, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return "", fmt.Errorf("the federated token cannot be read: %w", err)
	}
	return strings.TrimSpace(string(p)), nil
}

func (c *Credentials) assertion(assert func(context.Context) (string, error), options azcore.ClientOptions) (azcore.TokenCredential, error) {
	if c.UserAssertion != "" {
		return azidentity.NewOnBehalfOfCredentialWithClientAssertions(c.TenantID, c.ClientID, string(c.UserAssertion), assert,
			&azidentity.OnBehalfOfCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: c.AADEndpoint != ""})
	}
	return azidentity.NewClientAssertionCredential(c.TenantID, c.ClientID, assert,
		&azidentity.ClientAssertionCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: c.AADEndpoint != ""})
}

// managedAssertion is Cloudfuse's workload identity: a token of a managed identity
// is the assertion by which a principal, maybe of another tenant, is logged in.
func (c *Credentials) managedAssertion(options azcore.ClientOptions) (azcore.TokenCredential, error) {
	if c.AppID == "" || c.TenantID == "" || c.ClientID == "" {
		return nil, denied("workload identity needs a tenant ID, a client ID, and a federated token or the client ID of a managed identity")
	}
	managed, err := azidentity.NewManagedIdentityCredential(&azidentity.ManagedIdentityCredentialOptions{ClientOptions: options, ID: azidentity.ClientID(c.AppID)})
	if err != nil {
		return nil, err
	}
	return c.assertion(func(ctx context.Context) (string, error) {
		t, err := managed.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"api://AzureADTokenExchange/.default"}})
		return t.Token, err
	}, options)
}

// scoped asks for tokens of another scope.
type scoped struct {
	azcore.TokenCredential
	scope string
}

func (s scoped) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	o.Scopes = []string{s.scope}
	return s.TokenCredential.GetToken(ctx, o)
}

func scope(resource string) string {
	if strings.HasSuffix(resource, "/.default") {
		return resource
	}
	return strings.TrimRight(resource, "/") + "/.default"
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return strings.TrimSpace(s)
}
