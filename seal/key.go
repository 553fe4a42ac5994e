package seal

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"sync"
)

// Key is the key of a volume. Its methods may be called concurrently.
type Key struct {
	id     [idSize]byte
	secret [keySize]byte

	blocks func() *BlockSealer
	meta   func() *Meta
}

const idSize = 16

// newKey makes the key of a new volume.
func newKey() *Key {
	var id [idSize]byte
	var secret [keySize]byte
	rand.Read(id[:])
	rand.Read(secret[:])
	defer clear(secret[:])
	return keyOf(id, secret[:])
}

func keyOf(id [idSize]byte, secret []byte) *Key {
	k := &Key{id: id}
	copy(k.secret[:], secret)
	k.blocks = sync.OnceValue(func() *BlockSealer { return &BlockSealer{newXAES(k.derive("blocks", keySize))} })
	k.meta = sync.OnceValue(func() *Meta { return newMeta(k) })
	return k
}

// ID names the key, in hexadecimal digits; it is no secret. It is random, the same
// for the life of the volume, and part of each derived key.
func (k *Key) ID() string { return hex.EncodeToString(k.id[:]) }

// Blocks returns the sealer of the volume's blocks.
func (k *Key) Blocks() *BlockSealer { return k.blocks() }

// Meta returns what seals the volume's metadata.
func (k *Key) Meta() *Meta { return k.meta() }

// Wipe overwrites the key. Sealers that it has made go on working.
func (k *Key) Wipe() {
	k.Blocks()
	k.Meta()
	clear(k.secret[:])
}

// derive makes the key of one use.
func (k *Key) derive(use string, n int) []byte {
	key, err := hkdf.Key(sha256.New, k.secret[:], k.id[:], "massif volume v1: "+use, n)
	if err != nil {
		panic("seal: " + err.Error()) // all lengths are possible ones
	}
	return key
}

// String, GoString, Format and LogValue keep the key out of messages.
func (k *Key) String() string { return "(volume key " + k.ID() + ")" }

// Format implements fmt.Formatter.
func (k *Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.String()) }

// LogValue implements slog.LogValuer.
func (k *Key) LogValue() slog.Value { return slog.StringValue(k.String()) }
