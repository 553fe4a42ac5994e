package cloudfuse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/mount"
)

func TestObserve(t *testing.T) {
	st := &mount.Stats{
		Process: mount.ProcessStats{UserTime: time.Second, RSS: 5 << 20},
		FUSE:    fuse.Stats{Handles: 3, Ops: []fuse.OpStats{{Op: "mkdir", Count: 5, Errors: 1}, {Op: "read", Count: 9}}},
		Tree:    map[string]any{"bucket": map[string]any{"fetchedBytes": 1024.0, "uploadBytes": 2048.0, "cacheUsed": 25.0, "cacheLimit": 100.0, "cacheFiles": 2.0, "other": "x"}},
	}
	m := &monitor{cachePath: "/cache", read: func(context.Context) (*mount.Stats, error) { return st, nil }}
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	first, err := m.observe(t.Context(), begin, true, true)
	if err != nil || first.CPUUsage != "" || first.MemoryUsage != "5120k" || first.NetworkUsage != "" {
		t.Errorf("first: %+v, %v", first, err)
	}
	st.Process.UserTime, st.Process.SystemTime = 2*time.Second, time.Second
	st.Tree["bucket"].(map[string]any)["fetchedBytes"] = 1024.0 + 10<<10
	e, err := m.observe(t.Context(), begin.Add(10*time.Second), true, true)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	const at = `"2026-01-02T03:04:15Z"`
	want := `{"Timestamp":` + at + `,"CPUUsage":"20.0%","MemoryUsage":"5120k","NetworkUsage":"10k","CloudfuseStats":[` +
		`{"timestamp":` + at + `,"componentName":"libfuse","operation":"Stats","path":"","value":{"CreateDir":4,"OpenFileHandles":3}},` +
		`{"timestamp":` + at + `,"componentName":"storage","operation":"Stats","path":"","value":{"Bytes Downloaded":11264,"Bytes Uploaded":2048,"Downloads":0,"Failing":0,"Heads":0,"Lists":0,"Queued":0,"Uploads":0}},` +
		`{"timestamp":` + at + `,"componentName":"file_cache","operation":"Stats","path":"","value":{"Cache Usage":25,"Files":2,"Usage Percent":25}}],` +
		`"FileCache":[{"cacheEvent":"USAGE","path":"/cache","isDir":true,"cacheSize":100,"cacheConsumed":"25.00%","cacheFilesCount":2,"evictedFilesCount":0,"value":{"Cache Usage":25}}]}`
	if string(got) != want {
		t.Errorf("element:\n%s\nwant\n%s", got, want)
	}
	m.noStats, m.noCPU, m.noMemory, m.noNetwork, m.noCache = true, true, true, true, true
	if e, err := m.observe(t.Context(), begin, true, true); e != nil || err != nil {
		t.Errorf("all switched off: %+v, %v", e, err)
	}
	m.read = func(context.Context) (*mount.Stats, error) { return nil, errors.New("gone") }
	if _, err := m.observe(t.Context(), begin, true, true); err == nil {
		t.Error("a mount that has ended gives no error")
	}
}

func TestMonitorFile(t *testing.T) {
	dir := t.TempDir()
	f, err := openMonitorFile(dir, 7)
	if err != nil {
		t.Fatal(err)
	}
	f.most = 300
	for i := range 200 {
		if err := f.add(&element{Timestamp: fmt.Sprint(i), MemoryUsage: "1k"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openMonitorFile(dir, 7); err != nil { // of the next monitor
		t.Fatal(err)
	}
	next := 199
	for n := 1; n <= monitorFiles; n++ {
		data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("monitor_7_%d.json", n)))
		if err != nil {
			t.Fatal(err)
		}
		var all []element
		if err := json.Unmarshal(data, &all); err != nil || len(data) > 300 || len(all) < 2 {
			t.Fatalf("file %d: %d elements in %d bytes, %v\n%s", n, len(all), len(data), err, data)
		}
		for i := len(all) - 1; i >= 0; i-- {
			if all[i].Timestamp != fmt.Sprint(next) {
				t.Fatalf("file %d has %s where %d belongs", n, all[i].Timestamp, next)
			}
			next--
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != monitorFiles {
		t.Errorf("%d files are kept", len(files))
	}
}

func TestMonitorArgs(t *testing.T) {
	s := newSettings(parse(t, "health_monitor:\n  output-path: /out\n  stats-poll-interval-sec: 5\n  monitor-disable-list: [network_profiler, blobfuse_stats]\n"), "", func(string) string { return "" })
	args, err := s.monitorArgs(9)
	if got := fmt.Sprint(args); err != nil || got != "[--pid=9 --stats-poll-interval-sec=5 --process-monitor-interval-sec=30 --output-path=/out --no-network-profiler --no-cloudfuse-stats]" {
		t.Errorf("%s, %v", got, err)
	}
	s = newSettings(parse(t, "health_monitor: {monitor-disable-list: [everything]}\n"), "", func(string) string { return "" })
	if _, err := s.monitorArgs(9); err == nil {
		t.Error("an unknown monitor is accepted")
	}
}
