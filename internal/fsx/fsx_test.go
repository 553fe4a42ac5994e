package fsx

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestClean(t *testing.T) {
	for name, cfg := range map[string]Config{
		"plain":   {},
		"files":   {Files: 3, SyncEvery: -1},
		"small":   {MaxSize: 10_000, MaxLen: 9_000},
		"aligned": {Align: 512, NoMmap: true},
		"direct":  {Direct: true},
		"remount": {Remount: func() error { return nil }, RemountEvery: 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg.Path, cfg.Seed, cfg.Ops = filepath.Join(t.TempDir(), "f"), 3, 4000
			res, err := Run(context.Background(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if res.Ops != cfg.Ops || res.Done["read"] == 0 || res.Done["write"] == 0 {
				t.Errorf("%+v", res)
			}
			if name == "remount" && res.Done["remount"] == 0 {
				t.Error("never remounted")
			}
			if left, _ := filepath.Glob(cfg.Path + "*"); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestSame: the same seed draws the same operations.
func TestSame(t *testing.T) {
	var logs [2][]Op
	for i := range logs {
		cfg := Config{Path: filepath.Join(t.TempDir(), "f"), Seed: 99, Ops: 500, SyncEvery: -1}
		cfg.setDefaults()
		cfg.Remount = func() error { return errors.New("stop here") }
		cfg.RemountEvery = 400
		_, err := Run(context.Background(), cfg)
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("%v", err)
		}
		logs[i] = e.Log
	}
	if len(logs[0]) != len(logs[1]) {
		t.Fatalf("%d and %d operations", len(logs[0]), len(logs[1]))
	}
	for i := range logs[0] {
		if logs[0][i] != logs[1][i] {
			t.Fatalf("operation %d: %v and %v", i, logs[0][i], logs[1][i])
		}
	}
}

// TestFinds: damage done behind the exerciser's back is found, wherever it is.
func TestFinds(t *testing.T) {
	damage := map[string]func(f *os.File) error{
		"byte": func(f *os.File) error {
			st, err := f.Stat()
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{0x55, 0xaa, 0x55, 0xaa, 0x55, 0xaa, 0x55}, st.Size()/2)
			return err
		},
		"size":  func(f *os.File) error { st, _ := f.Stat(); return f.Truncate(st.Size() + 1) },
		"lost":  func(f *os.File) error { return f.Truncate(0) },
		"holes": func(f *os.File) error { return unix.Fallocate(int(f.Fd()), 3, 0, 1<<20) },
	}
	for name, harm := range damage {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Path: filepath.Join(t.TempDir(), "f"), Seed: 5, Ops: 5000, RemountEvery: 300}
			cfg.Remount = func() error {
				f, err := os.OpenFile(cfg.Path, os.O_RDWR, 0)
				if err != nil {
					return err
				}
				defer f.Close()
				return harm(f)
			}
			_, err := Run(context.Background(), cfg)
			if err == nil {
				t.Fatal("not found")
			}
			if text := err.Error(); !strings.Contains(text, "seed 5") || !strings.Contains(text, "remount") {
				t.Errorf("a poor report: %s", text)
			}
		})
	}
}

// TestFault: a SIGBUS in a map is an error, not the end of the process.
func TestFault(t *testing.T) {
	f := &file{path: filepath.Join(t.TempDir(), "f")}
	if err := f.open(os.O_RDWR | os.O_CREATE); err != nil {
		t.Fatal(err)
	}
	defer f.close()
	err := f.withMap(unix.PROT_READ, 0, 10, func(m []byte, _ int64) error {
		return wrong("read %d from behind the end", m[0])
	})
	if err == nil || !strings.Contains(err.Error(), "SIGBUS") {
		t.Fatal(err)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, Config{Path: filepath.Join(t.TempDir(), "f")}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
