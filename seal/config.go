package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"
)

// Configuration files of Cloudfuse and blobfuse2 can be encrypted as a whole. There
// are two formats, both without a name or version of their own.
//
// Format 2, of Cloudfuse from 2.0 on, which SealConfig writes; numbers are
// little-endian:
//
//	offset  bytes
//	     0      2  length of the salt: 16
//	     2     16  salt
//	    18      2  length of the nonce: 12
//	    20     12  nonce
//	    32      n  the text, sealed with AES-256-GCM, no associated data
//	  32+n     16  tag
//
// The key is Argon2id of the passphrase's bytes with one pass, 64,896 KiB and four
// lanes. The 64,896 are 64 × 1014: a slip of the pen in Cloudfuse, by which a reader
// that rounds it up opens nothing.
//
// Format 1, of Cloudfuse before 2.0 and of blobfuse2, is
//
//	   0     12  nonce
//	  12      n  the text, sealed with AES-GCM, no associated data
//	12+n     16  tag
//
// where the key of 16, 24 or 32 bytes is the passphrase itself or, from Cloudfuse 1.3
// on, what the passphrase is the base64 of.
const (
	configSalt   = 16
	configNonce  = 12
	configTag    = 16
	configHeader = 2 + configSalt + 2 + configNonce

	configPasses = 1
	configMemory = 64 * 1014 // KiB
	configLanes  = 4
)

// MaxConfig bounds an encrypted configuration file, in bytes.
const MaxConfig = 1 << 20

// errConfig says that a file is not an encrypted configuration.
var errConfig = errors.New("this is no encrypted configuration file")

// SealConfig encrypts the text of a configuration file, in format 2.
func SealConfig(p Passphrase, text []byte) ([]byte, error) {
	if len(p) == 0 {
		return nil, errors.New("the passphrase is empty")
	}
	if len(text) > MaxConfig-configHeader-configTag {
		return nil, fmt.Errorf("the configuration is larger than %d bytes", MaxConfig-configHeader-configTag)
	}
	var salt [configSalt]byte
	var nonce [configNonce]byte
	rand.Read(salt[:])
	rand.Read(nonce[:])
	return sealConfigWith(p, text, salt, nonce), nil
}

func sealConfigWith(p Passphrase, text []byte, salt [configSalt]byte, nonce [configNonce]byte) []byte {
	out := make([]byte, 0, configHeader+len(text)+configTag)
	out = binary.LittleEndian.AppendUint16(out, configSalt)
	out = append(out, salt[:]...)
	out = binary.LittleEndian.AppendUint16(out, configNonce)
	out = append(out, nonce[:]...)
	return configKey(p, salt[:]).Seal(out, nonce[:], text, nil)
}

// OpenConfig decrypts a configuration file of either format. The error is
// ErrWrongPassphrase if the passphrase is not that of the file, or the file was
// changed: the two cannot be told apart.
func OpenConfig(p Passphrase, data []byte) ([]byte, error) {
	switch {
	case len(p) == 0:
		return nil, errors.New("the passphrase is empty")
	case len(data) > MaxConfig:
		return nil, fmt.Errorf("%w: it is larger than %d bytes", errConfig, MaxConfig)
	case len(data) < configNonce+configTag:
		return nil, fmt.Errorf("%w: it is too short", errConfig)
	}
	if isFormat2(data) {
		salt, nonce := data[2:2+configSalt], data[configHeader-configNonce:configHeader]
		if text, err := configKey(p, salt).Open(nil, nonce, data[configHeader:], nil); err == nil {
			return text, nil
		}
		// One nonce of format 1 in four billion looks like this, too.
	}
	for _, key := range format1Keys(p) {
		text, err := gcmOf(key).Open(nil, data[:configNonce], data[configNonce:], nil)
		clear(key)
		if err == nil {
			return text, nil
		}
	}
	return nil, ErrWrongPassphrase
}

func isFormat2(data []byte) bool {
	return len(data) >= configHeader+configTag &&
		binary.LittleEndian.Uint16(data) == configSalt && binary.LittleEndian.Uint16(data[2+configSalt:]) == configNonce
}

// configKey is the cipher of format 2.
func configKey(p Passphrase, salt []byte) cipher.AEAD {
	key := argon2.IDKey(p, salt, configPasses, configMemory, configLanes, keySize)
	defer clear(key)
	return gcmOf(key)
}

// format1Keys are what a passphrase can mean in format 1.
func format1Keys(p Passphrase) [][]byte {
	var keys [][]byte
	fits := func(key []byte) bool { return len(key) == 16 || len(key) == 24 || len(key) == 32 }
	decoded := make([]byte, base64.StdEncoding.DecodedLen(len(p)))
	if n, err := base64.StdEncoding.Decode(decoded, p); err == nil && fits(decoded[:n]) {
		keys = append(keys, decoded[:n])
	}
	if fits(p) {
		keys = append(keys, append([]byte(nil), p...))
	}
	return keys
}

func gcmOf(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("seal: " + err.Error()) // all lengths are possible ones
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic("seal: " + err.Error())
	}
	return gcm
}
