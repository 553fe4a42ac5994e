package cloudfuse

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/massif-fs/massif/mount"
)

// translated makes the spec of a configuration.
func translated(t *testing.T, text string, env map[string]string) (*mount.Spec, *settings, error) {
	t.Helper()
	t.Setenv("HOME", "/nonexistent/ann")
	s := newSettings(parse(t, text), "c.yaml", func(name string) string { return env[name] })
	spec, err := s.translate()
	return spec, s, err
}

func bucketOf(t *testing.T, spec *mount.Spec) *mount.BucketTree {
	t.Helper()
	tree, ok := spec.Tree.Config.(*mount.BucketTree)
	if !ok {
		t.Fatalf("the tree is a %T", spec.Tree.Config)
	}
	return tree
}

// The configuration of the document of 0.x, for S3, with all that it says.
const s3Config = `
allow-other: true
logging:
  type: base
  level: log_debug
  file-path: /var/log/cloudfuse.log
components:
  - libfuse
  - file_cache
  - attr_cache
  - s3storage
libfuse:
  default-permission: 0644
  attribute-expiration-sec: 120
  entry-expiration-sec: 60
  negative-entry-expiration-sec: 240
file_cache:
  path: /cache
  timeout-sec: 64000000
  max-size-mb: 4096
  high-threshold: 90
  low-threshold: 70
  allow-non-empty-temp: true
  cleanup-on-start: true
attr_cache:
  timeout-sec: 7200
s3storage:
  bucket-name: photos
  key-id: AKIA
  secret-key: geheim
  endpoint: https://s3.eu-west-2.example.com
  region: eu-west-2
  subdirectory: /2024/summer/
  part-size-mb: 16
  usePathStyle: true
`

func TestTranslateS3(t *testing.T) {
	spec, s, err := translated(t, s3Config, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.warnings) > 0 {
		t.Errorf("warnings: %q", s.warnings)
	}
	tree := bucketOf(t, spec)
	if cmp.Diff(tree.Secrets, &mount.BucketSecrets{AccessKey: "AKIA", SecretKey: "geheim"}) != "" {
		t.Error("the keys are not those of the configuration")
	}
	want := `{
	"tree": {"kind": "bucket", "store": "s3://photos/?endpoint=https%3A%2F%2Fs3.eu-west-2.example.com&part-size=16MiB&path-style=true&region=eu-west-2",
		"subdirectory": "2024/summer", "caching": "file_cache", "cache-timeout": "105w5d17h46m40s", "cache-high": 90, "cache-low": 70, "cache-empty-at-start": true,
		"attr-timeout": "2h", "list-timeout": "2h", "negative-timeout": "2h", "kernel-attr": "2m", "kernel-entry": "1m", "kernel-negative": "4m",
		"file-mode": "0644", "dir-mode": "0644", "symlinks": "rclonelink"},
	"mount": {"allow-other": true, "fsname": "cloudfuse", "empty-point": true, "cache-dir": "/cache", "cache-size": "4GiB", "log-level": "debug", "log-file": "/var/log/cloudfuse.log"},
	"source": "s3://photos/?endpoint=https%3A%2F%2Fs3.eu-west-2.example.com&part-size=16MiB&path-style=true&region=eu-west-2"}`
	compareJSON(t, spec, strings.ReplaceAll(want, "105w5d17h46m40s", tree.CacheTimeout.String()))
	if got := tree.CacheTimeout.String(); got != "740d17h46m40s" {
		t.Errorf("64,000,000 seconds are %s", got)
	}
}

func compareJSON(t *testing.T, spec *mount.Spec, want string) {
	t.Helper()
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "geheim") {
		t.Errorf("a secret is in the spec: %s", data)
	}
	var a, b any
	if err := json.Unmarshal(data, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(b, a); d != "" {
		t.Errorf("the spec differs from what it should be (-want +got):\n%s", d)
	}
	again, err := mount.ParseSpec(data)
	if err != nil {
		t.Fatalf("the spec cannot be read back: %v\n%s", err, data)
	}
	back, err := json.Marshal(again)
	if err != nil || string(back) != string(data) {
		t.Errorf("the spec read back is another: %s, %v", back, err)
	}
}

func TestTranslateAzure(t *testing.T) {
	spec, s, err := translated(t, `
components: [libfuse, block_cache, attr_cache, azstorage]
read-only: true
block_cache: {block-size-mb: 8, mem-size-mb: 1024, prefetch: 24, parallelism: 48, prefetch-on-open: true}
azstorage:
  type: adls
  account-name: myaccount
  container: letters
  mode: spn
  tenantid: tenant
  clientid: client
  clientsecret: geheim
  max-concurrency: 16
  tier: COOL
  block-list-on-mount-sec: 10
  virtual-directory: false
  update-md5: true
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.warnings) > 0 {
		t.Errorf("warnings: %q", s.warnings)
	}
	if cmp.Diff(bucketOf(t, spec).Secrets, &mount.BucketSecrets{ClientSecret: "geheim"}) != "" {
		t.Error("the secret is not that of the configuration")
	}
	store := `adls://letters/?account=myaccount&auth=spn&client-id=client&concurrency=16&content-md5=true&storage-class=Cool&tenant-id=tenant`
	compareJSON(t, spec, `{
	"tree": {"kind": "bucket", "store": "`+store+`", "caching": "block_cache", "cache-drop-at-end": true, "block-size": "8MiB", "prefetch": 24, "prefetch-on-open": true, "parallel": 48,
		"attr-timeout": "2m", "list-timeout": "2m", "negative-timeout": "2m", "kernel-attr": "2m", "kernel-entry": "2m", "kernel-negative": "2m",
		"file-mode": "0755", "dir-mode": "0775", "symlinks": "metadata", "markers": "folder", "marked-only": true, "list-delay": "10s"},
	"mount": {"ro": true, "allow-other": false, "fsname": "cloudfuse", "empty-point": true, "memory-limit": "1GiB", "log-level": "warn", "log-file": "/nonexistent/ann/.cloudfuse/cloudfuse.log"},
	"source": "`+store+`"}`)
}

// Everything below is about one thing: what of the spec differs from that of a plain
// configuration.
func TestTranslations(t *testing.T) {
	const plainS3 = "s3storage: {bucket-name: b, endpoint: 'https://s3.us-east-1.amazonaws.com'}\n"
	const plainAz = "azstorage: {account-name: acc, container: box, account-key: a2V5}\n"
	mountOf := func(spec *mount.Spec) mount.Options { return spec.Mount }
	for _, c := range []struct {
		name, text string
		env        map[string]string
		check      func(t *testing.T, spec *mount.Spec, b *mount.BucketTree)
	}{
		{"Amazon needs no endpoint", plainS3, nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) { same(t, b.Store, "s3://b/?region=us-east-1") }},
		{"file_cache is the default", plainS3, nil, func(t *testing.T, spec *mount.Spec, b *mount.BucketTree) {
			same(t, b.Caching, "file_cache")
			same(t, spec.Mount.CacheDir, "/nonexistent/ann/.cloudfuse/file_cache")
			same(t, b.CacheDropAtEnd, true)
			same(t, b.CacheHigh, 80)
			same(t, b.CacheLow, 60)
		}},
		{"Lyve is where nothing else is said", "s3storage: {bucket-name: b, region: eu-west-1}", nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Store, "s3://b/?endpoint=https%3A%2F%2Fs3.eu-west-1.sv15.lyve.seagate.com&path-style=false&region=eu-west-1")
		}},
		{"the region is in the endpoint", "s3storage: {bucket-name: b, endpoint: s3.dualstack.eu-north-1.example.org}", nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Store, "s3://b/?endpoint=https%3A%2F%2Fs3.dualstack.eu-north-1.example.org&path-style=false&region=eu-north-1")
		}},
		{"an address has the bucket in the path", "s3storage: {bucket-name: b, endpoint: 'http://127.0.0.1:9000', profile: p}", nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Store, "s3://b/?endpoint=http%3A%2F%2F127.0.0.1%3A9000&profile=p&region=us-east-1")
			same(t, b.Secrets == nil, true)
		}},
		{"no checksums where none are wanted", "s3storage: {bucket-name: b, endpoint: 'https://s3.us-east-1.amazonaws.com', enable-checksum: false, enable-dir-marker: false}", nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Store, "s3://b/?checksum=none&region=us-east-1")
			same(t, b.Markers, "none")
		}},
		{"stream", "components: [libfuse, stream, attr_cache, s3storage]\nstream: {block-size-mb: 4, buffer-size-mb: 16, max-buffers: 10}\n" + plainS3, nil, func(t *testing.T, spec *mount.Spec, b *mount.BucketTree) {
			same(t, b.Caching, "stream")
			same(t, b.BlockSize, 4<<20)
			same(t, spec.Mount.MemoryLimit, 160<<20)
			same(t, spec.Mount.CacheSize == nil, true)
			same(t, b.CacheDropAtEnd, true)
		}},
		{"a cache that is too small", "file_cache: {path: /c, max-size-mb: 10}\n" + plainS3, nil, func(t *testing.T, spec *mount.Spec, _ *mount.BucketTree) {
			same(t, *spec.Mount.CacheSize, 64<<20)
		}},
		{"the old switch for it", "streaming: true\nstream: {block-size-mb: 4}\n" + plainS3, nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) { same(t, b.Caching, "stream") }},
		{"xload is read-only", "components: [libfuse, xload, attr_cache, s3storage]\nxload: {path: /x, workers: 7}\nfile_cache: {max-size-mb: 10}\n" + plainS3, nil, func(t *testing.T, spec *mount.Spec, b *mount.BucketTree) {
			same(t, b.Caching, "xload")
			same(t, spec.Mount.ReadOnly, true)
			same(t, spec.Mount.CacheDir, "/x")
			same(t, b.Parallel, 7)
		}},
		{"no attr_cache", "components: [libfuse, file_cache, s3storage]\n" + plainS3, nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, *b.AttrTimeout, 0)
			same(t, *b.ListTimeout, 0)
		}},
		{"entry_cache", "components: [libfuse, entry_cache, file_cache, attr_cache, s3storage]\nread-only: true\n" + plainS3, nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.ListTimeout.String(), "30s")
			same(t, b.AttrTimeout.String(), "2m")
		}},
		{"direct-io", "direct-io: true\n" + plainS3, nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.NoKernelData, true)
			for _, d := range []*mount.Duration{b.AttrTimeout, b.ListTimeout, b.NegativeTimeout, b.KernelAttr, b.KernelEntry, b.KernelNegative} {
				same(t, *d, 0)
			}
		}},
		{"lazy-write", "lazy-write: true\n" + plainS3, nil, func(t *testing.T, spec *mount.Spec, _ *mount.BucketTree) { same(t, mountOf(spec).Writeback, true) }},
		{"allow-other changes modes", "allow-other: true\n" + plainS3, nil, func(t *testing.T, spec *mount.Spec, b *mount.BucketTree) {
			same(t, *b.FileMode, 0o777)
			same(t, *b.DirMode, 0o777)
			same(t, *spec.Mount.AllowOther, true)
		}},
		{"owner and mask", "libfuse: {umask: 027, uid: 5, gid: 6, display-capacity-mb: 1024}\nnonempty: true\n" + plainS3, nil, func(t *testing.T, spec *mount.Spec, b *mount.BucketTree) {
			same(t, *spec.Mount.Umask, 0o27)
			same(t, *spec.Mount.UID, 5)
			same(t, *spec.Mount.GID, 6)
			same(t, spec.Mount.EmptyPoint, false)
			same(t, b.Capacity, 1<<30)
		}},
		{"no links", "attr_cache: {no-symlinks: true}\n" + plainS3, nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) { same(t, b.Symlinks, "none") }},
		{"the newer switch of links wins", "attr_cache: {no-symlinks: true, enable-symlinks: true}\n" + plainS3, nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Symlinks, "rclonelink")
		}},
		{"a profiler", "dynamic-profile: true\nprofiler-ip: 127.0.0.1\n" + plainS3, nil, func(t *testing.T, spec *mount.Spec, _ *mount.BucketTree) {
			same(t, spec.Mount.MetricsAddr, "127.0.0.1:6060")
			same(t, spec.Mount.Pprof, true)
		}},
		{"no log", "logging: {type: silent}\n" + plainS3, nil, func(t *testing.T, spec *mount.Spec, _ *mount.BucketTree) { same(t, spec.Mount.LogFile, "/dev/null") }},
		{"a directory in the place of a storage", "components: [libfuse, loopbackfs]\nloopbackfs: {path: /data}\n", nil, func(t *testing.T, spec *mount.Spec, _ *mount.BucketTree) {
			same(t, spec.Tree.Kind, "local")
		}},

		{"a key is guessed", plainAz, nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Store, "az://box/?account=acc&auth=key")
			same(t, b.Secrets.AccountKey, "a2V5")
		}},
		{"the environment comes before the file", plainAz, map[string]string{"AZURE_STORAGE_ACCOUNT": "env", "AZURE_STORAGE_SAS_TOKEN": "?sig=s", "AZURE_STORAGE_AUTH_TYPE": "SAS"}, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Store, "az://box/?account=env&auth=sas")
			same(t, b.Secrets.SAS, "?sig=s")
			same(t, b.Secrets.AccountKey, "")
		}},
		{"the environment alone", "", map[string]string{"AZURE_STORAGE_ACCOUNT": "env", "AZURE_STORAGE_ACCOUNT_CONTAINER": "box", "AZURE_STORAGE_ACCESS_KEY": "a2V5"}, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Store, "az://box/?account=env&auth=key")
		}},
		{"a managed identity", "azstorage: {account-name: acc, container: box, objid: o, auth-resource: 'https://r', aadendpoint: login.example.com}", nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Store, "az://box/?aad-endpoint=https%3A%2F%2Flogin.example.com&account=acc&auth=msi&auth-resource=https%3A%2F%2Fr&identity-object-id=o")
		}},
		{"a federated token", "azstorage: {account-name: acc, container: box, mode: spn, tenantid: t, clientid: c, oauth-token-path: /token, user-assertion: geheim}", nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Store, "az://box/?account=acc&auth=spn&client-id=c&tenant-id=t&token-file=%2Ftoken")
			same(t, b.Secrets.UserAssertion, "geheim")
		}},
		{"the text of a federated token", "azstorage: {account-name: acc, container: box, mode: spn, tenantid: t, clientid: c, workload-identity-token: geheim}", nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Secrets.Token, "geheim")
		}},
		{"workload identity", "azstorage: {account-name: acc, container: box, mode: workloadidentity, tenantid: t, clientid: c, appid: a}", nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Store, "az://box/?account=acc&auth=workloadidentity&client-id=c&identity-client-id=a&tenant-id=t")
		}},
		{"azcli", "azstorage: {account-name: acc, container: box, mode: azcli}", nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Store, "az://box/?account=acc&auth=azcli")
		}},
		{"plain HTTP through a proxy", "azstorage: {account-name: acc, container: box, account-key: a2V5, use-http: true, http-proxy: 'proxy:3128', endpoint: 'https://acc.blob.example.com/'}", nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Store, "az://box/?account=acc&auth=key&endpoint=http%3A%2F%2Facc.blob.example.com&proxy=http%3A%2F%2Fproxy%3A3128")
		}},
		{"a customer's key", "azstorage: {account-name: acc, container: box, account-key: a2V5, cpk-enabled: true, cpk-encryption-key: geheim}", nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Secrets.CustomerKey, "geheim")
		}},
		{"$web is a container", "azstorage: {account-name: acc, container: $web, account-key: a2V5}", nil, func(t *testing.T, _ *mount.Spec, b *mount.BucketTree) {
			same(t, b.Store, "az://$web/?account=acc&auth=key")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec, _, err := translated(t, c.text, c.env)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := spec.Tree.Config.(*mount.BucketTree)
			c.check(t, spec, b)
		})
	}
}

func same[T comparable](t *testing.T, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRefusedConfigs(t *testing.T) {
	const s3 = "s3storage: {bucket-name: b, endpoint: 'https://s3.us-east-1.amazonaws.com'}\n"
	for _, c := range []struct{ text, want string }{
		{"", "components: neither s3storage nor azstorage is configured"},
		{"components: [libfuse, whatever, s3storage]\n" + s3, "c.yaml, line 1: components: component whatever is not registered"},
		{"components: [libfuse, attr_cache, file_cache, s3storage]\n" + s3, "component file_cache is out of order"},
		{"components: [libfuse, file_cache, block_cache, s3storage]\n" + s3, "file_cache and block_cache cannot be in one pipeline"},
		{"components: [libfuse, file_cache]\n" + s3, "the last component is none of s3storage"},
		{"s3storage: {region: x}", "s3storage.bucket-name: the bucket is not named"},
		{"s3storage: {bucket-name: b, part-size-mb: 4}", "c.yaml, line 1: s3storage.part-size-mb: 4 is not between 5 and 5120"},
		{"block-cache: true\nblock_cache: {prefetch: 5}\n" + s3, "block_cache.prefetch: 5 is not 0 (none) and not 11 or more"},
		{"block-cache: true\nblock_cache: {prefetch: 20, block-size-mb: 16, mem-size-mb: 100}\n" + s3, "20 blocks of 16MiB are more than the 100MiB of block_cache.mem-size-mb"},
		{"file_cache: {high-threshold: 60, low-threshold: 60}\n" + s3, "60% is not below the high threshold of 60%"},
		{"disable-kernel-cache: true\ndirect-io: true\n" + s3, "it excludes direct-io"},
		{"preload: true\nxload: {mode: sync, path: /x}\n" + s3, "sync is not supported"},
		{"logging: {level: loud}\n" + s3, `"loud" is none of LOG_OFF`},
		{"azstorage: {container: box}", "azstorage.account-name: the account is not named"},
		{"azstorage: {account-name: a}", "azstorage.container: the container is not named"},
		{"azstorage: {account-name: a, container: box, mode: key}", "the account key is missing"},
		{"azstorage: {account-name: a, container: box, mode: sas}", "the SAS is missing"},
		{"azstorage: {account-name: a, container: box, mode: spn}", "spn needs tenantid and clientid"},
		{"azstorage: {account-name: a, container: box, mode: spn, tenantid: t, clientid: c}", "spn needs a clientsecret"},
		{"azstorage: {account-name: a, container: box, mode: psk}", `"psk" is none of key, sas`},
		{"azstorage: {account-name: a, container: box, appid: x, objid: y}", "one of appid, resid and objid"},
		{"azstorage: {account-name: a, container: box, account-key: k, http-proxy: p}", "it is for accounts with use-http: true"},
		{"azstorage: {account-name: a, container: box, account-key: k, https-proxy: 'http://u:geheim@p'}", "HTTPS_PROXY"},
		{"azstorage: {account-name: a, container: box, account-key: k, cpk-enabled: true}", "cpk-encryption-key is missing"},
		{"azstorage: {account-name: a, container: BOX, account-key: k}", `"BOX" is no container's name`},
	} {
		_, _, err := translated(t, c.text, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s\n%v, want %q", c.text, err, c.want)
		}
	}
}

func TestIneffective(t *testing.T) {
	_, s, err := translated(t, `components: [libfuse, file_cache, attr_cache, s3storage]
wait-for-mount: 10s
health_monitor: {enable-monitoring: false}
mountall: {container-allowlist: [a]}
logging:
  file-count: 5
stream:
  block-size-mb: 8
file_cache:
  path: /c
  policy: lfu
  refresh-sec: 60
  offload-io: true
  hard-limit: false
s3storage:
  bucket-name: b
  endpoint: https://s3.us-east-1.amazonaws.com
  upload-cutoff-mb: 100
  key-id: half
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"line 19: s3storage.key-id has no effect",
		"line 11: file_cache.policy lfu has no effect",
		"line 14: file_cache.hard-limit false has no effect",
		"line 12: file_cache.refresh-sec has no effect",
		"line 2: wait-for-mount has no effect: the command returns when the mount answers",
		"line 6: logging.file-count has no effect",
		"line 8: stream.block-size-mb has no effect: the component stream is not in use",
		"line 13: file_cache.offload-io has no effect",
		"line 18: s3storage.upload-cutoff-mb has no effect",
	}
	if len(s.warnings) != len(want) {
		t.Fatalf("warnings:\n%s", strings.Join(s.warnings, "\n"))
	}
	for i, w := range want {
		if !strings.HasPrefix(s.warnings[i], "c.yaml, "+w) {
			t.Errorf("warning %q, want %q", s.warnings[i], w)
		}
	}
}

// Every key does something or is said to do nothing, in some pipeline.
func TestEveryKeyIsHeeded(t *testing.T) {
	heeded := map[string]bool{}
	for _, config := range []string{
		"components: [libfuse, file_cache, size_tracker, attr_cache, s3storage]\n", "components: [libfuse, stream, attr_cache, s3storage]\n", "components: [libfuse, entry_cache, block_cache, attr_cache, s3storage]\nblock_cache: {path: /x}\n",
		"components: [libfuse, xload, attr_cache, azstorage]\n", "components: [libfuse, loopbackfs]\n", "components: [libfuse, file_cache, attr_cache, azstorage]\nazstorage: {cpk-enabled: true}\n",
	} {
		s := newSettings(parse(t, config), "", func(string) string { return "" })
		for _, k := range keys {
			sample := map[kind]string{text: "x", secret: "x", path: "/x", toggle: "true", whole: "20", signed: "20", amount: "2", octal: "755", period: "5s"}[k.kind]
			switch k.name {
			case "streaming", "block-cache", "preload", "attr_cache.no-cache-on-list":
				sample = "false"
			case "direct-io", "libfuse.direct-io", "size_tracker.bucket-capacity-fallback":
				sample = "" // the others are read then
			}
			if !s.has(k.name) {
				s.override(k.name, value{text: sample})
			}
		}
		s.translate()
		for name := range s.used {
			heeded[name] = true
		}
	}
	for _, k := range keys {
		if k.alias == "" && !heeded[k.name] && k.idle == "" {
			t.Errorf("nothing reads %s, and nothing says so", k.name)
		}
	}
}

func TestReadSecrets(t *testing.T) {
	p := newProgram(t)
	for _, name := range []string{"AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_AUTH_TYPE", "AZURE_STORAGE_ACCOUNT"} {
		t.Setenv(name, "")
	}
	p.write("c.yaml", "azstorage: {account-name: acc, container: box, sas: 'sig=old'}\n")
	r := &mountRequest{configSource: configSource{file: "c.yaml"}}
	s, err := r.settings()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := s.translate()
	if err != nil {
		t.Fatal(err)
	}
	from := bucketOf(t, spec).Secrets.From
	if from == nil || from.File != p.dir+"/c.yaml" {
		t.Fatalf("the SAS is read again from %+v", from)
	}
	p.write("c.yaml", "azstorage: {account-name: acc, container: box, sas: 'sig=new'}\n")
	if again, err := readSecrets(from.File); err != nil || again.SAS != "sig=new" {
		t.Errorf("read again: %v", err)
	}
	// That of the environment comes before the file's, whatever stands there.
	t.Setenv("AZURE_STORAGE_SAS_TOKEN", "sig=env")
	if s, err = r.settings(); err != nil {
		t.Fatal(err)
	}
	if spec, err = s.translate(); err != nil || bucketOf(t, spec).Secrets.From != nil {
		t.Errorf("a SAS of the environment is read again from the file: %v", err)
	}
}
