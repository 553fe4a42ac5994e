package object

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// Presigner is the optional ability to sign single HTTP requests in advance, so
// that somebody without the store's credentials can make them until they expire.
// Nothing is sent: a signed request for an object that is not there can be made,
// and is answered by the store. Found by As.
type Presigner interface {
	// PresignGet signs the reading of one object. The holder may add a Range
	// header. life is at least a second, at most a week.
	PresignGet(ctx context.Context, key string, life time.Duration) (SignedRequest, error)
	// PresignPut signs the writing of one object of exactly size bytes. sum, if not
	// nil, is the CRC-32C (Castagnoli) of its bytes, which the store then
	// compares. Conditions of opts are part of what is signed: with IfAbsent the
	// request cannot replace an object, however often it is made. A store that
	// cannot promise that gives ErrUnsupported.
	PresignPut(ctx context.Context, key string, size int64, sum *uint32, life time.Duration, opts *PutOptions) (SignedRequest, error)
}

// SignedRequest is a request that a Presigner has signed. Whoever knows it can make
// it: it is a secret while it lives, and hides itself from every kind of printing.
type SignedRequest struct {
	Method string
	URL    string
	Header http.Header // to be sent as they are; they are part of the signature
	// Life is how long the store accepts it from now on; less than was asked for
	// where the store's own credentials end earlier.
	Life time.Duration
}

// String names method, host and path, without what makes the request valid.
func (r SignedRequest) String() string {
	where := "…"
	if u, err := url.Parse(r.URL); err == nil {
		where = u.Scheme + "://" + u.Host + u.EscapedPath()
	}
	return fmt.Sprintf("%s %s (signed for %v)", r.Method, where, r.Life)
}

// GoString is String.
func (r SignedRequest) GoString() string { return r.String() }

// LogValue is String.
func (r SignedRequest) LogValue() slog.Value { return slog.StringValue(r.String()) }

// The bounds of SignedRequest.Life: those of Amazon's signatures.
const (
	MinSignedLife = time.Second
	MaxSignedLife = 7 * 24 * time.Hour
)

// ValidLife returns nil if a request can be signed for that long.
func ValidLife(life time.Duration) error {
	if life < MinSignedLife || life > MaxSignedLife {
		return fmt.Errorf("%w: a request cannot be signed for %v (%v to %v)", ErrInvalid, life, MinSignedLife, MaxSignedLife)
	}
	return nil
}
