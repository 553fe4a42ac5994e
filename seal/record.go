package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/crypto/argon2"
)

// Record is what is stored of a volume's encryption: how it is sealed, and its key
// wrapped by a passphrase and a recovery key. It is no secret, but whoever has it
// can try passphrases, at the price of an Argon2id each. A Record is not changed
// once it is made; its methods may be called concurrently.
type Record struct {
	Version int    `json:"version"` // RecordVersion
	Cipher  string `json:"cipher"`  // Cipher
	KeyID   string `json:"keyID"`   // 32 hexadecimal digits
	Wraps   []Wrap `json:"wraps"`   // 1 to MaxWraps
}

// Wrap is the volume key, sealed with a key made of something that a person has.
type Wrap struct {
	Kind string `json:"kind"` // WrapPassphrase or WrapRecovery
	KDF  string `json:"kdf"`  // "argon2id", or "hkdf-sha256" for a recovery key
	// Parameters of Argon2id.
	Passes  uint32 `json:"passes,omitempty"`
	Memory  uint32 `json:"memoryKiB,omitempty"`
	Threads uint8  `json:"threads,omitempty"`

	Salt []byte `json:"salt"` // 16 to 64 bytes
	// Key is nonce (24), the key sealed with XAES-256-GCM (32) and tag (16).
	Key []byte `json:"key"`
}

// What a Record says.
const (
	RecordVersion = 1
	Cipher        = "xaes-256-gcm+aes-siv"
	MaxWraps      = 16
	MaxRecord     = 16 << 10 // bytes of a record as JSON

	WrapPassphrase = "passphrase"
	WrapRecovery   = "recovery"

	kdfArgon2id = "argon2id"
	kdfHKDF     = "hkdf-sha256"

	saltSize = 16
)

// Bounds of Argon2id's parameters: what is weaker is not accepted, what is greater
// would let a stored record take a client's memory. New wraps use the lower bounds,
// the second recommendation of RFC 9106.
const (
	minPasses  = 3
	maxPasses  = 64
	minMemory  = 64 << 10 // KiB
	maxMemory  = 2 << 20  // KiB
	newThreads = 4
	maxThreads = 64
)

// Errors of unlocking.
var (
	ErrWrongPassphrase  = errors.New("the passphrase is wrong")
	ErrWrongRecoveryKey = errors.New("the recovery key is not this volume's")
	errRecord           = errors.New("the volume's encryption record is damaged or of another version")
)

// Create makes the key of a new volume, the record to be stored with it, and the
// recovery key to be shown.
func Create(p Passphrase) (*Record, *Key, *RecoveryKey, error) {
	if err := p.Check(); err != nil {
		return nil, nil, nil, err
	}
	k := newKey()
	r, err := (&Record{Version: RecordVersion, Cipher: Cipher, KeyID: k.ID()}).WithPassphrase(k, p)
	if err != nil {
		return nil, nil, nil, err
	}
	r, recovery, err := r.WithRecoveryKey(k)
	return r, k, recovery, err
}

// ParseRecord reads a record of at most MaxRecord bytes from JSON and checks it.
func ParseRecord(data []byte) (*Record, error) {
	if len(data) > MaxRecord {
		return nil, fmt.Errorf("%w: it has more than %d bytes", errRecord, MaxRecord)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	r := new(Record)
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("%w: %w", errRecord, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: something follows it", errRecord)
	}
	return r, r.Validate()
}

// Validate says in one sentence what is wrong with the record, or returns nil.
func (r *Record) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", errRecord, fmt.Sprintf(format, args...))
	}
	id, err := hex.DecodeString(r.KeyID)
	switch {
	case r.Version != RecordVersion:
		return bad("version %d, and this program knows %d", r.Version, RecordVersion)
	case r.Cipher != Cipher:
		return bad("cipher %q, and this program knows %q", r.Cipher, Cipher)
	case err != nil || len(id) != idSize || hex.EncodeToString(id) != r.KeyID:
		return bad("key id %q", r.KeyID)
	case len(r.Wraps) < 1 || len(r.Wraps) > MaxWraps:
		return bad("%d wraps", len(r.Wraps))
	}
	for i := range r.Wraps {
		if err := r.Wraps[i].validate(); err != nil {
			return bad("wrap %d: %v", i+1, err)
		}
	}
	return nil
}

func (w *Wrap) validate() error {
	switch {
	case len(w.Salt) < saltSize || len(w.Salt) > 64:
		return fmt.Errorf("salt of %d bytes", len(w.Salt))
	case len(w.Key) != keySize+xaesOverhead:
		return fmt.Errorf("wrapped key of %d bytes", len(w.Key))
	}
	switch {
	case w.Kind == WrapPassphrase && w.KDF == kdfArgon2id:
		if w.Passes < minPasses || w.Passes > maxPasses || w.Memory < minMemory || w.Memory > maxMemory || w.Threads < 1 || w.Threads > maxThreads {
			return fmt.Errorf("%d passes over %d KiB by %d threads", w.Passes, w.Memory, w.Threads)
		}
	case w.Kind == WrapRecovery && w.KDF == kdfHKDF:
		if w.Passes != 0 || w.Memory != 0 || w.Threads != 0 {
			return errors.New("parameters that do not belong to it")
		}
	default:
		return fmt.Errorf("kind %q with %q", w.Kind, w.KDF)
	}
	return nil
}

// Equal tells whether two records are the same; nil is the same as nil.
func (r *Record) Equal(other *Record) bool {
	if r == nil || other == nil {
		return r == other
	}
	return r.Version == other.Version && r.Cipher == other.Cipher && r.KeyID == other.KeyID &&
		slices.EqualFunc(r.Wraps, other.Wraps, func(a, b Wrap) bool {
			return a.Kind == b.Kind && a.KDF == b.KDF && a.Passes == b.Passes && a.Memory == b.Memory && a.Threads == b.Threads &&
				bytes.Equal(a.Salt, b.Salt) && bytes.Equal(a.Key, b.Key)
		})
}

// aad is what a wrapped key is bound to: the volume's key id, and how it is
// wrapped.
func (w *Wrap) aad(id [idSize]byte) []byte {
	b := append([]byte("massif wrapped key v1\x00"), id[:]...)
	for _, s := range []string{w.Kind, w.KDF, string(w.Salt)} {
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	b = binary.LittleEndian.AppendUint32(b, w.Passes)
	b = binary.LittleEndian.AppendUint32(b, w.Memory)
	return append(b, w.Threads)
}

func (w *Wrap) wrap(k *Key, with []byte) {
	defer clear(with)
	w.Key = newXAES(with).seal(nil, k.secret[:], w.aad(k.id))
}

// unwrap returns nil if with is not the key that the volume key was wrapped with.
func (w *Wrap) unwrap(id [idSize]byte, with []byte) *Key {
	defer clear(with)
	secret, err := newXAES(with).open(nil, w.Key, w.aad(id))
	if err != nil || len(secret) != keySize {
		return nil
	}
	defer clear(secret)
	return keyOf(id, secret)
}

func (w *Wrap) passphraseKey(p Passphrase) []byte {
	text := p.normal()
	defer clear(text)
	return argon2.IDKey(text, w.Salt, w.Passes, w.Memory, w.Threads, keySize)
}

func newSalt() []byte {
	salt := make([]byte, saltSize)
	rand.Read(salt)
	return salt
}

// Unlock returns the volume key, or ErrWrongPassphrase. It takes a fraction of a
// second and the memory that the record says (64 MiB by default).
func (r *Record) Unlock(p Passphrase) (*Key, error) {
	if len(p) > MaxPassphrase {
		return nil, ErrWrongPassphrase
	}
	return r.unlock(WrapPassphrase, ErrWrongPassphrase, func(w *Wrap) []byte { return w.passphraseKey(p) })
}

// Recover returns the volume key, or ErrWrongRecoveryKey.
func (r *Record) Recover(rk *RecoveryKey) (*Key, error) {
	return r.unlock(WrapRecovery, ErrWrongRecoveryKey, func(w *Wrap) []byte { return rk.wrapKey(w.Salt) })
}

func (r *Record) unlock(kind string, wrong error, with func(*Wrap) []byte) (*Key, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	id := r.id()
	for i := range r.Wraps {
		w := &r.Wraps[i]
		if w.Kind != kind {
			continue
		}
		if k := w.unwrap(id, with(w)); k != nil {
			return k, nil
		}
	}
	return nil, wrong
}

func (r *Record) id() (id [idSize]byte) {
	hex.Decode(id[:], []byte(r.KeyID)) // Validate has looked at it
	return id
}

// errOtherKey says that a key is not the record's.
var errOtherKey = errors.New("the key is that of another volume")

// WithPassphrase returns a record in which p takes the place of the passphrase.
func (r *Record) WithPassphrase(k *Key, p Passphrase) (*Record, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	w := Wrap{Kind: WrapPassphrase, KDF: kdfArgon2id, Passes: minPasses, Memory: minMemory, Threads: newThreads, Salt: newSalt()}
	return r.with(k, w, w.passphraseKey(p))
}

// WithRecoveryKey returns a record with a new recovery key, which takes the place
// of the one there was.
func (r *Record) WithRecoveryKey(k *Key) (*Record, *RecoveryKey, error) {
	rk := newRecoveryKey()
	w := Wrap{Kind: WrapRecovery, KDF: kdfHKDF, Salt: newSalt()}
	next, err := r.with(k, w, rk.wrapKey(w.Salt))
	return next, rk, err
}

func (r *Record) with(k *Key, w Wrap, with []byte) (*Record, error) {
	if k.ID() != r.KeyID {
		return nil, errOtherKey
	}
	w.wrap(k, with)
	next := *r
	next.Wraps = slices.DeleteFunc(slices.Clone(r.Wraps), func(old Wrap) bool { return old.Kind == w.Kind })
	next.Wraps = append(next.Wraps, w)
	return &next, next.Validate()
}
