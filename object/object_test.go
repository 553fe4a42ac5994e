package object

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
)

func TestSized(t *testing.T) {
	for _, c := range []struct {
		body string
		size int64
		want error
	}{
		{"", 0, nil}, {"abc", 3, nil}, {"abc", -1, nil},
		{"", 1, io.ErrUnexpectedEOF}, {"abc", 4, io.ErrUnexpectedEOF},
		{"a", 0, ErrInvalid}, {"abc", 2, ErrInvalid},
	} {
		for name, r := range map[string]io.Reader{
			"plain":   strings.NewReader(c.body),
			"bytes":   iotest.OneByteReader(strings.NewReader(c.body)),
			"dataerr": iotest.DataErrReader(strings.NewReader(c.body)),
		} {
			p, err := io.ReadAll(Sized(r, c.size))
			if !errors.Is(err, c.want) || c.want == nil && string(p) != c.body {
				t.Errorf("%s body %q, size %d: %q, %v, want %v", name, c.body, c.size, p, err, c.want)
			}
		}
	}
	_, err := io.ReadAll(Sized(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(syscall.EIO)), 3))
	if err != syscall.EIO {
		t.Errorf("an error where the end should be: %v", err)
	}
	if err := iotest.TestReader(Sized(bytes.NewReader([]byte("content")), 7), []byte("content")); err != nil {
		t.Error(err)
	}
}

type base struct{ Store }

// ability is some optional interface.
type ability interface{ Able() }

type able struct{ Store }

func (able) Able() {}

type unwrapping struct{ Store }

func (u unwrapping) Unwrap() Store { return u.Store }

type forwarding struct{ unwrapping }

func (forwarding) Able()             {}
func (f forwarding) Forwards() Store { return f.Store }

type hiding struct{ Store }

func TestAs(t *testing.T) {
	has := func(s Store) bool { _, ok := As[ability](s); return ok }
	plain, some := base{}, able{}
	for name, c := range map[string]struct {
		s    Store
		want bool
	}{
		"none":                    {plain, false},
		"own":                     {some, true},
		"below":                   {unwrapping{some}, true},
		"far below":               {unwrapping{unwrapping{some}}, true},
		"hidden":                  {hiding{some}, false},
		"forwarded":               {forwarding{unwrapping{some}}, true},
		"forwarded from nothing":  {forwarding{unwrapping{plain}}, false},
		"forwarded from far":      {unwrapping{forwarding{unwrapping{unwrapping{some}}}}, true},
		"forwarded from a hidden": {forwarding{unwrapping{hiding{some}}}, false},
	} {
		if has(c.s) != c.want {
			t.Errorf("%s: %v", name, !c.want)
		}
	}
	if a, _ := As[ability](forwarding{unwrapping{some}}); a != ability(forwarding{unwrapping{some}}) {
		t.Errorf("As passes by the wrapper: %T", a)
	}
}

func TestValidKey(t *testing.T) {
	for key, ok := range map[string]bool{
		"a": true, "/": true, "é": true, " ": true, strings.Repeat("k", MaxKey): true,
		"": false, strings.Repeat("k", MaxKey+1): false, "a\x00": false, "\xff": false,
	} {
		if err := ValidKey(key); (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%.20q: %v", key, err)
		}
	}
}

func TestErrors(t *testing.T) {
	err := error(&DeleteError{Failed: map[string]error{"a": &Error{Op: "delete", Key: "a", Err: ErrAccess}}})
	if !errors.Is(err, ErrAccess) || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), `"a"`) {
		t.Error(err)
	}
}

// TestSameBytes: equal, of another length, different, and broken.
func TestSameBytes(t *testing.T) {
	long := strings.Repeat("a", 100<<10)
	broken := errors.New("broken")
	for _, x := range []struct {
		a, b io.Reader
		same bool
		err  error
	}{
		{strings.NewReader(""), strings.NewReader(""), true, nil},
		{strings.NewReader(long), iotest.OneByteReader(strings.NewReader(long)), true, nil},
		{strings.NewReader(long), strings.NewReader(long[1:]), false, nil},
		{strings.NewReader(long[:64<<10]), strings.NewReader(long), false, nil},
		{strings.NewReader(long + "x"), strings.NewReader(long + "y"), false, nil},
		{iotest.ErrReader(broken), strings.NewReader(""), false, broken},
	} {
		if same, err := SameBytes(x.a, x.b); same != x.same || !errors.Is(err, x.err) {
			t.Errorf("%v, %v; want %v, %v", same, err, x.same, x.err)
		}
	}
}
