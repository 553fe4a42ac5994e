package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/massif-fs/massif/door/fuse"
	"github.com/massif-fs/massif/telemetry"
)

// observer is how a mount can be watched: counts and times of its operations,
// metrics over HTTP, and the access log.
type observer struct {
	ops    *telemetry.Ops
	access telemetry.AccessLog
	web    *telemetry.Server // nil without metrics-addr
	file   *accessFile       // nil without access-log
}

func newObserver() *observer {
	names := make([]string, fuse.OpCount)
	for i := range names {
		names[i] = fuse.OpName(i)
	}
	return &observer{ops: telemetry.NewOps(names)}
}

// start begins what the options ask for, on a mount that answers.
func (b *observer) start(s *server) error {
	o := &s.spec.Mount
	b.access.OnChange(func(active bool) {
		if active {
			s.fuse.SetAccessLog(b.record)
		} else {
			s.fuse.SetAccessLog(nil)
		}
	})
	if o.AccessLog != "" {
		file, err := startAccessFile(&b.access, o.AccessLog)
		if err != nil {
			return err
		}
		b.file = file
	}
	if o.MetricsAddr == "" {
		return nil
	}
	metrics := telemetry.New("")
	labels := telemetry.Labels{"point": s.point}
	if _, err := metrics.AddOps("fuse", labels, b.ops); err != nil {
		return err
	}
	parts := map[string]func() any{"mount": func() any { return s.fuse.Stats() }}
	for name, read := range s.opened.Stats {
		parts[name] = read
	}
	for name, read := range parts {
		if _, err := metrics.AddStats(name, labels, read); err != nil {
			return err
		}
	}
	var err error
	if b.web, err = metrics.Serve(o.MetricsAddr, telemetry.ServeOptions{Pprof: o.Pprof, Logger: s.log.Logger}); err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return fmt.Errorf("metrics address %s: %w", o.MetricsAddr, err)
	}
	s.log.Info("metrics", "url", fmt.Sprintf("http://%s/metrics", b.web.Addr()), "pprof", o.Pprof)
	return nil
}

// close ends everything that start began.
func (b *observer) close() error {
	var errs []error
	if b.web != nil {
		errs = append(errs, b.web.Close())
	}
	if b.file != nil {
		errs = append(errs, b.file.close())
	}
	return errors.Join(errs...)
}

// record is called by the door while somebody listens to the access log.
func (b *observer) record(a *fuse.Access) {
	line := telemetry.Access{
		Op: fuse.OpName(a.Op), Ino: a.Ino, Name: a.Name, UID: a.UID, GID: a.GID, PID: a.PID,
		Start: a.Start, Duration: a.Duration, Bytes: a.Bytes, Errno: a.Errno,
	}
	b.access.Append(line.AppendLine(nil))
}

// accessFile writes the access log to a file as long as the mount lives.
type accessFile struct {
	listener *telemetry.Listener
	file     *os.File
	done     chan error
}

func startAccessFile(log *telemetry.AccessLog, path string) (*accessFile, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	a := &accessFile{listener: log.Listen(4 << 20), file: f, done: make(chan error, 1)}
	go func() {
		for {
			lines, err := a.listener.Next(context.Background())
			if err == nil {
				_, err = f.Write(lines)
			}
			if err != nil {
				if err == io.EOF {
					err = nil
				}
				a.done <- err
				return
			}
		}
	}()
	return a, nil
}

func (a *accessFile) close() error {
	err := a.listener.Close()
	if err = errors.Join(err, <-a.done, a.file.Close()); err != nil {
		return fmt.Errorf("access log: %w", err)
	}
	return nil
}
