package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]slog.Level{
		"debug": slog.LevelDebug, "INFO": slog.LevelInfo, "warn": slog.LevelWarn, "Warning": slog.LevelWarn, "error": slog.LevelError, "warning+1": slog.LevelWarn + 1,
	} {
		if got, err := ParseLevel(text); got != want || err != nil {
			t.Errorf("ParseLevel(%q) = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "loud", "info+x"} {
		if _, err := ParseLevel(text); err == nil || !strings.Contains(err.Error(), "debug, info, warn or error") {
			t.Errorf("ParseLevel(%q): %v", text, err)
		}
	}
	for _, f := range []Format{Text, JSON} {
		if got, err := ParseFormat(f.String()); got != f || err != nil {
			t.Errorf("ParseFormat(%q) = %v, %v", f, got, err)
		}
	}
	if _, err := ParseFormat("xml"); err == nil {
		t.Error("ParseFormat takes xml")
	}
}

func TestLevelAndFormat(t *testing.T) {
	var out bytes.Buffer
	log, err := OpenLog(Logging{Level: slog.LevelWarn, Format: JSON, Writer: &out})
	if err != nil {
		t.Fatal(err)
	}
	sub := log.With("mount", "/m")
	sub.Info("hidden")
	log.SetLevel(slog.LevelDebug)
	sub.Debug("shown")
	if log.Level() != slog.LevelDebug {
		t.Errorf("level %v", log.Level())
	}
	var line struct{ Msg, Mount, Level string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Msg != "shown" || line.Mount != "/m" || line.Level != "DEBUG" {
		t.Errorf("%q: %+v, %v", out.String(), line, err)
	}
	if err := errors.Join(log.Reopen(), log.Close()); err != nil {
		t.Error(err)
	}
}

func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := OpenLog(Logging{File: path})
	if err != nil {
		t.Fatal(err)
	}
	log.Info("one")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	log.Info("two")
	if err := log.Reopen(); err != nil {
		t.Fatal(err)
	}
	log.Info("three")
	want := func(path string, words ...string) {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
		if len(lines) != len(words) {
			t.Fatalf("%s: %q", path, data)
		}
		for i, word := range words {
			if !strings.Contains(lines[i], word) {
				t.Errorf("%s: line %d is %q, want %s", path, i, lines[i], word)
			}
		}
	}
	want(path+".1", "before", "msg=one", "msg=two")
	want(path, "msg=three")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}

	// A log that cannot be opened anew goes on into the old file.
	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := log.Reopen(); !errors.Is(err, syscall.EISDIR) || !strings.Contains(err.Error(), path) {
		t.Errorf("Reopen: %v", err)
	}
	log.Info("four")
	want(path+".2", "msg=three", "msg=four")
	if err := log.Close(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := log.Reopen(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Reopen after Close: %v", err)
	}
	if _, err := OpenLog(Logging{File: filepath.Join(path, "no", "log")}); !errors.Is(err, syscall.ENOTDIR) && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenLog: %v", err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestLostRecords(t *testing.T) {
	log, err := OpenLog(Logging{Writer: full{}})
	if err != nil {
		t.Fatal(err)
	}
	log.Info("a")
	log.Debug("not logged")
	log.Error("b")
	if n := log.Lost(); n != 2 {
		t.Errorf("%d records lost, want 2", n)
	}
}
