package sealed

import (
	"strings"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/vfs"
)

// Keyholder returns what lets an engine in this process copy, repair and show what is
// sealed.
func Keyholder(key *seal.Key) meta.Keyholder { return keyholder{key.Meta()} }

type keyholder struct{ keys *seal.Meta }

func (k keyholder) SealName(dir vfs.Ino, name string) string { return k.keys.Name(uint64(dir), name) }

func (k keyholder) OpenName(dir vfs.Ino, sealed string) (string, error) {
	return k.keys.OpenName(uint64(dir), sealed)
}

func (k keyholder) SealTarget(target string) string { return k.keys.Target(target) }

func (k keyholder) MoveXattr(from, to vfs.Ino, stored string, value []byte) (string, []byte, error) {
	name, err := openXattrName(k.keys, uint64(from), stored)
	if err != nil {
		return "", nil, damaged("the name of an attribute of inode %d cannot be read: %w", from, err)
	}
	if value, err = k.keys.OpenXattr(uint64(from), name, value); err != nil {
		return "", nil, damaged("attribute %s of inode %d cannot be read: %w", name, from, err)
	}
	space, rest, _ := strings.Cut(name, ".")
	return space + "." + k.keys.XattrName(uint64(to), rest), k.keys.Xattr(uint64(to), name, value), nil
}

func (k keyholder) MoveInline(from, to vfs.Ino, stored []byte) ([]byte, error) {
	data, err := openInline(k.keys, uint64(from), stored)
	if err != nil {
		return nil, damaged("the content of inode %d cannot be read: %w", from, err)
	}
	return sealInline(k.keys, uint64(to), data), nil
}
