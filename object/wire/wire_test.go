package wire

import "testing"

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes 5-4/10", "bytes -1-4/10", "bytes 0-9/*", "", "bytes 99999999999999999999-1/2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		from, to, total, err := ParseContentRange(s)
		if err == nil && (from < 0 || to < from || total <= to) {
			t.Errorf("%q: %d-%d/%d", s, from, to, total)
		}
	})
}
