package cli

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/mount"
)

const testPassphrase = "correct horse battery"

// secretFile makes a file of mode 0600.
func (w *world) secretFile(name, content string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// createEncrypted makes an encrypted volume and returns its recovery key.
func (w *world) createEncrypted(name string, args ...string) (recovery string) {
	w.t.Helper()
	out := w.must(append([]string{"volume", "create", name, "--encrypt", "--passphrase-file", w.secretFile("pass", testPassphrase+"\n")}, args...)...)
	_, recovery, found := strings.Cut(out, "recovery key: ")
	if !found {
		w.t.Fatalf("no recovery key in %q", out)
	}
	return strings.TrimSpace(recovery)
}

// fill writes one of everything, each with a SECRET in it.
func (w *world) fill(dir string) {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	at := filepath.Join(w.mnt, dir)
	must(os.MkdirAll(at, 0o755))
	must(os.WriteFile(filepath.Join(at, "SECRETsmall"), []byte("SECRET inline"), 0o644))
	must(os.WriteFile(filepath.Join(at, "SECRETmedium"), bytes.Repeat([]byte("SECRET packed "), 2000), 0o644))
	must(os.WriteFile(filepath.Join(at, "SECRETlarge"), []byte("SECRET block "+random(w.t, 1<<20)), 0o644))
	must(os.Symlink("/SECRET/target", filepath.Join(at, "SECRETlink")))
	must(unix.Setxattr(filepath.Join(at, "SECRETsmall"), "user.SECRETattr", []byte("SECRET value"), 0))
	must(os.Rename(filepath.Join(at, "SECRETmedium"), filepath.Join(at, "SECRETrenamed")))
	f, err := os.Open(filepath.Join(at, "SECRETlarge"))
	must(err)
	must(f.Sync())
	must(f.Close())
}

// leaks lists the files below the home that hold a word.
func (w *world) leaks(word string) (files []string) {
	w.t.Helper()
	err := filepath.WalkDir(w.home, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && (bytes.Contains(data, []byte(word)) || strings.Contains(path, word)) {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return files
}

// TestNothingPlainOnDisk looks into all files of a volume, its log among them.
func TestNothingPlainOnDisk(t *testing.T) {
	needFUSE(t)
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("encrypted=%t", encrypted), func(t *testing.T) {
			w := newWorld(t)
			if encrypted {
				w.createEncrypted("v", "--compression", "none", "--retention", "1d")
			} else {
				w.must("volume", "create", "v", "--compression", "none", "--retention", "1d")
			}
			w.env = append(w.env, mount.PassphraseEnv+"="+testPassphrase)
			for _, args := range [][]string{nil, {"--writeback", "--log-level", "debug"}} {
				w.must(append([]string{"mount", "v", w.mnt}, args...)...)
				w.fill(fmt.Sprintf("SECRETdir%d", len(args)))
				if got := w.read("SECRETdir0/SECRETsmall"); got != "SECRET inline" {
					t.Errorf("content %q", got)
				}
				w.must("umount", w.mnt)
			}
			w.must("volume", "dump", "v", filepath.Join(w.home, "dump"))
			found := w.leaks("SECRET")
			if encrypted && len(found) > 0 {
				t.Errorf("plain text in %q", found)
			}
			// The way of looking must find what is there.
			if !encrypted && (!slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, "/store/") }) ||
				!slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, "/meta/") })) {
				t.Errorf("of a plain volume only %q have plain text", found)
			}
			if found := w.leaks(testPassphrase); len(found) > 0 {
				t.Errorf("the passphrase is in %q", found)
			}
		})
	}
}

func TestPassphrases(t *testing.T) {
	needFUSE(t)
	t.Parallel()
	w := newWorld(t)
	recovery := w.createEncrypted("v")
	pass := filepath.Join(w.dir, "pass")
	w.must("volume", "create", "plain")

	before := tree(t, w.home)
	w.refuse(1, "volume v is encrypted: give its passphrase", "mount", "v", w.mnt)
	w.refuse(1, "the passphrase is wrong", "mount", "v", w.mnt, "--passphrase-file", w.secretFile("wrong", "incorrect horse"))
	w.refuse(1, "can be read by others", "mount", "v", w.mnt, "--passphrase-file", func() string {
		path := w.secretFile("open", testPassphrase)
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}())
	w.refuse(1, "is empty", "mount", "v", w.mnt, "--passphrase-file", w.secretFile("empty", "\n"))
	w.refuse(1, "no such file", "mount", "v", w.mnt, "--passphrase-file", filepath.Join(w.dir, "absent"))
	w.refuse(1, "is not encrypted, but a passphrase was given", "mount", "plain", w.mnt, "--passphrase-file", pass)
	w.refuse(1, "has 5 characters", "volume", "create", "w", "--encrypt", "--passphrase-file", w.secretFile("short", "short"))
	w.refuse(2, "no terminal", "volume", "create", "w", "--encrypt")
	w.refuse(1, "volume plain is not encrypted", "volume", "passphrase", "change", "plain", "--passphrase-file", pass, "--new-passphrase-file", pass)
	if after := tree(t, w.home); !sameVolume(before, after) {
		t.Error("a refusal changed something")
	}

	// Through a descriptor, and not to be seen in the background process.
	cmd := w.command("mount", "v", w.mnt, "--passphrase-fd", "3")
	secret, err := os.Open(pass)
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	cmd.ExtraFiles = []*os.File{secret}
	if r := w.finish(cmd); r.code != 0 {
		t.Fatal(r.err)
	}
	w.write("file", "content")
	w.must("umount", w.mnt)
	w.env = append(w.env, mount.PassphraseEnv+"="+testPassphrase)
	w.must("mount", "v", w.mnt)
	pid := w.pidOf(w.mnt)
	for _, file := range []string{"cmdline", "environ"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil || len(data) == 0 || bytes.Contains(data, []byte("horse")) {
			t.Errorf("%s of the mount: %q, %v", file, data, err)
		}
	}
	w.env = w.env[:len(w.env)-1]

	// The passphrase changes while the volume is mounted.
	next := w.secretFile("next", "another passphrase")
	w.refuse(1, "the passphrase is wrong", "volume", "passphrase", "change", "v", "--passphrase-file", next, "--new-passphrase-file", next)
	w.refuse(1, "has 5 characters", "volume", "passphrase", "change", "v", "--passphrase-file", pass, "--new-passphrase-file", filepath.Join(w.dir, "short"))
	w.must("volume", "passphrase", "change", "v", "--passphrase-file", pass, "--new-passphrase-file", next)
	if got := w.read("file"); got != "content" {
		t.Errorf("content %q", got)
	}
	w.must("umount", w.mnt)
	w.refuse(1, "the passphrase is wrong", "mount", "v", w.mnt, "--passphrase-file", pass)
	w.must("mount", "v", w.mnt, "-o", "passphrase-file="+next)
	w.must("umount", w.mnt)

	// Forgotten: the recovery key sets a new one; then it is renewed.
	key := w.secretFile("key", strings.ToLower(recovery)+"\n")
	w.refuse(1, "that is no recovery key", "volume", "passphrase", "recover", "v", "--recovery-key-file", next, "--new-passphrase-file", pass)
	w.must("volume", "passphrase", "recover", "v", "--recovery-key-file", key, "--new-passphrase-file", pass)
	out := w.must("volume", "passphrase", "recovery-key", "v", "--passphrase-file", pass)
	w.refuse(1, "the recovery key is not this volume's", "volume", "passphrase", "recover", "v", "--recovery-key-file", key, "--new-passphrase-file", next)
	w.must("volume", "passphrase", "recover", "v", "--recovery-key-file", w.secretFile("key2", out), "--new-passphrase-file", next)
	w.must("mount", "v", w.mnt, "--passphrase-file", next)
	if got := w.read("file"); got != "content" {
		t.Errorf("content %q", got)
	}
	w.must("umount", w.mnt)
}

// sameVolume compares what a refusal must not change: whatever is not written by
// opening a volume.
func sameVolume(a, b map[string]string) bool {
	for name, content := range a {
		if strings.Contains(name, "store/") || strings.HasSuffix(name, "volume.json") {
			if b[name] != content {
				return false
			}
		}
	}
	for name := range b {
		if _, old := a[name]; !old && strings.Contains(name, "volumes/w") {
			return false
		}
	}
	return true
}

// TestOperationsOnEncryptedVolumes runs the commands that look into a volume, mounted
// and not.
func TestOperationsOnEncryptedVolumes(t *testing.T) {
	needFUSE(t)
	t.Parallel()
	w := newWorld(t)
	w.createEncrypted("v", "--retention", "1d")
	pass := []string{"--passphrase-file", filepath.Join(w.dir, "pass")}
	w.must("mount", "v", w.mnt, pass[0], pass[1])
	w.fill("dir")
	if err := os.Remove(filepath.Join(w.mnt, "dir/SECRETrenamed")); err != nil {
		t.Fatal(err)
	}
	// A mount has the key: nobody is asked.
	w.must("volume", "clone", "v", "/dir", "/clone")
	w.must("volume", "quota", "set", "v", "/dir", "--inodes", "100")
	if got := w.read("clone/SECRETsmall"); got != "SECRET inline" {
		t.Errorf("content of the clone %q", got)
	}
	value := make([]byte, 20)
	if n, err := unix.Getxattr(filepath.Join(w.mnt, "clone/SECRETsmall"), "user.SECRETattr", value); err != nil || string(value[:n]) != "SECRET value" {
		t.Errorf("attribute of the clone %q, %v", value[:max(n, 0)], err)
	}
	w.must("umount", w.mnt)

	// Without the key.
	w.refuse(1, "volume v is encrypted", "volume", "clone", "v", "/dir", "/clone2")
	w.refuse(1, "volume v is encrypted", "volume", "trash", "v")
	w.refuse(1, "volume v is encrypted", "volume", "quota", "set", "v", "/clone", "--inodes", "100")
	w.refuse(1, "volume v is encrypted", "volume", "gc", "v", "--compact")
	w.refuse(1, "volume v is encrypted", "fsck", "v", "--repair")
	if out := w.must("volume", "quota", "list", "v"); !strings.Contains(out, "whose name is sealed") {
		t.Errorf("quotas: %s", out)
	}
	w.must("fsck", "v", "--data")
	w.must("volume", "gc", "v")
	w.must("volume", "df", "v")
	w.must("volume", "snapshot", "create", "v", "now")
	w.must("volume", "set", "v", "--compression", "zstd")
	if out := w.must("volume", "info", "v"); !strings.Contains(out, "xaes-256-gcm+aes-siv") {
		t.Errorf("info: %s", out)
	}

	// With it.
	with := func(args ...string) string { t.Helper(); return w.must(append(args, pass...)...) }
	var trash []meta.TrashEntry
	w.mustJSON(&trash, append([]string{"volume", "trash", "v"}, pass...)...)
	if !slices.ContainsFunc(trash, func(e meta.TrashEntry) bool { return e.Path == "/dir/SECRETrenamed" }) {
		t.Errorf("trash %+v", trash)
	}
	if out := with("volume", "quota", "list", "v"); !strings.Contains(out, "/dir ") {
		t.Errorf("quotas: %s", out)
	}
	with("volume", "clone", "v", "/dir", "/clone2")
	with("volume", "restore", "v", "/clone", "/restored", "--at-time", "now")
	with("volume", "gc", "v", "--compact")
	with("fsck", "v", "--repair")
	w.refuse(1, "the passphrase is wrong", "volume", "trash", "v", "--passphrase-file", w.secretFile("wrong", "incorrect horse"))

	// What lacks data is named, if the key is there.
	blocks := w.objects("v")
	if err := os.Truncate(blocks[len(blocks)-1], 100); err != nil {
		t.Fatal(err)
	}
	r := w.run(append([]string{"fsck", "v", "--data"}, pass...)...)
	if r.code != 1 || !strings.Contains(r.out, "SECRET") {
		t.Errorf("fsck with the key: %s", r.out)
	}
	if r = w.run("fsck", "v", "--data"); r.code != 1 || strings.Contains(r.out, "SECRET") || !strings.Contains(r.out, "whose name is sealed") {
		t.Errorf("fsck without the key: %s", r.out)
	}

	// A dump stays sealed, and what is loaded has the same passphrase.
	dump := filepath.Join(w.dir, "dump")
	w.must("volume", "dump", "v", dump)
	if err := os.Rename(filepath.Join(w.home, "volumes", "v", "store"), filepath.Join(w.dir, "store")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(w.home, "volumes", "v")); err != nil {
		t.Fatal(err)
	}
	w.must("volume", "load", "v", dump, "--store", "file://"+filepath.Join(w.dir, "store"))
	w.refuse(1, "volume v is encrypted", "mount", "v", w.mnt)
	w.must("mount", "v", w.mnt, pass[0], pass[1], "--at-time", "now")
	if got := w.read("clone/SECRETsmall"); got != "SECRET inline" {
		t.Errorf("content %q", got)
	}
	w.must("umount", w.mnt)
}

// TestDowngrade: metadata that say that a volume is not encrypted, or encrypted with
// another key, do not make the program write plain text.
func TestDowngrade(t *testing.T) {
	w := newWorld(t)
	w.createEncrypted("v")
	w.createEncrypted("other")
	w.must("volume", "create", "plain")
	pass := filepath.Join(w.dir, "pass")
	record := filepath.Join(w.home, "volumes", "v", "volume.json")
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]string{"plain": "its metadata say that it is not", "other": "encrypted with another key"} {
		other, err := os.ReadFile(filepath.Join(w.home, "volumes", from, "volume.json"))
		if err != nil {
			t.Fatal(err)
		}
		uuid := func(record []byte) string {
			_, rest, _ := strings.Cut(string(record), `"uuid": "`)
			id, _, _ := strings.Cut(rest, `"`)
			return id
		}
		// The record of v with the metadata, the store and the number of the other.
		changed := strings.ReplaceAll(strings.ReplaceAll(string(text), uuid(text), uuid(other)), "volumes/v/", "volumes/"+from+"/")
		if err := os.WriteFile(record, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		w.refuse(1, want, "mount", "v", w.mnt, "--passphrase-file", pass)
		w.refuse(1, want, "fsck", "v")
	}
}
