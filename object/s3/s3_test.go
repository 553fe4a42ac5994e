package s3

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
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "AWS_") && name != "AWS_CA_BUNDLE" {
			os.Unsetenv(name)
		}
	}
	os.Setenv("AWS_CONFIG_FILE", os.DevNull)
	os.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	os.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	os.Exit(m.Run())
}

// serverConfig returns the configuration of a fresh server.
func serverConfig(t testing.TB) Config {
	endpoint, bucket, creds := testserver.S3(t)
	return Config{
		Bucket:      bucket,
		Endpoint:    endpoint,
		Region:      "us-east-1",
		Credentials: &Credentials{AccessKey: creds.AccessKey, SecretKey: creds.SecretKey},
		PartSize:    minPart,
		UserAgent:   "massif-test/1",
	}
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

// factory is for versitygw, a gateway onto a directory tree.
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
		RefusesKey: func(key string) string {
			full := cfg.Prefix + rand.Text() + "/" + key
			switch {
			case ambiguous(full):
				return "the driver refuses paths that are not clean"
			case !inXML(key):
				return "the driver refuses what XML cannot hold"
			case len(full) > object.MaxKey:
				return "too long together with the prefix"
			case strings.HasSuffix(key, "/"):
				return "versitygw keeps no data in directories"
			}
			for _, part := range strings.Split(key, "/") {
				if len(part) > 255 {
					return "a part is longer than the file system's names"
				}
			}
			return ""
		},
		NoNesting: "versitygw refuses an object below another object",
		Skip: map[string]string{
			"ConcurrentKeys": "versitygw fails puts while it removes the directory (ExistingObjectIsDirectory)",
		},
	}
}

func TestStore(t *testing.T) {
	objecttest.Run(t, factory(serverConfig(t)))
}
