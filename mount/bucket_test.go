package mount

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What a spec says of a bucket survives the way to the mount's process, but for secrets.
func TestBucketSpec(t *testing.T) {
	const text = `
tree:
  kind: bucket
  store: s3://photos/2024?region=eu-central-1
  subdirectory: a/b
  caching: stream
  cache-high: 70
  cache-timeout: 2h
  block-size: 8MiB
  prefetch: 0
  attr-timeout: 0
  kernel-attr: 2m
  file-mode: 0640
  symlinks: rclonelink
  markers: none
`
	spec, err := ParseSpec([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	two, zero, none := Duration(2*time.Minute), Duration(0), 0
	mode := Octal(0o640)
	want := &BucketTree{
		Store: "s3://photos/2024?region=eu-central-1", Subdirectory: "a/b", Caching: "stream", CacheHigh: 70, CacheTimeout: Duration(2 * time.Hour),
		BlockSize: 8 << 20, Prefetch: &none, AttrTimeout: &zero, KernelAttr: &two, FileMode: &mode, Symlinks: "rclonelink", Markers: "none",
	}
	if diff := cmp.Diff(want, spec.Tree.Config); diff != "" {
		t.Error(diff)
	}
	want.Secrets = &BucketSecrets{AccessKey: "key", SecretKey: "hidden"}
	spec.Tree.Config = want
	written, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(written), "hidden") {
		t.Fatalf("a secret is written: %s", written)
	}
	again, err := ParseSpec(written)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := json.Marshal(want.Secret())
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Tree.Config.(secretTree).SetSecret(secret); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, again.Tree.Config); diff != "" {
		t.Error(diff)
	}
	address, err := want.storeURL()
	if err != nil || address != "s3://photos/2024/a/b?region=eu-central-1" {
		t.Errorf("%s, %v", address, err)
	}
	cfg := want.config(&Options{})
	if cfg.Prefetch != 0 || cfg.AttrTimeout != 0 || cfg.ListTimeout != bucketAttrTimeout || cfg.KernelAttr != 2*time.Minute || cfg.CacheHigh != 70 || cfg.CacheLow != 69 {
		t.Errorf("%+v", cfg)
	}
}

func TestBucketRefusals(t *testing.T) {
	for tree, want := range map[string]string{
		"{}":                                                        "needs the URL of its store",
		"{store: 'ftp://x'}":                                        "unknown kind of store",
		"{store: 's3://b?secret-key=x'}":                            "must not hold secrets",
		"{store: 's3://b', subdirectory: a//b}":                     "without empty parts",
		"{store: 's3://b', caching: files}":                         "use one of block_cache, file_cache, stream, xload",
		"{store: 's3://b', cache-high: 50, cache-low: 60}":          "the first one greater",
		"{store: 's3://b', block-size: 1}":                          "from 64KiB to 1GiB",
		"{store: 's3://b', metadata: none, symlinks: metadata}":     "contradicts",
		"{store: 's3://b', secrets: {accessKey: x}}":                "secrets",
		"{store: 's3://b', markers: folders}":                       "use one of slash, folder, none",
		"{store: 'az://photos?account=acc', parallel: -1}":          "from 1 to 1024",
		"{store: 'file:///srv', prefetch: 2000, caching: 'stream'}": "up to 1024",
	} {
		text := "tree: " + strings.Replace(tree, "{", "{kind: bucket, ", 1)
		text = strings.Replace(text, ", }", "}", 1)
		if _, err := ParseSpec([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", tree, err, want)
		}
	}
}
