package adminapi

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Trust says by what a client recognizes a server. The zero value trusts the
// authorities that the operating system trusts.
//
// A server that made its own authority is recognized by that one's fingerprint,
// which does not change when the server renews its certificate. The server shows
// the authority's certificate behind its own.
type Trust struct {
	Fingerprint string // "sha256:…" of a certificate in the server's chain
	CA          string // PEM of the authorities to trust instead
	Insecure    bool   // recognize nothing: whoever answers gets the token
}

// Fingerprint is the SHA-256 of a certificate's DER form as people compare it.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// ParseFingerprint takes what Fingerprint writes, also in capitals, without the
// prefix, or with colons between the bytes as openssl prints it.
func ParseFingerprint(s string) (string, error) {
	h := strings.ToLower(strings.TrimSpace(s))
	for _, prefix := range []string{"sha256:", "sha256 fingerprint="} {
		h = strings.TrimPrefix(h, prefix)
	}
	h = strings.ReplaceAll(h, ":", "")
	if b, err := hex.DecodeString(h); err != nil || len(b) != sha256.Size {
		return "", fmt.Errorf("fingerprint %q: write sha256: and 64 hexadecimal digits, as the server prints it", s)
	}
	return "sha256:" + h, nil
}

// PinError says that a server shows another certificate than the one that is
// pinned.
type PinError struct {
	Addr      string
	Want, Got string // fingerprints
}

func (e *PinError) Error() string {
	return fmt.Sprintf("the certificate of %s is not the one that is trusted: its fingerprint is %s, expected was %s; if the server got a new certificate, compare the first with what the server prints and make the credentials anew", e.Addr, e.Got, e.Want)
}

// TLS returns the client's side of a connection to addr (HOST:PORT).
func (t Trust) TLS(addr string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("address %q: write HOST:PORT", addr)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	switch {
	case t.Insecure:
		c.InsecureSkipVerify = true
	case t.Fingerprint != "":
		want, err := ParseFingerprint(t.Fingerprint)
		if err != nil {
			return nil, err
		}
		c.InsecureSkipVerify = true // replaced by what follows
		c.VerifyConnection = func(s tls.ConnectionState) error {
			return verifyPinned(s.PeerCertificates, want, addr, host)
		}
	case t.CA != "":
		if c.RootCAs, err = pool(t.CA); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func pool(pem string) (*x509.CertPool, error) {
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM([]byte(pem)) {
		return nil, errors.New("the authority's file holds no certificate in PEM form")
	}
	return p, nil
}

// verifyPinned accepts a chain that holds the pinned certificate: as the server's
// own, or as an authority by which the server's own is valid for the host.
func verifyPinned(chain []*x509.Certificate, want, addr, host string) error {
	if len(chain) == 0 {
		return errors.New("the server shows no certificate")
	}
	for i, cert := range chain {
		if Fingerprint(cert) != want {
			continue
		}
		if i == 0 {
			return nil
		}
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(cert)
		for _, c := range chain[1:i] {
			between.AddCert(c)
		}
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: host})
		return explainVerify(err, addr)
	}
	return &PinError{Addr: addr, Want: want, Got: Fingerprint(chain[len(chain)-1])}
}

// explainVerify makes a sentence of the usual reasons.
func explainVerify(err error, addr string) error {
	var name x509.HostnameError
	if errors.As(err, &name) {
		names := append([]string(nil), name.Certificate.DNSNames...)
		for _, ip := range name.Certificate.IPAddresses {
			names = append(names, ip.String())
		}
		return fmt.Errorf("the certificate of %s is for %s; start the admin server with --host %s", addr, strings.Join(names, ", "), name.Host)
	}
	if err != nil {
		return fmt.Errorf("the certificate of %s: %w", addr, err)
	}
	return nil
}

// Contact is what a first connection finds.
type Contact struct {
	Fingerprint string // of the last certificate that the server shows
	Subject     string // of the server's own certificate
	NotAfter    time.Time
	// Public says that an authority which the operating system trusts vouches for
	// the server: nothing need be pinned.
	Public bool
}

// Probe connects to a server only to see its certificate. Nothing is sent.
func Probe(ctx context.Context, addr string) (*Contact, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("address %q: write HOST:PORT", addr)
	}
	d := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, InsecureSkipVerify: true}}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("admin server %s: %w", addr, explainDial(err))
	}
	defer conn.Close()
	chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return nil, fmt.Errorf("admin server %s shows no certificate", addr)
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, verifyErr := chain[0].Verify(x509.VerifyOptions{Intermediates: between, DNSName: host})
	return &Contact{
		Fingerprint: Fingerprint(chain[len(chain)-1]), Subject: chain[0].Subject.CommonName,
		NotAfter: chain[0].NotAfter, Public: verifyErr == nil,
	}, nil
}

func explainDial(err error) error {
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		return errors.New("it does not speak TLS; is the port right?")
	}
	return err
}

// Address brings the address of an admin server into the form HOST:PORT. The port
// is 443 where none is given.
func Address(s string) (string, error) {
	a := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "https://"), "/")
	bad := fmt.Errorf("admin server %q: write HOST or HOST:PORT, such as admin.example.com:443", s)
	if a == "" || strings.ContainsAny(a, "/@?# \t\"'\\%") {
		return "", bad
	}
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		// Without a port. An IPv6 address may stand with or without brackets.
		host, port = strings.TrimSuffix(strings.TrimPrefix(a, "["), "]"), "443"
		if strings.Contains(host, ":") && net.ParseIP(host) == nil {
			return "", bad
		}
	}
	if host == "" || strings.ContainsAny(host, "[]") || strings.Contains(host, ":") && net.ParseIP(host) == nil {
		return "", bad
	}
	if n, err := net.LookupPort("tcp", port); err != nil || n == 0 {
		return "", bad
	}
	return net.JoinHostPort(host, port), nil
}
