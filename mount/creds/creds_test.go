package creds

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const token = "0b5c2f6e-1111-4222-8333-944444444444"

// TestSeedFile: the file that the seed shows is read as it is.
func TestSeedFile(t *testing.T) {
	f, err := Parse([]byte("adminAddr = \"admin.example.com:443\"\nsecret = \"$SECRET\"\ntoken = \"" + token + "\"\n"))
	if err != nil || f.AdminAddr != "admin.example.com:443" || f.Token != token || f.Secret != "$SECRET" {
		t.Fatalf("%+v, %v", f, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     `"adminAddr" is missing`,
		"adminAddr = \"a\"":                    `"token" is missing`,
		"adminAddr = \"a\"\ntoken = \"xyz\"":   "not well formed: it is a UUID",
		"adminaddr = 1":                        "not well formed",
		"adminAddr = \"a\"\ntokn = \"t\"":      `"tokn" is not known`,
		"adminAddr = \"a/b\"\ntoken = \"t\"":   "HOST:PORT",
		"= = =":                                "line 1, column 1",
		"adminAddr = \"a\"\nadminAddr = \"b\"": "well formed",
		"adminAddr = \"a\"\ntoken = \"" + token + "\"\nfingerprint = \"abc\"":       "64 hexadecimal digits",
		"adminAddr = \"a\"\ntoken = \"" + token + "\"\ninsecure = true\nca = \"x\"": "contradicts",
		"x = \"" + strings.Repeat("y", maxFile) + "\"":                              "larger than",
	} {
		_, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v does not say %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%.60q: more than one line: %q", text, err)
		}
	}
}

func TestWriteAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "vol")
	f := &File{AdminAddr: "[::1]:7", Token: strings.ToUpper(token), Secret: "a \"secret\"\\ü", Fingerprint: strings.Repeat("AB:", 31) + "AB", CA: "", KeyID: "k"}
	if err := f.Write(path, false); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if dir, _ := os.Stat(filepath.Dir(path)); dir.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v", dir.Mode())
	}
	got, err := Read(path)
	if err != nil || *got != *f || got.Token != token || got.Fingerprint != "sha256:"+strings.Repeat("ab", 32) {
		t.Errorf("%+v, %v", got, err)
	}
	var exists *ExistsError
	if err := f.Write(path, false); !errors.As(err, &exists) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("%v", err)
	}
	f.Secret = "other"
	if err := f.Write(path, true); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("an open file: %v", err)
	}
	if _, err := Read(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := Read(filepath.Dir(path)); err == nil {
		t.Error("a directory")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".creds-*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("adminAddr = \"admin.example.com:443\"\ntoken = \"" + token + "\"\nsecret = \"s\"\n")
	f.Add("fingerprint = \"sha256:00\"\n[a]\nb=1")
	f.Add("ca = '''\n-----BEGIN\n'''")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse([]byte(text))
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
			return
		}
		path := filepath.Join(dir, "f")
		if err := c.Write(path, true); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := Read(path)
		if err != nil || *again != *c {
			t.Fatalf("%+v became %+v, %v", c, again, err)
		}
	})
}
