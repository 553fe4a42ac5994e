package mount

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/telemetry"
)

// DaemonArg is the first argument behind "mount" of a process that Start makes:
// the program's main function hands such a process to [RunDaemon] at once.
const DaemonArg = "--daemon-of-mount"

// daemonFD is the descriptor over which a daemon gets its spec and answers.
const daemonFD = 3

// daemonOrder is what Start tells the daemon.
type daemonOrder struct {
	Spec    *Spec  `json:"spec"`
	Point   string `json:"point"`
	LogFile string `json:"logFile"`
	// Passphrase of an encrypted tree: it goes through the socket like the spec, and
	// neither through the command line nor the environment.
	Passphrase []byte `json:"passphrase,omitempty"`
	// Secret is what else a tree needs to know that is no part of its spec.
	Secret any `json:"secret,omitempty"`
}

// secretTree is a TreeConfig with secrets that stand in no spec.
type secretTree interface {
	// Secret returns them for SetSecret in another process; nil: there are none.
	Secret() any
	SetSecret(data json.RawMessage) error
}

// daemonAnswer is what the daemon tells Start.
type daemonAnswer struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	Usage bool   `json:"usage,omitempty"`
}

// Start serves a spec at a mount point from a new process in the background. It
// returns when the mount answers, or with the new process's error.
//
// The new process is this program again, in a session of its own, with its log
// file as output. Its spec goes through a socket: it may be long, and need not be
// seen by everybody who runs ps.
func Start(ctx context.Context, spec *Spec, point string) error {
	defer spec.Passphrase.Wipe()
	if err := spec.Validate(); err != nil {
		return err
	}
	resolved, err := ResolvePoint(point)
	if err != nil {
		return err
	}
	logFile, log, err := openLogFile(spec, resolved)
	if err != nil {
		return err
	}
	defer log.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	defer ours.Close()

	source := spec.Source
	if source == "" {
		source = spec.Tree.Kind
	}
	cmd := &exec.Cmd{
		Path: "/proc/self/exe",
		// The mount point is on the command line so that people find the process.
		Args:        []string{"massif", "mount", DaemonArg, source, resolved},
		Dir:         "/",
		Env:         withoutPassphrase(os.Environ()),
		Stdout:      log,
		Stderr:      log,
		ExtraFiles:  []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("mount: start in the background: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()

	order := daemonOrder{Spec: spec, Point: resolved, LogFile: logFile, Passphrase: spec.Passphrase}
	if t, ok := spec.Tree.Config.(secretTree); ok {
		order.Secret = t.Secret()
	}
	answer, err := converse(ours, order)
	switch {
	case err == nil && answer.OK:
		cmd.Process.Release()
		return answered(resolved)
	case ctx.Err() != nil:
		cmd.Wait()
		return fmt.Errorf("mount %s: %w", resolved, ctx.Err())
	case err == nil:
		cmd.Wait()
		if answer.Usage {
			return &UsageError{errors.New(answer.Error)}
		}
		return errors.New(answer.Error)
	}
	waitErr := cmd.Wait()
	return fmt.Errorf("mount %s: the background process ended before the mount was ready (%v); its log is %s", resolved, exitReason(waitErr), logFile)
}

// withoutPassphrase removes the passphrase from an environment.
func withoutPassphrase(env []string) []string {
	return slices.DeleteFunc(env, func(s string) bool { return strings.HasPrefix(s, PassphraseEnv+"=") })
}

// answered checks from this side that the mount is there.
func answered(point string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(point, &st); err != nil {
		return fmt.Errorf("mount %s: it does not answer: %w", point, err)
	}
	return nil
}

func converse(conn io.ReadWriter, order daemonOrder) (daemonAnswer, error) {
	var answer daemonAnswer
	if err := json.NewEncoder(conn).Encode(order); err != nil {
		return answer, err
	}
	err := json.NewDecoder(bufio.NewReader(conn)).Decode(&answer)
	return answer, err
}

func exitReason(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "daemon"), os.NewFile(uintptr(fds[1]), "daemon"), nil
}

// RunDaemon is the main function of the process that Start makes. It returns the
// process's exit status.
func RunDaemon() int {
	conn := os.NewFile(daemonFD, "start")
	if conn == nil || unix.SetNonblock(daemonFD, false) != nil {
		fmt.Fprintln(os.Stderr, "massif: this way of starting is for massif itself")
		return 2
	}
	unix.CloseOnExec(daemonFD)
	answer := func(a daemonAnswer) {
		json.NewEncoder(conn).Encode(a) // nobody there to read it is no loss
		conn.Close()
	}
	var order struct {
		Spec       json.RawMessage `json:"spec"`
		Point      string          `json:"point"`
		LogFile    string          `json:"logFile"`
		Passphrase []byte          `json:"passphrase"`
		Secret     json.RawMessage `json:"secret"`
	}
	if err := json.NewDecoder(conn).Decode(&order); err != nil {
		answer(daemonAnswer{Error: "background process: order: " + err.Error()})
		return 1
	}
	spec, err := ParseSpec(order.Spec)
	if err != nil {
		answer(daemonAnswer{Error: "background process: spec: " + err.Error()})
		return 1
	}
	if len(order.Passphrase) > 0 {
		spec.Passphrase = order.Passphrase
	}
	if t, ok := spec.Tree.Config.(secretTree); ok && len(order.Secret) > 0 {
		if err := t.SetSecret(order.Secret); err != nil {
			answer(daemonAnswer{Error: "background process: the order's secret is not well formed"})
			return 1
		}
	}
	log, err := OpenLog(&spec.Mount, order.LogFile)
	if err != nil {
		answer(daemonAnswer{Error: err.Error()})
		return 1
	}
	slog.SetDefault(log.Logger)
	ready := false
	err = Serve(context.Background(), spec, order.Point, ServeOptions{
		Log:   log,
		Ready: func() { ready = true; answer(daemonAnswer{OK: true}) },
	})
	if err == nil {
		return 0
	}
	log.Error("mount ended", "err", err)
	if !ready {
		var usage *UsageError
		answer(daemonAnswer{Error: printable(err.Error()), Usage: errors.As(err, &usage)})
	}
	return 1
}

// OpenLog opens the log that a mount's options ask for, in the given file, or on
// standard error if that is empty.
func OpenLog(o *Options, file string) (*telemetry.Log, error) {
	l := telemetry.Logging{File: file}
	var err error
	if o.LogLevel != "" {
		if l.Level, err = telemetry.ParseLevel(o.LogLevel); err != nil {
			return nil, err
		}
	}
	if l.Format, err = telemetry.ParseFormat(o.LogFormat); err != nil {
		return nil, err
	}
	return telemetry.OpenLog(l)
}

// maxLogFile is the size at which a log is set aside when its mount starts.
const maxLogFile = 16 << 20

// openLogFile opens the log of a mount for appending.
func openLogFile(spec *Spec, point string) (path string, f *os.File, err error) {
	path = spec.Mount.LogFile
	if path == "" {
		if path, err = logPath(point); err != nil {
			return "", nil, err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", nil, fmt.Errorf("log directory: %w", err)
		}
	}
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Size() > maxLogFile {
		if err := os.Rename(path, path+".old"); err != nil {
			return "", nil, fmt.Errorf("log file: %w", err)
		}
	}
	f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return "", nil, fmt.Errorf("log file: %w", err)
	}
	return path, f, nil
}

// logName makes a file name of a mount point that people recognize and that no
// other mount point has.
func logName(point string) string {
	name := strings.ReplaceAll(strings.Trim(point, "/"), "/", "-")
	if len(name) > 80 {
		name = name[len(name)-80:]
	}
	return name + "-" + pointKey(point)[:6]
}
