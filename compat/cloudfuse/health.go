package cloudfuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/mount"
)

// healthKeys are those of the health monitor.
var healthKeys = []string{
	"health_monitor.enable-monitoring", "health_monitor.stats-poll-interval-sec", "health_monitor.process-monitor-interval-sec",
	"health_monitor.output-path", "health_monitor.monitor-disable-list",
}

// MonitorName is the name under which the program is the health monitor of one mount.
const MonitorName = "cfusemon"

// disabled are the words of monitor-disable-list and the monitor's flags for them.
var disabled = []struct{ word, flag string }{
	{"cloudfuse_stats", "no-cloudfuse-stats"}, {"blobfuse_stats", "no-cloudfuse-stats"}, {"blobfuse2_stats", "no-cloudfuse-stats"},
	{"file_cache_monitor", "no-file-cache-monitor"}, {"cpu_profiler", "no-cpu-profiler"}, {"memory_profiler", "no-memory-profiler"}, {"network_profiler", "no-network-profiler"},
}

// monitorArgs are the flags of the monitor that the settings ask for.
func (s *settings) monitorArgs(pid int) ([]string, error) {
	args := []string{"--pid=" + strconv.Itoa(pid)}
	for _, one := range []struct {
		key, flag string
		otherwise time.Duration
	}{
		{"health_monitor.stats-poll-interval-sec", "stats-poll-interval-sec", 10 * time.Second},
		{"health_monitor.process-monitor-interval-sec", "process-monitor-interval-sec", 30 * time.Second},
	} {
		args = append(args, fmt.Sprintf("--%s=%d", one.flag, s.seconds(one.key, one.otherwise)/time.Second))
	}
	dir := s.path("health_monitor.output-path")
	if dir == "" {
		var err error
		if dir, err = os.Getwd(); err != nil {
			return nil, err
		}
	}
	args = append(args, "--output-path="+dir)
	for _, word := range s.list("health_monitor.monitor-disable-list") {
		at := slices.IndexFunc(disabled, func(d struct{ word, flag string }) bool { return d.word == strings.ToLower(word) })
		if at < 0 {
			s.fail("health_monitor.monitor-disable-list", "%q is no monitor", word)
			break
		}
		args = append(args, "--"+disabled[at].flag)
	}
	return args, s.err
}

// startMonitor starts the monitor of a mount in the background.
func startMonitor(args []string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: append([]string{MonitorName}, args...), Dir: "/", Env: os.Environ(),
		Stdin: null, Stdout: null, Stderr: null, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("health monitor: %w", err)
	}
	return cmd.Process.Release()
}

// monitorMount starts the monitor of a mount that has just begun, if it is asked for.
func (s *settings) monitorMount(point string) error {
	if !s.toggle("health_monitor.enable-monitoring", false) {
		return nil
	}
	resolved, err := mount.ResolvePoint(point)
	if err != nil {
		return err
	}
	running, alive, err := mount.Find(resolved)
	if err != nil {
		return fmt.Errorf("health monitor: %w", err)
	}
	if !alive {
		return fmt.Errorf("health monitor: the mount at %s has ended", point)
	}
	args, err := s.monitorArgs(running.PID)
	if err != nil {
		return err
	}
	return startMonitor(args)
}

func (p *Personality) healthCommand() *cobra.Command {
	r := &mountRequest{}
	var pid, stopPID int
	cmd := &cobra.Command{
		Use: "health-monitor", Short: "Watch a mount: start the monitor of the mount whose process is given", Args: cobra.ArbitraryArgs,
		Long: `Start a monitor that writes what a mount does and needs to monitor_PID.json in
health_monitor.output-path, else in the working directory, until the mount ends or the
monitor is stopped.`,
		Example: "  cloudfuse health-monitor --pid=1234 --config-file=config.yaml\n  cloudfuse health-monitor stop --pid=1234",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cmdline.UnknownCommand(cmd, args[0])
			}
			if pid <= 0 {
				return usageError("pid of cloudfuse process not given: --pid is missing")
			}
			if _, err := servedBy(pid); err != nil {
				return err
			}
			r.named = cmd.Flags().Changed("config-file")
			var c *config
			if text, err := r.text(); err == nil {
				if c, err = parseConfig(text); err != nil {
					return fmt.Errorf("config file %s: %w", r.path(), err)
				}
			} else if r.named || !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("config file: %w", err)
			}
			monitor, err := newSettings(c, r.path(), os.Getenv).monitorArgs(pid)
			if err != nil {
				return err
			}
			return startMonitor(monitor)
		},
	}
	cmd.Flags().IntVar(&pid, "pid", 0, "`PROCESS` that serves the mount (\"massif mounts\" shows it)")
	r.configSource.addFlags(cmd.Flags())
	stop := &cobra.Command{
		Use: "stop", Short: "Stop the monitor of a mount", Args: cmdline.Args(0),
		RunE: func(*cobra.Command, []string) error {
			if stopPID <= 0 {
				return usageError("pid of cloudfuse process not given: --pid is missing")
			}
			n, err := stopMonitors(stopPID)
			if err == nil && n == 0 {
				err = fmt.Errorf("no health monitor watches the process %d", stopPID)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(p.Out, "Successfully stopped health monitor")
			return err
		},
	}
	stop.Flags().IntVar(&stopPID, "pid", 0, "`PROCESS` that serves the mount")
	stop.AddCommand(&cobra.Command{
		Use: "all", Short: "Stop the monitors of all mounts", Args: cmdline.Args(0),
		RunE: func(*cobra.Command, []string) error {
			if _, err := stopMonitors(0); err != nil {
				return err
			}
			_, err := fmt.Fprintln(p.Out, "Successfully stopped all health monitors")
			return err
		},
	})
	cmd.AddCommand(stop)
	return cmd
}

// servedBy is the mount that a process serves.
func servedBy(pid int) (mount.Running, error) {
	all, err := mount.List()
	if err != nil {
		return mount.Running{}, err
	}
	for _, r := range all {
		if r.PID == pid {
			return r, nil
		}
	}
	return mount.Running{}, fmt.Errorf("the process %d serves no mount of this user", pid)
}

// stopMonitors ends the monitors of a process, or with 0 all of this user's, and tells how
// many there were.
func stopMonitors(pid int) (n int, err error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, proc := range procs {
		id, err := strconv.Atoi(proc.Name())
		if err != nil {
			continue
		}
		var st syscall.Stat_t
		if syscall.Stat("/proc/"+proc.Name(), &st) != nil || int(st.Uid) != os.Geteuid() {
			continue
		}
		line, err := os.ReadFile("/proc/" + proc.Name() + "/cmdline")
		if err != nil {
			continue
		}
		args := strings.Split(string(line), "\x00")
		if filepath.Base(args[0]) != MonitorName || pid != 0 && !slices.Contains(args, "--pid="+strconv.Itoa(pid)) {
			continue
		}
		if err := syscall.Kill(id, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("health monitor (process %d): %w", id, err))
			continue
		}
		n++
	}
	return n, errors.Join(errs...)
}

// RunMonitor is the program cfusemon: it watches a mount until that ends.
func (p *Personality) RunMonitor(ctx context.Context, args []string) error {
	flags := pflag.NewFlagSet(MonitorName, pflag.ContinueOnError)
	flags.SetOutput(p.Err)
	var m monitor
	var poll, process int
	flags.IntVar(&m.pid, "pid", 0, "`PROCESS` that serves the mount")
	flags.IntVar(&poll, "stats-poll-interval-sec", 10, "`SECONDS` between figures of the mount")
	flags.IntVar(&process, "process-monitor-interval-sec", 30, "`SECONDS` between figures of the process")
	flags.StringVar(&m.dir, "output-path", "", "`DIR` of the output (default: the working directory)")
	flags.BoolVar(&m.noStats, "no-cloudfuse-stats", false, "no counters of the mount")
	flags.BoolVar(&m.noCPU, "no-cpu-profiler", false, "no processor time")
	flags.BoolVar(&m.noMemory, "no-memory-profiler", false, "no memory")
	flags.BoolVar(&m.noNetwork, "no-network-profiler", false, "no network")
	flags.BoolVar(&m.noCache, "no-file-cache-monitor", false, "no figures of the cache")
	flags.StringVar(&m.cachePath, "cache-path", "", "`DIR` that the figures of the cache name")
	flags.Float64("max-size-mb", 0, "accepted; the cache says itself how large it may be")
	version := flags.Bool("version", false, "print the version")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil
		}
		return &mount.UsageError{Err: err}
	}
	switch {
	case *version:
		_, err := fmt.Fprintf(p.Out, "%s version %s\n", MonitorName, p.Version)
		return err
	case m.pid <= 0:
		return usageError("pid of cloudfuse process not given: --pid is missing")
	case poll < 1 || process < 1:
		return usageError("an interval is less than a second")
	}
	r, err := servedBy(m.pid)
	if err != nil {
		return err
	}
	m.read = func(ctx context.Context) (*mount.Stats, error) { return statsOf(ctx, r.Point) }
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return m.run(ctx, time.Duration(poll)*time.Second, time.Duration(process)*time.Second)
}

// statsOf asks a mount for its figures.
func statsOf(ctx context.Context, point string) (*mount.Stats, error) {
	c, err := mount.Connect(ctx, point)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var st mount.Stats
	return &st, c.Call(ctx, "stats", nil, &st, nil)
}
