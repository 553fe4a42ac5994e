package cli

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/telemetry"
)

func (a *app) statsCommand() *cobra.Command {
	var watch time.Duration
	cmd := &cobra.Command{
		Use:     "stats MOUNTPOINT",
		Short:   "Show what a mount has done and holds",
		GroupID: "mounts",
		Long: `Show the figures of a mount: requests of the kernel, caches, the store, memory.

With --watch the rates since the last look are shown again and again.`,
		Example: `  massif stats /mnt/photos
  massif stats /mnt/photos --watch
  massif stats /mnt/photos --json | jq .process.peakRSS`,
		Args: exactArgs("MOUNTPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if watch != 0 && watch < 100*time.Millisecond {
				return usageError("--watch %v is too short, use at least 100ms", watch)
			}
			c, err := mount.Connect(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			if watch != 0 {
				return a.watchStats(cmd.Context(), c, watch)
			}
			if a.json {
				var raw any
				if err := c.Call(cmd.Context(), "stats", nil, &raw, nil); err != nil {
					return err
				}
				return a.printJSON(raw)
			}
			var st mount.Stats
			if err := c.Call(cmd.Context(), "stats", nil, &st, nil); err != nil {
				return err
			}
			return a.printStats(st)
		},
		ValidArgsFunction: completeMounts,
	}
	a.jsonFlag(cmd)
	cmd.Flags().DurationVarP(&watch, "watch", "w", 0, "show rates every `INTERVAL`")
	cmd.Flags().Lookup("watch").NoOptDefVal = "1s"
	return cmd
}

func (a *app) printStats(st mount.Stats) error {
	fmt.Fprintf(a.out, "%s on %s, process %d for %s\n", st.Status.Source, st.Status.Point, st.Status.PID, humanAgo(st.Status.Uptime))
	fmt.Fprintf(a.out, "memory %s (peak %s), CPU %s user %s system\n\n", humanBytes(st.Process.RSS), humanBytes(st.Process.PeakRSS),
		humanAgo(st.Process.UserTime), humanAgo(st.Process.SystemTime))

	t := newTable(a.out, "REQUEST", "COUNT", "ERRORS", "BYTES", "AVERAGE", "MEDIAN", "99%", "LONGEST")
	for _, op := range byCount(st.Ops) {
		bytes := "-"
		if op.Bytes > 0 {
			bytes = humanBytes(op.Bytes)
		}
		t.row(op.Op, humanCount(op.Count), humanCount(op.Errors), bytes, humanAgo(op.Mean()), humanAgo(op.P50), humanAgo(op.P99), humanAgo(op.Max))
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "\nthe kernel holds %s inodes, %s files and directories are open\n", humanCount(st.FUSE.Nodes), humanCount(st.FUSE.Handles))
	if len(st.Tree) == 0 {
		return nil
	}
	fmt.Fprintln(a.out)
	t = newTable(a.out)
	rows := flatRows("", st.Tree)
	for _, r := range rows {
		t.row(r.name, r.value)
	}
	return t.flush()
}

func byCount(ops []telemetry.OpSnapshot) []telemetry.OpSnapshot {
	sort.Slice(ops, func(i, j int) bool { return ops[i].Count > ops[j].Count })
	return ops
}

// flatRow is one figure of a tree.
type flatRow struct{ name, value string }

// flatRows writes a tree's figures one a line, in order of their names; zeros are
// left out.
func flatRows(prefix string, v any) []flatRow {
	switch v := v.(type) {
	case map[string]any:
		var keys []string
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		var rows []flatRow
		for _, k := range keys {
			name := k
			if prefix != "" {
				name = prefix + "." + k
			}
			rows = append(rows, flatRows(name, v[k])...)
		}
		return rows
	case float64:
		if v == 0 {
			return nil
		}
		return []flatRow{{prefix, figure(prefix, v)}}
	case string:
		if v == "" || v == "0001-01-01T00:00:00Z" {
			return nil
		}
		return []flatRow{{prefix, v}}
	case bool:
		return []flatRow{{prefix, strconv.FormatBool(v)}}
	}
	return nil
}

// figure writes a number as its name asks for.
func figure(name string, v float64) string {
	lower := strings.ToLower(name)
	switch {
	case strings.HasSuffix(lower, "_ns"):
		return humanAgo(time.Duration(v))
	case strings.HasSuffix(lower, "seconds"):
		return humanAgo(time.Duration(v * float64(time.Second)))
	case strings.Contains(lower, "byte"), strings.HasPrefix(lower, "memory."), strings.HasPrefix(lower, "usage.store"),
		strings.HasSuffix(lower, "written"), strings.HasSuffix(lower, "limit") && !strings.Contains(lower, "inodes"):
		return humanBytes(int64(v))
	case v == float64(int64(v)):
		return humanCount(int64(v))
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// watchStats shows rates until it is interrupted.
func (a *app) watchStats(ctx context.Context, c *mount.Client, every time.Duration) error {
	var last mount.Stats
	if err := c.Call(ctx, "stats", nil, &last, nil); err != nil {
		return err
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for lines := 0; ; lines++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var now mount.Stats
		if err := c.Call(ctx, "stats", nil, &now, nil); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		r := ratesOf(last, now)
		last = now
		if a.json {
			if err := a.printJSON(r); err != nil {
				return err
			}
			continue
		}
		if lines%a.screenLines() == 0 {
			fmt.Fprintf(a.out, "%10s %10s %10s %10s %10s %8s %8s  %s\n", "REQUESTS/s", "READ/s", "WRITTEN/s", "ERRORS/s", "LATENCY", "CPU", "MEMORY", "MOST")
		}
		fmt.Fprintf(a.out, "%10.0f %10s %10s %10.0f %10s %7.0f%% %8s  %s\n", r.Requests, humanBytes(int64(r.Read)), humanBytes(int64(r.Written)), r.Errors,
			humanAgo(r.Latency), r.CPU, humanBytes(r.RSS), r.Most)
	}
}

// screenLines is after how many lines the head is repeated.
func (a *app) screenLines() int {
	if f, ok := a.out.(interface{ Fd() uintptr }); ok {
		if _, h, err := term.GetSize(int(f.Fd())); err == nil && h > 4 {
			return h - 2
		}
	}
	return 1 << 30
}

// rates are what happened between two looks at a mount, per second.
type rates struct {
	Time     time.Time     `json:"time"`
	Requests float64       `json:"requests"`
	Errors   float64       `json:"errors"`
	Read     float64       `json:"read"`       // bytes
	Written  float64       `json:"written"`    // bytes
	Latency  time.Duration `json:"latency_ns"` // average of a request
	CPU      float64       `json:"cpu"`        // percent of one core
	RSS      int64         `json:"rss"`        // bytes
	Most     string        `json:"most"`       // the most frequent operation
}

func ratesOf(a, b mount.Stats) rates {
	r := rates{Time: time.Now(), RSS: b.Process.RSS}
	seconds := (b.Status.Uptime - a.Status.Uptime).Seconds()
	if seconds <= 0 {
		return r
	}
	before := map[string]telemetry.OpSnapshot{}
	for _, op := range a.Ops {
		before[op.Op] = op
	}
	var count, most uint64
	var spent time.Duration
	for _, op := range b.Ops {
		old := before[op.Op]
		n := op.Count - old.Count
		count += n
		spent += op.Total - old.Total
		r.Errors += float64(op.Errors-old.Errors) / seconds
		switch op.Op {
		case "read":
			r.Read = float64(op.Bytes-old.Bytes) / seconds
		case "write":
			r.Written = float64(op.Bytes-old.Bytes) / seconds
		}
		if n > most {
			most, r.Most = n, op.Op
		}
	}
	r.Requests = float64(count) / seconds
	if count > 0 {
		r.Latency = spent / time.Duration(count)
	}
	cpu := b.Process.UserTime + b.Process.SystemTime - a.Process.UserTime - a.Process.SystemTime
	r.CPU = 100 * cpu.Seconds() / seconds
	return r
}
