package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/massif-fs/massif/internal/freeport"
)

// process is a server that the benchmark has started: it outlives mounts, and ends
// with stop. It has a session of its own, so that an interrupt at the terminal does
// not take it from under a mount.
type process struct {
	cmd *exec.Cmd
	log string
}

// readyTime is how long a server has to begin, endTime how long to end.
const readyTime, endTime = 30 * time.Second, 30 * time.Second

// start starts a server in a directory of its own, state/name, with its output in
// log there, and waits until ready says that it answers.
func start(ctx context.Context, state, name string, env []string, ready func(log string) bool, program string, args ...string) (*process, error) {
	dir := filepath.Join(state, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(program, args...), log: filepath.Join(dir, "log")}
	out, err := os.OpenFile(p.log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(readyTime); ; time.Sleep(20 * time.Millisecond) {
		switch {
		case ready(p.log):
			return p, nil
		case ctx.Err() != nil:
			err = ctx.Err()
		case !alive(p.pid()):
			err = fmt.Errorf("%s ended at once", name)
		case time.Now().After(end):
			err = fmt.Errorf("%s does not answer", name)
		}
		if err != nil {
			said, _ := os.ReadFile(p.log)
			return nil, fmt.Errorf("%w: %s", errors.Join(err, p.stop()), strings.TrimSpace(string(said)))
		}
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the server, by force if it does not end by itself.
func (p *process) stop() error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(endTime, func() { p.cmd.Process.Kill() })
	err := p.cmd.Wait()
	if !kill.Stop() {
		err = fmt.Errorf("it did not end within %v: %w", endTime, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(p.cmd.Path), err)
	}
	return nil
}

// freePorts chooses n different ports of the loopback interface that nobody listens on.
func freePorts(n int) ([]string, error) {
	var ports []string
	for len(ports) < n {
		port, err := freeport.Choose()
		if err != nil {
			return nil, err
		}
		if !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	return ports, nil
}

// massifServers starts an admin and a metadata server in one process, with a volume
// named bench whose blocks lie in state/store. addr is the admin server's; the
// credentials are below state/home. ports are its two ports.
func massifServers(ctx context.Context, program string, env []string, state string, ports []string) (p *process, addr string, err error) {
	addr = "localhost:" + ports[0]
	env = append([]string{"MASSIF_HOME=" + filepath.Join(state, "home")}, env...)
	p, err = start(ctx, state, "server", env, func(log string) bool {
		said, _ := os.ReadFile(log)
		return strings.Contains(string(said), "metadata server local on")
	}, program, "serve", "all", "--dir", filepath.Join(state, "server"), "--listen", addr, "--meta-listen", "localhost:"+ports[1],
		"--store", "file://"+filepath.Join(state, "store"), "--volume", "bench")
	return p, addr, err
}

// redisServer starts a Redis with its database in state/redis, as JuiceFS's documents
// ask for: an append-only file that is flushed each second.
func redisServer(ctx context.Context, state string) (p *process, addr string, err error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, "", err
	}
	addr = "127.0.0.1:" + ports[0]
	p, err = start(ctx, state, "redis", nil, func(string) bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return false
		}
		c.Close()
		return true
	}, "redis-server", "--bind", "127.0.0.1", "--port", ports[0], "--dir", filepath.Join(state, "redis"), "--save", "",
		"--appendonly", "yes", "--appendfsync", "everysec")
	return p, addr, err
}
