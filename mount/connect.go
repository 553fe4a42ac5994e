package mount

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/massif-fs/massif/door/control"
)

// Client is a connection to a mount's control socket.
type Client = control.Client

// Connect opens the control socket of the mount at a mount point.
func Connect(ctx context.Context, point string) (*Client, error) {
	resolved, err := ResolvePoint(point)
	if err != nil {
		return nil, err
	}
	running, alive, err := Find(resolved)
	if err != nil {
		return nil, err
	}
	if alive {
		return connect(ctx, running)
	}
	m, mounted, err := mountedAt(resolved)
	switch {
	case err != nil:
		return nil, fmt.Errorf("mount table: %w", err)
	case mounted && m.Type == FuseType && IsDead(resolved):
		return nil, fmt.Errorf("the mount at %s is dead: its process is gone; remove it with: massif umount %s", point, point)
	case mounted && m.Type == FuseType:
		return nil, fmt.Errorf("the mount at %s is another user's", point)
	}
	return nil, fmt.Errorf("%s is not a mount point of massif; \"massif mounts\" lists them", point)
}

func connect(ctx context.Context, r Running) (*Client, error) {
	c, err := control.Dial(ctx, r.Control)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
		return nil, fmt.Errorf("the mount at %s is starting or ending just now (process %d)", r.Point, r.PID)
	}
	if err != nil {
		return nil, fmt.Errorf("the mount at %s (process %d): %w", r.Point, r.PID, err)
	}
	return c, nil
}
