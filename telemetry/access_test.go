package telemetry

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestAccessLine(t *testing.T) {
	a := Access{
		Op: "create", Ino: 7, Name: "a \"file\"\n", UID: 1, GID: 2, PID: 3,
		Start: time.Date(2026, 11, 21, 3, 30, 0, 123456789, time.FixedZone("", 3600)), Duration: 1500 * time.Microsecond,
		Bytes: 10, Errno: syscall.ENOSPC,
	}
	want := `2026-11-21T02:30:00.123456Z create ino=7 name="a \"file\"\n" uid=1 gid=2 pid=3 bytes=10 time=0.001500 errno=ENOSPC`
	if got := string(a.AppendLine(nil)); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if got := string((&Access{Op: "statfs"}).AppendLine(nil)); got != "0001-01-01T00:00:00.000000Z statfs ino=0 uid=0 gid=0 pid=0 time=0.000000" {
		t.Errorf("shortest line: %s", got)
	}
	if got := ErrnoName(syscall.Errno(5000)); got != "errno 5000" {
		t.Errorf("unknown errno: %q", got)
	}
}

func TestAccessLog(t *testing.T) {
	var log AccessLog
	var switched []bool
	log.OnChange(func(active bool) { switched = append(switched, active) })
	log.Append([]byte("nobody listens"))
	a := log.Listen(0)
	b := log.Listen(0)
	if !log.Active() {
		t.Error("not active with listeners")
	}
	line := []byte("first")
	log.Append(line)
	copy(line, "xxxxx")
	log.Append([]byte("second"))
	for _, l := range []*Listener{a, b} {
		if got, err := l.Next(context.Background()); string(got) != "first\nsecond\n" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	a.Close()
	log.Append([]byte("third"))
	if got, err := a.Next(context.Background()); err != io.EOF {
		t.Errorf("after Close: %q, %v", got, err)
	}
	if got, err := b.Next(context.Background()); string(got) != "third\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	short, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := b.Next(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Next with a done context: %v", err)
	}
	b.Close()
	b.Close()
	if log.Active() || fmt.Sprint(switched) != "[true false]" {
		t.Errorf("active: %v, switched: %v", log.Active(), switched)
	}
	if n := testing.AllocsPerRun(100, func() { log.Append(line) }); n != 0 {
		t.Errorf("%v allocations without listeners", n)
	}
}

// TestAccessLogLoses: a listener that does not read loses lines and is told.
func TestAccessLogLoses(t *testing.T) {
	var log AccessLog
	l := log.Listen(100)
	defer l.Close()
	for range 50 {
		log.Append([]byte("123456789"))
	}
	got, err := l.Next(context.Background())
	if want := strings.Repeat("123456789\n", 10) + "# 40 lines lost\n"; string(got) != want || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	log.Append([]byte("again"))
	if got, err := l.Next(context.Background()); string(got) != "again\n" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestAccessLogReader reads lines as a stream while many goroutines write them.
func TestAccessLogReader(t *testing.T) {
	var log AccessLog
	l := log.Listen(1 << 20)
	const workers, n = 4, 500
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range n {
				log.Append(fmt.Appendf(nil, "%d %d", w, i))
			}
		})
	}
	scanner := bufio.NewScanner(l)
	var next [workers]int
	for range workers * n {
		if !scanner.Scan() {
			t.Fatal("the stream ended")
		}
		var w, i int
		if _, err := fmt.Sscanf(scanner.Text(), "%d %d", &w, &i); err != nil || i != next[w] {
			t.Fatalf("line %q, want number %d; %v", scanner.Text(), next[w], err)
		}
		next[w]++
	}
	wg.Wait()
	go l.Close()
	if scanner.Scan() || scanner.Err() != nil {
		t.Errorf("after Close: %q, %v", scanner.Text(), scanner.Err())
	}
}
