package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// RecoveryKey opens a volume whose passphrase is lost: 160 random bits, which are
// shown once and kept on paper or in a safe.
//
// Its written form is 40 letters and digits in groups of five: base32 in
// Crockford's alphabet, which has no I, L, O and U, of a version byte, the secret
// and four bytes of checksum.
type RecoveryKey struct {
	secret [recoverySize]byte
}

const (
	recoverySize    = 20
	recoveryVersion = 1
	recoverySum     = 4
	recoveryText    = (1 + recoverySize + recoverySum) * 8 / 5
)

var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

func newRecoveryKey() *RecoveryKey {
	r := new(RecoveryKey)
	rand.Read(r.secret[:])
	return r
}

// Reveal returns the written form.
func (r *RecoveryKey) Reveal() string {
	body := append([]byte{recoveryVersion}, r.secret[:]...)
	text := crockford.EncodeToString(append(body, recoveryChecksum(body)...))
	var groups []string
	for ; len(text) > 0; text = text[5:] {
		groups = append(groups, text[:5])
	}
	return strings.Join(groups, "-")
}

// ErrRecoveryKey is wrapped by the errors of text that is no recovery key.
var ErrRecoveryKey = errors.New("that is no recovery key")

// ParseRecoveryKey reads the written form, as people type it: in any case, with
// spaces and hyphens anywhere, O for 0, I and L for 1.
func ParseRecoveryKey(text string) (*RecoveryKey, error) {
	if len(text) > 4*recoveryText {
		return nil, fmt.Errorf("%w: it is too long", ErrRecoveryKey)
	}
	var b strings.Builder
	for _, c := range strings.ToUpper(text) {
		switch c {
		case ' ', '-', '\t', '\r', '\n':
			continue
		case 'O':
			c = '0'
		case 'I', 'L':
			c = '1'
		}
		b.WriteRune(c)
	}
	clean := b.String()
	if len(clean) != recoveryText {
		return nil, fmt.Errorf("%w: it has %d letters and digits, not %d", ErrRecoveryKey, len(clean), recoveryText)
	}
	body, err := crockford.DecodeString(clean)
	if err != nil {
		return nil, fmt.Errorf("%w: it holds something other than letters and digits", ErrRecoveryKey)
	}
	body, sum := body[:1+recoverySize], body[1+recoverySize:]
	if !bytes.Equal(recoveryChecksum(body), sum) {
		return nil, fmt.Errorf("%w: its checksum does not fit, so a letter is wrong or two are exchanged", ErrRecoveryKey)
	}
	if body[0] != recoveryVersion {
		return nil, fmt.Errorf("%w: its version is %d and this program knows %d", ErrRecoveryKey, body[0], recoveryVersion)
	}
	r := new(RecoveryKey)
	copy(r.secret[:], body[1:])
	return r, nil
}

func recoveryChecksum(body []byte) []byte {
	sum := sha256.Sum256(append([]byte("massif recovery key: "), body...))
	return sum[:recoverySum]
}

// wrapKey derives the key that wraps the volume key. The secret is random, so no
// slow function is needed.
func (r *RecoveryKey) wrapKey(salt []byte) []byte {
	key, err := hkdf.Key(sha256.New, r.secret[:], salt, "massif recovery key v1", keySize)
	if err != nil {
		panic("seal: " + err.Error())
	}
	return key
}

// Wipe overwrites the key.
func (r *RecoveryKey) Wipe() { clear(r.secret[:]) }

// String keeps the key out of messages.
func (r *RecoveryKey) String() string { return "(recovery key)" }

// Format implements fmt.Formatter.
func (r *RecoveryKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, r.String()) }

// LogValue implements slog.LogValuer.
func (r *RecoveryKey) LogValue() slog.Value { return slog.StringValue(r.String()) }
