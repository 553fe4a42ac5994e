package test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/crashtest"
	"github.com/massif-fs/massif/internal/testserver"
)

// TestCrash kills servers: 210 times in all (12 with -short), half of them at
// injected points. MASSIF_CRASH_CYCLES sets another number, MASSIF_CRASH_SEED
// another seed.
func TestCrash(t *testing.T) {
	total := 210
	if testing.Short() {
		total = 12
	}
	if s := os.Getenv("MASSIF_CRASH_CYCLES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		total = n
	}
	seed := uint64(1)
	if s := os.Getenv("MASSIF_CRASH_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	for _, run := range []struct {
		name  string
		share int // of the cycles, in percent
		s3    bool
		options
	}{
		{"file store", 40, false, options{}},
		{"small blocks, no inline", 25, false, options{create: []string{"--block-size", "256KiB", "--inline-limit", "0"}}},
		{"writeback", 20, false, options{mount: []string{"--writeback"}}},
		{"S3", 15, true, options{create: []string{"--block-size", "1MiB"}}},
	} {
		t.Run(run.name, func(t *testing.T) {
			t.Parallel()
			o, count := run.options, storeFiles
			if run.s3 {
				needMount(t)
				endpoint, bucket, creds := testserver.S3(t)
				o.store = s3URL(endpoint, bucket)
				o.env = s3Env(creds)
				count = nil
			}
			v := createVolume(t, o)
			res, err := crashtest.Run(context.Background(), crashtest.Config{
				Server: v.server, Mnt: v.mnt, Scratch: v.dir, Seed: seed,
				Cycles: max(2, total*run.share/100), Every: 15, Points: 0.5,
				MinLoad: 50 * time.Millisecond, MaxLoad: 500 * time.Millisecond,
				Check: func(context.Context) error { return v.consistent(count) },
				Load:  crashtest.LoadConfig{Workers: 3, Bigs: 4 << 20},
				Log:   t.Logf,
			})
			t.Logf("%d kills (at points: %v) in %s; %d operations acknowledged, %d fsyncs, %d files compared",
				res.Kills, res.AtPoint, res.Took.Round(time.Second), res.Ops, res.Synced, res.Checked)
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// consistent runs fsck and gc on an unmounted volume; afterwards the store must hold
// just what is referenced, if count can tell how many objects there are.
func (v *volume) consistent(count func(*volume) (int, error)) error {
	if out, err := v.try("volume", "fsck", "vol"); err != nil {
		return fmt.Errorf("fsck: %w\n%s", err, out)
	}
	if out, err := v.try("volume", "gc", "vol"); err != nil {
		return fmt.Errorf("gc: %w\n%s", err, out)
	}
	out, err := v.try("volume", "fsck", "vol")
	if err != nil {
		return fmt.Errorf("fsck after gc: %w\n%s", err, out)
	}
	return nil
}

// storeFiles counts the objects of a volume whose store is a directory.
func storeFiles(v *volume) (n int, err error) {
	err = filepath.WalkDir(v.store, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return err
	})
	return n, err
}

func s3URL(endpoint, bucket string) string {
	return fmt.Sprintf("s3://%s/vol?endpoint=%s&region=us-east-1&path-style=true", bucket, endpoint)
}

func s3Env(c testserver.Credentials) []string {
	return []string{"AWS_ACCESS_KEY_ID=" + c.AccessKey, "AWS_SECRET_ACCESS_KEY=" + c.SecretKey, "AWS_EC2_METADATA_DISABLED=true"}
}

// exitCode is the exit code of a failed command.
func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}
