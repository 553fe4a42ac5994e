package cloudfuse

import (
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
)

func parse(t *testing.T, text string) *config {
	t.Helper()
	c, err := parseConfig([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return c
}

func TestParseConfig(t *testing.T) {
	c := parse(t, `
# comment
Allow-Other: true
components:
  - libfuse
  - file_cache
  - s3storage
logging: {level: LOG_DEBUG, type: "base"}
s3storage:
  BUCKET-NAME: photos   # a comment
  key-id: 0123
  secret-key: "a: b # c"
  usePathStyle: true
  endpoint:
libfuse:
  default-permission: 0755
file_cache:
  timeout-sec: "120"
  schedule:
    - name: night
      cron: "0 0 1 * * *"
      duration: 2h
mountall:
  container-allowlist: [a, b]
  container-denylist: c d,e
stream:
`)
	want := map[string]string{
		"allow-other": "true", "logging.level": "LOG_DEBUG", "logging.type": "base", "s3storage.bucket-name": "photos", "s3storage.key-id": "0123",
		"s3storage.secret-key": "a: b # c", "s3storage.use-path-style": "true", "libfuse.default-permission": "0755", "file_cache.timeout-sec": "120",
	}
	for name, text := range want {
		if got := c.values[name].text; got != text {
			t.Errorf("%s: %q, want %q", name, got, text)
		}
	}
	if len(c.warnings) > 0 || len(c.values) != len(want)+4 {
		t.Errorf("%d values, warnings %q", len(c.values), c.warnings)
	}
	if v := c.values["s3storage.bucket-name"]; v.line != 10 || v.from != "line 10" {
		t.Errorf("place: %+v", v)
	}
	for name, want := range map[string]string{"components": "libfuse file_cache s3storage", "mountall.container-allowlist": "a b", "mountall.container-denylist": "c d e"} {
		if got := strings.Join(c.values[name].items, " "); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if m := c.values["file_cache.schedule"].maps; len(m) != 1 || !maps.Equal(m[0], map[string]string{"name": "night", "cron": "0 0 1 * * *", "duration": "2h"}) {
		t.Errorf("schedule: %v", m)
	}
}

func TestAnchors(t *testing.T) {
	c := parse(t, `
read-only: &yes true
libfuse: &times
  attribute-expiration-sec: &t 60
  entry-expiration-sec: *t
nonempty: *yes
attr_cache:
  timeout-sec: *t
`)
	for name, want := range map[string]string{"nonempty": "true", "attr_cache.timeout-sec": "60", "libfuse.entry-expiration-sec": "60"} {
		if got := c.values[name].text; got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	merged := parse(t, "block_cache: &c\n  cleanup-on-start: true\n  path: /a\nfile_cache:\n  <<: *c\n  path: /b\n")
	if merged.values["file_cache.cleanup-on-start"].text != "true" || merged.values["file_cache.path"].text != "/b" {
		t.Errorf("merged: %v", merged.values)
	}
}

func TestUnknownKeys(t *testing.T) {
	c := parse(t, "read-onyl: true\ns3storage:\n  bucket: a\n  regoin: b\nwhatever:\n  x: 1\nlibfuse:\n  uid: 3\n")
	want := []string{
		`line 1: unknown key "read-onyl"; did you mean "read-only"?`,
		`line 3: unknown key "bucket" in section s3storage`,
		`line 4: unknown key "regoin" in section s3storage; did you mean "region"?`,
		`line 5: unknown key "whatever"`,
	}
	if strings.Join(c.warnings, "\n") != strings.Join(want, "\n") {
		t.Errorf("warnings:\n%s", strings.Join(c.warnings, "\n"))
	}
	if c.values["libfuse.uid"].text != "3" {
		t.Errorf("known key beside unknown ones: %v", c.values)
	}
}

func TestBadConfig(t *testing.T) {
	bomb := "a: &a [x, x]\n"
	for i := 'b'; i < 'z'; i++ {
		bomb += fmt.Sprintf("%c: &%c [*%c, *%c]\n", i, i, i-1, i-1)
	}
	for _, c := range []struct{ text, want string }{
		{"- a\n- b\n", "line 1: the configuration is no mapping"},
		{"just text", "line 1: the configuration is no mapping"},
		{"a: b: c\n", "line 1: this is no YAML"},
		{"s3storage:\n  secret-key: [geheim\n", "this is no YAML"},
		{"s3storage: yes\n", "line 1: section s3storage is no mapping"},
		{"s3storage:\n  region: [a, b]\n", "line 2: s3storage.region is not a single value"},
		{"file_cache:\n  schedule: x\n", "line 2: file_cache.schedule is no list"},
		{"file_cache:\n  schedule: [x]\n", "line 2: file_cache.schedule is a list of mappings"},
		{"read-only: true\n---\nread-only: false\n", "more than one document"},
		{"read-only: *x\n", "&x"},
		{"libfuse: &a\n  <<: *a\n", "line 2"},
		{strings.Repeat("#", maxConfig+1), "larger than"},
	} {
		_, err := parseConfig([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.40q: %v, want %q", c.text, err, c.want)
		}
	}
	if _, err := parseConfig([]byte(bomb)); err != nil { // keys that nobody knows unfold to nothing
		t.Errorf("aliases below unknown keys: %v", err)
	}
	var many strings.Builder
	many.WriteString("libfuse: &a {uid: 1}\n")
	many.WriteString("file_cache:\n  schedule:\n")
	for range 1000 {
		many.WriteString("  - {<<: [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a, *a]}\n")
	}
	if _, err := parseConfig([]byte(many.String())); err == nil || !strings.Contains(err.Error(), "unfold to too much") {
		t.Errorf("many aliases: %v", err)
	}
	for _, empty := range []string{"", "\n# nothing\n", "---\n"} {
		if c, err := parseConfig([]byte(empty)); err != nil || len(c.values) > 0 {
			t.Errorf("%q: %v", empty, err)
		}
	}
}

func TestPrecedence(t *testing.T) {
	c := parse(t, "azstorage:\n  account-name: file\n  container: file\n  tier: hot\nfile_cache:\n  path: /file\n")
	env := map[string]string{"AZURE_STORAGE_ACCOUNT": "env", "AZURE_STORAGE_ACCOUNT_CONTAINER": "env"}
	s := newSettings(c, "c.yaml", func(name string) string { return env[name] })
	given{{flag: flagNamed("container-name"), value: "flag"}, {flag: flagNamed("tmp-path"), value: "/flag"}}.apply(s)
	for name, want := range map[string]string{"azstorage.account-name": "env", "azstorage.container": "flag", "azstorage.tier": "hot", "file_cache.path": "/flag", "azstorage.sas": ""} {
		if got := s.text(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{"azstorage.account-name": "AZURE_STORAGE_ACCOUNT: azstorage.account-name", "azstorage.container": "--container-name: azstorage.container", "azstorage.tier": "c.yaml, line 4: azstorage.tier", "azstorage.sas": "azstorage.sas"} {
		if got := s.at(name); got != want {
			t.Errorf("%s comes from %q, want %q", name, got, want)
		}
	}
}

func flagNamed(name string) *mountFlag {
	for i := range mountFlags {
		if mountFlags[i].name == name {
			return &mountFlags[i]
		}
	}
	panic(name)
}

func TestFlagsHaveKeys(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range mountFlags {
		if keyTable[f.key] == nil || f.help == "" {
			t.Errorf("--%s: key %q", f.name, f.key)
		}
		if seen[f.name] {
			t.Errorf("--%s is there twice", f.name)
		}
		seen[f.name] = true
	}
	for _, k := range keys {
		if k.alias != "" && keyTable[k.alias] == nil {
			t.Errorf("%s is an alias of nothing", k.name)
		}
	}
	for name, key := range fuseOptions {
		if keyTable[key] == nil {
			t.Errorf("-o %s: key %q", name, key)
		}
	}
}

func TestValues(t *testing.T) {
	s := newSettings(parse(t, `
read-only: "True"
nonempty: no
libfuse: {umask: 022, uid: 1_000, default-permission: "0o644"}
file_cache: {max-size-mb: 0.5, high-threshold: 90, timeout-sec: 60}
azstorage: {account-key: c2VjcmV0, mode: KEY, cap-iops: -1}
`), "", func(string) string { return "" })
	umask, _ := s.mode("libfuse.umask")
	perm, _ := s.mode("libfuse.default-permission")
	if !s.toggle("read-only", false) || s.toggle("nonempty", true) || umask != 0o22 || perm != 0o644 || s.whole("libfuse.uid", 0) != 1000 ||
		s.megabytes("file_cache.max-size-mb", 0) != 512<<10 || s.percent("file_cache.high-threshold", 0) != 90 || s.seconds("file_cache.timeout-sec", 0).Seconds() != 60 ||
		s.choice("azstorage.mode", "key", "sas") != "key" || s.signed("azstorage.cap-iops", 5) != -1 || s.whole("libfuse.gid", 7) != 7 || s.err != nil {
		t.Errorf("values are read wrongly: %v", s.err)
	}
	for _, c := range []struct {
		text string
		read func(*settings)
		want string
	}{
		{"read-only: maybe", func(s *settings) { s.toggle("read-only", false) }, `line 1: read-only: "maybe" is neither true nor false`},
		{"libfuse: {uid: -1}", func(s *settings) { s.whole("libfuse.uid", 0) }, `line 1: libfuse.uid: "-1" is no whole number of 0 or more`},
		{"libfuse: {umask: 999}", func(s *settings) { s.mode("libfuse.umask") }, "is no mode"},
		{"file_cache: {max-size-mb: NaN}", func(s *settings) { s.megabytes("file_cache.max-size-mb", 0) }, "is no number of megabytes"},
		{"file_cache: {high-threshold: 101}", func(s *settings) { s.percent("file_cache.high-threshold", 0) }, "is no share"},
		{"file_cache: {timeout-sec: 9223372036854775807}", func(s *settings) { s.seconds("file_cache.timeout-sec", 0) }, "is too long"},
		{"azstorage: {mode: psk}", func(s *settings) { s.choice("azstorage.mode", "key", "sas") }, `"psk" is none of key, sas`},
	} {
		s := newSettings(parse(t, c.text), "", func(string) string { return "" })
		c.read(s)
		if s.err == nil || !strings.Contains(s.err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.text, s.err, c.want)
		}
	}
}

func TestExpand(t *testing.T) {
	t.Setenv("HOME", "/home/ann")
	t.Setenv("CACHE", "/fast")
	for in, want := range map[string]string{
		"~/x": "/home/ann/x", "~": "/home/ann", "$HOME/x": "/home/ann/x", "${CACHE}/y": "/fast/y", "/a~/b": "/a~/b", "$web": "$web", "$logs/a": "$logs/a", "": "",
	} {
		if got := expand(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("read-only: true\ns3storage:\n  bucket-name: a\n"))
	f.Add([]byte("libfuse: &a\n  uid: *b\n  <<: *a\ncomponents: [a, &b b]\n"))
	f.Add([]byte("file_cache:\n  schedule:\n  - {a: b}\n  path: |\n    x\n"))
	f.Add([]byte("{}"))
	f.Add([]byte("? a\n: b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig(data)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("an error of several lines: %q", err)
			}
			return
		}
		for name := range c.values {
			if k := keyTable[name]; k == nil || k.alias != "" {
				t.Errorf("value of %q", name)
			}
		}
		s := newSettings(c, "", os.Getenv)
		s.pipeline()
	})
}
