package telemetry

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
)

// Logging says where the log goes and what is in it. The zero value is text to
// standard error, from level info on.
type Logging struct {
	// Level is the lowest level that is logged. It can be changed later.
	Level slog.Level
	// Format of a line.
	Format Format
	// File to append to; empty means standard error. It is made with mode 0600:
	// names of files and users stand in it.
	File string
	// Writer replaces File, for tests and for children that log through a pipe.
	Writer io.Writer
}

// Format is the format of log lines.
type Format int

const (
	// Text is key=value, one line a record.
	Text Format = iota
	// JSON is one object a line.
	JSON
)

// String implements fmt.Stringer; the names are those ParseFormat takes.
func (f Format) String() string {
	if f == JSON {
		return "json"
	}
	return "text"
}

// ParseFormat takes "text" and "json".
func ParseFormat(s string) (Format, error) {
	switch strings.ToLower(s) {
	case "", "text":
		return Text, nil
	case "json":
		return JSON, nil
	}
	return 0, fmt.Errorf("unknown log format %q: it is text or json", s)
}

// ParseLevel takes "debug", "info", "warn" or "warning", "error", and those with
// an offset as slog prints them ("info+2").
func ParseLevel(s string) (slog.Level, error) {
	var level slog.Level
	text := strings.ToLower(s)
	if rest, ok := strings.CutPrefix(text, "warning"); ok {
		text = "warn" + rest
	}
	if err := level.UnmarshalText([]byte(text)); err != nil {
		return 0, fmt.Errorf("unknown log level %q: it is debug, info, warn or error", s)
	}
	return level, nil
}

// Log is the log of a process.
type Log struct {
	*slog.Logger
	level slog.LevelVar
	path  string

	mu     sync.Mutex
	out    io.Writer
	file   *os.File // out, if the log goes to a file
	lost   uint64   // records that could not be written
	closed bool
}

// OpenLog opens the log.
func OpenLog(o Logging) (*Log, error) {
	l := &Log{out: os.Stderr, path: o.File}
	l.level.Set(o.Level)
	switch {
	case o.Writer != nil:
		l.out, l.path = o.Writer, ""
	case o.File != "":
		f, err := openLogFile(o.File)
		if err != nil {
			return nil, err
		}
		l.out, l.file = f, f
	}
	ho := &slog.HandlerOptions{Level: &l.level}
	if o.Format == JSON {
		l.Logger = slog.New(slog.NewJSONHandler(logWriter{l}, ho))
	} else {
		l.Logger = slog.New(slog.NewTextHandler(logWriter{l}, ho))
	}
	return l, nil
}

func openLogFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log file: %w", err)
	}
	return f, nil
}

// Level returns the lowest level that is logged.
func (l *Log) Level() slog.Level { return l.level.Level() }

// SetLevel changes the lowest level that is logged, at once and for all loggers
// made from l.
func (l *Log) SetLevel(level slog.Level) { l.level.Set(level) }

// Path is the file the log goes to; empty if it is none.
func (l *Log) Path() string { return l.path }

// Reopen opens the log file anew after it was moved away. If that fails, the log
// goes on into the old one. Without a file it does nothing.
func (l *Log) Reopen() error {
	if l.path == "" {
		return nil
	}
	f, err := openLogFile(l.path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.Join(os.ErrClosed, f.Close())
	}
	old := l.file
	l.out, l.file = f, f
	if err := old.Close(); err != nil {
		return fmt.Errorf("close old log file: %w", err)
	}
	return nil
}

// Lost returns how many records could not be written, say because the disk was full.
func (l *Log) Lost() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// Close closes the file. What is logged later goes to standard error.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.file == nil {
		return nil
	}
	f := l.file
	l.out, l.file = os.Stderr, nil
	if err := f.Close(); err != nil {
		return fmt.Errorf("close log file: %w", err)
	}
	return nil
}

// logWriter is what the handler writes its lines to. slog drops its errors, so
// they are counted here.
type logWriter struct{ l *Log }

func (w logWriter) Write(p []byte) (int, error) {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	n, err := w.l.out.Write(p)
	if err != nil {
		w.l.lost++
	}
	return n, err
}
