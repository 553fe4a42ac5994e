package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/massif-fs/massif/object"
)

func TestAsked(t *testing.T) {
	for _, c := range []struct {
		asked        Asked
		length       int64
		contentRange string
		left, total  int64
		nonsense     string
	}{
		{Asked{0, -1}, 10, "", 10, 10, ""},
		{Asked{0, 4}, 10, "", 4, 10, ""},
		{Asked{5, 4}, 10, "", 0, 0, "ignores ranges"},
		{Asked{5, 4}, 4, "bytes 5-8/10", 4, 10, ""},
		{Asked{5, 40}, 5, "bytes 5-9/10", 5, 10, ""},
		{Asked{5, 40}, 4, "bytes 5-8/10", 0, 0, "Content-Range"},
		{Asked{5, -1}, 5, "bytes 5-9/10", 5, 10, ""},
		{Asked{10, 5}, 0, "bytes 10-9/10", 0, 10, ""},
		{Asked{9, 5}, 0, "bytes 10-9/10", 0, 0, "Content-Range"},
		{Asked{1<<63 - 5, 10}, 1, "bytes 5-5/10", 0, 0, "Content-Range"},
	} {
		left, total, nonsense := c.asked.Accept(c.length, c.contentRange)
		if left != c.left || total != c.total || !strings.Contains(nonsense, c.nonsense) || (nonsense == "") != (c.nonsense == "") {
			t.Errorf("%+v, %d bytes, %q: %d, %d, %q", c.asked, c.length, c.contentRange, left, total, nonsense)
		}
	}
	if h := (Asked{1<<63 - 5, 10}).Header(); h != "bytes=9223372036854775803-" {
		t.Errorf("a range that overflows: %s", h)
	}
}

// TestNoURLInChain: the URL of a request is nowhere in what is made of its error.
func TestNoURLInChain(t *testing.T) {
	err := ExplainNetwork("store", &url.Error{Op: "Get", URL: "https://h/?sig=hunter2", Err: syscall.ECONNRESET})
	if !errors.Is(err, syscall.ECONNRESET) || !errors.Is(err, object.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		t.Errorf("%v has the URL", err)
	}
	if got := RedactURL("http://user:hunter2@h/p?sig=hunter2"); strings.Contains(got, "hunter2") {
		t.Errorf("redacted: %s", got)
	}
}

// TestSendAll: memory is bounded, parts come in any order, and the first failure
// ends all.
func TestSendAll(t *testing.T) {
	ctx := t.Context()
	buffers := NewBuffers(10, 3)
	data := strings.Repeat("0123456789", 10) + "rest"
	send := func(fail int) (map[int]string, error) {
		body := strings.NewReader(data)
		first, whole, err := buffers.First(ctx, body, -1, 10)
		if err != nil || whole {
			t.Fatal(whole, err)
		}
		texts := make(chan string, 20)
		u := Parts{Buffers: buffers, Concurrency: 3, Most: 50, Size: func(int) int64 { return 10 }, Send: func(_ context.Context, n int, p *bytes.Reader) (object.Part, error) {
			if n == fail {
				return object.Part{}, io.ErrClosedPipe
			}
			text, err := io.ReadAll(p)
			texts <- string(rune(n)) + string(text)
			return object.Part{Number: n, Size: int64(len(text))}, err
		}}
		parts, err := u.SendAll(ctx, first, body)
		close(texts)
		all := make(map[int]string)
		for s := range texts {
			all[int([]rune(s)[0])] = string([]rune(s)[1:])
		}
		if err == nil && len(parts) != len(all) {
			t.Errorf("%d parts, %d sent", len(parts), len(all))
		}
		return all, err
	}
	all, err := send(0)
	var b strings.Builder
	for n := 1; n <= len(all); n++ {
		b.WriteString(all[n])
	}
	if err != nil || b.String() != data {
		t.Errorf("%q, %v", b.String(), err)
	}
	if _, err := send(3); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a part that fails: %v", err)
	}
	// All memory has been given back.
	for range 3 {
		if _, err := buffers.Get(ctx, 10); err != nil {
			t.Fatal(err)
		}
	}
	if buffers.memory.TryAcquire(1) {
		t.Error("there is more memory than was allowed")
	}
}

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
