package admin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

func hashText(token string) string {
	h := adminapi.TokenHash(token)
	return hex.EncodeToString(h[:])
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	v, ms := w.volume("v", fields{"flags": "noexec"})
	_, otherMS := w.volume("other", nil)
	server, otherServer := w.client(ms.Token), w.client(otherMS.Token)

	tok := create[adminapi.Token](w, w.Client, "tokens", fields{"volume": "v", "path": "/team/a/", "readOnly": true, "flags": "nosuid", "expires": w.clock.now().Add(time.Hour)})
	m, err := w.client(tok.Token).Mount(bg)
	if err != nil {
		t.Fatal(err)
	}
	if m.VolumeID != v.ID || m.Path != "team/a" || !m.ReadOnly || m.Flags != "noexec,nosuid" || m.Metadata.Address != "127.0.0.1:9" || m.Blocks != nil || m.Metadata.CA == "" {
		t.Errorf("%+v", m)
	}
	ask := adminapi.AuthRequest{TokenSHA256: hashText(tok.Token), Volume: "v", Remote: "192.0.2.7:1"}
	g, err := server.Authenticate(bg, ask)
	if err != nil || g.Volume != v.ID || g.Path != "team/a" || !g.ReadOnly || g.TokenID != tok.ID || g.Expires == nil {
		t.Errorf("%+v, %v", g, err)
	}
	// Scope: another metadata server, another volume, another kind of token.
	_, err = otherServer.Authenticate(bg, ask)
	w.refused(err, adminapi.CodeForbidden, "served by another metadata server")
	_, err = server.Authenticate(bg, adminapi.AuthRequest{TokenSHA256: hashText(tok.Token), Volume: "other"})
	w.refused(err, adminapi.CodeForbidden, "for another volume")
	_, err = server.Authenticate(bg, adminapi.AuthRequest{TokenSHA256: hashText(w.token)})
	w.refused(err, adminapi.CodeForbidden, "not one of a volume")
	_, err = server.Authenticate(bg, adminapi.AuthRequest{TokenSHA256: hashText(adminapi.NewToken())})
	w.refused(err, adminapi.CodeForbidden, "not known")
	_, err = w.Authenticate(bg, ask)
	w.refused(err, adminapi.CodeForbidden, "takes a token of the kind metadata-server")
	_, err = w.client(tok.Token).Served(bg)
	w.refused(err, adminapi.CodeForbidden, "takes a token of the kind metadata-server")
	w.refused(w.client(tok.Token).Delete(bg, "volumes", v.ID), adminapi.CodeForbidden, "kind account")
	_, err = server.Mount(bg)
	w.refused(err, adminapi.CodeForbidden, "kind volume")

	for _, p := range []string{"..", "a/../b", "a//b", ".", strings.Repeat("x", 300)} {
		w.refused(w.Create(bg, "tokens", fields{"volume": "v", "path": p}, nil), adminapi.CodeInvalid, `"path"`)
	}
	w.refused(w.Create(bg, "tokens", fields{"role": "owner", "path": "a"}, nil), adminapi.CodeInvalid, "for tokens of volumes")
	w.refused(w.Create(bg, "tokens", fields{}, nil), adminapi.CodeInvalid, "a token is for one of them")
	w.refused(w.Create(bg, "tokens", fields{"volume": "v", "expires": "2001-01-01T00:00:00Z"}, nil), adminapi.CodeInvalid, "has passed")

	// Time ends it; a change brings it back.
	w.clock.advance(2 * time.Hour)
	_, err = w.client(tok.Token).Mount(bg)
	w.refused(err, adminapi.CodeUnauthorized, "has expired at")
	_, err = server.Authenticate(bg, ask)
	w.refused(err, adminapi.CodeForbidden, "has expired at")
	if err := w.Update(bg, "tokens", tok.ID, fields{"expires": nil}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err = server.Authenticate(bg, ask); err != nil {
		t.Error(err)
	}
	// So does revocation, for ever.
	if err := w.Delete(bg, "tokens", tok.ID); err != nil {
		t.Fatal(err)
	}
	_, err = w.client(tok.Token).Mount(bg)
	w.refused(err, adminapi.CodeUnauthorized, "was revoked at")
	_, err = server.Authenticate(bg, ask)
	w.refused(err, adminapi.CodeForbidden, "was revoked at")
	w.refused(w.Update(bg, "tokens", tok.ID, fields{"readOnly": false}, nil), adminapi.CodeConflict, "revoked")
	_, err = w.client(adminapi.NewToken()).Whoami(bg)
	w.refused(err, adminapi.CodeUnauthorized, "not known here")
	who, err := w.Whoami(bg)
	if err != nil {
		t.Fatal(err)
	}
	w.refused(w.Delete(bg, "tokens", who.Token.ID), adminapi.CodeConflict, "cannot revoke itself")
}

// TestEvents: a metadata server learns of a revocation while it waits.
func TestEvents(t *testing.T) {
	w := newWorld(t)
	v, ms := w.volume("v", nil)
	_, otherMS := w.volume("other", nil)
	server := w.client(ms.Token)
	tok := create[adminapi.Token](w, w.Client, "tokens", fields{"volume": "v"})
	served, err := server.Served(bg)
	if err != nil || len(served.Volumes) != 1 || served.Volumes[0].Volume.ID != v.ID || served.Volumes[0].Store.SecretKey == "" ||
		served.Volumes[0].Store.URL != "s3://bucket/data/"+v.ID+"?region=eu-central-1" {
		t.Fatalf("%+v, %v", served, err)
	}
	type result struct {
		e   *adminapi.Events
		err error
	}
	got := make(chan result, 1)
	go func() {
		e, err := server.Events(bg, served.Seq, 50*time.Second)
		got <- result{e, err}
	}()
	// Another server's events are not this one's.
	otherTok := create[adminapi.Token](w, w.Client, "tokens", fields{"volume": "other"})
	if err := w.Delete(bg, "tokens", otherTok.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.Delete(bg, "tokens", tok.ID); err != nil {
		t.Fatal(err)
	}
	r := <-got
	if r.err != nil || len(r.e.Events) != 1 || r.e.Events[0].Token != tok.ID || r.e.Events[0].Kind != adminapi.EventToken || r.e.Events[0].Volume != v.ID {
		t.Fatalf("%+v, %v", r.e, r.err)
	}
	if e, err := server.Events(bg, r.e.Seq, 0); err != nil || len(e.Events) != 0 || e.Seq != r.e.Seq {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err := server.Events(bg, 1<<40, 0); err != nil || !e.Reset {
		t.Errorf("an unknown number: %+v, %v", e, err)
	}
	// A deleted volume: the server is told, its tokens end, its record goes when the
	// server says so.
	w.refused(server.Delete(bg, "serve/volumes", v.ID), adminapi.CodeConflict, "is not deleted")
	if err := w.Delete(bg, "volumes", "v"); err != nil {
		t.Fatal(err)
	}
	if e, err := server.Events(bg, r.e.Seq, 0); err != nil || len(e.Events) == 0 || e.Events[0].Kind != adminapi.EventVolume {
		t.Errorf("%+v, %v", e, err)
	}
	if status, body := w.raw("DELETE", "/v1/serve/volumes/"+v.ID, otherMS.Token, ""); status != 404 {
		t.Errorf("another server: %d %s", status, body)
	}
	if status, body := w.raw("DELETE", "/v1/serve/volumes/"+v.ID, ms.Token, ""); status != 204 {
		t.Errorf("%d %s", status, body)
	}
	w.refused(w.Get(bg, "volumes", v.ID, nil), adminapi.CodeNotFound, "no volume")
}

func TestSeal(t *testing.T) {
	w := newWorld(t)
	w.volume("plain", nil)
	v, _ := w.volume("v", fields{"encryption": true})
	full := w.client(create[adminapi.Token](w, w.Client, "tokens", fields{"volume": "v"}).Token)
	reader := w.client(create[adminapi.Token](w, w.Client, "tokens", fields{"volume": "v", "readOnly": true}).Token)
	plain := w.client(create[adminapi.Token](w, w.Client, "tokens", fields{"volume": "plain"}).Token)
	set := func(c *adminapi.Client, old, new string) error {
		return c.SetSeal(bg, adminapi.SealChange{Old: json.RawMessage(old), New: json.RawMessage(new)})
	}
	w.refused(set(reader, "", `{"a":1}`), adminapi.CodeForbidden, "may change the whole volume")
	w.refused(set(plain, "", `{"a":1}`), adminapi.CodeConflict, "is not encrypted")
	w.refused(set(full, "", `[1]`), adminapi.CodeInvalid, "JSON object")
	w.refused(set(full, `{"x":0}`, `{"a":1}`), adminapi.CodeConflict, "changed meanwhile")
	if err := set(full, "", `{"a":1}`); err != nil {
		t.Fatal(err)
	}
	w.refused(set(full, "", `{"a":2}`), adminapi.CodeConflict, "has a passphrase already")
	if err := set(full, `{"a": 1}`, `{"a":3}`); err != nil {
		t.Fatal(err)
	}
	m, err := reader.Mount(bg)
	if err != nil || string(m.Seal) != `{"a":3}` || !m.Encryption {
		t.Errorf("%s, %v", m.Seal, err)
	}
	var got adminapi.Volume
	if err := w.Get(bg, "volumes", v.ID, &got); err != nil || !got.Sealed {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestRateLimit: wrong tokens are slowed down by address; a good one that is in use
// passes all the same.
func TestRateLimit(t *testing.T) {
	w := newWorld(t)
	bad := w.client(adminapi.NewToken())
	if _, err := w.Whoami(bg); err != nil {
		t.Fatal(err)
	}
	for range failureBurst {
		_, err := bad.Whoami(bg)
		w.refused(err, adminapi.CodeUnauthorized, "not known")
	}
	_, err := bad.Whoami(bg)
	w.refused(err, adminapi.CodeTooMany, "try again in")
	if _, err := w.Whoami(bg); err != nil {
		t.Errorf("a token in use: %v", err)
	}
	w.clock.advance(failureRefill)
	_, err = bad.Whoami(bg)
	w.refused(err, adminapi.CodeUnauthorized, "not known")
}

func TestLimiterIsBounded(t *testing.T) {
	c := &clock{at: time.Now()}
	l := newLimiter(c.now)
	for i := range 3 * maxSources {
		l.failed(net4(i))
		l.succeeded(adminapi.TokenHash(net4(i)))
	}
	if len(l.sources) > maxSources+1 || len(l.good) > maxGood {
		t.Errorf("%d sources, %d tokens", len(l.sources), len(l.good))
	}
	if source("[2001:db8::1]:5") != source("[2001:db8::ffff]:6") || source("192.0.2.1:5") == source("192.0.2.2:5") || source("[::ffff:192.0.2.1]:1") != source("192.0.2.1:2") {
		t.Error("addresses")
	}
}

func net4(i int) string {
	return "10." + itoa(i>>16&255) + "." + itoa(i>>8&255) + "." + itoa(i&255) + ":1"
}

func itoa(i int) string { b, _ := json.Marshal(i); return string(b) }

// TestTrust: what a client accepts as its server.
func TestTrust(t *testing.T) {
	w := newWorld(t)
	try := func(trust adminapi.Trust) error {
		c, err := adminapi.NewClient(w.addr, w.token, trust)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Whoami(bg)
		return err
	}
	contact, err := adminapi.Probe(bg, w.addr)
	if err != nil || contact.Fingerprint != w.server.Fingerprint() || contact.Public {
		t.Fatalf("%+v, %v", contact, err)
	}
	for _, good := range []adminapi.Trust{
		{Fingerprint: contact.Fingerprint}, {Fingerprint: strings.ToUpper(contact.Fingerprint[7:])}, {CA: w.server.authority.pem()}, {Insecure: true},
		{Fingerprint: adminapi.Fingerprint(w.server.chain[0])},
	} {
		if err := try(good); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	wrong := "sha256:" + strings.Repeat("ab", 32)
	var pin *adminapi.PinError
	if err := try(adminapi.Trust{Fingerprint: wrong}); !errors.As(err, &pin) || !strings.Contains(err.Error(), wrong) || !strings.Contains(err.Error(), contact.Fingerprint) {
		t.Errorf("another certificate: %v", err)
	}
	if err := try(adminapi.Trust{}); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("no trust: %v", err)
	}
	if err := try(adminapi.Trust{Fingerprint: "abc"}); err == nil || !strings.Contains(err.Error(), "64 hexadecimal digits") {
		t.Errorf("a bad fingerprint: %v", err)
	}
	// A metadata server's certificate, of the same authority, is none of the admin
	// server's.
	_, ms := w.volume("v", nil)
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"localhost"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	cert, err := w.client(ms.Token).Certify(bg, csr)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(cert.Chain))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(cert.CA))
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: MetadataServerName(ms.ID)}); err != nil {
		t.Error(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost"}); err == nil {
		t.Error("a metadata server chose its own name")
	}
	_, err = w.client(ms.Token).Certify(bg, "-----BEGIN")
	w.refused(err, adminapi.CodeInvalid, "PEM")

	// Certificates are renewed, under the same fingerprint.
	c := &clock{at: time.Now()}
	a, err := openAuthority(t.TempDir(), c.now)
	if err != nil {
		t.Fatal(err)
	}
	own := &serverCert{authority: a, names: []string{"localhost"}}
	first, err := own.get(&tls.ClientHelloInfo{})
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := own.get(nil); again != first {
		t.Error("renewed at once")
	}
	c.advance(leafLife - renewBefore)
	if second, err := own.get(nil); err != nil || second == first {
		t.Errorf("not renewed: %v", err)
	}
}

// TestRestart: what was acknowledged is there again; no second first account.
func TestRestart(t *testing.T) {
	db, dir := mem.New(), t.TempDir()
	defer db.Close()
	s, err := New(bg, Config{DB: db, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if s.FirstToken() == "" {
		t.Fatal("no first token")
	}
	again, err := New(bg, Config{DB: db, Dir: dir})
	if err != nil || again.FirstToken() != "" || again.Fingerprint() != s.Fingerprint() {
		t.Errorf("%v, %q", err, again.FirstToken())
	}
	if tok, err := again.NewOwnerToken(bg); err != nil || tok == "" {
		t.Error(err)
	}
	err = db.Update(bg, func(w kv.Txn) error { return putJSON(w, "m", schemaRecord{Version: schemaVersion + 1}) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(bg, Config{DB: db, Dir: dir}); err == nil || !strings.Contains(err.Error(), "newer massif") {
		t.Errorf("a newer database: %v", err)
	}
}

// FuzzChange: no body of a request does harm, whatever it holds.
func FuzzChange(f *testing.F) {
	db := mem.New()
	s, err := New(bg, Config{DB: db, Dir: f.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	secret := s.FirstToken()
	for _, body := range []string{`{"name":"a"}`, `{"name":"a","url":"s3://b"}`, `{"kind":"account","role":"owner"}`, `{"name":null}`, `[]`, `{"a":{"b":[1e999]}}`, `{} {}`, `{"flags":"ro\\,=,"}`} {
		for i := range len(adminapi.Schemas()) {
			f.Add(i, body)
		}
	}
	f.Fuzz(func(t *testing.T, i int, body string) {
		schemas := adminapi.Schemas()
		sc := schemas[((i%len(schemas))+len(schemas))%len(schemas)]
		var who *who
		err := db.View(bg, func(r kv.Reader) (err error) {
			who, err = recognize(r, secret, time.Now())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		q := &request{ctx: bg, who: who, route: &route{table: sc.Table}, body: []byte(body), now: time.Now()}
		out, err := s.create(q)
		if err != nil {
			if _, ours := asRefusal(err); !ours {
				t.Fatalf("%s: %v", body, err)
			}
			return
		}
		// What was made can be read and removed.
		q.id = out.(adminapi.Entity).Base().ID
		if _, err := s.get(q); err != nil {
			t.Fatal(err)
		}
		if _, err := s.remove(q); err != nil {
			t.Fatal(err)
		}
	})
}
