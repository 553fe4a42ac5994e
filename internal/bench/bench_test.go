package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// TestRun measures a little on the local disk, twice under two names.
func TestRun(t *testing.T) {
	other := commands{name: "massif-other", setup: `touch "$STATE/ready"`, mount: ""}
	rep, err := Run(context.Background(), Config{
		Work: t.TempDir(), Targets: []Target{Local(), other}, Rounds: 2, Scale: 0.01,
		Match: []string{"list_warm_t1", "small", "seqwrite"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range rep.Samples {
		if s.Err != "" || s.Value <= 0 && s.Row != "cpu" && s.Row != "memory_peak" {
			t.Errorf("%+v", s)
		}
	}
	for _, row := range []string{"create_t1", "write4k_t4", "read4k_warm_t1", "seqwrite"} {
		if _, _, ok := rep.Median("massif-other", row); !ok {
			t.Errorf("no %s", row)
		}
	}
	if slices := rep.Rows; strings.Contains(strings.Join(slices, " "), "untar") {
		t.Errorf("rows that were not asked for: %v", slices)
	}
	var out bytes.Buffer
	if err := rep.Print(&out); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, "massif-other/local") || !strings.Contains(text, "seqwrite") {
		t.Errorf("table:\n%s", text)
	}
}

func TestWrongBytes(t *testing.T) {
	in, err := makeInputs(t.TempDir(), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, blockSize)
	in.fill(b, 5, 2)
	if !right(b, 5, 2) || !right(b, 5, anyGeneration) {
		t.Error("right bytes are refused")
	}
	if right(b, 6, anyGeneration) || right(b, 5, 1) || right(make([]byte, blockSize), 5, anyGeneration) {
		t.Error("wrong bytes are taken")
	}
}

func TestTable(t *testing.T) {
	rep := &Report{Units: map[string]string{"speed": "op/s", "time": "s"}}
	add := func(target, row string, values ...float64) {
		for _, v := range values {
			rep.Samples = append(rep.Samples, Sample{Target: target, Row: row, Value: v})
		}
	}
	add("massif", "speed", 30, 10, 20)
	add("local", "speed", 10, 10)
	add("massif", "time", 1, 3)
	add("local", "time", 4)
	rep.Samples = append(rep.Samples, Sample{Target: "local", Row: "speed", Err: "broken", Value: 1e9})
	if v, _, ok := rep.Median("massif", "time"); !ok || v != 2 {
		t.Errorf("median %v", v)
	}
	if r, ok := rep.Ratio("massif", "local", "speed"); !ok || r != 2 {
		t.Errorf("ratio of speeds %v", r)
	}
	if r, ok := rep.Ratio("massif", "local", "time"); !ok || r != 2 {
		t.Errorf("ratio of times %v", r)
	}
	if _, ok := rep.Ratio("massif", "nobody", "speed"); ok {
		t.Error("a ratio to nothing")
	}
}

func TestEach(t *testing.T) {
	w := &work{threads: 3, limit: time.Hour}
	seen := make([]bool, 100)
	if _, err := w.each(100, func(i int) error { seen[i] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	for i, s := range seen {
		if !s {
			t.Errorf("%d was left out", i)
		}
	}
	if _, err := w.each(100, func(int) error { return os.ErrInvalid }); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("%v", err)
	}
	w.limit = -1
	if _, err := w.each(100, func(int) error { return nil }); err != nil || !w.capped {
		t.Errorf("not capped: %v", err)
	}
}

func TestChosen(t *testing.T) {
	if _, err := chosen([]string{"nothing"}); err == nil {
		t.Error("an unknown row was taken")
	}
	rows, err := chosen([]string{"delete_t4"})
	if err != nil || rows[0].name != "create_t4" || rows[len(rows)-1].name != "delete_t4" {
		t.Errorf("%v %v", rows, err)
	}
}
