package test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/internal/fsxtree"
)

// writeFiles makes n files of a few KiB in nested directories.
func writeFiles(t testing.TB, dir string, n int, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range n {
		name := filepath.Join(dir, fmt.Sprintf("pkg%02d/part%d/file%04d.txt", i%40, i%3, i))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for range rng.IntN(200) {
			fmt.Fprintf(&text, "line %d of file %d\n", rng.Uint32(), i)
		}
		if err := os.WriteFile(name, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGit clones a repository of some thousand files, works with it, and lets git
// check every object.
func TestGit(t *testing.T) {
	git := tool(t, "git")
	t.Parallel()
	v := newVolume(t, options{})
	n := 4000
	if testing.Short() {
		n = 400
	}
	env := []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "HOME=" + v.dir,
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@example.org"}
	origin := filepath.Join(v.dir, "origin")
	writeFiles(t, origin, n, 1)
	there := command{dir: origin, env: env}
	there.run(t, git, "init", "-q", "-b", "main")
	there.run(t, git, "add", "-A")
	there.run(t, git, "commit", "-q", "-m", "first")

	command{dir: v.mnt, env: env}.run(t, git, "clone", "-q", "--no-local", origin, "clone")
	clone := command{dir: v.path("clone"), env: env}
	check := func(when string) {
		t.Helper()
		if out := clone.run(t, git, "status", "--porcelain"); out != "" {
			t.Fatalf("%s: git status: %s", when, out)
		}
		clone.run(t, git, "fsck", "--full", "--strict")
	}
	check("after clone")
	writeFiles(t, filepath.Join(clone.dir, "more"), n/4, 2)
	clone.run(t, git, "add", "-A")
	clone.run(t, git, "commit", "-q", "-m", "second")
	clone.run(t, git, "checkout", "-q", "-b", "side", "HEAD~1")
	clone.run(t, git, "mv", "pkg00", "renamed")
	clone.run(t, git, "commit", "-q", "-a", "-m", "third")
	clone.run(t, git, "merge", "-q", "-m", "fourth", "main")
	clone.run(t, git, "gc", "-q")
	check("after work")
	v.remount()
	check("after a remount")
}

// TestGoBuild compiles a module, with the build cache on the mount too.
func TestGoBuild(t *testing.T) {
	gotool := tool(t, "go")
	t.Parallel()
	v := newVolume(t, options{})
	dir := v.path("module")
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.org/m\n\ngo 1.25\n")
	imports, calls := "", ""
	for i := range 20 {
		write(fmt.Sprintf("p%d/p.go", i), fmt.Sprintf("package p%d\n\nfunc N() int { return %d }\n", i, i))
		imports += fmt.Sprintf("\t\"example.org/m/p%d\"\n", i)
		calls += fmt.Sprintf(" + p%d.N()", i)
	}
	write("main.go", "package main\n\nimport (\n\t\"os\"\n\t\"strconv\"\n"+imports+")\n\nfunc main() { os.Stdout.WriteString(strconv.Itoa(0"+calls+")) }\n")
	write("main_test.go", "package main\n\nimport \"testing\"\n\nfunc TestIt(t *testing.T) {}\n")
	c := command{dir: dir, env: []string{"GOCACHE=" + v.path("cache"), "GOTMPDIR=" + v.mnt, "GOFLAGS=-mod=mod", "GOPROXY=off", "CGO_ENABLED=0", "GOWORK=off"}}
	c.run(t, gotool, "build", "-o", "program", ".")
	if out := c.run(t, filepath.Join(dir, "program")); out != "190" {
		t.Errorf("the program printed %q", out)
	}
	v.remount()
	// The cache is whole: nothing is compiled again, and what it holds is right.
	if out := c.run(t, gotool, "build", "-v", "-o", "again", "."); out != "" {
		t.Errorf("compiled again after a remount:\n%s", out)
	}
	c.run(t, "cmp", "program", "again")
	if !testing.Short() {
		c.run(t, gotool, "vet", ".")
	}
}

// TestFio lets fio write with checksums and verify them.
func TestFio(t *testing.T) {
	fio := tool(t, "fio")
	t.Parallel()
	v := newVolume(t, options{})
	size := "96m"
	if testing.Short() {
		size = "16m"
	}
	for _, job := range [][]string{
		{"--rw=randwrite", "--bsrange=4k-64k", "--ioengine=psync", "--fsync=64"},
		{"--rw=randwrite", "--bs=16k", "--ioengine=libaio", "--iodepth=16", "--direct=1"},
		{"--rw=write", "--bs=1m", "--ioengine=mmap"},
	} {
		args := append([]string{"--name=verify", "--directory=" + v.mnt, "--size=" + size, "--verify=crc32c", "--verify_fatal=1",
			"--do_verify=1", "--verify_state_save=0", "--randrepeat=1", "--minimal", "--fallocate=none", "--unlink=1"}, job...)
		if out, err := (command{}).output(fio, args...); err != nil {
			t.Fatalf("fio %v: %v\n%.2000s", job, err, out)
		}
	}
}

// TestStress runs those stressors of stress-ng that use files, with verification; but not
// getdent, which walks the whole machine, with the mounts of tests that run meanwhile: it
// keeps those busy, and waits for ever for one whose server is stopped.
func TestStress(t *testing.T) {
	stress := tool(t, "stress-ng")
	t.Parallel()
	v := newVolume(t, options{})
	names := []string{"access", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "fallocate", "file-ioctl",
		"filename", "flock", "fpunch", "fstat", "hdd", "lockf", "locka", "open", "readahead", "rename", "seek", "symlink",
		"sync-file", "touch", "utime", "xattr"}
	if testing.Short() {
		names = []string{"access", "dentry", "fpunch", "hdd", "rename", "seek", "xattr"}
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			out, err := command{dir: v.mnt}.output(stress, "--"+name, "2", "--timeout", "1", "--temp-path", v.mnt, "--verify")
			if err != nil {
				t.Errorf("%v\n%.3000s", err, out)
			}
		})
	}
	entries, err := os.ReadDir(v.mnt)
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

// oddTree makes a tree with everything that archivers must keep.
func oddTree(t testing.TB, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	writeFiles(t, dir, 400, 3)
	p := func(name string) string { return filepath.Join(dir, name) }
	must(os.WriteFile(p("with space\nand newline"), []byte("odd name"), 0o600))
	must(os.WriteFile(p(strings.Repeat("n", 255)), []byte("long name"), 0o640))
	must(os.WriteFile(p("empty"), nil, 0o444))
	must(os.WriteFile(p("setuid"), []byte("x"), 0o755))
	must(os.Chmod(p("setuid"), 0o755|os.ModeSetuid|os.ModeSetgid))
	must(os.Mkdir(p("sticky"), 0o777))
	must(os.Chmod(p("sticky"), 0o777|os.ModeSticky))
	must(os.Link(p("empty"), p("hard link")))
	must(os.Link(p("setuid"), p("sticky/other hard link")))
	must(os.Symlink("with space\nand newline", p("symlink")))
	must(os.Symlink(strings.Repeat("d/", 1000), p("long dangling symlink")))
	must(unix.Mkfifo(p("fifo"), 0o644))
	must(unix.Mknod(p("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	must(os.Chown(p("empty"), 1234, 5678))
	must(unix.Lsetxattr(p("empty"), "user.colour", []byte("blue\x00green"), 0))
	must(unix.Lsetxattr(p("sticky"), "user.large", []byte(strings.Repeat("v", 1500)), 0))
	must(unix.Lsetxattr(p("empty"), "trusted.secret", []byte("root's"), 0))
	sparse, err := os.Create(p("sparse"))
	must(err)
	_, err = sparse.WriteAt([]byte("middle"), 20<<20)
	must(err)
	must(sparse.Truncate(50 << 20))
	must(sparse.Close())
	old := time.Date(1969, 7, 20, 20, 17, 40, 123456789, time.UTC)
	must(os.Chtimes(p("empty"), old, old))
	far := time.Date(2200, 1, 1, 0, 0, 0, 1, time.UTC)
	must(os.Chtimes(p("setuid"), far, far))
	// rsync keeps whole seconds of all but regular files.
	must(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type().IsRegular() {
			return err
		}
		sec := unix.Timespec{Sec: 1_500_000_000 + int64(len(path))}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{sec, sec}, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// TestArchive moves an odd tree in and out by tar and rsync; nothing may change.
func TestArchive(t *testing.T) {
	tar, rsync := tool(t, "tar"), tool(t, "rsync")
	t.Parallel()
	v := newVolume(t, options{})
	src := filepath.Join(v.dir, "src")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	oddTree(t, src)
	want, err := fsxtree.Take(src)
	if err != nil {
		t.Fatal(err)
	}
	same := func(dir string) {
		t.Helper()
		got, err := fsxtree.Take(dir)
		if err != nil {
			t.Fatal(err)
		}
		if diff := fsxtree.Diff(want, got, fsxtree.What{}); diff != "" {
			t.Fatalf("%s:\n%s", dir, diff)
		}
	}
	must := func(dirs ...string) {
		t.Helper()
		for _, d := range dirs {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	tarred, synced, back := v.path("tarred"), v.path("synced"), filepath.Join(v.dir, "back")
	must(tarred, synced, back)
	archive := v.path("archive.tar")
	command{dir: src}.run(t, tar, "--xattrs", "--xattrs-include=*", "--format=posix", "-S", "-cf", archive, ".")
	command{dir: tarred}.run(t, tar, "--xattrs", "--xattrs-include=*", "-S", "-xpf", archive)
	same(tarred)
	command{}.run(t, rsync, "-aHAXS", "--numeric-ids", src+"/", synced+"/")
	same(synced)
	v.remount()
	same(tarred)
	same(synced)
	if out := (command{}).run(t, rsync, "-aHAXSi", "--numeric-ids", "--delete", src+"/", synced+"/"); out != "" {
		t.Errorf("rsync finds differences:\n%s", out)
	}
	command{}.run(t, rsync, "-aHAXS", "--numeric-ids", synced+"/", back+"/")
	same(back)
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(tarred, "sparse"), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("the sparse file takes %d bytes, %v", st.Blocks*512, err)
	}
}
