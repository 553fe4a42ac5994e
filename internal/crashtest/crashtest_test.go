package crashtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// forwarded prepares a run against bindfs, which forwards every call to a
// directory: it can be killed without losing anything.
func forwarded(t *testing.T) (Config, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to clear dead mounts away")
	}
	if _, err := exec.LookPath("bindfs"); err != nil {
		t.Skip("bindfs is not installed")
	}
	dir := t.TempDir()
	src, mnt, scratch := filepath.Join(dir, "src"), filepath.Join(dir, "mnt"), filepath.Join(dir, "scratch")
	for _, d := range []string{src, mnt, scratch} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return Config{
		Server:  func() *exec.Cmd { return exec.Command("bindfs", "-f", src, mnt) },
		Mnt:     mnt,
		Scratch: scratch,
		Cycles:  4,
		Seed:    1,
		Every:   2,
		MinLoad: 100 * time.Millisecond,
		MaxLoad: 300 * time.Millisecond,
		Load:    LoadConfig{Workers: 2, Bigs: 1 << 20, Torn: true},
		Log:     t.Logf,
	}, src
}

func TestHarmless(t *testing.T) {
	cfg, _ := forwarded(t)
	res, err := Run(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if res.Kills != cfg.Cycles || res.Ops == 0 || res.Synced == 0 || res.Checked == 0 {
		t.Errorf("%+v", res)
	}
	t.Logf("%+v", res)
}

// TestFinds: harm done to the files between two lives is found, by each kind of
// check.
func TestFinds(t *testing.T) {
	firstMatch := func(src, pattern string) (string, error) {
		names, err := filepath.Glob(filepath.Join(src, pattern))
		if err == nil && len(names) == 0 {
			err = fmt.Errorf("the load made no %s", pattern)
		}
		if err != nil {
			return "", err
		}
		return names[0], nil
	}
	change := func(pattern string, do func(path string) error) func(src string) error {
		return func(src string) error {
			path, err := firstMatch(src, pattern)
			if err != nil {
				return err
			}
			return do(path)
		}
	}
	flip := func(path string) error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		st, err := f.Stat()
		if err != nil {
			return err
		}
		var b [1]byte
		if _, err := f.ReadAt(b[:], st.Size()/2); err != nil {
			return err
		}
		b[0] ^= 1
		_, err = f.WriteAt(b[:], st.Size()/2)
		return errors.Join(err, f.Close())
	}
	for name, harm := range map[string]func(src string) error{
		"replaced":  change("w*/config", os.Remove),
		"log":       change("w*/log*", func(p string) error { return os.Truncate(p, 1) }),
		"log byte":  change("w*/log*", flip),
		"database":  change("w*/database", flip),
		"moved":     change("w*/*/moved*", func(p string) error { return os.Link(p, p+"again") }),
		"moved off": change("w*/*/moved*", os.Remove),
		"mode":      change("w*/attributes", func(p string) error { return os.Chmod(p, 0o4777) }),
		"link": change("w*/link0", func(p string) error {
			return errors.Join(os.Remove(p), os.WriteFile(p, nil, 0o600))
		}),
		"smalls": func(src string) error {
			names, err := filepath.Glob(filepath.Join(src, "w*/small*"))
			for _, p := range names {
				if st, e := os.Stat(p); e == nil && st.Size() > 0 {
					err = errors.Join(err, os.Truncate(p, st.Size()-1))
				}
			}
			return err
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			// A slow machine may kill before what is harmed was ever durable: then
			// there is nothing to find, and a longer run has to tell.
			var err error
			for load := 700 * time.Millisecond; load < 8*time.Second; load *= 3 {
				cfg, src := forwarded(t)
				cfg.Cycles, cfg.Every = 1, 1
				cfg.MinLoad, cfg.MaxLoad = load, load
				cfg.Check = func(context.Context) error { return harm(src) }
				if _, err = Run(context.Background(), cfg); err != nil && strings.Contains(err.Error(), "LOST OR WRONG") {
					return
				}
			}
			t.Fatalf("not found: %v", err)
		})
	}
}

// TestDiesAlone: a server that dies without being killed is a failure.
func TestDiesAlone(t *testing.T) {
	cfg, _ := forwarded(t)
	server := cfg.Server
	cfg.Server = func() *exec.Cmd {
		cmd := server()
		return exec.Command("timeout", append([]string{"-s", "KILL", "0.3"}, cmd.Args...)...)
	}
	cfg.MinLoad, cfg.MaxLoad = 5*time.Second, 5*time.Second
	if _, err := Run(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "died by itself") {
		t.Fatal(err)
	}
}

func TestDoesNotStart(t *testing.T) {
	cfg, _ := forwarded(t)
	cfg.Server = func() *exec.Cmd { return exec.Command("sh", "-c", "echo no such volume; exit 1") }
	if _, err := Run(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "no such volume") {
		t.Fatal(err)
	}
}

func TestPattern(t *testing.T) {
	p := make([]byte, pageSize)
	fillPage(p, 1, 2, 3)
	if _, ok := versionOf(p, 1, 3, []uint64{0, 1, 3}); ok {
		t.Error("a wrong version was taken")
	}
	if v, ok := versionOf(p, 1, 3, []uint64{0, 2}); !ok || v != 2 {
		t.Error("the right version was not found")
	}
	if _, ok := versionOf(p, 1, 4, []uint64{2}); ok {
		t.Error("another page was taken")
	}
	a, b := streamBytes(5, 0, 20_000), streamBytes(5, 777, 10_000)
	if string(a[777:10_777]) != string(b) {
		t.Error("a stream depends on where one begins to read")
	}
	var e error = fs.ErrNotExist
	if !errors.Is(wrongf("x", "%w", e), fs.ErrNotExist) {
		t.Error("the cause is lost")
	}
}
