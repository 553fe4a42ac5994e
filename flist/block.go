package flist

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"syscall"

	"github.com/klauspost/compress/s2"
	"golang.org/x/crypto/blake2b"

	"github.com/massif-fs/massif/vfs"
)

// Version is a version of the image format.
type Version int

const (
	V1 Version = 1 // .flist
	V2 Version = 2 // .fl
)

// hashSize is the length of block ids and keys in bytes.
func (v Version) hashSize() int {
	if v == V1 {
		return 16
	}
	return 32
}

func (v Version) hash(p []byte) []byte {
	h, err := blake2b.New(v.hashSize(), nil)
	if err != nil {
		panic(err) // the sizes are right
	}
	h.Write(p)
	return h.Sum(nil)
}

// Block names a block's content.
type Block struct {
	ID  []byte // hash of the cipher text: the name in stores
	Key []byte // hash of the plain text, with which the cipher text is opened
}

// String is the id in hexadecimal. The key is a secret.
func (b Block) String() string { return hex.EncodeToString(b.ID) }

func (v Version) checkBlock(b Block) error {
	if len(b.ID) != v.hashSize() || len(b.Key) != v.hashSize() {
		return badImage("a block has an id of %d and a key of %d bytes, not of %d", len(b.ID), len(b.Key), v.hashSize())
	}
	return nil
}

// MaxSealed is the length of the longest cipher text of a block in bytes.
var MaxSealed = s2.MaxEncodedLen(BlockSize) + 64

// Seal makes a block of up to BlockSize bytes: its names, and the cipher text to store.
func (v Version) Seal(plain []byte) (Block, []byte) {
	key := v.hash(plain)
	packed := s2.EncodeSnappyBetter(make([]byte, 0, s2.MaxEncodedLen(len(plain))+gcmTag), plain)
	var sealed []byte
	if v == V1 {
		sealed = xxteaEncrypt(packed, key)
	} else {
		sealed = gcm(key).Seal(packed[:0], key[:gcmNonce], packed, nil)
	}
	return Block{ID: v.hash(sealed), Key: key}, sealed
}

const (
	gcmNonce = 12
	gcmTag   = 16
)

func gcm(key []byte) cipher.AEAD {
	c, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // 32 bytes
	}
	a, err := cipher.NewGCM(c)
	if err != nil {
		panic(err)
	}
	return a
}

// ErrWrongBlock is wrapped by the error of a block whose bytes are not those that its
// names say.
var ErrWrongBlock = vfs.WithErrno(syscall.EIO, fmt.Errorf("the bytes are not those of the block"))

// Open verifies a cipher text against the block's id, decrypts it in place,
// decompresses it into dst, which has room for BlockSize bytes, and verifies the
// result against the key. It returns the plain text, a part of dst.
func (v Version) Open(b Block, sealed, dst []byte) ([]byte, error) {
	if err := v.checkBlock(b); err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(v.hash(sealed), b.ID) != 1 {
		return nil, fmt.Errorf("block %v: %w: the hash differs", b, ErrWrongBlock)
	}
	var packed []byte
	if v == V1 {
		var ok bool
		if packed, ok = xxteaDecrypt(sealed, b.Key); !ok {
			return nil, fmt.Errorf("block %v: %w: it cannot be decrypted", b, ErrWrongBlock)
		}
	} else {
		var err error
		if packed, err = gcm(b.Key).Open(sealed[:0], b.Key[:gcmNonce], sealed, nil); err != nil {
			return nil, fmt.Errorf("block %v: %w: it cannot be decrypted", b, ErrWrongBlock)
		}
	}
	n, err := s2.DecodedLen(packed)
	if err != nil || n > BlockSize || n > len(dst) {
		return nil, fmt.Errorf("block %v: %w: it cannot be decompressed", b, ErrWrongBlock)
	}
	plain, err := s2.Decode(dst[:n], packed)
	if err != nil {
		return nil, fmt.Errorf("block %v: %w: it cannot be decompressed", b, ErrWrongBlock)
	}
	if !v.Verify(b, plain) {
		return nil, fmt.Errorf("block %v: %w: the hash of the plain text differs", b, ErrWrongBlock)
	}
	return plain, nil
}

// Verify tells whether plain is the block's content.
func (v Version) Verify(b Block, plain []byte) bool {
	return subtle.ConstantTimeCompare(v.hash(plain), b.Key) == 1
}
