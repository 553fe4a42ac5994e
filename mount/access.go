package mount

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/massif-fs/massif/door/fuse"
)

// accessLog writes a line for every file system call, as long as it has a file.
// Lines are collected for up to a second. Its methods may be called concurrently.
//
// A line has: time, user, group and process of the caller, operation, inode, name,
// bytes, errno, microseconds; such as
//
//	2026-01-02T15:04:05.000000 1000:1000:4711 write ino=42 bytes=4096 ok 12µs
type accessLog struct {
	mu   sync.Mutex
	file *os.File
	w    *bufio.Writer
	line []byte
	stop chan struct{} // ends the flusher
	done chan struct{}
}

// open starts logging to a file, in place of one that is being written.
func (l *accessLog) open(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("access log: %w", err)
	}
	if err := l.close(); err != nil {
		f.Close()
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file, l.w = f, bufio.NewWriterSize(f, 256<<10)
	l.stop, l.done = make(chan struct{}), make(chan struct{})
	go l.flusher(l.stop, l.done)
	return nil
}

// close ends logging. Without a file it does nothing.
func (l *accessLog) close() error {
	l.mu.Lock()
	if l.file == nil {
		l.mu.Unlock()
		return nil
	}
	stop, done := l.stop, l.done
	l.mu.Unlock()
	close(stop)
	<-done
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.w.Flush()
	if cerr := l.file.Close(); err == nil {
		err = cerr
	}
	l.file, l.w = nil, nil
	if err != nil {
		return fmt.Errorf("access log: %w", err)
	}
	return nil
}

func (l *accessLog) flusher(stop, done chan struct{}) {
	defer close(done)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			l.mu.Lock()
			l.w.Flush() // its error stays in the writer and is close's
			l.mu.Unlock()
		}
	}
}

// record is called by the door.
func (l *accessLog) record(a *fuse.Access) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w == nil {
		return
	}
	b := a.Start.AppendFormat(l.line[:0], "2006-01-02T15:04:05.000000")
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(a.UID), 10)
	b = append(b, ':')
	b = strconv.AppendUint(b, uint64(a.GID), 10)
	b = append(b, ':')
	b = strconv.AppendUint(b, uint64(a.PID), 10)
	b = append(b, ' ')
	b = append(b, fuse.OpName(a.Op)...)
	b = append(b, " ino="...)
	b = strconv.AppendUint(b, a.Ino, 10)
	if a.Name != "" {
		b = append(b, " name="...)
		b = strconv.AppendQuote(b, a.Name)
	}
	if a.Bytes != 0 {
		b = append(b, " bytes="...)
		b = strconv.AppendInt(b, int64(a.Bytes), 10)
	}
	b = append(b, ' ')
	if a.Errno == 0 {
		b = append(b, "ok"...)
	} else {
		b = append(b, errnoName(a.Errno)...)
	}
	b = append(b, ' ')
	b = strconv.AppendInt(b, a.Duration.Microseconds(), 10)
	b = append(b, "µs\n"...)
	l.line = b
	l.w.Write(b) // its error stays in the writer and is close's
}
