package metarpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/kv/pebble"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/vfs"
)

// benchTLS is a configuration for both sides of a connection.
func benchTLS(b *testing.B) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		b.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{ALPN}, ServerName: "localhost", RootCAs: pool,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// BenchmarkCalls measures calls that the server answers, by way and number of callers:
//
//	go test -run '^$' -bench Calls ./meta/metarpc
func BenchmarkCalls(b *testing.B) {
	for _, way := range []string{"unix", "tcp", "tls"} {
		for _, callers := range []int{1, 64} {
			for _, what := range []string{"stat", "create", "cached"} {
				b.Run(fmt.Sprintf("%s/%d/%s", way, callers, what), func(b *testing.B) { benchCalls(b, way, callers, what) })
			}
		}
	}
}

func benchCalls(b *testing.B, way string, callers int, what string) {
	ok := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	db, err := pebble.Open(b.TempDir(), pebble.Options{Logger: quiet})
	ok(err)
	ok(meta.Create(bg, db, testFormat()))
	e, err := meta.Open(bg, db, meta.Options{Logger: quiet})
	ok(err)
	h := &house{TB: b}
	s := NewServer(ServerConfig{Auth: h, Logger: quiet, Volume: func(string) (*Volume, error) { return &Volume{Engine: e}, nil }})
	network, addr := "tcp", "127.0.0.1:0"
	if way == "unix" {
		network, addr = "unix", filepath.Join(b.TempDir(), "s")
	}
	l, err := net.Listen(network, addr)
	ok(err)
	where := l.Addr().String()
	var d net.Dialer
	connect := func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, network, where) }
	if way == "tls" {
		config := benchTLS(b)
		l = tls.NewListener(l, config)
		connect = func(ctx context.Context) (net.Conn, error) {
			return (&tls.Dialer{Config: config}).DialContext(ctx, network, where)
		}
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	c, err := Dial(bg, ClientConfig{Connect: connect, Hello: Hello{Volume: "test"}, NoCache: what == "stat", Logger: quiet})
	ok(err)
	defer func() {
		ok(c.Close())
		ok(s.Close())
		ok(<-served)
		ok(e.Close())
		ok(db.Close())
	}()
	var dir vfs.Attr
	ok(c.Mkdir(bg, root, vfs.Root, "d", 0o755, &dir))
	var n atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	run := func() {
		var a vfs.Attr
		if what == "create" {
			ok(c.Mknod(bg, root, dir.Ino, fmt.Sprint(n.Add(1)), syscall.S_IFREG|0o644, 0, &a))
		} else {
			ok(c.GetAttr(bg, root, dir.Ino, &a))
		}
	}
	if callers == 1 {
		for b.Loop() {
			run()
		}
		return
	}
	done := make(chan struct{})
	var left atomic.Int64
	left.Store(int64(b.N))
	for range callers {
		go func() {
			for left.Add(-1) >= 0 {
				run()
			}
			done <- struct{}{}
		}()
	}
	for range callers {
		<-done
	}
}

// BenchmarkRecall measures a change of what another client has leased, with the lease
// given anew each time.
func BenchmarkRecall(b *testing.B) {
	h := newHouse(b)
	a, c := h.dial(), h.dial()
	var list []vfs.Ino
	for i := range 1000 {
		list = append(list, h.file(a, vfs.Root, fmt.Sprint(i)))
	}
	var x vfs.Attr
	i := 0
	for b.Loop() {
		f := list[i%len(list)] // no more than a few recalls of each in a second
		i++
		h.ok(c.GetAttr(bg, root, f, &x))
		h.ok(a.SetAttr(bg, root, f, &vfs.SetAttr{Valid: vfs.SetMode, Mode: uint32(i) & 0o777}, &x))
	}
}
