// Package wire holds what the drivers of stores behind HTTP have in common:
// object/s3, object/azure and object/gcs.
//
// They all make one attempt at each request (package object/retry retries) and owe
// their callers the same things: a body that was cut short is an error
// (Receiving), memory for parts under way is bounded (Buffers), and an error is a
// sentence that names the store and the cause, without secrets (Failure, Explain).
// That a request which stands still ends is package object/watchdog's.
package wire

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/massif-fs/massif/object"
)

// Options say how a store is reached.
type Options struct {
	// Proxy is the URL of a proxy for all requests, "" for the environment's
	// (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).
	Proxy string
	// CAFile names a file of PEM certificates to trust beside the system's.
	CAFile string
	// ConnectTimeout bounds TCP and TLS, each; 0: 10 s.
	ConnectTimeout time.Duration
	// MaxIdleConns is the number of idle connections kept; 0: 64.
	MaxIdleConns int
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", object.ErrInvalid, fmt.Sprintf(format, args...))
}

// Validate returns nil if the options can be meant. It reads no files.
func (o Options) Validate() error {
	if o.Proxy == "" {
		return nil
	}
	u, err := url.Parse(o.Proxy)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
		return invalid("proxy %q is not an http, https or socks5 URL", RedactURL(o.Proxy))
	}
	return nil
}

// Transport makes the HTTP transport. It speaks HTTP/1.1: one connection a request
// is what gives throughput.
func (o Options) Transport() (*http.Transport, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	if o.MaxIdleConns <= 0 {
		o.MaxIdleConns = 64
	}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("%w: certificates: %w", object.ErrInvalid, err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, invalid("%s holds no certificates", o.CAFile)
		}
		tlsConfig.RootCAs = pool
	}
	proxy := http.ProxyFromEnvironment
	if o.Proxy != "" {
		u, err := url.Parse(o.Proxy)
		if err != nil {
			return nil, invalid("the proxy is not a URL")
		}
		proxy = http.ProxyURL(u)
	}
	dialer := &net.Dialer{Timeout: o.ConnectTimeout, KeepAlive: 15 * time.Second}
	var http1 http.Protocols
	http1.SetHTTP1(true)
	return &http.Transport{
		Proxy:               proxy,
		DialContext:         dialer.DialContext,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: o.ConnectTimeout,
		MaxIdleConns:        o.MaxIdleConns,
		MaxIdleConnsPerHost: o.MaxIdleConns,
		IdleConnTimeout:     50 * time.Second,
		DisableCompression:  true, // objects come as they are
		WriteBufferSize:     64 << 10,
		ReadBufferSize:      64 << 10,
		Protocols:           &http1,
	}, nil
}

// NoRedirect is the CheckRedirect of clients that treat a redirection as an answer.
func NoRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// RedactURL drops what may be secret from a URL that is shown: user and password,
// and all parameters.
func RedactURL(s string) string {
	s, _, _ = strings.Cut(s, "?")
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "…" + s[i:]
	}
	return s
}

// CheckEndpoint returns nil if s is the URL of a server.
func CheckEndpoint(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return invalid("endpoint %q is not an http or https URL", RedactURL(s))
	}
	if u.User != nil || u.RawQuery != "" {
		return invalid("the endpoint holds credentials; give them by environment, files or options")
	}
	return nil
}

// Failure is an error of the server, or on the way to it, in our words.
type Failure struct {
	Kind  error // a sentinel of package object, as a rule
	Text  string
	Cause error // for errors.Is and As; what it says may hold secrets and is not shown
}

func (e *Failure) Error() string   { return e.Text }
func (e *Failure) Unwrap() []error { return []error{e.Kind, e.Cause} }

// Nonsense is for an answer that cannot be right.
func Nonsense(where, what string) error {
	return &Failure{object.ErrUnavailable, fmt.Sprintf("%s: the server's answer makes no sense: %s", where, what), errors.New(what)}
}

// ErrRange is the errors.Is target of a range that begins at or beyond the end of the
// object.
var ErrRange = errors.New("range is beyond the object")

// Meaning is what a server's error code means to us and to people.
type Meaning struct {
	Kind error
	Text string // "" where the kind says enough
}

// Means is the Meaning of those words.
func Means(kind error, text string) Meaning { return Meaning{kind, text} }

// ByStatus is the meaning of an HTTP status without a code that is known.
func ByStatus(status int) Meaning {
	const busy = "the server cannot answer at present"
	switch {
	case status == http.StatusNotFound:
		return Meaning{object.ErrNotFound, ""}
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return Meaning{object.ErrAccess, "the credentials do not allow this, or are wrong"}
	case status == http.StatusPreconditionFailed:
		return Meaning{object.ErrPrecondition, ""}
	case status == http.StatusRequestedRangeNotSatisfiable:
		return Meaning{ErrRange, ""}
	case status == http.StatusMovedPermanently || status == http.StatusPermanentRedirect || status == http.StatusTemporaryRedirect || status == http.StatusFound:
		return Meaning{object.ErrInvalid, "the server sends us elsewhere; is this the right endpoint?"}
	case status == http.StatusTooManyRequests:
		return Meaning{object.ErrUnavailable, "the server asks for fewer requests"}
	case status == http.StatusRequestTimeout:
		return Meaning{object.ErrUnavailable, "the server waited too long for the request"}
	case status == http.StatusNotImplemented || status == http.StatusMethodNotAllowed:
		return Meaning{object.ErrUnsupported, "the server does not implement this"}
	case status == http.StatusInsufficientStorage:
		return Meaning{object.ErrNoSpace, ""}
	case status >= 500:
		return Meaning{object.ErrUnavailable, busy}
	case status >= 400:
		return Meaning{object.ErrInvalid, "the server refuses the request"}
	}
	return Meaning{object.ErrUnavailable, "the server's answer makes no sense"}
}

// Failure makes the sentence about an answer: the store, what it means, and the
// server's own words in detail. request is the server's number of the request.
func (m Meaning) Failure(where, detail, request string, cause error) *Failure {
	text := m.Kind.Error()
	if m.Text != "" {
		text += ": " + m.Text
	}
	if request != "" {
		detail += ", request " + request
	}
	if errors.Is(m.Kind, object.ErrNoSpace) {
		cause = errors.Join(syscall.ENOSPC, cause)
	}
	return &Failure{m.Kind, fmt.Sprintf("%s: %s (%s)", where, text, detail), cause}
}
