package seal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// fixed makes the key of a test.
func fixed(b byte) *Key {
	return keyOf([idSize]byte{b}, bytes.Repeat([]byte{b}, keySize))
}

// TestXAESVectors: the vectors of the C2SP specification.
func TestXAESVectors(t *testing.T) {
	nonce := []byte("ABCDEFGHIJKLMNOPQRSTUVWX")
	for _, v := range []struct {
		key       byte
		aad, want string
	}{
		{1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		x := newXAES(bytes.Repeat([]byte{v.key}, keySize))
		sealed := x.sealWith(nil, nonce, []byte("XAES-256-GCM"), []byte(v.aad))
		if got := hex.EncodeToString(sealed[xaesNonce:]); got != v.want {
			t.Errorf("sealed is %s, want %s", got, v.want)
		}
	}
}

func TestRecord(t *testing.T) {
	p := Passphrase("correct horse battery")
	r, k, recovery, err := Create(p)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if r, err = ParseRecord(text); err != nil {
		t.Fatal(err)
	}
	same := func(what string, got *Key, err error) {
		t.Helper()
		if err != nil || got.secret != k.secret || got.id != k.id {
			t.Fatalf("%s: %v, %v", what, got, err)
		}
	}
	got, err := r.Unlock(p)
	same("unlock", got, err)
	if _, err := r.Unlock(Passphrase("correct horse batterx")); !errors.Is(err, ErrWrongPassphrase) {
		t.Errorf("a wrong passphrase: %v", err)
	}
	again, err := ParseRecoveryKey(strings.ToLower(recovery.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	got, err = r.Recover(again)
	same("recover", got, err)
	if _, err := r.Recover(newRecoveryKey()); !errors.Is(err, ErrWrongRecoveryKey) {
		t.Errorf("a wrong recovery key: %v", err)
	}

	changed, err := r.WithPassphrase(k, Passphrase("ein anderes Wort"))
	if err != nil {
		t.Fatal(err)
	}
	got, err = changed.Unlock(Passphrase("ein anderes Wort"))
	same("unlock after a change", got, err)
	if _, err := changed.Unlock(p); !errors.Is(err, ErrWrongPassphrase) {
		t.Errorf("the old passphrase after a change: %v", err)
	}
	got, err = changed.Recover(recovery)
	same("recover after a change", got, err)
	if len(r.Wraps) != 2 || len(changed.Wraps) != 2 {
		t.Errorf("%d and %d wraps, want 2", len(r.Wraps), len(changed.Wraps))
	}
	renewed, second, err := changed.WithRecoveryKey(k)
	if err != nil {
		t.Fatal(err)
	}
	got, err = renewed.Recover(second)
	same("new recovery key", got, err)
	if _, err := renewed.Recover(recovery); !errors.Is(err, ErrWrongRecoveryKey) {
		t.Errorf("the old recovery key: %v", err)
	}
	if _, err := r.WithPassphrase(fixed(1), p); !errors.Is(err, errOtherKey) {
		t.Errorf("wrapping another volume's key: %v", err)
	}
}

// TestDamagedRecord: what is cut or changed anywhere opens nothing.
func TestDamagedRecord(t *testing.T) {
	r, k, recovery, err := Create(Passphrase("correct horse battery"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(text) {
		if _, err := ParseRecord(text[:n]); err == nil {
			t.Fatalf("a record cut to %d of %d bytes was accepted", n, len(text))
		}
	}
	change := func(what string, fn func(*Record, *Wrap)) {
		t.Helper()
		x := *r
		x.Wraps = bytesCloned(r.Wraps)
		fn(&x, &x.Wraps[1])
		if _, err := x.Recover(recovery); err == nil {
			t.Errorf("%s: was opened", what)
		}
	}
	change("another key id", func(r *Record, _ *Wrap) { r.KeyID = fixed(9).ID() })
	change("another salt", func(_ *Record, w *Wrap) { w.Salt[0] ^= 1 })
	change("a bit of the key", func(_ *Record, w *Wrap) { w.Key[40] ^= 1 })
	change("a bit of the tag", func(_ *Record, w *Wrap) { w.Key[len(w.Key)-1] ^= 1 })
	change("a cut key", func(_ *Record, w *Wrap) { w.Key = w.Key[:len(w.Key)-1] })
	change("no wraps", func(r *Record, _ *Wrap) { r.Wraps = nil })
	change("another version", func(r *Record, _ *Wrap) { r.Version = 2 })
	change("another cipher", func(r *Record, _ *Wrap) { r.Cipher = "rot13" })
	change("wraps exchanged", func(r *Record, w *Wrap) { w.Key = r.Wraps[0].Key })
	weak := func(what string, fn func(*Wrap)) {
		t.Helper()
		x := *r
		x.Wraps = bytesCloned(r.Wraps)
		fn(&x.Wraps[0])
		if err := x.Validate(); err == nil {
			t.Errorf("%s: was accepted", what)
		}
	}
	weak("one pass", func(w *Wrap) { w.Passes = 1 })
	weak("little memory", func(w *Wrap) { w.Memory = 1024 })
	weak("too much memory", func(w *Wrap) { w.Memory = 1 << 31 })
	weak("no threads", func(w *Wrap) { w.Threads = 0 })
	weak("a short salt", func(w *Wrap) { w.Salt = w.Salt[:8] })
	weak("an unknown kind", func(w *Wrap) { w.Kind = "fingerprint" })
	weak("an unknown function", func(w *Wrap) { w.KDF = "md5" })
	_ = k
}

func bytesCloned(ws []Wrap) []Wrap {
	out := make([]Wrap, len(ws))
	for i, w := range ws {
		w.Salt, w.Key = bytes.Clone(w.Salt), bytes.Clone(w.Key)
		out[i] = w
	}
	return out
}

func TestPassphrases(t *testing.T) {
	for p, ok := range map[string]bool{"": false, "short": false, "1234567": false, "12345678": true, "ÄÖÜäöüß€": true, strings.Repeat("x", 1025): false} {
		if err := Passphrase(p).Check(); (err == nil) != ok {
			t.Errorf("passphrase of %d bytes: %v", len(p), err)
		}
	}
	composed, decomposed := Passphrase("caf\u00e9 au lait"), Passphrase("cafe\u0301 au lait")
	if !bytes.Equal(composed.normal(), decomposed.normal()) {
		t.Error("two ways of typing one letter make two passphrases")
	}
}

// TestSecretsDoNotPrint: whatever prints or logs a secret shows its kind only.
func TestSecretsDoNotPrint(t *testing.T) {
	p := Passphrase("correct horse battery")
	k, rk := fixed('K'), newRecoveryKey()
	type box struct {
		P Passphrase
		K *Key
		R *RecoveryKey
	}
	hidden := []string{string(p), hex.EncodeToString(p), fmt.Sprint([]byte(p)), "KKKK", hex.EncodeToString(k.secret[:4]), fmt.Sprint(k.secret[:4]),
		rk.Reveal(), hex.EncodeToString(rk.secret[:]), fmt.Sprint(rk.secret[:])}
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("x", "p", p, "k", k, "r", rk, "box", box{p, k, rk})
	}
	text := log.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		text += fmt.Sprintf(verb+verb+verb+verb, p, k, rk, &box{p, k, rk})
	}
	for _, s := range hidden {
		if strings.Contains(strings.ToLower(text), strings.ToLower(s)) {
			t.Errorf("%q shows in %q", s, text)
		}
	}
	if _, err := json.Marshal(box{P: p}); err == nil {
		t.Error("a passphrase was written as JSON")
	}
}

func TestRecoveryKeyText(t *testing.T) {
	r := newRecoveryKey()
	text := r.Reveal()
	if len(text) != recoveryText+7 || strings.Count(text, "-") != 7 {
		t.Errorf("written form %q", text)
	}
	for _, way := range []string{text, strings.ReplaceAll(text, "-", ""), strings.ReplaceAll(text, "-", "  "), strings.ToLower(text),
		strings.NewReplacer("0", "o", "1", "l").Replace(text), " " + text + "\n"} {
		got, err := ParseRecoveryKey(way)
		if err != nil || got.secret != r.secret {
			t.Errorf("%q: %v", way, err)
		}
	}
	clean := strings.ReplaceAll(text, "-", "")
	for i := range clean { // each letter changed, and each pair exchanged
		c := byte('0')
		if clean[i] == c {
			c = '7'
		}
		if _, err := ParseRecoveryKey(clean[:i] + string(c) + clean[i+1:]); !errors.Is(err, ErrRecoveryKey) {
			t.Errorf("letter %d changed: %v", i, err)
		}
		if i > 0 && clean[i] != clean[i-1] {
			if _, err := ParseRecoveryKey(clean[:i-1] + string(clean[i]) + string(clean[i-1]) + clean[i+1:]); !errors.Is(err, ErrRecoveryKey) {
				t.Errorf("letters %d and %d exchanged: %v", i-1, i, err)
			}
		}
	}
	for _, bad := range []string{"", "0", clean[1:], clean + "0", strings.Repeat("U", 40), strings.Repeat("é", 40)} {
		if _, err := ParseRecoveryKey(bad); !errors.Is(err, ErrRecoveryKey) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestNames(t *testing.T) {
	m := fixed(1).Meta()
	for n := 1; n <= 255; n++ {
		name := strings.Repeat("n", n)
		sealed := m.Name(7, name)
		if len(sealed) > MaxText || !ValidText(sealed) {
			t.Fatalf("name of %d bytes is sealed as %d: %s", n, len(sealed), sealed)
		}
		if got, err := m.OpenName(7, sealed); err != nil || got != name {
			t.Fatalf("name of %d bytes: %q, %v", n, got, err)
		}
	}
	a := m.Name(7, "name")
	if a != m.Name(7, "name") {
		t.Error("a name has two forms")
	}
	if a == m.Name(8, "name") || a == m.XattrName(7, "name") || a == fixed(2).Meta().Name(7, "name") {
		t.Error("a name looks the same in another directory, use or volume")
	}
	if len(m.Name(7, "a")) != len(m.Name(7, "0123456789abcdef")) {
		t.Error("names of 1 and 16 bytes differ in length")
	}
	if len(m.Name(7, strings.Repeat("x", 255))) != MaxText {
		t.Errorf("the longest name has %d bytes, want %d", len(m.Name(7, strings.Repeat("x", 255))), MaxText)
	}
	for what, bad := range map[string]string{
		"plain": "name", "empty": "", "cut": a[:len(a)-1], "longer": a + "A", "changed": "A" + a[1:] + "", "with a slash": a[:5] + "/" + a[6:],
		"of another directory": m.Name(8, "name"), "of another use": m.XattrName(7, "name"), "of another volume": fixed(2).Meta().Name(7, "name"),
	} {
		if bad == a {
			bad = "B" + a[1:]
		}
		if got, err := m.OpenName(7, bad); err == nil {
			t.Errorf("%s: opened as %q", what, got)
		}
	}
}

func TestContent(t *testing.T) {
	m, other := fixed(1).Meta(), fixed(2).Meta()
	data := []byte("content")
	opens := func(what string, want bool, err error) {
		t.Helper()
		if (err == nil) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	inline := m.Inline([]byte("before"), 5, data)
	if len(inline) != 6+len(data)+Overhead {
		t.Errorf("%d bytes inline", len(inline))
	}
	inline = inline[6:]
	got, err := m.OpenInline(5, inline)
	if !bytes.Equal(got, data) {
		t.Errorf("inline content %q, %v", got, err)
	}
	_, err = m.OpenInline(6, inline)
	opens("inline content of another inode", false, err)
	_, err = other.OpenInline(5, inline)
	opens("inline content of another volume", false, err)
	_, err = m.OpenInline(5, inline[:Overhead-1])
	opens("cut inline content", false, err)
	x := m.Xattr(5, "user.a", nil)
	got, err = m.OpenXattr(5, "user.a", x)
	opens("an empty value", true, err)
	if got == nil || len(got) != 0 {
		t.Errorf("an empty value is %v", got)
	}
	_, err = m.OpenXattr(5, "user.b", x)
	opens("value of another attribute", false, err)
	_, err = m.OpenXattr(6, "user.a", x)
	opens("value of another inode", false, err)
	_, err = m.OpenInline(5, x)
	opens("a value as inline content", false, err)
	if first, second := m.Target("t"), m.Target("t"); first == second {
		t.Error("targets are deterministic")
	}
	s, err := m.OpenTarget(m.Target("a/b"))
	if s != "a/b" || err != nil {
		t.Errorf("target %q, %v", s, err)
	}
	_, err = m.OpenTarget("a/b")
	opens("a plain target", false, err)
	aad := []byte("place")
	b := fixed(1).Blocks()
	frame := b.Seal(nil, data, aad)
	if len(frame) != len(data)+b.Overhead() {
		t.Errorf("a frame of %d bytes", len(frame))
	}
	_, err = b.Open(nil, frame, []byte("other place"))
	opens("a frame elsewhere", false, err)
	for i := range frame {
		frame[i] ^= 0x10
		_, err = b.Open(nil, frame, aad)
		opens("a changed frame", false, err)
		frame[i] ^= 0x10
	}
	got, err = b.Open(nil, frame, aad)
	if !bytes.Equal(got, data) {
		t.Errorf("frame %q, %v", got, err)
	}
}

// TestConcurrent lets many goroutines use one key, for the race detector.
func TestConcurrent(t *testing.T) {
	k := fixed(1)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			m, b := k.Meta(), k.Blocks()
			for j := range 200 {
				name := fmt.Sprint(i, j)
				if got, err := m.OpenName(uint64(j), m.Name(uint64(j), name)); got != name || err != nil {
					t.Error(got, err)
				}
				if got, err := b.Open(nil, b.Seal(nil, []byte(name), nil), nil); string(got) != name || err != nil {
					t.Error(got, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestWipe(t *testing.T) {
	k := fixed(1)
	want := k.Meta().Name(1, "x")
	k = fixed(1)
	k.Wipe()
	if k.secret != [keySize]byte{} {
		t.Error("the key is still there")
	}
	if k.Meta().Name(1, "x") != want {
		t.Error("a wiped key seals otherwise")
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"cipher":"xaes-256-gcm+aes-siv","keyID":"00112233445566778899aabbccddeeff","wraps":[{"kind":"recovery","kdf":"hkdf-sha256","salt":"AAAAAAAAAAAAAAAAAAAAAA==","key":"` + strings.Repeat("AAAA", 24) + `"}]}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRecord(data)
		if err != nil {
			return
		}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRecord(text); err != nil {
			t.Fatalf("a record does not come back: %v", err)
		}
		if _, err := r.Recover(&RecoveryKey{}); !errors.Is(err, ErrWrongRecoveryKey) {
			t.Fatalf("a record of a stranger was opened: %v", err)
		}
	})
}

func FuzzParseRecoveryKey(f *testing.F) {
	f.Add(newRecoveryKey().Reveal())
	f.Add("0")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRecoveryKey(text)
		if err != nil {
			return
		}
		again, err := ParseRecoveryKey(r.Reveal())
		if err != nil || again.secret != r.secret {
			t.Fatalf("%q does not come back: %v", text, err)
		}
	})
}

func FuzzOpenName(f *testing.F) {
	m := fixed(1).Meta()
	f.Add(uint64(1), m.Name(1, "name"))
	f.Add(uint64(2), "name")
	f.Fuzz(func(t *testing.T, dir uint64, sealed string) {
		name, err := m.OpenName(dir, sealed)
		if err != nil {
			return
		}
		if !ValidText(sealed) || m.Name(dir, name) != sealed {
			t.Fatalf("%q and another form both mean %q", sealed, name)
		}
	})
}

func FuzzOpenContent(f *testing.F) {
	m, b := fixed(1).Meta(), fixed(1).Blocks()
	f.Add([]byte{}, []byte{})
	f.Add(b.Seal(nil, []byte("x"), nil), []byte{})
	f.Fuzz(func(t *testing.T, sealed, aad []byte) {
		b.Open(nil, sealed, aad)
		m.OpenInline(1, sealed)
		m.OpenXattr(1, string(aad), sealed)
		m.OpenTarget(string(sealed))
	})
}

func BenchmarkSealFrame(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			s := fixed(1).Blocks()
			plain, dst, aad := make([]byte, size), make([]byte, 0, size+s.Overhead()), make([]byte, 48)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				s.Seal(dst, plain, aad)
			}
		})
	}
}

func BenchmarkOpenFrame(b *testing.B) {
	s := fixed(1).Blocks()
	plain, aad := make([]byte, 64<<10), make([]byte, 48)
	sealed := s.Seal(nil, plain, aad)
	b.SetBytes(64 << 10)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Open(plain[:0], sealed, aad); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkName(b *testing.B) {
	m := fixed(1).Meta()
	b.ReportAllocs()
	for b.Loop() {
		m.Name(7, "IMG_20260131_120000.jpg")
	}
}

func BenchmarkOpenName(b *testing.B) {
	m := fixed(1).Meta()
	sealed := m.Name(7, "IMG_20260131_120000.jpg")
	b.ReportAllocs()
	for b.Loop() {
		m.OpenName(7, sealed)
	}
}

func BenchmarkUnlock(b *testing.B) {
	r, _, _, err := Create(Passphrase("correct horse battery"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		r.Unlock(Passphrase("correct horse battery"))
	}
}
