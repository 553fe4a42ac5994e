package meta

import (
	"errors"
	"fmt"
	"math/bits"
	"regexp"
	"time"

	"github.com/massif-fs/massif/seal"
)

// Format is a volume's settings, fixed at its creation or (where it says so)
// changeable later.
type Format struct {
	Version     int       `json:"version"` // of the records; see FormatVersion
	Name        string    `json:"name"`
	UUID        string    `json:"uuid"`
	Created     time.Time `json:"created"`
	ChunkSize   uint32    `json:"chunkSize"`   // bytes, a power of two; also the greatest plain size of a block
	Compression string    `json:"compression"` // lz4, zstd or none; changeable: holds for new blocks
	InlineLimit uint32    `json:"inlineLimit"` // bytes; files up to this size live in the metadata; changeable

	// Retention is how long overwritten and deleted data can be brought back; 0:
	// not at all, and history costs nothing. Changeable.
	Retention time.Duration `json:"retention"`
	// QuotaBytes and QuotaInodes limit the volume; 0: no limit. Changeable.
	QuotaBytes  uint64 `json:"quotaBytes"`
	QuotaInodes uint64 `json:"quotaInodes"`

	// Store is the URL of the object store with the blocks, without secrets.
	Store string `json:"store"`

	// Seal says how the volume is encrypted; nil: it is not. Its wraps are
	// changeable, its key is not.
	Seal *seal.Record `json:"seal,omitempty"`
}

const (
	// FormatVersion is the version of the records this code writes and reads.
	// Encrypted volumes have EncryptedVersion, so that programs that know nothing
	// of encryption refuse them.
	FormatVersion    = 1
	EncryptedVersion = 2

	DefaultChunkSize   = 4 << 20
	MinChunkSize       = 256 << 10
	MaxChunkSize       = 8 << 20
	DefaultInlineLimit = 4 << 10
	MaxInlineLimit     = 64 << 10
)

// ErrLayout is returned where a call's idea of a file's layout (inline or
// chunks, the extents before a compaction) is out of date: ask again.
var ErrLayout = errors.New("the file's layout has changed")

var volumeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Validate says in one sentence what is wrong with the settings, or returns nil.
func (f *Format) Validate() error {
	switch {
	case f.Version != FormatVersion && f.Version != EncryptedVersion:
		return fmt.Errorf("volume format version %d is not known to this program (it knows %d and %d)", f.Version, FormatVersion, EncryptedVersion)
	case (f.Seal != nil) != (f.Version == EncryptedVersion):
		return fmt.Errorf("volume format version %d does not go with encryption that is %t", f.Version, f.Seal != nil)
	case !volumeName.MatchString(f.Name):
		return fmt.Errorf("volume name %q: use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit", f.Name)
	case f.ChunkSize < MinChunkSize || f.ChunkSize > MaxChunkSize || bits.OnesCount32(f.ChunkSize) != 1:
		return fmt.Errorf("block size %d: use a power of two from 256KiB to 8MiB", f.ChunkSize)
	case f.Compression != "lz4" && f.Compression != "zstd" && f.Compression != "none":
		return fmt.Errorf("compression %q: use lz4, zstd or none", f.Compression)
	case f.InlineLimit > MaxInlineLimit:
		return fmt.Errorf("inline limit %d: use at most 64KiB", f.InlineLimit)
	case f.Retention < 0:
		return fmt.Errorf("retention %v: must not be negative", f.Retention)
	}
	if f.Seal != nil {
		return f.Seal.Validate()
	}
	return nil
}
