package mount

import (
	"context"
	"os"
	"time"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// logOutput is where offline operations log.
var logOutput = os.Stderr

// VolumeInfo describes a volume.
type VolumeInfo struct {
	Record
	Settings meta.Format      `json:"settings"`
	Usage    Usage            `json:"usage"`
	Quotas   []meta.QuotaInfo `json:"quotas,omitempty"` // of directories
}

// Usage is the space a volume takes.
type Usage struct {
	Bytes       int64  `json:"bytes"`  // of files, rounded up to blocks of 4 KiB
	Inodes      int64  `json:"inodes"` // files and directories
	BytesLimit  uint64 `json:"bytesLimit,omitempty"`
	InodesLimit uint64 `json:"inodesLimit,omitempty"`
	// Size and free space of a store on this machine; 0 for others.
	StoreTotal uint64 `json:"storeTotal,omitempty"`
	StoreFree  uint64 `json:"storeFree,omitempty"`
}

func init() {
	registerOp("info", func(_ context.Context, v *Volume, _ none, _ func(any)) (any, error) {
		usage, err := v.usage()
		return VolumeInfo{Record: *v.Record, Settings: v.Engine.Settings(), Usage: usage, Quotas: v.Engine.ListQuotas()}, err
	})
	registerOp("df", func(_ context.Context, v *Volume, _ none, _ func(any)) (any, error) { return v.usage() })
	registerOp("set", opSet)
}

func (v *Volume) usage() (Usage, error) {
	settings := v.Engine.Settings()
	u := Usage{BytesLimit: settings.QuotaBytes, InodesLimit: settings.QuotaInodes}
	u.Bytes, u.Inodes = v.Engine.Usage()
	if _, local := localDir(v.Record.Store); local {
		var err error
		if u.StoreTotal, u.StoreFree, err = v.space(); err != nil {
			return u, err
		}
	}
	return u, nil
}

// Settings are the settings of a volume that can be changed; nil ones stay.
type Settings struct {
	Compression *string        `json:"compression,omitempty"`
	InlineLimit *uint32        `json:"inlineLimit,omitempty"`
	Retention   *time.Duration `json:"retention,omitempty"`
	QuotaBytes  *uint64        `json:"quotaBytes,omitempty"`
	QuotaInodes *uint64        `json:"quotaInodes,omitempty"`
}

func opSet(ctx context.Context, v *Volume, s Settings, _ func(any)) (any, error) {
	err := v.Engine.UpdateSettings(ctx, func(f *meta.Format) error {
		assign(&f.Compression, s.Compression)
		assign(&f.InlineLimit, s.InlineLimit)
		assign(&f.Retention, s.Retention)
		assign(&f.QuotaBytes, s.QuotaBytes)
		assign(&f.QuotaInodes, s.QuotaInodes)
		return nil
	})
	return v.Engine.Settings(), err
}

func assign[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// Stats read the figures of an open volume's parts.
func (v *Volume) Stats() map[string]func() any {
	parts := v.sharedStats()
	parts["database"] = func() any { return v.DB.Metrics() }
	parts["usage"] = func() any {
		usage, err := v.usage()
		if err != nil {
			return nil
		}
		return usage
	}
	return parts
}

// sharedStats are the figures that a volume has also where its metadata is served by
// another process.
func (v *Volume) sharedStats() map[string]func() any {
	parts := map[string]func() any{
		"memory":  func() any { return v.Budget.Stats() },
		"blocks":  func() any { return v.Blocks.Stats() },
		"journal": func() any { return v.Blocks.StageQueue() },
		"volume":  func() any { return v.FS.Stats() },
	}
	if v.Disk != nil {
		parts["cache"] = func() any { return v.Disk.Stats() }
	}
	return parts
}

// caller is on whose behalf offline operations act: root, for the owner of the
// database may do everything with it.
var caller = &vfs.Caller{}
