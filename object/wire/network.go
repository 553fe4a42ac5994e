package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/watchdog"
)

// Explain returns the reason for a failed request that its watchdog knows: the
// caller gave up, the body being sent broke, there was no progress. nil if it knows
// none; a nil w knows none.
func Explain(w *watchdog.Dog, where string) error {
	if w == nil {
		return nil
	}
	if cause := w.Parent().Err(); cause != nil {
		return cause
	}
	if err := w.BodyError(); err != nil {
		return err
	}
	if w.Stalled() {
		return &Failure{object.ErrUnavailable, fmt.Sprintf("no progress for %v at %s", w.Limit(), where), syscall.ETIMEDOUT}
	}
	return nil
}

// ExplainNetwork makes a sentence of an error on the way to a server, or to
// whoever gives out credentials. Errors that are ours already, and those of a
// cancelled context, are returned as they are.
func ExplainNetwork(where string, err error) error {
	var inURL *url.Error
	if errors.As(err, &inURL) {
		err = inURL.Err // the rest is the request's URL, in which there may be a secret
	}
	var (
		unknownCA x509.UnknownAuthorityError
		hostname  x509.HostnameError
		badCert   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		dns       *net.DNSError
		op        *net.OpError
		timeout   interface{ Timeout() bool }
	)
	m := func(kind error, text string) error {
		return &Failure{kind, fmt.Sprintf("%s: %s: %v", where, text, innermost(err)), err}
	}
	switch {
	case errors.As(err, &unknownCA), errors.As(err, &hostname), errors.As(err, &badCert):
		return m(object.ErrAccess, "the server's certificate is not to be trusted")
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return m(object.ErrInvalid, "the endpoint does not speak HTTPS")
	case errors.As(err, &dns):
		return m(object.ErrUnavailable, "the host's name cannot be resolved")
	case errors.As(err, &op) && op.Op == "proxyconnect":
		return m(object.ErrUnavailable, "the proxy cannot be reached")
	case errors.As(err, &op) && op.Op == "dial":
		return m(object.ErrUnavailable, "the server cannot be reached")
	case errors.As(err, &timeout) && timeout.Timeout():
		return m(object.ErrUnavailable, "the server does not answer")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return m(object.ErrUnavailable, "the connection was closed")
	case errors.Is(err, object.ErrInvalid), errors.Is(err, object.ErrCorrupt), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return m(object.ErrUnavailable, "the request failed")
}

// innermost returns the last words of a chain of errors: each layer above prefixes
// its name, and net/http the URL with all that is in it.
func innermost(err error) error {
	for {
		var op *net.OpError
		if errors.As(err, &op) {
			return op
		}
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
