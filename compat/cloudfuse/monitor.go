package cloudfuse

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/massif-fs/massif/mount"
)

// monitor writes what a mount does and needs, in the form of Cloudfuse's monitor: a JSON
// array of elements, each of a moment.
type monitor struct {
	pid       int
	dir       string
	cachePath string

	noStats, noCPU, noMemory, noNetwork, noCache bool

	// read gets the figures of the mount.
	read func(context.Context) (*mount.Stats, error)

	before  time.Time     // of the last figures of the process
	cpu     time.Duration // that it had used then
	network int64         // bytes that had gone to and from the store then
}

// element is what was seen at a moment.
type element struct {
	Timestamp      string
	CPUUsage       string      `json:",omitempty"` // percent of one processor since the last one
	MemoryUsage    string      `json:",omitempty"` // resident, in KiB
	NetworkUsage   string      `json:",omitempty"` // to and from the store since the last one, in KiB
	CloudfuseStats []operation `json:",omitempty"`
	FileCache      []cacheUse  `json:",omitempty"`
}

// operation is a counter of a component; Value holds it by name.
type operation struct {
	Timestamp     string           `json:"timestamp"`
	ComponentName string           `json:"componentName"`
	Operation     string           `json:"operation"`
	Path          string           `json:"path"`
	Value         map[string]int64 `json:"value"`
}

// cacheUse is what the cache holds.
type cacheUse struct {
	CacheEvent        string           `json:"cacheEvent"`
	Path              string           `json:"path"`
	IsDir             bool             `json:"isDir"`
	CacheSize         int64            `json:"cacheSize"`     // bytes it may have
	CacheConsumed     string           `json:"cacheConsumed"` // percent
	CacheFilesCount   int64            `json:"cacheFilesCount"`
	EvictedFilesCount int64            `json:"evictedFilesCount"`
	Value             map[string]int64 `json:"value"`
}

// run observes until ctx is done or the mount has ended.
func (m *monitor) run(ctx context.Context, poll, process time.Duration) error {
	out, err := openMonitorFile(m.dir, m.pid)
	if err != nil {
		return err
	}
	polls, processes := time.NewTicker(poll), time.NewTicker(process)
	defer polls.Stop()
	defer processes.Stop()
	// The first figures are what later ones are compared with.
	if _, err := m.observe(ctx, time.Now(), true, true); err != nil {
		return nil // it has ended already
	}
	for {
		var counters, figures bool
		select {
		case <-ctx.Done():
			return nil
		case <-polls.C:
			counters = true
		case <-processes.C:
			figures = true
		}
		e, err := m.observe(ctx, time.Now(), counters, figures)
		if err != nil {
			return nil // the mount has ended, and with it the monitor's task
		}
		if e != nil {
			if err := out.add(e); err != nil {
				return err
			}
		}
	}
}

// observe looks once: at the counters of the mount, at the figures of its process, or at
// both. There is no element if all of that is switched off.
func (m *monitor) observe(ctx context.Context, now time.Time, counters, figures bool) (*element, error) {
	st, err := m.read(ctx)
	if err != nil {
		return nil, err
	}
	e := &element{Timestamp: now.Format(time.RFC3339)}
	tree := treeFigures(st)
	if figures {
		m.figures(e, st, tree, now)
	}
	if counters && !m.noStats {
		e.CloudfuseStats = operations(e.Timestamp, st, tree)
	}
	if limit := tree["cacheLimit"]; counters && !m.noCache && limit > 0 {
		e.FileCache = []cacheUse{{
			CacheEvent: "USAGE", Path: m.cachePath, IsDir: true, CacheSize: limit, CacheConsumed: fmt.Sprintf("%.2f%%", 100*float64(tree["cacheUsed"])/float64(limit)),
			CacheFilesCount: tree["cacheFiles"], Value: map[string]int64{"Cache Usage": tree["cacheUsed"]},
		}}
	}
	if e.CPUUsage == "" && e.MemoryUsage == "" && e.NetworkUsage == "" && e.CloudfuseStats == nil && e.FileCache == nil {
		return nil, nil
	}
	return e, nil
}

// figures are those of the process since the last time.
func (m *monitor) figures(e *element, st *mount.Stats, tree map[string]int64, now time.Time) {
	cpu := st.Process.UserTime + st.Process.SystemTime
	network := tree["fetchedBytes"] + tree["uploadBytes"]
	if passed := now.Sub(m.before); !m.before.IsZero() && passed > 0 {
		if !m.noCPU {
			e.CPUUsage = fmt.Sprintf("%.1f%%", 100*float64(cpu-m.cpu)/float64(passed))
		}
		if !m.noNetwork {
			e.NetworkUsage = fmt.Sprintf("%dk", (network-m.network)>>10)
		}
	}
	if !m.noMemory {
		e.MemoryUsage = fmt.Sprintf("%dk", st.Process.RSS>>10)
	}
	m.before, m.cpu, m.network = now, cpu, network
}

// treeFigures are the numbers of a bucket by name; none of another tree.
func treeFigures(st *mount.Stats) map[string]int64 {
	figures := map[string]int64{}
	if tree, ok := st.Tree["bucket"].(map[string]any); ok {
		for name, v := range tree {
			if f, ok := v.(float64); ok {
				figures[name] = int64(f)
			}
		}
	}
	return figures
}

// kernelCounters are Cloudfuse's names of operations of the kernel.
var kernelCounters = map[string]string{
	"mkdir": "CreateDir", "rmdir": "DeleteDir", "opendir": "StreamDir", "create": "CreateFile", "unlink": "DeleteFile", "rename": "RenameFile",
	"symlink": "CreateLink", "readlink": "ReadLink",
}

// operations are the counters, since the mount began.
func operations(at string, st *mount.Stats, tree map[string]int64) []operation {
	kernel := map[string]int64{"OpenFileHandles": int64(st.FUSE.Handles)}
	for _, op := range st.FUSE.Ops {
		if name := kernelCounters[op.Op]; name != "" {
			kernel[name] = int64(op.Count - op.Errors)
		}
	}
	ops := []operation{{Timestamp: at, ComponentName: "libfuse", Operation: "Stats", Value: kernel}}
	if len(tree) == 0 {
		return ops
	}
	storage := map[string]int64{
		"Bytes Downloaded": tree["fetchedBytes"], "Bytes Uploaded": tree["uploadBytes"], "Downloads": tree["fetches"], "Uploads": tree["uploads"],
		"Lists": tree["lists"], "Heads": tree["heads"], "Queued": tree["queued"], "Failing": tree["failing"],
	}
	cache := map[string]int64{"Cache Usage": tree["cacheUsed"], "Files": tree["cacheFiles"]}
	if limit := tree["cacheLimit"]; limit > 0 {
		cache["Usage Percent"] = 100 * tree["cacheUsed"] / limit
	}
	return append(ops,
		operation{Timestamp: at, ComponentName: "storage", Operation: "Stats", Value: storage},
		operation{Timestamp: at, ComponentName: "file_cache", Operation: "Stats", Value: cache})
}

// monitorFile is the output: always a whole JSON array. When it has grown, it becomes
// monitor_PID_1.json, that monitor_PID_2.json, and so on.
type monitorFile struct {
	dir  string
	pid  int
	most int64 // bytes
	size int64
}

const (
	monitorFileSize = 10 << 20
	monitorFiles    = 9 // older ones that are kept
)

func openMonitorFile(dir string, pid int) (*monitorFile, error) {
	f := &monitorFile{dir: dir, pid: pid, most: monitorFileSize}
	// What is there is of an earlier monitor.
	if _, err := os.Stat(f.name(0)); err == nil {
		return f, f.rotate()
	}
	return f, nil
}

// name is that of the file that is written, or of an older one.
func (f *monitorFile) name(n int) string {
	if n == 0 {
		return filepath.Join(f.dir, fmt.Sprintf("monitor_%d.json", f.pid))
	}
	return filepath.Join(f.dir, fmt.Sprintf("monitor_%d_%d.json", f.pid, n))
}

func (f *monitorFile) rotate() error {
	for n := monitorFiles - 1; n >= 0; n-- {
		if err := os.Rename(f.name(n), f.name(n+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("health monitor: %w", err)
		}
	}
	f.size = 0
	return nil
}

// add appends an element in one write.
func (f *monitorFile) add(e *element) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return err
	}
	text := strings.TrimSuffix(b.String(), "\n") + "\n]"
	if f.size > 0 && f.size+int64(len(text)) > f.most {
		if err := f.rotate(); err != nil {
			return err
		}
	}
	at := int64(0)
	if f.size == 0 {
		text = "[\n" + text
	} else {
		text, at = ",\n"+text, f.size-int64(len("\n]"))
	}
	out, err := os.OpenFile(f.name(0), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("health monitor: %w", err)
	}
	_, err = out.WriteAt([]byte(text), at)
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("health monitor: %w", err)
	}
	f.size = at + int64(len(text))
	return nil
}
