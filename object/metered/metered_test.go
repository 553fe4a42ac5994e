package metered_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/mem"
	"github.com/massif-fs/massif/object/metered"
	"github.com/massif-fs/massif/object/objecttest"
)

func TestStore(t *testing.T) {
	var c metered.Counters
	objecttest.Run(t, objecttest.Factory{
		New: func(testing.TB) object.Store { return metered.New(mem.New(), &c) },
	})
	for op, total := range c.Totals() {
		if total.Running != 0 || total.Count == 0 {
			t.Errorf("%s: %d running, %d ended", op, total.Running, total.Count)
		}
	}
}

func TestCounters(t *testing.T) {
	ctx := t.Context()
	var c metered.Counters
	s := metered.New(mem.New(), &c)
	if _, err := s.Put(ctx, "k", strings.NewReader("12345"), 5, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "k", strings.NewReader("1234567"), -1, nil); err != nil {
		t.Fatal(err)
	}
	body, _, err := s.Get(ctx, "k", 2, -1)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Totals()["get"]; got.Running != 1 || got.Count != 0 {
		t.Errorf("get under way: %+v", got)
	}
	if _, err := io.ReadAll(body); err != nil {
		t.Fatal(err)
	}
	body.Close()
	if _, err := object.ReadRange(ctx, s, "k", make([]byte, 3), 0); err != nil {
		t.Fatal(err)
	}
	s.Head(ctx, "missing")
	got := c.Totals()
	if p := got["put"]; p.Count != 2 || p.Sent != 12 || p.Outcomes["ok"] != 2 || p.Duration <= 0 {
		t.Errorf("put %+v", p)
	}
	if g := got["get"]; g.Count != 1 || g.Received != 5 || g.Running != 0 {
		t.Errorf("get %+v", g)
	}
	if r := got["read"]; r.Count != 1 || r.Received != 3 {
		t.Errorf("read %+v", r)
	}
	if h := got["head"]; h.Outcomes["missing"] != 1 {
		t.Errorf("head %+v", h)
	}
}

func TestQuantile(t *testing.T) {
	var c metered.Counters
	for i := range 100 {
		c.Record(metered.Report{Op: "x", Duration: time.Duration(i+1) * time.Millisecond})
	}
	x := c.Totals()["x"]
	if q := x.Quantile(0.5); q < 50*time.Millisecond || q > 128*time.Millisecond {
		t.Errorf("median %v", q)
	}
	if q := x.Quantile(0); q < time.Millisecond || q > 2*time.Millisecond {
		t.Errorf("least %v", q)
	}
	if q := (metered.Totals{}).Quantile(0.5); q != 0 {
		t.Errorf("of nothing %v", q)
	}
}
