package pytext

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

func TestRepr(t *testing.T) {
	for in, want := range map[string]string{
		`null`: "None", `true`: "True", `false`: "False", `3`: "3", `-0`: "0", `1.5`: "1.5", `1.0`: "1.0", `4e2`: "400.0", `1e16`: "1e+16",
		`1e-5`: "1e-05", `0.0001`: "0.0001", `123456789012345678901234567890`: "123456789012345678901234567890", `1e999`: "inf", `0.0`: "0.0",
		`"a"`: "'a'", `"it's"`: `"it's"`, `"it's \"x\""`: `'it\'s "x"'`, `"\n\u0001\\"`: `'\n\x01\\'`, `"zażółć"`: "'zażółć'", `"\u00a0\u2028"`: `'\xa0\u2028'`,
		`["a", 1, true, null]`: "['a', 1, True, None]", `{"b": 1, "a": {"c": []}, "b": 2}`: "{'b': 2, 'a': {'c': []}}", `{}`: "{}",
	} {
		got, err := Repr(json.RawMessage(in))
		if err != nil || got != want {
			t.Errorf("repr of %s: %q, %v; want %q", in, got, err, want)
		}
	}
	if got, err := Str(json.RawMessage(` "a b" `)); got != "a b" || err != nil {
		t.Errorf("str: %q, %v", got, err)
	}
	for _, bad := range []string{``, `{`, `1 2`, `[1,`, `{"a"}`} {
		if got, err := Repr(json.RawMessage(bad)); err == nil {
			t.Errorf("repr of %q: %q", bad, got)
		}
	}
}

func FuzzRepr(f *testing.F) {
	f.Add(`{"a": [1, 2.5, null, "x'\""]}`)
	f.Fuzz(func(t *testing.T, in string) {
		got, err := Repr(json.RawMessage(in))
		if json.Valid([]byte(in)) && err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		if err == nil && !utf8.ValidString(got) {
			t.Fatalf("%q gives %q", in, got)
		}
	})
}
