package test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/massif-fs/massif/internal/fsx"
	"github.com/massif-fs/massif/internal/fsxtree"
	"github.com/massif-fs/massif/internal/posix"
	"github.com/massif-fs/massif/internal/testseed"
)

// mountLocal mounts a fresh directory, passed through.
func mountLocal(t *testing.T) *volume {
	t.Helper()
	needMount(t)
	dir, err := os.MkdirTemp("", "mloc-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	v := &volume{t: t, dir: dir, home: filepath.Join(dir, "home"), mnt: filepath.Join(dir, "mnt")}
	src := filepath.Join(dir, "src")
	for _, d := range []string{v.mnt, src} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	v.args = []string{"mount", "--foreground", "file://" + src, v.mnt}
	v.serve()
	return v
}

// TestLocal exercises a directory passed through: data, names, and modes that the
// server's own umask must not touch.
func TestLocal(t *testing.T) {
	t.Parallel()
	v := mountLocal(t)
	ops := 30_000
	if testing.Short() {
		ops = 3_000
	}
	cfg := fsx.Config{Path: v.path("file"), Ops: ops, Seed: testseed.Of(t, 6), SyncEvery: 1000, Files: 2, Direct: true}
	if _, err := fsx.Run(context.Background(), cfg); err != nil {
		t.Fatalf("%v\n%s", err, v.said())
	}
	e, err := fsxtree.New(fsxtree.Config{Dir: v.mnt, Seed: testseed.Of(t, 6), Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Run(context.Background(), ops/10); err != nil {
		t.Fatal(err)
	}
	if err := e.Check(); err != nil {
		t.Fatal(err)
	}
	if err := e.CloseAll(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-c", "umask 0; cd "+v.mnt+" && mkdir d && : >f && stat -c %a d f").CombinedOutput()
	if err != nil || string(out) != "777\n666\n" {
		t.Errorf("modes of a new directory and file: %q, %v", out, err)
	}
}

// runPosix runs pjdfstest, if it is there, on a mount.
func runPosix(t *testing.T, v *volume) {
	t.Helper()
	rep, err := posix.Run(context.Background(), posix.Config{Suite: os.Getenv("MASSIF_PJDFSTEST"), Dir: v.mnt})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range rep.Bad() {
		t.Errorf("%s: %d of %d failed %s", f.Name, len(f.Failed), f.Cases, f.Problem)
		for _, c := range f.Failed {
			t.Logf("\t%d %.300s", c.Number, c.Text)
		}
	}
	all, failed := rep.Cases()
	t.Logf("%d files, %d cases, %d failed", len(rep.Files), all, failed)
}
