package azure

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/massif-fs/massif/object"
)

func base64URL(s string) string { return base64.URLEncoding.EncodeToString([]byte(s)) }

func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

// TestPrecedence: what is said first counts, value by value, but not across ways of
// authentication.
func TestPrecedence(t *testing.T) {
	environment := FromEnvironment(env(map[string]string{
		"AZURE_STORAGE_ACCESS_KEY": "a2V5", "AZURE_STORAGE_KEY": "b3RoZXI=", "AZURE_STORAGE_SAS_TOKEN": "sig=1", "AZURE_STORAGE_SPN_TENANT_ID": "tenant",
		"AZURE_TENANT_ID": "other", "AZURE_CLIENT_ID": "client", "AZURE_CLIENT_SECRET": "secret", "AZURE_STORAGE_AUTH_TYPE": "",
	}))
	if environment.AccountKey != "a2V5" || environment.TenantID != "tenant" || environment.ClientID != "client" || environment.ClientSecret != "secret" {
		t.Errorf("environment: %#v", environment)
	}
	for _, c := range []struct {
		what     string
		explicit Credentials
		vars     map[string]string
		mode     Mode
	}{
		{"nothing", Credentials{}, nil, ""},
		{"key", Credentials{}, map[string]string{"AZURE_STORAGE_ACCESS_KEY": "a2V5", "AZURE_STORAGE_SAS_TOKEN": "sig=1"}, Key},
		{"SAS", Credentials{}, map[string]string{"AZURE_STORAGE_SAS_TOKEN": "sig=1"}, SAS},
		{"identity before key", Credentials{}, map[string]string{"AZURE_STORAGE_IDENTITY_CLIENT_ID": "id", "AZURE_STORAGE_ACCESS_KEY": "a2V5"}, MSI},
		{"type", Credentials{}, map[string]string{"AZURE_STORAGE_AUTH_TYPE": "SPN", "AZURE_STORAGE_ACCESS_KEY": "a2V5"}, SPN},
		{"explicit SAS before the environment's key", Credentials{SAS: "sig=2"}, map[string]string{"AZURE_STORAGE_ACCESS_KEY": "a2V5", "AZURE_STORAGE_IDENTITY_CLIENT_ID": "id"}, SAS},
		{"explicit mode before the environment's", Credentials{Mode: AzCLI}, map[string]string{"AZURE_STORAGE_AUTH_TYPE": "key"}, AzCLI},
		{"workload identity of Kubernetes", Credentials{}, map[string]string{"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_FEDERATED_TOKEN_FILE": "/f"}, SPN},
	} {
		if got := c.explicit.Or(FromEnvironment(env(c.vars))).says(); got != c.mode {
			t.Errorf("%s: %q, want %q", c.what, got, c.mode)
		}
	}
	// Cloudfuse puts the environment before its file.
	file := Credentials{AccountKey: "file", TenantID: "file"}
	got := FromEnvironment(env(map[string]string{"AZURE_STORAGE_ACCESS_KEY": "env"})).Or(file)
	if got.AccountKey != "env" || got.TenantID != "file" {
		t.Errorf("environment before file: %#v", got)
	}
}

func TestModes(t *testing.T) {
	for what, c := range map[string]struct {
		creds Credentials
		token bool
		words string // of the error
	}{
		"key":            {Credentials{AccountKey: "a2V5"}, false, ""},
		"bad key":        {Credentials{AccountKey: "secret-of!"}, false, "base64"},
		"no key":         {Credentials{Mode: Key}, false, "account key"},
		"SAS":            {Credentials{SAS: "?sv=1&sig=x"}, false, ""},
		"bad SAS":        {Credentials{SAS: "secret-of"}, false, "signature"},
		"no SAS":         {Credentials{Mode: SAS}, false, "no SAS"},
		"system MSI":     {Credentials{Mode: MSI}, true, ""},
		"MSI by client":  {Credentials{AppID: "a"}, true, ""},
		"MSI by object":  {Credentials{ObjectID: "a"}, true, ""},
		"MSI by res":     {Credentials{ResourceID: "/subscriptions/a"}, true, ""},
		"two IDs":        {Credentials{AppID: "a", ObjectID: "b"}, false, "by one of"},
		"secret":         {Credentials{TenantID: "t", ClientID: "c", ClientSecret: "s"}, true, ""},
		"no tenant":      {Credentials{ClientID: "c", ClientSecret: "s"}, false, "tenant ID"},
		"no secret":      {Credentials{Mode: SPN, TenantID: "t", ClientID: "c"}, false, "a secret"},
		"token file":     {Credentials{TenantID: "t", ClientID: "c", TokenFile: "/x"}, true, ""},
		"token":          {Credentials{TenantID: "t", ClientID: "c", Token: "x"}, true, ""},
		"on behalf":      {Credentials{TenantID: "t", ClientID: "c", Token: "x", UserAssertion: "u"}, true, ""},
		"no certificate": {Credentials{TenantID: "t", ClientID: "c", CertificateFile: "/nonexistent"}, false, "certificate"},
		"az":             {Credentials{Mode: AzCLI}, true, ""},
		"workload":       {Credentials{Mode: WorkloadIdentity, TenantID: "t", ClientID: "c", AppID: "a"}, true, ""},
		"half workload":  {Credentials{Mode: WorkloadIdentity, TenantID: "t"}, false, "client ID"},
		"anonymous":      {Credentials{Mode: Anonymous}, false, ""},
		"unknown":        {Credentials{Mode: "magic"}, false, "unknown way"},
		"login host":     {Credentials{AADEndpoint: "http://x"}, false, "login host"},
	} {
		s, err := Open(t.Context(), Config{Account: "a", Container: "ccc", Credentials: c.creds})
		if c.words != "" {
			if err == nil || !strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), "secret-of") {
				t.Errorf("%s: %v, want %q", what, err, c.words)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if got := s.(*Store).auth.token != nil; got != c.token {
			t.Errorf("%s: token %v", what, got)
		}
		s.Close()
	}
}

// TestNoSecretsShown: no way of printing a configuration shows what is secret.
func TestNoSecretsShown(t *testing.T) {
	cfg := Config{Account: "a", Container: "ccc", CustomerKey: "secret-of-key", Credentials: Credentials{
		AccountKey: "secret-of-a", SAS: "secret-of-b", ClientSecret: "secret-of-c", CertificatePass: "secret-of-d", Token: "secret-of-e", UserAssertion: "secret-of-f",
	}}
	if s := fmt.Sprintf("%v %+v %#v", cfg, cfg, cfg); strings.Contains(s, "secret-of") {
		t.Errorf("printed as %s", s)
	}
}

func TestBadConfig(t *testing.T) {
	ok := Config{Account: "a", Container: "ccc", Credentials: Credentials{AccountKey: "a2V5"}}
	for what, c := range map[string]struct {
		change func(*Config)
		words  string
	}{
		"no container":   {func(c *Config) { c.Container = "" }, "no container"},
		"container":      {func(c *Config) { c.Container = "Upper" }, "no container's name"},
		"no account":     {func(c *Config) { c.Account = "" }, "AZURE_STORAGE_ACCOUNT"},
		"endpoint":       {func(c *Config) { c.Endpoint = "ftp://x" }, "http or https"},
		"endpoint's SAS": {func(c *Config) { c.Endpoint = "https://x/?sig=secret-of-mine" }, "credentials"},
		"checksum":       {func(c *Config) { c.Checksum = "parity" }, "checksum"},
		"part size":      {func(c *Config) { c.PartSize = 1 }, "part size"},
		"customer's key": {func(c *Config) { c.CustomerKey = "secret-of-mine" }, "32 bytes"},
		"proxy":          {func(c *Config) { c.Proxy = "secret-of-mine@x" }, "proxy"},
		"CA":             {func(c *Config) { c.CAFile = "/nonexistent" }, "certificates"},
		"prefix":         {func(c *Config) { c.Prefix = `a\b/` }, "prefix"},
		"lake's prefix":  {func(c *Config) { c.Hierarchical, c.Prefix = true, "a" }, "ends with '/'"},
	} {
		cfg := ok
		c.change(&cfg)
		_, err := Open(t.Context(), cfg)
		wantKind(t, what, err, object.ErrInvalid, c.words)
	}
	cfg := ok
	cfg.Endpoint = "x.dfs.core.windows.net/"
	if err := cfg.fill(); err != nil || cfg.containerURL() != "https://x.blob.core.windows.net/ccc" || cfg.lakeURL() != "https://x.dfs.core.windows.net/ccc" {
		t.Errorf("%s and %s, %v", cfg.containerURL(), cfg.lakeURL(), err)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"mtime", "hdi_isfolder", "x-a_b", "1st", "esc_x", "ü", "", "a.b", "_", "a_b"} {
		got := encodeName(name)
		if !identifier(got) && name != "" {
			t.Errorf("%q is encoded as %q, which is no identifier", name, got)
		}
		if back := decodeName(got); back != name {
			t.Errorf("%q became %q and %q", name, got, back)
		}
	}
}

func FuzzDecodeName(f *testing.F) {
	f.Add("esc_a_2db")
	f.Add("esc__")
	f.Fuzz(func(t *testing.T, s string) {
		if got := decodeName(s); len(got) > len(s)*3 {
			t.Errorf("%q became %q", s, got)
		}
		_ = decodeName(encodeName(strings.ToLower(s)))
	})
}

func FuzzListing(f *testing.F) {
	f.Add(`{"paths":[{"name":"a","isDirectory":"true","etag":"0x1","lastModified":"Mon, 02 Jan 2006 15:04:05 GMT"}]}`)
	f.Add(`{"paths":[{"name":"b","contentLength":"-1","etag":"0x1","lastModified":"x"}]}`)
	f.Add(`{}`)
	f.Fuzz(func(t *testing.T, s string) {
		paths, err := parseListing(strings.NewReader(s))
		if err != nil {
			return
		}
		for _, p := range paths {
			if info, err := p.info("k"); err == nil && (info.Size < 0 || info.ETag == "" || info.ModTime.IsZero()) {
				t.Errorf("%+v", info)
			}
		}
	})
}

func FuzzMode(f *testing.F) {
	for _, s := range []string{"rwxr-x--T", "0750", "rw-r-----+", "", "+", "99999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseMode(s)
		if err != nil {
			return
		}
		if back, err := parseMode(formatMode(m)); err != nil || back != m {
			t.Errorf("%q is %v, which is written as %q", s, m, formatMode(m))
		}
	})
}

func FuzzProperties(f *testing.F) {
	f.Add("a=YQ==,b=")
	f.Fuzz(func(t *testing.T, s string) {
		for k, v := range parseProperties(s) {
			if v == nil {
				t.Errorf("%q has no value", k)
			}
		}
	})
}
