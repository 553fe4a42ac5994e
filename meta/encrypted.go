package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/seal"
	"github.com/massif-fs/massif/vfs"
)

// Encrypted volumes
//
// Clients of an encrypted volume (Format.Seal) seal names, link targets, extended
// attributes and inline content before the engine gets them (package sealed), and
// the engine keeps what it gets without being able to read it. It knows of it only
// what follows from the forms: that sealed text is longer than plain text, how many
// bytes of inline content hold, and that a client without the key must not store
// anything. ACLs are not sealed: the engine keeps their rules.
//
// What makes new names or moves things between inodes within the engine (copies,
// repair), and what shows names to people, needs a Keyholder. It is there where the
// engine runs in the process of a mount that has unlocked the volume.

// Keyholder opens and seals what an encrypted volume stores. Its methods may be
// called concurrently.
type Keyholder interface {
	// SealName seals a name, which is a possible one, for a directory.
	SealName(dir vfs.Ino, name string) string
	OpenName(dir vfs.Ino, sealed string) (string, error)
	SealTarget(target string) string
	// MoveXattr seals for inode to an attribute (stored name and value) of inode
	// from, and MoveInline does the same with stored inline content.
	MoveXattr(from, to vfs.Ino, name string, value []byte) (string, []byte, error)
	MoveInline(from, to vfs.Ino, data []byte) ([]byte, error)
}

// SetKeyholder lets the engine read and make what is sealed. Engines that At returns
// afterwards have it too.
func (e *Engine) SetKeyholder(k Keyholder) { e.keyholder.Store(&k) }

// keys returns the keyholder: nil on a volume that is not encrypted, ENOKEY on one
// that is and not unlocked.
func (e *Engine) keys() (Keyholder, error) {
	if e.format.Load().Seal == nil {
		return nil, nil
	}
	if k := e.keyholder.Load(); k != nil {
		return *k, nil
	}
	return nil, vfs.WithErrno(syscall.ENOKEY, errors.New("the volume is encrypted and its key is not here"))
}

// shownName is a stored name for people: plain if the key is here, else as it is.
func (e *Engine) shownName(dir vfs.Ino, name string) string {
	if k, err := e.keys(); err == nil && k != nil {
		if plain, err := k.OpenName(dir, name); err == nil {
			return plain
		}
	}
	return name
}

// sealedName is the stored form of a plain name.
func (e *Engine) sealedName(dir vfs.Ino, name string) (string, error) {
	if err := vfs.CheckName(name); err != nil {
		return "", err
	}
	k, err := e.keys()
	if err != nil || k == nil {
		return name, err
	}
	return k.SealName(dir, name), nil
}

// Bounds of what a volume of either kind stores: those of sealed things are greater.
const (
	MaxStoredName      = seal.MaxText
	MaxStoredTarget    = vfs.MaxSymlink + seal.Overhead
	MaxStoredXattrName = len("security.") + seal.MaxText
	MaxStoredXattr     = MaxXattrValue + seal.Overhead
	MaxStoredInline    = MaxInlineLimit + inlineHeader + seal.Overhead
)

// CheckStoredName returns why no volume can store a name: for those who hand names
// on to an engine, which knows its volume's kind.
func CheckStoredName(name string) error {
	if seal.ValidText(name) {
		return nil
	}
	return vfs.CheckName(name)
}

// errPlain is what a client gets that brings plain text to an encrypted volume.
var errPlain = vfs.WithErrno(syscall.ENOKEY, errors.New("the volume is encrypted, and this is not sealed with its key"))

// checkName returns why a name cannot be stored.
func (f *Format) checkName(name string) error {
	if f.Seal == nil {
		return vfs.CheckName(name)
	}
	if !seal.ValidText(name) {
		return errPlain
	}
	return nil
}

// checkTarget returns why a link target cannot be stored.
func (f *Format) checkTarget(target string) error {
	n := len(target)
	if f.Seal != nil {
		n -= seal.Overhead
	}
	switch {
	case n > vfs.MaxSymlink:
		return syscall.ENAMETOOLONG
	case n < 0 || n == 0 && f.Seal != nil:
		return errPlain
	case n == 0:
		return syscall.ENOENT
	}
	return nil
}

// targetSize is the length of a stored link target as programs see it.
func (f *Format) targetSize(target string) uint64 {
	if f.Seal != nil {
		return uint64(max(0, len(target)-seal.Overhead))
	}
	return uint64(len(target))
}

// CheckStoredXattr returns EOPNOTSUPP for name spaces that are not kept, and why a name
// cannot be stored.
func (f *Format) CheckStoredXattr(name string) error {
	if f.Seal == nil || name == vfs.XattrACLAccess || name == vfs.XattrACLDefault {
		return CheckXattr(name)
	}
	for _, space := range xattrSpaces {
		if rest, ok := strings.CutPrefix(name, space); ok {
			if !seal.ValidText(rest) {
				return errPlain
			}
			return nil
		}
	}
	return syscall.EOPNOTSUPP
}

// maxXattrValue is the length of the longest value that can be stored.
func (f *Format) maxXattrValue() int {
	if f.Seal != nil {
		return MaxStoredXattr
	}
	return MaxXattrValue
}

// xattrNameSize is about how long a stored attribute name is in a list that a
// program gets: never less than it is.
func (f *Format) xattrNameSize(name string) int {
	if f.Seal == nil || name == vfs.XattrACLAccess || name == vfs.XattrACLDefault {
		return len(name)
	}
	space, rest, _ := strings.Cut(name, ".")
	return len(space) + 1 + seal.MaxPlain(len(rest))
}

// Inline content of an encrypted volume is, as it is committed, stored and read:
// how many of its bytes hold (4 bytes, little-endian), and the sealed content.
// The engine cuts content off by making that number smaller, so that a file can be
// truncated without its key.
const inlineHeader = 4

// JoinInline makes inline content of sealed content, of which keep bytes hold.
func JoinInline(dst []byte, keep int) []byte {
	return binary.LittleEndian.AppendUint32(dst, uint32(keep))
}

// SplitInline is the inverse of JoinInline.
func SplitInline(data []byte) (keep int, sealed []byte, err error) {
	if len(data) <= inlineHeader+seal.Overhead {
		return 0, nil, errPlain
	}
	keep, sealed = int(binary.LittleEndian.Uint32(data)), data[inlineHeader:]
	if keep < 1 || keep > len(sealed)-seal.Overhead {
		return 0, nil, errPlain
	}
	return keep, sealed, nil
}

// inlineSize is how many bytes of stored inline content hold: EINVAL or ENOKEY for
// what cannot be such. Nothing at all is no content.
func (f *Format) inlineSize(data []byte) (uint64, error) {
	most := MaxInlineLimit
	if f.Seal != nil {
		most = MaxStoredInline
	}
	switch {
	case len(data) > most:
		return 0, vfs.WithErrno(syscall.EINVAL, fmt.Errorf("%d bytes are too many to be inline", len(data)))
	case f.Seal == nil || len(data) == 0:
		return uint64(len(data)), nil
	}
	keep, _, err := SplitInline(data)
	return uint64(keep), err
}

// cutInline returns stored inline content of which only size bytes, at least 1, hold.
func (f *Format) cutInline(data []byte, size int) []byte {
	if f.Seal == nil {
		return data[:size]
	}
	return append(JoinInline(make([]byte, 0, len(data)), size), data[inlineHeader:]...)
}
