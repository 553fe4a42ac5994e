package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Target is a file system to measure. state is a directory for its stores and
// caches, mnt the mount point; what else a Target needs lives from Setup to Teardown.
type Target interface {
	Name() string
	// Setup makes a fresh file system.
	Setup(ctx context.Context, state string) error
	// Mount returns when the mount answers.
	Mount(ctx context.Context, state, mnt string) error
	// Unmount returns when everything is in the store and the daemon has ended.
	Unmount(ctx context.Context, state, mnt string) error
	// Wipe removes local caches, never the store; it is not mounted.
	Wipe(ctx context.Context, state string) error
	Teardown(ctx context.Context, state string) error
}

// LocalName is the name of the plain directory.
const LocalName = "local"

// MassifName begins the names of Massif's targets.
const MassifName = "massif"

// commands is a Target made of shell commands, which see $STATE and $MNT.
type commands struct {
	name                        string
	env                         []string
	setup, mount, unmount, wipe string
}

// Local is a directory of the disk itself.
func Local() Target { return commands{name: LocalName} }

// Massif is a volume of the given program, with its blocks in a directory. create
// and mount are further arguments of "volume create" and "mount"; suffix tells
// several such targets apart.
func Massif(program, suffix, create, mount string) Target {
	return commands{
		name: MassifName + suffix,
		env:  []string{"MASSIF=" + program},
		setup: `export MASSIF_HOME=$STATE/home && "$MASSIF" volume create bench --store "file://$STATE/store" ` +
			create,
		mount:   `export MASSIF_HOME=$STATE/home && "$MASSIF" mount bench "$MNT" --cache-dir "$STATE/cache" ` + mount,
		unmount: `export MASSIF_HOME=$STATE/home && "$MASSIF" umount "$MNT"`,
		wipe:    `rm -rf "$STATE/cache"`,
	}
}

// Bindfs forwards every call to a directory, in C.
func Bindfs() Target {
	return commands{
		name:    "bindfs",
		setup:   `mkdir "$STATE/src"`,
		mount:   `bindfs "$STATE/src" "$MNT"`,
		unmount: `fusermount3 -u "$MNT" || umount "$MNT"`,
	}
}

// JuiceFS has its metadata in an embedded engine and its blocks in a directory.
func JuiceFS() Target { return juiceFS("juicefs", "badger://$STATE/meta", "") }

// JuiceFSXattr is JuiceFS with extended attributes, which it has only when asked: the
// kernel then asks it for them, as for every file that "ls -l" shows.
func JuiceFSXattr() Target { return juiceFS("juicefs-xattr", "badger://$STATE/meta", "--enable-xattr") }

// juiceFS has its metadata in the engine at an address; options are those of the mount.
func juiceFS(name, engine, options string) commands {
	return commands{
		name:    name,
		setup:   `mkdir "$STATE/store" "$STATE/cache" && juicefs format --trash-days 0 --storage file --bucket "$STATE/store/" "` + engine + `" bench`,
		mount:   `juicefs mount -d --no-usage-report --no-syslog --backup-meta 0 --metrics 127.0.0.1:0 --log "$STATE/log" --cache-dir "$STATE/cache" --free-space-ratio 0.01 ` + options + ` "` + engine + `" "$MNT"`,
		unmount: `juicefs umount "$MNT"`,
		wipe:    `rm -rf "$STATE"/cache/*`,
	}
}

func (c commands) Name() string { return c.name }

func (c commands) Setup(ctx context.Context, state string) error {
	return c.run(ctx, c.setup, state, "")
}

func (c commands) Teardown(context.Context, string) error { return nil }

func (c commands) Wipe(ctx context.Context, state string) error {
	return c.run(ctx, c.wipe, state, "")
}

func (c commands) Mount(ctx context.Context, state, mnt string) error {
	if err := c.run(ctx, c.mount, state, mnt); err != nil || c.mount == "" {
		return err
	}
	// Some return a moment before the mount is there.
	for range 200 {
		if mounted(mnt) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("the mount is not there")
}

func (c commands) Unmount(ctx context.Context, state, mnt string) error {
	pids := daemons(mnt)
	if err := c.run(ctx, c.unmount, state, mnt); err != nil {
		unix.Unmount(mnt, unix.MNT_DETACH)
		return err
	}
	deadline := time.Now().Add(60 * time.Second)
	for _, pid := range pids {
		for alive(pid) {
			if time.Now().After(deadline) {
				return fmt.Errorf("process %d did not end after the unmount", pid)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return nil
}

// run runs a shell command; "" does nothing.
func (c commands) run(ctx context.Context, command, state, mnt string) error {
	if command == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	// A daemon keeps its parent's files: a pipe would wait for the daemon.
	out, err := os.Create(filepath.Join(state, "command.log"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Env = append(os.Environ(), append(c.env, "STATE="+state)...)
	if mnt != "" {
		cmd.Env = append(cmd.Env, "MNT="+mnt)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w: %s", command, err, bytes.TrimSpace(said))
	}
	return nil
}

// mounted tells whether something is mounted on dir itself.
func mounted(dir string) bool {
	var st, up unix.Stat_t
	if unix.Stat(dir, &st) != nil || unix.Stat(filepath.Dir(dir), &up) != nil {
		return false
	}
	return st.Dev != up.Dev
}

// abort cuts the connection of a FUSE mount that hangs.
func abort(mnt string) {
	if mountedNoStat(mnt) {
		unix.Unmount(mnt, unix.MNT_FORCE)
		unix.Unmount(mnt, unix.MNT_DETACH)
	}
}

// mountedNoStat looks into the mount table: a stat might hang.
func mountedNoStat(mnt string) bool {
	b, _ := os.ReadFile("/proc/self/mounts")
	return strings.Contains(string(b), " "+mnt+" ")
}

// usage is what processes have used.
type usage struct {
	cpu  time.Duration
	peak int64 // bytes
}

// gather adds what processes have used; it is called just before they end.
func (u *usage) gather(pids ...int) {
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(f) < 13 {
			continue
		}
		for _, ticks := range f[11:13] { // utime, stime in 1/100 s (proc(5))
			n, _ := strconv.ParseInt(ticks, 10, 64)
			u.cpu += time.Duration(n) * 10 * time.Millisecond
		}
		u.peak = max(u.peak, statusBytes(pid, "VmHWM:"))
	}
}

// statusBytes reads a size from /proc/PID/status.
func statusBytes(pid int, key string) int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.SplitSeq(string(status), "\n") {
		if rest, ok := strings.CutPrefix(line, key); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// daemons finds the processes that have the mount point among their arguments, or
// as MNT in their environment.
func daemons(mnt string) []int {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", p.Name(), "cmdline"))
		environ, _ := os.ReadFile(filepath.Join("/proc", p.Name(), "environ"))
		if bytes.Contains(cmdline, []byte(mnt)) || bytes.Contains(environ, []byte("MNT="+mnt+"\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// alive tells whether a process still runs; a zombie does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	rest := strings.TrimSpace(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// machine describes where the run was.
func machine() string {
	var u unix.Utsname
	unix.Uname(&u)
	load, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf("Linux %s, %s, %d CPUs, load %s at the begin", unix.ByteSliceToString(u.Release[:]), runtime.GOARCH, runtime.NumCPU(), first)
}
