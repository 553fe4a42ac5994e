package azure

import (
	"crypto/rand"
	"os"
	"strings"
	"testing"

	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/objecttest"
)

// TestMain keeps the configuration of whoever runs the tests out of them.
func TestMain(m *testing.M) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "AZURE_") || strings.HasPrefix(name, "MSI_") || strings.HasPrefix(name, "IDENTITY_") {
			os.Unsetenv(name)
		}
	}
	os.Exit(m.Run())
}

// azurite is the URL of the account of the server of TestAzurite.
var azurite string

// TestAzurite runs what needs a server over one, because Azurite takes a second to
// start.
func TestAzurite(t *testing.T) {
	azurite = testserver.Azure(t)
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"Store", testStore},
		{"Lake", testLake},
		{"Directories", testDirectories},
		{"Kind", testKind},
		{"RenameDir", testRenameDir},
		{"Access", testAccess},
		{"Signature", testSignature},
		{"CopyByBlocks", testCopyByBlocks},
		{"CopyInBackground", testCopyInBackground},
		{"Misconfigured", testMisconfigured},
		{"SAS", testSAS},
		{"BrokenConnections", testBrokenConnections},
		{"NothingLeft", testNothingLeft},
		{"ContentMD5", testContentMD5},
	} {
		t.Run(c.name, c.test)
	}
}

// serverConfig returns the configuration of a new, empty container.
func serverConfig(t testing.TB) Config {
	t.Helper()
	cfg := Config{
		Account: testserver.AzureAccount, Container: "massif-" + strings.ToLower(rand.Text()), Endpoint: azurite,
		Credentials: Credentials{AccountKey: testserver.AzureKey},
		PartSize:    2 * mib, UserAgent: "massif-test/1",
	}
	testserver.AzureContainer(t, cfg.Endpoint, cfg.Container)
	return cfg
}

func openStore(t testing.TB, cfg Config) object.Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// mustOpen opens the store of a flat account.
func mustOpen(t testing.TB, cfg Config) *Store {
	t.Helper()
	return openStore(t, cfg).(*Store)
}

func factory(cfg Config) objecttest.Factory {
	return objecttest.Factory{
		New: func(t testing.TB) object.Store {
			c := cfg
			c.Prefix += rand.Text() + "/"
			return openStore(t, c)
		},
		Second: func(t testing.TB, s object.Store) object.Store {
			return openStore(t, s.(interface{ Config() Config }).Config())
		},
		RefusesKey: func(key string) string {
			full := cfg.Prefix + rand.Text() + "/" + key
			if len(full) > object.MaxKey {
				return "too long together with the prefix"
			}
			return refused(full, cfg.Hierarchical)
		},
		Many:       600, // more than a batch of deletions
		UTF16Order: "Azurite sorts names as JavaScript does",
		Skip: map[string]string{
			"AbortStale": "blocks are the service's to drop, after a week",
		},
	}
}

func testStore(t *testing.T) {
	objecttest.Run(t, factory(serverConfig(t)))
}
