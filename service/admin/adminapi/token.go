package adminapi

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
)

// NewToken makes a token: 128 random bits in the form of a UUID. None of them is
// given away to a version number, as a random UUID does with six.
func NewToken() string {
	var b [16]byte
	rand.Read(b[:])
	return uuidForm(b[:])
}

func uuidForm(b []byte) string {
	h := hex.EncodeToString(b)
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// ErrTokenForm is the error of something that cannot be a token. It does not
// repeat it.
var ErrTokenForm = errors.New("the token is not well formed: it is a UUID, 32 hexadecimal digits in five groups")

// ParseToken brings a token into the form in which it is hashed.
func ParseToken(s string) (string, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	if len(s) != 36 {
		return "", ErrTokenForm
	}
	for i := range len(s) {
		c := s[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return "", ErrTokenForm
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return "", ErrTokenForm
			}
		}
	}
	return s, nil
}

// TokenHash is the SHA-256 of a token in the form of ParseToken.
func TokenHash(token string) [sha256.Size]byte { return sha256.Sum256([]byte(token)) }
