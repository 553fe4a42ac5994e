package testserver

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// echo starts a server that answers with what it gets.
func echo(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func TestProxy(t *testing.T) {
	p := NewProxy(t, echo(t))
	msg := bytes.Repeat([]byte("0123456789"), 100)
	// ask waits for an answer of so many bytes, and then a moment for the rest.
	ask := func(sure int) ([]byte, error) {
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			return nil, err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := c.Write(msg); err != nil {
			return nil, err
		}
		got := make([]byte, len(msg))
		n, err := io.ReadFull(c, got[:sure])
		if err == nil && sure < len(msg) {
			_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
			var more int
			more, err = io.ReadFull(c, got[sure:])
			n += more
		}
		return got[:n], err
	}
	if got, err := ask(len(msg)); err != nil || !bytes.Equal(got, msg) {
		t.Errorf("no fault: %d bytes, %v", len(got), err)
	}
	p.Set(Fault{Refuse: true})
	if got, err := ask(len(msg)); err == nil || len(got) != 0 {
		t.Errorf("refused: %d bytes, %v", len(got), err)
	}
	p.Set(Fault{CutAnswer: 300})
	if got, err := ask(len(msg)); err == nil || len(got) > 300 {
		t.Errorf("answer cut: %d bytes, %v", len(got), err)
	}
	p.Set(Fault{CutRequest: 300})
	if got, err := ask(len(msg)); err == nil || len(got) > 300 {
		t.Errorf("request cut: %d bytes, %v", len(got), err)
	}
	for _, f := range []Fault{{StallAnswer: 300}, {StallRequest: 300}} {
		p.Set(f)
		got, err := ask(300)
		if ne, ok := err.(net.Error); len(got) != 300 || !ok || !ne.Timeout() {
			t.Errorf("%+v: %d bytes, %v", f, len(got), err)
		}
	}
	p.Set(Fault{Flip: 5})
	if got, err := ask(len(msg)); err != nil || got[4] != msg[4]^0x10 || !bytes.Equal(got[5:], msg[5:]) || !bytes.Equal(got[:4], msg[:4]) {
		t.Errorf("flipped: %q, %v", got[:10], err)
	}
	p.SetTimes(Fault{Refuse: true}, 2)
	for i := range 4 {
		if _, err := ask(len(msg)); (err != nil) != (i < 2) {
			t.Errorf("connection %d: %v", i, err)
		}
	}
}
