// Package wildland is the personality of wildland-fuse, the FUSE driver of Wildland: its
// command line, with a namespace of Massif behind it. What is mounted in that is said
// through its control socket (package mount/nscommands).
//
//	wildland-fuse MOUNTPOINT [-f] [-d] [-s] [-o OPTIONS]
//
// OPTIONS are log=PATH (- is standard error), socket=PATH, breakpoint, single_thread,
// default_user=0x…, events=lower|upper, fsname=, subtype=, and all mount options of Massif.
//
// The control socket is at /tmp/wlfuse.sock unless named; a living driver's is never
// taken over. The program returns when the mount and the socket answer; with -f (and -d,
// which also logs more) it stays. It ends when the file system is unmounted.
//
// As with the original, others than the mounting user may enter only where /etc/fuse.conf has
// the line user_allow_other. Where they may not, the kernel checks no permissions; where they
// may, it does, unlike the original's.
package wildland

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/massif-fs/massif/mount"
)

// DefaultSocket is where the control socket is if no option says otherwise.
const DefaultSocket = "/tmp/wlfuse.sock"

// Personality runs wildland-fuse.
type Personality struct {
	Out, Err io.Writer
	// Serve serves a mount in this process until it ends.
	Serve func(ctx context.Context, spec *mount.Spec, point string) error
}

// request is what a command line asks for.
type request struct {
	point      string
	foreground bool
	logFile    string // "-": standard error
	tree       mount.NamespaceTree
	options    mount.Options
}

const usage = "usage: wildland-fuse MOUNTPOINT [-f] [-d] [-s] [-o OPTIONS]"

// Run runs a command line, without the program's name. One that makes no sense is a
// *mount.UsageError.
func (p *Personality) Run(ctx context.Context, args []string) error {
	r, err := parse(args)
	if errors.Is(err, pflag.ErrHelp) {
		_, err = fmt.Fprintln(p.Out, usage)
		return err
	}
	if err != nil {
		return err
	}
	spec, err := r.spec()
	if err != nil {
		return err
	}
	if r.foreground {
		return p.Serve(ctx, spec, r.point)
	}
	return mount.Start(ctx, spec, r.point)
}

func usageError(format string, args ...any) error {
	return &mount.UsageError{Err: fmt.Errorf(format, args...)}
}

// parse reads a command line.
func parse(args []string) (*request, error) {
	r := &request{tree: mount.NamespaceTree{Socket: DefaultSocket}}
	flags := pflag.NewFlagSet("wildland-fuse", pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.BoolVarP(&r.foreground, "foreground", "f", false, "stay in the foreground")
	debug := flags.BoolP("debug", "d", false, "stay in the foreground and log more")
	flags.BoolP("single-thread", "s", false, "accepted; requests never wait for each other here")
	lists := flags.StringArrayP("option", "o", nil, "options, divided by commas")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil, err
		}
		return nil, usageError("%w; %s", err, usage)
	}
	if flags.NArg() != 1 {
		return nil, usageError("one mount point is expected; %s", usage)
	}
	r.point = flags.Arg(0)
	if *debug {
		r.foreground = true
		r.options.LogLevel = "debug"
	}
	for _, list := range *lists {
		for _, word := range mount.SplitOptions(list) {
			if err := r.option(word); err != nil {
				return nil, err
			}
		}
	}
	return r, nil
}

// option takes a word of -o.
func (r *request) option(word string) (err error) {
	name, value, hasValue := strings.Cut(word, "=")
	need := func(into *string, path bool) error {
		if value == "" {
			return usageError("option %q needs a value: %s=…", name, name)
		}
		*into = value
		if path {
			*into, err = filepath.Abs(value)
		}
		return err
	}
	switch name {
	case "":
		return nil
	case "log":
		if value == "-" {
			r.logFile = value
			return nil
		}
		return need(&r.logFile, true)
	case "socket":
		return need(&r.tree.Socket, true)
	case "default_user", "default-user":
		return need(&r.tree.DefaultUser, false)
	case "events":
		return need(&r.tree.Events, false)
	case "subtype":
		return need(&r.tree.Subtype, false)
	case "breakpoint", "single_thread", "single-thread":
		if hasValue {
			return usageError("option %q takes no value", name)
		}
		r.tree.Breakpoint = r.tree.Breakpoint || name == "breakpoint"
		return nil
	}
	return r.options.ParseOptions(strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(word))
}

// spec is the mount that is asked for.
func (r *request) spec() (*mount.Spec, error) {
	if r.options.AllowOther == nil {
		allow, err := othersMayEnter("/etc/fuse.conf")
		if err != nil {
			return nil, err
		}
		r.options.AllowOther = &allow
	}
	if r.options.DefaultPermissions == nil {
		r.options.DefaultPermissions = r.options.AllowOther
	}
	switch {
	case r.logFile == "-" && r.foreground:
	case r.logFile == "-" || r.logFile == "":
		if r.foreground {
			break
		}
		file, err := defaultLog()
		if err != nil {
			return nil, err
		}
		r.options.LogFile = file
	default:
		r.options.LogFile = r.logFile
	}
	source := r.options.FSName
	if source == "" {
		source = "wildland"
	}
	spec := &mount.Spec{Tree: mount.Tree{Kind: "namespace", Config: &r.tree}, Mount: r.options, Source: source}
	return spec, spec.Validate()
}

// othersMayEnter tells whether a FUSE configuration has the line user_allow_other.
func othersMayEnter(config string) (bool, error) {
	f, err := os.Open(config)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("configuration of FUSE: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.TrimSpace(s.Text()) == "user_allow_other" {
			return true, nil
		}
	}
	return false, nil
}

// defaultLog is the log file of the original, made with the mode it has there.
func defaultLog() (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("log file: %w; name one with -o log=PATH", err)
	}
	file := filepath.Join(home, ".local", "share", "wildland", "wl-fuse.log")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", fmt.Errorf("log file: %w", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return "", fmt.Errorf("log file: %w", err)
	}
	return file, f.Close()
}
