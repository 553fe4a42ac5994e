package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/crashtest"
	"github.com/massif-fs/massif/internal/testseed"
	"github.com/massif-fs/massif/internal/testserver"
)

// TestCrash kills servers: 210 times in all (12 with -short), half of them at
// injected points. MASSIF_CRASH_CYCLES sets another number.
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
	seed := testseed.Of(t, 1)
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
			o := run.options
			if run.s3 {
				needMount(t)
				endpoint, bucket, creds := testserver.S3(t)
				o.store = s3URL(endpoint, bucket)
				o.env = s3Env(creds)
			}
			v := createVolume(t, o)
			res, err := crashtest.Run(context.Background(), crashtest.Config{
				Server: v.server, Mnt: v.mnt, Scratch: v.dir, Seed: seed,
				Cycles: max(2, total*run.share/100), Every: 15, Points: 0.5,
				MinLoad: 50 * time.Millisecond, MaxLoad: 500 * time.Millisecond,
				Check: func(context.Context) error { return v.consistent() },
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

// checked is what fsck --json tells.
type checked struct {
	Clean bool
	Meta  struct{ Problems int64 }
	Store struct{ Objects, Orphans, Missing, Foreign int64 }
}

// fsck checks an unmounted volume, with the data of all blocks.
func (v *volume) fsck() (checked, error) {
	var c checked
	out, err := v.try("volume", "fsck", "vol", "--data", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &c)
	}
	if err == nil && !c.Clean {
		err = fmt.Errorf("not clean: %s", out)
	}
	if err != nil {
		err = fmt.Errorf("fsck: %w", err)
	}
	return c, err
}

// consistent checks an unmounted volume and collects garbage, after which the store
// must hold the referenced objects and nothing else.
func (v *volume) consistent() error {
	before, err := v.fsck()
	if err != nil {
		return err
	}
	if out, err := v.try("volume", "gc", "vol", "--grace", "0s"); err != nil {
		return fmt.Errorf("gc: %w\n%s", err, out)
	}
	after, err := v.fsck()
	switch {
	case err != nil:
		return fmt.Errorf("after gc: %w", err)
	case after.Store.Orphans != 0:
		return fmt.Errorf("%d orphans survived gc (%d before)", after.Store.Orphans, before.Store.Orphans)
	case after.Store.Objects == 0:
		return errors.New("the store is empty: this check is worth nothing")
	}
	return nil
}

func s3URL(endpoint, bucket string) string {
	return fmt.Sprintf("s3://%s/vol?endpoint=%s&region=us-east-1&path-style=true", bucket, endpoint)
}

func s3Env(c testserver.Credentials) []string {
	return []string{"AWS_ACCESS_KEY_ID=" + c.AccessKey, "AWS_SECRET_ACCESS_KEY=" + c.SecretKey, "AWS_EC2_METADATA_DISABLED=true"}
}
