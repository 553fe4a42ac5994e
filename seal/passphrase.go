package seal

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Passphrase is what a person remembers. It is text in any script, or any bytes.
type Passphrase []byte

// Bounds of a passphrase: characters at least, bytes at most.
const (
	MinPassphrase = 8
	MaxPassphrase = 1024
)

// Check says in one sentence why a passphrase cannot be chosen, or returns nil.
func (p Passphrase) Check() error {
	switch n := utf8.RuneCount(p); {
	case n == 0:
		return errors.New("the passphrase is empty")
	case n < MinPassphrase:
		return fmt.Errorf("the passphrase has %d characters; choose one of at least %d, better several words", n, MinPassphrase)
	case len(p) > MaxPassphrase:
		return fmt.Errorf("the passphrase is longer than %d bytes", MaxPassphrase)
	}
	return nil
}

// normal is the passphrase as it is hashed: text in the composed form of Unicode
// (NFC), because keyboards differ in how they type one letter.
func (p Passphrase) normal() []byte {
	if utf8.Valid(p) {
		return norm.NFC.Append(nil, p...)
	}
	return slices.Clone(p)
}

// Wipe overwrites the passphrase.
func (p Passphrase) Wipe() { clear(p) }

// String keeps the passphrase out of messages.
func (p Passphrase) String() string { return "(passphrase)" }

// Format implements fmt.Formatter.
func (p Passphrase) Format(f fmt.State, _ rune) { fmt.Fprint(f, p.String()) }

// LogValue implements slog.LogValuer.
func (p Passphrase) LogValue() slog.Value { return slog.StringValue(p.String()) }

// MarshalJSON refuses: a passphrase is handed on deliberately, as bytes, or not at
// all.
func (p Passphrase) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a passphrase is not written down")
}
