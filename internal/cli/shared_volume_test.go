package cli

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/vfs"
)

// TestSharedVolumeCommands: "massif volume" on a shared volume, done by its metadata
// server while the volume is mounted.
func TestSharedVolumeCommands(t *testing.T) {
	needFUSE(t)
	s := newSite(t)
	v := s.addr + "/main"
	s.must("mount", v, s.mnt)
	old := strings.Repeat("as it was ", 100_000)
	if err := os.MkdirAll(filepath.Join(s.mnt, "d/e"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.write("d/f", old)
	s.write("d/gone", "to be missed")
	s.must("volume", "snapshot", "create", v, "before")
	s.refuse(1, `a snapshot "before" already`, "volume", "snapshot", "create", v, "before")
	s.write("d/f", "as it is")
	before := time.Now()
	time.Sleep(2 * time.Millisecond) // so that the removal is later
	if err := os.Remove(filepath.Join(s.mnt, "d/gone")); err != nil {
		t.Fatal(err)
	}

	// A snapshot, listed and mounted.
	var snapshots []meta.Snapshot
	s.mustJSON(&snapshots, "volume", "snapshot", "list", v)
	if len(snapshots) != 1 || snapshots[0].Name != "before" {
		t.Errorf("%+v", snapshots)
	}
	past := t.TempDir()
	s.must("mount", v, past, "--at-time", "before")
	if b, err := os.ReadFile(filepath.Join(past, "d/f")); err != nil || string(b) != old {
		t.Errorf("the snapshot has %.20q, %v", b, err)
	}
	s.must("umount", past)

	// The trash, and back from it: the mount sees it at once, though it knew that the
	// name was gone.
	var trash []meta.TrashEntry
	s.mustJSON(&trash, "volume", "trash", v, "/d")
	if !slices.ContainsFunc(trash, func(e meta.TrashEntry) bool { return e.Path == "/d/gone" }) {
		t.Errorf("trash %+v", trash)
	}
	if _, err := os.Stat(filepath.Join(s.mnt, "d/gone")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	s.must("volume", "restore", v, "/d/gone", "/d/gone", "--at-time", before.UTC().Format(time.RFC3339Nano))
	if s.read("d/gone") != "to be missed" {
		t.Error("another content")
	}
	s.must("volume", "restore", v, "/d/f", "/d/f-before", "--at-time", "before")
	if s.read("d/f-before") != old {
		t.Error("another content")
	}
	s.refuse(1, "/d/gone exists already", "volume", "clone", v, "/d/f", "/d/gone")
	s.refuse(1, "no such file", "volume", "clone", v, "/d/none", "/d/copy")
	s.must("volume", "clone", v, "/d", "/copy")
	if s.read("copy/f") != "as it is" {
		t.Error("another content")
	}

	// Quotas hold on the mount.
	s.must("volume", "quota", "set", v, "/d/e", "--bytes", "1MiB")
	if err := os.WriteFile(filepath.Join(s.mnt, "d/e/large"), make([]byte, 2<<20), 0o644); !errors.Is(err, syscall.EDQUOT) {
		t.Errorf("over the quota: %v", err)
	}
	var quotas []mount.QuotaEntry
	s.mustJSON(&quotas, "volume", "quota", "list", v)
	if len(quotas) != 1 || quotas[0].Path != "/d/e" || quotas[0].Bytes != 1<<20 {
		t.Errorf("%+v", quotas)
	}
	s.must("volume", "quota", "remove", v, "/d/e")
	s.refuse(1, "/d/e has no quota", "volume", "quota", "remove", v, "/d/e")
	s.write("d/e/large", strings.Repeat("x", 2<<20))
	s.refuse(1, "massif admin update volume", "volume", "quota", "set", v, "/", "--bytes", "1GiB")

	// What looks at it.
	var info mount.VolumeInfo
	s.mustJSON(&info, "volume", "info", v)
	if info.Name != "main" || info.UUID == "" || info.Usage.Inodes < 8 {
		t.Errorf("%+v", info)
	}
	if out := s.must("volume", "info", v); !strings.Contains(out, "with its metadata server") {
		t.Error(out)
	}
	if out := s.must("volume", "df", v); !strings.Contains(out, v) {
		t.Error(out)
	}
	if out := s.must("volume", "fsck", v, "--data"); !strings.Contains(out, "is clean") {
		t.Error(out)
	}
	s.must("fsck", v)

	s.must("umount", s.mnt) // nobody uses the numbers that it was given any more

	// Orphans go when they are old enough; what is needed stays.
	store := filepath.Join(s.home, "all/store")
	orphan := s.orphan(store)
	s.refuse(1, "at least 1d", "volume", "gc", v, "--grace", "0")
	var gc mount.GCResult
	if s.mustJSON(&gc, "volume", "gc", v, "--dry-run"); gc.Orphans != 1 || gc.DeletedBytes != 0 {
		t.Errorf("%+v", gc)
	}
	if s.mustJSON(&gc, "volume", "gc", v); gc.Orphans != 1 || gc.DeletedBytes == 0 {
		t.Errorf("%+v", gc)
	}
	if _, err := os.Stat(orphan); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the orphan: %v", err)
	}
	s.must("volume", "snapshot", "delete", v, "before")
	s.refuse(1, `no snapshot "before"`, "volume", "snapshot", "delete", v, "before")
	s.must("volume", "gc", v, "--compact")

	// What is damaged is named.
	lost := s.largest(store)
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	if r := s.run("volume", "fsck", v); r.code != 1 || !strings.Contains(r.out, "is missing in the store") || !strings.Contains(r.out, "lacks data") {
		t.Errorf("%+v", r)
	}
	s.refuse(1, "cannot be repaired while", "volume", "fsck", v, "--repair")

	// What does not work there says what does.
	s.refuse(1, "massif admin update volume", "volume", "set", v, "--retention", "1d")
	s.refuse(1, "not by a dump", "volume", "dump", v, filepath.Join(s.dir, "dump"))
	s.refuse(1, "there are no credentials for the volume other", "volume", "info", s.addr+"/other")
}

// objects are the files of blocks below a directory.
func objectsBelow(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "massif-volume.json" {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("objects below %s: %v, %v", dir, files, err)
	}
	return files
}

func (s *site) largest(dir string) string {
	s.t.Helper()
	return slices.MaxFunc(objectsBelow(s.t, dir), func(a, b string) int { return int(sizeOf(s.t, a) - sizeOf(s.t, b)) })
}

func sizeOf(t *testing.T, file string) int64 {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// orphan makes an old object that no record names, under a number that a mount was given
// and has not used.
func (s *site) orphan(dir string) string {
	s.t.Helper()
	all := objectsBelow(s.t, dir)
	last, most := "", block.ID(0)
	for _, file := range all { // in directories whose names end in a '+'
		shard := filepath.Dir(file)
		key := strings.TrimSuffix(filepath.Base(shard), "+") + "/" + filepath.Base(file)
		if id, ok := block.ParseKey("", key); ok && id > most {
			last, most = filepath.Dir(shard), id
		}
	}
	if last == "" {
		s.t.Fatalf("none of %q is a block's", all)
	}
	file := filepath.Join(last, strings.Replace(block.Key("", most+1), "/", "+/", 1))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("forgotten"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(file, old, old); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// TestSharedVolumeScopes: what a token allows, a hand-made client can have done, and no
// more.
func TestSharedVolumeScopes(t *testing.T) {
	needFUSE(t)
	s := newSite(t)
	v := s.addr + "/main"
	s.must("mount", v, s.mnt)
	if err := os.Mkdir(filepath.Join(s.mnt, "team"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.must("umount", s.mnt)
	s.must("volume", "snapshot", "create", v, "one")
	join := func(args ...string) {
		t.Helper()
		token, _ := s.token(append([]string{"--volume", "main"}, args...)...)
		s.must("creds", "init", "--admin", s.addr, "--token-file", s.secretFile("token", token), "--fingerprint", s.fingerprint, "--force")
	}
	join("--read-only")
	for _, args := range [][]string{{"snapshot", "list"}, {"quota", "list"}, {"trash"}, {"info"}, {"df"}} {
		s.must(append(append([]string{"volume"}, args...), v)...)
	}
	for _, args := range [][]string{
		{"snapshot", "create", v, "two"}, {"snapshot", "delete", v, "one"}, {"quota", "set", v, "/team", "--inodes", "9"}, {"quota", "remove", v, "/team"},
		{"clone", v, "/team", "/copy"}, {"restore", v, "/team", "/copy", "--at-time", "one"}, {"gc", v}, {"fsck", v},
	} {
		s.refuse(1, "the token is for reading only", append([]string{"volume"}, args...)...)
	}
	for _, limit := range [][]string{{"--path", "team"}, {"--path", "team", "--read-only"}} {
		join(limit...)
		s.refuse(1, "the token is limited to a directory", "volume", "snapshot", "list", v)
		s.refuse(1, "the token is limited to a directory", "volume", "clone", v, "/a", "/b")
	}
	join("--flags", "root-squash")
	s.refuse(1, "does not allow to administer the volume", "volume", "info", v)

	// A client that does not look at what it sends.
	join()
	t.Setenv("MASSIF_HOME", s.home)
	tree := &mount.SharedTree{Admin: s.addr, Volume: "main"}
	c, err := tree.Session(t.Context(), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, call := range []struct {
		op, args string
		errno    syscall.Errno
	}{
		{"no-such-thing", "{}", syscall.EOPNOTSUPP}, {"", "{}", syscall.EOPNOTSUPP}, {"set", `{"retention":1}`, syscall.EOPNOTSUPP},
		{"dump", `{"file":"/tmp/x"}`, syscall.EOPNOTSUPP}, {"seal-change", "{}", syscall.EOPNOTSUPP},
		{"snapshot-create", `{"nome":"x"}`, syscall.EINVAL}, {"snapshot-create", `{"name":"x"}{}`, syscall.EINVAL}, {"snapshot-create", "", syscall.EINVAL},
		{"gc", `{"grace_ns":0}`, syscall.EINVAL}, {"trash", `{"path":"` + strings.Repeat("x", 70_000) + `"}`, syscall.EINVAL},
	} {
		if _, err := c.Command(t.Context(), call.op, []byte(call.args)); vfs.ErrnoOf(err) != call.errno {
			t.Errorf("%s %.40s: %v", call.op, call.args, err)
		}
	}
	if out, err := c.Command(t.Context(), "snapshot-list", []byte("{}")); err != nil || strings.Count(string(out), `"name"`) != 1 || !strings.Contains(string(out), "one") {
		t.Errorf("%s, %v", out, err)
	}
}

// TestSharedVolumeSealed: of an encrypted volume what needs no names works, and the rest
// is refused; the passphrase is changed, also in the credentials.
func TestSharedVolumeSealed(t *testing.T) {
	needFUSE(t)
	t.Parallel()
	s := newSite(t)
	s.must("admin", "create", "volume", "vault", "--store", "local", "--metadata-server", "local", "--encryption")
	token, _ := s.token("--volume", "vault")
	v := s.addr + "/vault"
	first, second := s.secretFile("first", "correct horse battery"), s.secretFile("second", "another horse battery")
	s.must("creds", "init", "--admin", s.addr, "--token-file", s.secretFile("token", token), "--fingerprint", s.fingerprint, "--passphrase-file", first)
	s.must("mount", v, s.mnt)
	s.write("f", "hello")
	for _, args := range [][]string{
		{"clone", v, "/f", "/g"}, {"restore", v, "/f", "/g", "--at-time", "1s"}, {"trash", v}, {"quota", "set", v, "/f", "--inodes", "9"}, {"quota", "remove", v, "/f"}, {"gc", v, "--compact"},
	} {
		s.refuse(1, "does not know the names of its files", append([]string{"volume"}, args...)...)
	}
	s.must("volume", "snapshot", "create", v, "one")
	if out := s.must("volume", "fsck", v, "--data"); !strings.Contains(out, "is clean") {
		t.Error(out)
	}
	s.must("volume", "gc", v)
	if out := s.must("volume", "info", v); !strings.Contains(out, "xaes-256-gcm+aes-siv") {
		t.Error(out)
	}

	s.refuse(1, "the passphrase is wrong", "volume", "passphrase", "change", v, "--passphrase-file", second, "--new-passphrase-file", first)
	s.must("volume", "passphrase", "change", v, "--passphrase-file", first, "--new-passphrase-file", second)
	s.refuse(1, "the passphrase is wrong", "volume", "passphrase", "change", v, "--passphrase-file", first, "--new-passphrase-file", second)
	if s.read("f") != "hello" { // the mount goes on
		t.Error("another content")
	}
	s.must("umount", s.mnt)
	s.must("mount", v, s.mnt) // with the credentials
	if s.read("f") != "hello" {
		t.Error("another content")
	}
	s.must("umount", s.mnt)
	s.refuse(1, "the passphrase is wrong", "mount", v, s.mnt, "--passphrase-file", first)
	s.must("mount", v, s.mnt, "--passphrase-file", second)
	s.must("umount", s.mnt)

	// The recovery key, made anew, opens it too.
	recovery := s.secretFile("recovery", s.must("volume", "passphrase", "recovery-key", v, "--passphrase-file", second))
	s.must("volume", "passphrase", "recover", v, "--recovery-key-file", recovery, "--new-passphrase-file", first)
	s.must("mount", v, s.mnt)
	s.must("umount", s.mnt)

	s.refuse(1, "is not encrypted", "volume", "passphrase", "change", s.addr+"/main", "--passphrase-file", first, "--new-passphrase-file", second)
}
