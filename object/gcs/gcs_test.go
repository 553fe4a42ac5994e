package gcs

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
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "GOOGLE_") || strings.HasPrefix(name, "GCE_") || name == "STORAGE_EMULATOR_HOST" {
			os.Unsetenv(name)
		}
	}
	os.Exit(m.Run())
}

// serverConfig returns the configuration of a fresh server.
func serverConfig(t testing.TB) Config {
	t.Helper()
	endpoint, bucket := testserver.GCS(t)
	return Config{Bucket: bucket, Endpoint: endpoint, Anonymous: true, PartSize: mib, UserAgent: "massif-test/1"}
}

func mustOpen(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func factory(cfg Config) objecttest.Factory {
	return objecttest.Factory{
		New: func(t testing.TB) object.Store {
			c := cfg
			c.Prefix += rand.Text() + "/"
			return mustOpen(t, c)
		},
		Second: func(t testing.TB, s object.Store) object.Store {
			return mustOpen(t, s.(*Store).cfg)
		},
		CopiesMetadata: "fake-gcs-server takes empty metadata of a copy for none said (Google's does not)",
		Many:           1100, // more than a page
		RefusesKey: func(key string) string {
			full := cfg.Prefix + rand.Text() + "/" + key
			if len(full) > object.MaxKey {
				return "too long together with the prefix"
			}
			return refused(full)
		},
	}
}

func TestStore(t *testing.T) {
	objecttest.Run(t, factory(serverConfig(t)))
}
