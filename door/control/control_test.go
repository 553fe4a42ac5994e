package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func startServer(t *testing.T, handlers map[string]Handler) (*Server, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "control") // t.TempDir can be longer than a socket name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s.sock")
	s, err := Serve(context.Background(), path, handlers, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, path
}

func echo(_ context.Context, c *Call) (any, error) {
	var args struct {
		Text     string `json:"text"`
		LongName int    `json:"long-name"`
	}
	if err := c.Decode(&args); err != nil {
		return nil, err
	}
	return args, nil
}

// exchange sends raw bytes, ends the input and returns all that comes back.
func exchange(t *testing.T, path, send string) string {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	c.(*net.UnixConn).CloseWrite()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestFraming(t *testing.T) {
	_, path := startServer(t, map[string]Handler{"echo": echo})
	for name, c := range map[string]struct{ send, want string }{
		"plain":          {`{"cmd": "echo", "id": 1}` + "\n\n", "{\n  \"result\": {\n    \"text\": \"\",\n    \"long-name\": 0\n  },\n  \"id\": 1\n}\n\n"},
		"end of input":   {`{"cmd": "echo", "args": {"text": "ü😀"}}`, "{\n  \"result\": {\n    \"text\": \"\\u00fc\\ud83d\\ude00\",\n    \"long-name\": 0\n  }\n}\n\n"},
		"several lines":  {"\n\r\n{\"cmd\":\r\n \n\"echo\",\n\"id\": [0]}\r\n\r\n", "{\n  \"result\": {\n    \"text\": \"\",\n    \"long-name\": 0\n  },\n  \"id\": [\n    0\n  ]\n}\n\n"},
		"dashes":         {`{"cmd": "echo", "args": {"long_name": 3}}`, "{\n  \"result\": {\n    \"text\": \"\",\n    \"long-name\": 3\n  }\n}\n\n"},
		"not JSON":       {"hello\n\n", "{\n  \"error\": {\n    \"class\": \"ControlRequestError\",\n    \"desc\": \"Failed to parse request\"\n  }\n}\n\n"},
		"two documents":  {"{} {}\n\n", "{\n  \"error\": {\n    \"class\": \"ControlRequestError\",\n    \"desc\": \"Failed to parse request\"\n  }\n}\n\n"},
		"no command":     {"{\"id\": 7}\n\n", "{\n  \"error\": {\n    \"class\": \"ControlRequestError\",\n    \"desc\": \"\"\n  },\n  \"id\": 7\n}\n\n"},
		"no object":      {"[1]\n\n", "{\n  \"error\": {\n    \"class\": \"ControlRequestError\",\n    \"desc\": \"\"\n  }\n}\n\n"},
		"unknown":        {`{"cmd": "zz", "id": false}`, "{\n  \"error\": {\n    \"class\": \"AssertionError\",\n    \"desc\": \"unknown command: zz\"\n  },\n  \"id\": false\n}\n\n"},
		"invalid UTF-8":  {"{\"cmd\": \"\xff\"}\n\n", ""},
		"nothing":        {"", ""},
		"only blanks":    {"  \n\t\n\n\n", ""},
		"null arguments": {`{"cmd": "echo", "args": null, "id": "x"}`, "{\n  \"result\": {\n    \"text\": \"\",\n    \"long-name\": 0\n  },\n  \"id\": \"x\"\n}\n\n"},
	} {
		if got := exchange(t, path, c.send); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	got := exchange(t, path, `{"cmd": "echo", "args": {"colour": 1}}`)
	if !strings.Contains(got, ClassSchema) || !strings.Contains(got, "colour") {
		t.Errorf("unknown argument: %s", got)
	}
	// 200 requests without waiting are answered in order.
	var send, want strings.Builder
	for i := range 200 {
		text, _ := json.Marshal(map[string]any{"cmd": "zz", "id": i})
		send.Write(text)
		send.WriteString("\n\n")
		msg, _ := encodeMessage(reply{Error: &Error{ClassUnknown, "unknown command: zz"}, ID: json.RawMessage(text[bytes.LastIndexByte(text, ':')+1 : len(text)-1])})
		want.Write(msg)
	}
	if got := exchange(t, path, send.String()); got != want.String() {
		t.Errorf("pipelined requests are not answered in order")
	}
}

func TestClient(t *testing.T) {
	started := make(chan struct{})
	server, path := startServer(t, map[string]Handler{
		"echo": echo,
		"count": func(_ context.Context, c *Call) (any, error) {
			for i := range 3 {
				c.Progress(i)
			}
			return "done", nil
		},
		"fail": func(context.Context, *Call) (any, error) { return nil, errors.New("it broke") },
		"null": func(context.Context, *Call) (any, error) { return nil, nil },
		"hang": func(ctx context.Context, c *Call) (any, error) {
			close(started)
			for {
				select {
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-time.After(time.Millisecond):
					c.Progress("still")
				}
			}
		},
	})
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", info.Mode(), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, err := Dial(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var out struct {
		Text string `json:"text"`
	}
	if err := c.Call(ctx, "echo", map[string]string{"text": "hi"}, &out, nil); err != nil || out.Text != "hi" {
		t.Errorf("echo: %+v, %v", out, err)
	}
	var progress []string
	var done string
	if err := c.Call(ctx, "count", nil, &done, func(p json.RawMessage) { progress = append(progress, string(p)) }); err != nil {
		t.Error(err)
	}
	if strings.Join(progress, " ") != "0 1 2" || done != "done" {
		t.Errorf("count: %v, %q", progress, done)
	}
	if err := c.Call(ctx, "null", nil, nil, nil); err != nil {
		t.Error(err)
	}
	var failed *Error
	if err := c.Call(ctx, "fail", nil, nil, nil); !errors.As(err, &failed) || failed.Desc != "it broke" || failed.Class != ClassError {
		t.Errorf("fail: %v", err)
	}
	go func() { <-started; cancel() }()
	if err := c.Call(ctx, "hang", nil, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("hang: %v", err)
	}
	// The command ends too: Close waits for it.
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after Close: %v", err)
	}
}

// A command that waits for the server's own end still gets its answer out.
func TestAnswerDuringClose(t *testing.T) {
	started, ending := make(chan struct{}), make(chan struct{})
	server, path := startServer(t, map[string]Handler{
		"end": func(context.Context, *Call) (any, error) { close(started); <-ending; return "bye", nil },
	})
	answered := make(chan string, 1)
	go func() {
		c, err := Dial(context.Background(), path)
		if err != nil {
			answered <- err.Error()
			return
		}
		defer c.Close()
		var out string
		if err := c.Call(context.Background(), "end", nil, &out, nil); err != nil {
			out = err.Error()
		}
		answered <- out
	}()
	select {
	case <-started:
	case out := <-answered:
		t.Fatal(out)
	}
	closed := make(chan error, 1)
	go func() { closed <- server.Close() }()
	for exists := true; exists; time.Sleep(time.Millisecond) { // until Close is under way
		_, err := os.Stat(path)
		exists = err == nil
	}
	close(ending)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if got := <-answered; got != "bye" {
		t.Errorf("answer: %q", got)
	}
}

func TestStaleSocket(t *testing.T) {
	server, path := startServer(t, nil)
	server.listener.Close() // as a crash leaves it: the file stays
	second, err := Serve(context.Background(), path, map[string]Handler{"echo": echo}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if got := exchange(t, path, `{"cmd": "echo"}`); !strings.Contains(got, "result") {
		t.Errorf("second server: %q", got)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte("{\"cmd\": \"x\", \"id\": 1}\n\n"))
	f.Add([]byte("\r\n\r\n{\"args\": {\"a_b\": 1}}"))
	f.Add([]byte("{} {}\n\n\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(data), 16)
		for {
			frame, err := readFrame(r, nil)
			if err != nil {
				return
			}
			if len(bytes.TrimSpace(frame)) == 0 {
				t.Fatalf("empty frame from %q", data)
			}
			req, bad := parseRequest(frame)
			if bad == nil && req.Cmd == "" {
				t.Fatalf("request without a command from %q", frame)
			}
			if req.ID != nil && !json.Valid(req.ID) {
				t.Fatalf("bad id from %q", frame)
			}
		}
	})
}
