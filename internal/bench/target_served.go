package main

import (
	"context"
	"errors"
	"os/exec"
)

// served is a Target whose mounts need a server, which lives from Setup to Teardown.
// The shell commands see its address as $SERVER.
type served struct {
	commands
	start  func(ctx context.Context, state string) (p *process, addr string, err error)
	server *process
}

// Shared is a shared volume of the given program: a mount through an admin and a
// metadata server on this machine, over TLS, with the blocks in a directory. direct
// lets the mount read and write that directory; else its blocks go through the server,
// since a directory cannot sign URLs.
func Shared(program, suffix string, direct bool) Target {
	t := &served{commands: Massif(program, "-shared"+suffix, "", "").(commands)}
	t.setup = ""
	if direct {
		t.setup = `export MASSIF_HOME=$STATE/home && "$MASSIF" admin update volume bench --block-access direct`
	}
	t.mount = `export MASSIF_HOME=$STATE/home && "$MASSIF" mount "$SERVER/bench" "$MNT" --cache-dir "$STATE/cache"`
	t.start = func(ctx context.Context, state string) (*process, string, error) {
		ports, err := freePorts(2)
		if err != nil {
			return nil, "", err
		}
		return massifServers(ctx, program, nil, state, ports)
	}
	return t
}

// JuiceFSRedis has its metadata in a Redis of its own and its blocks in a directory.
func JuiceFSRedis() Target {
	return &served{commands: juiceFS("juicefs-redis", "redis://$SERVER/1", ""), start: redisServer}
}

func (t *served) Setup(ctx context.Context, state string) error {
	p, addr, err := t.start(ctx, state)
	if err != nil {
		return err
	}
	t.server = p
	t.env = append([]string{"SERVER=" + addr}, t.env...)
	if err := t.commands.Setup(ctx, state); err != nil {
		return errors.Join(err, t.Teardown(ctx, state))
	}
	return nil
}

func (t *served) Teardown(context.Context, string) error {
	t.env = t.env[1:]
	p := t.server
	t.server = nil
	return p.stop()
}

// serverPID is the server's process.
func (t *served) serverPID() int { return t.server.pid() }

// Found lists Local, Massif with its own metadata and through a server, and those
// others whose programs are on PATH.
func Found(massif string) []Target {
	targets := []Target{Local(), Massif(massif, "", "", ""), Shared(massif, "", false)}
	if onPath("bindfs") {
		targets = append(targets, Bindfs())
	}
	if onPath("juicefs") {
		targets = append(targets, JuiceFS())
		if onPath("redis-server") {
			targets = append(targets, JuiceFSRedis())
		}
	}
	return targets
}

// Variants are further targets, which are measured when they are named.
func Variants(massif string) []Target {
	targets := []Target{Shared(massif, "-direct", true)}
	if onPath("juicefs") {
		targets = append(targets, JuiceFSXattr())
	}
	return targets
}

func onPath(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}
