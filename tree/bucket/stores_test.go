package bucket

import (
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/testserver"
	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/azure"
	"github.com/massif-fs/massif/object/file"
	"github.com/massif-fs/massif/object/gcs"
	"github.com/massif-fs/massif/object/prefixed"
	"github.com/massif-fs/massif/object/retry"
	"github.com/massif-fs/massif/object/s3"
	"github.com/massif-fs/massif/vfs/vfstest"
)

// With write-back, and a cache for attributes that believes nothing.
func TestSuiteWriteback(t *testing.T) {
	suite(t, lacks(), func(t testing.TB) *world {
		return newWorld(t, func(c *Config) { c.Writeback, c.AttrDelay = true, time.Millisecond })
	})
}

// Nothing is believed without asking, and nothing is kept of files that nobody has open.
func TestSuiteForgetful(t *testing.T) {
	suite(t, lacks(), func(t testing.TB) *world {
		return newWorld(t, func(c *Config) {
			c.AttrTimeout, c.ListTimeout, c.NegativeTimeout = 0, 0, 0
			c.Caching, c.Links = Stream, SuffixLinks
		})
	})
}

func TestSuiteFile(t *testing.T) {
	suite(t, lacks(), func(t testing.TB) *world {
		w := newWorld(t, func(c *Config) { c.Caching = WholeFiles })
		s, err := file.Open(t.TempDir(), file.Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		w.store = s
		return w
	})
}

// slow skips a test over a server where time counts.
func slow(t *testing.T) {
	t.Helper()
	if testing.Short() || underRace {
		t.Skip("takes a while")
	}
}

// below is a part of a store for each world, so that one server is enough.
func below(store object.Store, worlds *int) object.Store {
	*worlds++
	return prefixed.Borrow(store, "w"+string(rune('a'+*worlds))+"/")
}

func TestSuiteS3(t *testing.T) {
	slow(t)
	s, worlds := openS3(t), 0
	t.Setenv("VFSTEST_ROUNDS", "0.3")
	suite(t, lacks(vfstest.OddNames, vfstest.StableReaddir), func(t testing.TB) *world {
		w := newWorld(t, nil)
		w.store = below(s, &worlds)
		return w
	})
}

func openS3(t testing.TB) object.Store {
	endpoint, bucket, creds := testserver.S3(t)
	s, err := s3.Open(t.Context(), s3.Config{Bucket: bucket, Endpoint: endpoint, Credentials: &s3.Credentials{AccessKey: creds.AccessKey, SecretKey: creds.SecretKey}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return retry.New(s, retry.Options{Total: 30 * time.Second})
}

func TestSuiteAzure(t *testing.T) {
	slow(t)
	endpoint := testserver.Azure(t)
	testserver.AzureContainer(t, endpoint, "bucket")
	s, err := azure.Open(t.Context(), azure.Config{Account: testserver.AzureAccount, Endpoint: endpoint, Container: "bucket", Credentials: azure.Credentials{Mode: azure.Key, AccountKey: testserver.AzureKey}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	worlds := 0
	t.Setenv("VFSTEST_ROUNDS", "0.1")
	suite(t, lacks(vfstest.OddNames, vfstest.StableReaddir), func(t testing.TB) *world {
		w := newWorld(t, func(c *Config) { c.Markers = FolderMarkers })
		w.store = below(s, &worlds)
		return w
	})
}

func TestSuiteGCS(t *testing.T) {
	slow(t)
	endpoint, bucket := testserver.GCS(t)
	s, err := gcs.Open(t.Context(), gcs.Config{Bucket: bucket, Endpoint: endpoint, Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	worlds := 0
	t.Setenv("VFSTEST_ROUNDS", "0.1")
	suite(t, lacks(vfstest.OddNames, vfstest.StableReaddir), func(t testing.TB) *world {
		w := newWorld(t, nil)
		w.store = below(s, &worlds)
		return w
	})
}
