package cloudfuse

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml/parser"

	"github.com/massif-fs/massif/seal"
)

// program runs command lines as the program does, without mounting.
type program struct {
	t   *testing.T
	dir string
}

func newProgram(t *testing.T) *program {
	t.Setenv(passphraseEnv, "")
	t.Setenv(blobfusePassphraseEnv, "")
	p := &program{t, t.TempDir()}
	t.Chdir(p.dir)
	return p
}

func (p *program) run(args ...string) (out, errOut string, err error) {
	var o, e bytes.Buffer
	c := Personality{Streams: Streams{Out: &o, Err: &e}, Build: Build{Version: "1.2.3", Commit: "abc", Date: "today"}}
	err = c.Run(context.Background(), args)
	return o.String(), e.String(), err
}

func (p *program) must(args ...string) string {
	p.t.Helper()
	out, _, err := p.run(args...)
	if err != nil {
		p.t.Fatalf("%q: %v", args, err)
	}
	return out
}

func (p *program) refuse(want string, args ...string) {
	p.t.Helper()
	_, _, err := p.run(args...)
	if err == nil || !strings.Contains(err.Error(), want) {
		p.t.Errorf("%q: %v, want %q", args, err, want)
	}
}

func (p *program) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p *program) read(name string) string {
	p.t.Helper()
	data, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(data)
}

func (p *program) private(name string) {
	p.t.Helper()
	info, err := os.Stat(filepath.Join(p.dir, name))
	if err != nil || info.Mode().Perm() != 0o600 {
		p.t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
	}
}

const secureText = `# photos of the family
s3storage:
  bucket-name: photos # the bucket
  key-id: AKIA
components:
  - libfuse
  - s3storage
`

func TestSecure(t *testing.T) {
	p := newProgram(t)
	p.write("config.yaml", secureText)
	p.must("secure", "encrypt", "--config-file=config.yaml", "--passphrase=correct horse")
	p.private("config.yaml.aes")
	if strings.Contains(p.read("config.yaml.aes"), "photos") || p.read("config.yaml") != secureText {
		t.Error("the file is not encrypted, or its source not kept")
	}
	t.Setenv(passphraseEnv, "correct horse")
	p.must("secure", "decrypt", "--config-file=config.yaml.aes", "--output-file=plain.yaml")
	p.private("plain.yaml")
	if p.read("plain.yaml") != secureText {
		t.Errorf("decrypted: %q", p.read("plain.yaml"))
	}
	// As the shell has it, and with the sources removed.
	p.must("secure", "encrypt", "-c", "plain.yaml", "-o", "other.aes", "-p", "correct horse", "--remove-source")
	if _, err := os.Stat("plain.yaml"); !os.IsNotExist(err) {
		t.Error("the source is not removed")
	}
	p.must("secure", "decrypt", "-c", "other.aes", "--remove-source")
	if p.read("other") != secureText {
		t.Errorf("decrypted: %q", p.read("other"))
	}

	for _, c := range []struct{ key, want string }{
		{"s3storage.key-id", "Fetching scalar configuration\ns3storage.key-id = AKIA\n"},
		{"S3STORAGE.bucket-name", "Fetching scalar configuration\nS3STORAGE.bucket-name = photos\n"},
		{"components", "Fetching options level configuration\ncomponents = [libfuse s3storage]\n"},
		{"s3storage", "Fetching group level configuration\ns3storage.bucket-name = photos\ns3storage.key-id = AKIA\n"},
	} {
		if out := p.must("secure", "get", "-c", "config.yaml.aes", "--key="+c.key); out != c.want {
			t.Errorf("get %s: %q", c.key, out)
		}
	}
	if out := p.must("secure", "set", "-c", "config.yaml.aes", "--key=s3storage.key-id", "--value=NEW"); out != "Current value : s3storage.key-id = AKIA\nUpdated value : s3storage.key-id = NEW\n" {
		t.Errorf("set: %q", out)
	}
	if out := p.must("secure", "set", "-c", "config.yaml.aes", "-k", "logging.level", "--value=log_debug"); !strings.HasPrefix(out, "Key not found in config file, adding now\n") {
		t.Errorf("set: %q", out)
	}
	p.private("config.yaml.aes")
	p.must("secure", "decrypt", "-c", "config.yaml.aes", "-o", "changed.yaml")
	want := strings.Replace(secureText, "AKIA", "NEW", 1) + "logging:\n  level: log_debug\n"
	if got := p.read("changed.yaml"); got != want {
		t.Errorf("after two changes:\n%s\nwant\n%s", got, want)
	}
}

func TestSecureRefused(t *testing.T) {
	p := newProgram(t)
	p.write("config.yaml", secureText)
	p.write("bad.yaml", "a: b: c")
	p.refuse("no such file", "secure", "encrypt", "-c", "missing.yaml", "-p", "x")
	p.refuse("this is no YAML", "secure", "encrypt", "-c", "bad.yaml", "-p", "x")
	if _, err := os.Open("/dev/tty"); err != nil {
		p.refuse("no passphrase provided", "secure", "encrypt", "-c", "config.yaml")
	}
	p.must("secure", "encrypt", "-c", "config.yaml", "-p", "right")
	p.refuse("the passphrase is wrong", "secure", "decrypt", "-c", "config.yaml.aes", "-p", "wrong")
	p.refuse("would be written over itself", "secure", "encrypt", "-c", "config.yaml", "-p", "right", "-o", "./config.yaml")
	p.refuse("--key is missing", "secure", "get", "-c", "config.yaml.aes", "-p", "right")
	p.refuse(`key "s3storage.nothing" not found`, "secure", "get", "-c", "config.yaml.aes", "-p", "right", "-k", "s3storage.nothing")
	p.refuse("--value is missing", "secure", "set", "-c", "config.yaml.aes", "-p", "right", "-k", "s3storage.key-id")
	p.refuse("not a single value", "secure", "set", "-c", "config.yaml.aes", "-p", "right", "-k", "components", "--value=x")
	p.refuse("is no key", "secure", "set", "-c", "config.yaml.aes", "-p", "right", "-k", "a.b.c", "--value=x")
	p.refuse("missing command options", "secure")
	p.refuse(`there is no command "cloudfuse secure burn"`, "secure", "burn")
	p.refuse("unknown flag: --pasphrase; did you mean --passphrase?", "secure", "get", "--pasphrase=x")
	plain, err := seal.OpenConfig(seal.Passphrase("right"), []byte(p.read("config.yaml.aes")))
	if err != nil || string(plain) != secureText {
		t.Errorf("what was refused has changed the file: %v", err)
	}
}

func TestSetValue(t *testing.T) {
	for _, c := range []struct{ text, key, val, want string }{
		{"a: 1\nread-only: false # why\n", "read-only", "true", "a: 1\nread-only: true # why\n"},
		{"libfuse:\n    uid: 1\n", "libfuse.gid", "2", "libfuse:\n    uid: 1\n    gid: 2\n"},
		{"libfuse:\nread-only: true\n", "libfuse.gid", "2", "libfuse:\n  gid: 2\nread-only: true\n"},
		{"", "s3storage.region", "eu", "s3storage:\n  region: eu\n"},
		{"x: 1", "y", "2", "x: 1\ny: 2\n"},
		{"s3storage:\n  secret-key: a\n", "s3storage.secret-key", "b: # 'c'", "s3storage:\n  secret-key: 'b: # ''c'''\n"},
		{"s3storage:\n  secret-key: a\n", "s3storage.secret-key", "", "s3storage:\n  secret-key: ''\n"},
	} {
		file, err := parser.ParseBytes([]byte(c.text), parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		got, err := setValue(file, splitKey(c.key), c.val)
		if err != nil || got != c.want {
			t.Errorf("%q, %s = %q: %q, %v; want %q", c.text, c.key, c.val, got, err, c.want)
		}
	}
}

func FuzzSetValue(f *testing.F) {
	f.Add("s3storage:\n  region: a\n", "s3storage.region", "b")
	f.Add("a: [1]\n", "libfuse.uid", "'")
	f.Add("", "libfuse.uid", "\xd6")
	f.Add("", "libfuse.uid", "null")
	f.Add("", "libfuse.uid", "~")
	f.Fuzz(func(t *testing.T, text, key, val string) {
		if len(text) > 1<<12 || len(key) > 100 || len(val) > 100 {
			return
		}
		if _, err := parseConfig([]byte(text)); err != nil {
			return
		}
		file, err := parser.ParseBytes([]byte(text), parser.ParseComments)
		if err != nil {
			return
		}
		changed, err := setValue(file, splitKey(key), val)
		if err != nil {
			return
		}
		c, err := parseConfig([]byte(changed))
		if err != nil {
			t.Fatalf("%q, %s = %q: %q: %v", text, key, val, changed, err)
		}
		if k := keyTable[strings.ToLower(key)]; k != nil && k.alias == "" && k.kind != list && k.kind != records && val != "" {
			if got := c.values[k.name].text; got != val {
				t.Errorf("%q, %s = %q: %q says %q", text, key, val, changed, got)
			}
		}
	})
}
