package adminapi

import (
	"strings"
	"testing"
)

func TestAddress(t *testing.T) {
	for in, want := range map[string]string{
		"admin.example.com": "admin.example.com:443", "admin.example.com:7443": "admin.example.com:7443",
		"https://admin.example.com/": "admin.example.com:443", "::1": "[::1]:443", "[::1]": "[::1]:443", "[::1]:7": "[::1]:7",
		"10.0.0.1": "10.0.0.1:443", "localhost:443": "localhost:443",
		"": "", "a/b": "", "u@h": "", "h:0": "", "h:x:y": "", "h:99999": "", "h:1\n": "h:1", "a b": "", "%41": "",
	} {
		got, err := Address(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestToken(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		tok := NewToken()
		if got, err := ParseToken(strings.ToUpper(tok) + "\n"); err != nil || got != tok || seen[tok] {
			t.Fatalf("%q, %v", got, err)
		}
		seen[tok] = true
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(NewToken())
	f.Add("x")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err == nil && (len(tok) != 36 || strings.ContainsAny(tok, "/ \n'")) {
			t.Errorf("%q", tok)
		}
	})
}

func FuzzAddress(f *testing.F) {
	f.Add("https://[::1]:443/")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Address(s)
		if err != nil {
			return
		}
		if again, err := Address(a); err != nil || again != a {
			t.Errorf("%q became %q, then %q, %v", s, a, again, err)
		}
		if _, err := (Trust{}).TLS(a); err != nil {
			t.Errorf("%q: %v", a, err)
		}
	})
}
