package seal

import (
	"encoding/base64"
	"encoding/binary"
	"errors"

	"github.com/tink-crypto/tink-go/v2/daead/subtle"
)

// Meta seals a volume's metadata. Its methods may be called concurrently. Inode
// numbers are those of the metadata engine.
type Meta struct {
	names, xattrNames        *subtle.AESSIV
	targets, xattrs, inlines *xaes
}

func newMeta(k *Key) *Meta {
	siv := func(use string) *subtle.AESSIV {
		s, err := subtle.NewAESSIV(k.derive(use, subtle.AESSIVKeySize))
		if err != nil {
			panic("seal: " + err.Error()) // the key has the right size
		}
		return s
	}
	x := func(use string) *xaes { return newXAES(k.derive(use, keySize)) }
	return &Meta{
		names: siv("names"), xattrNames: siv("xattr names"),
		targets: x("link targets"), xattrs: x("xattr values"), inlines: x("inline content"),
	}
}

// Lengths of what is sealed.
const (
	// Overhead is by how many bytes a link target, a value of an extended
	// attribute and inline content become longer.
	Overhead = xaesOverhead
	// MaxText is the length of the longest sealed text, of 255 bytes.
	MaxText = 363

	textUnit = 16 // names are filled up to multiples of this
	maxPlain = 255
	sivTag   = 16
)

var encoding = base64.RawURLEncoding.Strict()

// A sealed name is text (base64url), so that it can be stored, listed, dumped and
// shown wherever a name can. Before it is sealed, a name is filled up with NULs, which
// no name has, to a multiple of 16 bytes: its length shows in steps only.

// sealText panics if the text is too long: its caller has checked it.
func sealText(s *subtle.AESSIV, in uint64, text string) string {
	if len(text) > maxPlain {
		panic("seal: text is too long")
	}
	var buf [(maxPlain + textUnit - 1) / textUnit * textUnit]byte
	n := copy(buf[:], text)
	sealed, err := s.EncryptDeterministically(buf[:(n+textUnit-1)/textUnit*textUnit], binary.BigEndian.AppendUint64(nil, in))
	if err != nil {
		panic("seal: " + err.Error())
	}
	return encoding.EncodeToString(sealed)
}

func openText(s *subtle.AESSIV, in uint64, sealed string) (string, error) {
	if !ValidText(sealed) {
		return "", errForm
	}
	raw, err := encoding.DecodeString(sealed)
	if err != nil {
		return "", errForm
	}
	plain, err := s.DecryptDeterministically(raw, binary.BigEndian.AppendUint64(nil, in))
	if err != nil {
		return "", errForged
	}
	n := len(plain)
	for n > 0 && plain[n-1] == 0 {
		n--
	}
	if n == 0 || n > maxPlain || len(plain)-n >= textUnit {
		return "", errForm
	}
	return string(plain[:n]), nil
}

var errForm = errors.New("it does not have the form of something sealed")

// ValidText tells whether a name has the form of a sealed one; not whether it was
// sealed with any key. It needs none.
func ValidText(sealed string) bool {
	n := encoding.DecodedLen(len(sealed))
	if len(sealed) > MaxText || n < sivTag+textUnit || n%textUnit != 0 || encoding.EncodedLen(n) != len(sealed) {
		return false
	}
	last := 0
	for i := 0; i < len(sealed); i++ {
		if last = digit(sealed[i]); last < 0 {
			return false
		}
	}
	// Bits of the last digit that no byte has must be zero: one text, one form.
	switch len(sealed) % 4 {
	case 2:
		return last&0xf == 0
	case 3:
		return last&0x3 == 0
	}
	return true
}

// MaxPlain is the length of the longest text whose sealed form has n bytes.
func MaxPlain(n int) int { return max(0, min(encoding.DecodedLen(n)-sivTag, maxPlain)) }

// digit is the value of a digit of base64url, or -1.
func digit(c byte) int {
	switch {
	case c >= 'A' && c <= 'Z':
		return int(c - 'A')
	case c >= 'a' && c <= 'z':
		return int(c-'a') + 26
	case c >= '0' && c <= '9':
		return int(c-'0') + 52
	case c == '-':
		return 62
	case c == '_':
		return 63
	}
	return -1
}

// Name seals a name (1 to 255 bytes without NUL) in directory dir. One name in one
// directory always has the same form.
func (m *Meta) Name(dir uint64, name string) string { return sealText(m.names, dir, name) }

// OpenName returns the name that Name sealed for the directory.
func (m *Meta) OpenName(dir uint64, sealed string) (string, error) {
	return openText(m.names, dir, sealed)
}

// XattrName seals the name of an extended attribute of an inode, without its name
// space.
func (m *Meta) XattrName(ino uint64, name string) string { return sealText(m.xattrNames, ino, name) }

// OpenXattrName returns the name that XattrName sealed for the inode.
func (m *Meta) OpenXattrName(ino uint64, sealed string) (string, error) {
	return openText(m.xattrNames, ino, sealed)
}

// Xattr seals the value of an attribute with the full plain name.
func (m *Meta) Xattr(ino uint64, name string, value []byte) []byte {
	return m.xattrs.seal(nil, value, xattrPlace(ino, name))
}

// OpenXattr returns the value that Xattr sealed for the inode and name; it is not
// nil.
func (m *Meta) OpenXattr(ino uint64, name string, sealed []byte) ([]byte, error) {
	return m.xattrs.open([]byte{}, sealed, xattrPlace(ino, name))
}

func xattrPlace(ino uint64, name string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, ino), name...)
}

// Inline seals inline content of an inode and appends it to dst.
func (m *Meta) Inline(dst []byte, ino uint64, data []byte) []byte {
	return m.inlines.seal(dst, data, binary.BigEndian.AppendUint64(nil, ino))
}

// OpenInline returns the content that Inline sealed for the inode.
func (m *Meta) OpenInline(ino uint64, sealed []byte) ([]byte, error) {
	return m.inlines.open([]byte{}, sealed, binary.BigEndian.AppendUint64(nil, ino))
}

// Target seals the target of a symbolic link. It is not bound to a place: the
// link's inode number is not known when it is made.
func (m *Meta) Target(target string) string {
	return string(m.targets.seal(nil, []byte(target), nil))
}

// OpenTarget returns the target that Target sealed.
func (m *Meta) OpenTarget(sealed string) (string, error) {
	plain, err := m.targets.open(nil, []byte(sealed), nil)
	return string(plain), err
}
