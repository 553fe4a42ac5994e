package mount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/massif-fs/massif/block"
	"github.com/massif-fs/massif/cache"
)

// What a volume keeps on this machine's disk besides its metadata: the disk cache
// of a remote store, and the journal of write-back staging.

const (
	defaultCacheSize = 10 << 30
	// mostCaches is how many mounts of one volume this machine can have with a disk
	// cache each.
	mostCaches = 64
	// drainPatience is how long opening a volume waits for a journal that an earlier
	// write-back mount has left to be uploaded.
	drainPatience = 2 * time.Minute
	// stageDelay is how long a block waits in the journal before its upload, so
	// that what is overwritten or removed soon is never sent.
	stageDelay = 2 * time.Second
)

// openDisk opens the disk cache, if the volume has one: a store on this machine
// needs none.
func (v *Volume) openDisk(o OpenOptions) error {
	size := int64(defaultCacheSize)
	if o.Options.CacheSize != nil {
		size = int64(*o.Options.CacheSize)
	}
	if !o.Tree || size == 0 || !v.Objects.Capabilities().Remote {
		return nil
	}
	dir := filepath.Join(v.Record.dir, "cache")
	if o.Options.CacheDir != "" {
		// One directory may serve several volumes.
		dir = filepath.Join(o.Options.CacheDir, v.Record.UUID)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	var err error
	if v.Disk, err = openFreeDisk(dir, size, v.Record.UUID, o.Log); err == nil {
		v.close = append(v.close, v.Disk.Close)
	}
	return err
}

// openFreeDisk opens a disk cache that several mounts on this machine may want. Each has
// one of its own: the first that nobody uses, so that the next mount finds it full.
func openFreeDisk(dir string, size int64, identity string, log *slog.Logger) (disk *cache.Disk, err error) {
	for i, try := 1, dir; i <= mostCaches; i++ {
		disk, err = cache.OpenDisk(cache.DiskConfig{Dir: try, Limit: size, Identity: identity, Logger: log})
		if !errors.Is(err, syscall.EBUSY) {
			return disk, err
		}
		try = fmt.Sprintf("%s.%d", dir, i)
	}
	return disk, err
}

// journal returns the configuration of write-back staging, nil for none.
//
// Blocks in the journal of an earlier mount are part of the volume: the metadata
// points at them. A mount without write-back uploads them before it begins.
func (v *Volume) journal(ctx context.Context, config block.Config, o OpenOptions) (*block.StageConfig, error) {
	stage := &block.StageConfig{Dir: filepath.Join(v.Record.dir, "journal"), MaxAge: stageDelay}
	if o.Options.JournalSize != nil {
		stage.MaxBytes = int64(*o.Options.JournalSize)
	}
	if o.Options.Writeback {
		return stage, nil
	}
	if !exists(stage.Dir) {
		return nil, nil
	}
	stage.MaxAge = 0
	config.Stage = stage
	blocks, err := block.New(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	queue := blocks.StageQueue()
	if queue.Blocks > 0 {
		o.Log.Info("uploading what an earlier write-back mount left in the journal", "blocks", queue.Blocks, "bytes", queue.Bytes)
	}
	drain, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	err = blocks.Drain(drain)
	damaged := blocks.StageQueue().Damaged
	if err = errors.Join(err, blocks.Close()); err != nil {
		return nil, fmt.Errorf("%d blocks of an earlier write-back mount still lie in the journal %s and cannot be uploaded; mount with -o writeback to use the volume meanwhile: %w", queue.Blocks, stage.Dir, err)
	}
	if damaged > 0 {
		return nil, fmt.Errorf("%d blocks in the journal %s are damaged and were set aside there", damaged, stage.Dir)
	}
	return nil, os.RemoveAll(stage.Dir)
}
