package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
)

// XAES-256-GCM (C2SP): AES-256-GCM under a key that is derived, with CMAC as the
// KDF of NIST SP 800-108r1, from the first half of a nonce of 24 bytes. Random
// nonces are safe for 2^80 messages of one key. A sealed message is nonce ‖
// ciphertext ‖ tag.
const (
	xaesNonce    = 24
	xaesTag      = 16
	xaesOverhead = xaesNonce + xaesTag
	keySize      = 32
)

// errForged says that something is not what was sealed under this key and for
// this place.
var errForged = errors.New("it was not sealed with this volume's key for this place, or has been changed")

type xaes struct {
	block cipher.Block
	k1    [aes.BlockSize]byte // the CMAC subkey for whole blocks
}

// newXAES takes a key of 32 bytes.
func newXAES(key []byte) *xaes {
	x := &xaes{block: mustAES(key)}
	x.block.Encrypt(x.k1[:], x.k1[:])
	var carry byte
	for i := aes.BlockSize - 1; i >= 0; i-- {
		next := x.k1[i] >> 7
		x.k1[i] = x.k1[i]<<1 | carry
		carry = next
	}
	x.k1[aes.BlockSize-1] ^= carry * 0x87
	return x
}

func mustAES(key []byte) cipher.Block {
	b, err := aes.NewCipher(key)
	if err != nil {
		panic("seal: " + err.Error()) // keys have one size
	}
	return b
}

// gcm returns the cipher for messages whose nonce begins with n (12 bytes).
func (x *xaes) gcm(n []byte) cipher.AEAD {
	var key [keySize]byte
	for i := range 2 {
		m := (*[aes.BlockSize]byte)(key[i*aes.BlockSize:])
		m[1], m[2] = byte(i+1), 'X'
		copy(m[4:], n)
		for j := range m {
			m[j] ^= x.k1[j]
		}
		x.block.Encrypt(m[:], m[:])
	}
	g, err := cipher.NewGCM(mustAES(key[:]))
	clear(key[:])
	if err != nil {
		panic("seal: " + err.Error())
	}
	return g
}

// seal appends plain, sealed under a random nonce and bound to aad, to dst.
func (x *xaes) seal(dst, plain, aad []byte) []byte {
	var nonce [xaesNonce]byte
	rand.Read(nonce[:])
	return x.sealWith(dst, nonce[:], plain, aad)
}

func (x *xaes) sealWith(dst, nonce, plain, aad []byte) []byte {
	dst = append(dst, nonce...)
	return x.gcm(nonce[:12]).Seal(dst, nonce[12:], plain, aad)
}

// open appends the plain text of what seal made to dst.
func (x *xaes) open(dst, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < xaesOverhead {
		return nil, errForged
	}
	out, err := x.gcm(sealed[:12]).Open(dst, sealed[12:xaesNonce], sealed[xaesNonce:], aad)
	if err != nil {
		return nil, errForged
	}
	return out, nil
}
