// Package cli is the command line of massif: one file a command, with the tests
// of the command beside it.
//
// Commands print what they found on standard output (with --json as JSON), and
// errors as one sentence on standard error. The exit status is 0 if all went
// well, 1 if not, 2 if the command line makes no sense.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/internal/terminal"
	"github.com/massif-fs/massif/mount"
)

// Exit statuses.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// streams are what a command reads and writes.
type streams struct {
	in  io.Reader
	out io.Writer
	err io.Writer
}

// Main runs the program with its arguments, the first being its name, and returns
// the exit status.
func Main(args []string) int {
	// The background half of "massif mount" comes first: it must be quick.
	if len(args) > 2 && args[1] == "mount" && args[2] == mount.DaemonArg {
		return mount.RunDaemon()
	}
	secrets := []string{"token", "secret"}
	if p := findPersonality(filepath.Base(args[0])); p != nil {
		secrets = append(secrets, p.secrets...)
	}
	args = terminal.Hide(args, secrets...)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return run(ctx, args, streams{os.Stdin, os.Stdout, os.Stderr})
}

func run(ctx context.Context, args []string, s streams) int {
	err := dispatch(ctx, args, s)
	if err == nil {
		return exitOK
	}
	if errors.Is(err, errReported) {
		return exitError
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		fmt.Fprintln(s.err, "massif: interrupted")
		return exitError
	}
	name := "massif"
	if p := findPersonality(filepath.Base(args[0])); p != nil {
		name = p.Name
		if p.failure != "" {
			fmt.Fprintf(s.err, "%s: %s\n", p.failure, sentence(err))
			return exitError
		}
	}
	fmt.Fprintf(s.err, "%s: %s\n", name, sentence(err))
	var usage *mount.UsageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitError
}

// errReported is the error of a command that has already said what is wrong.
var errReported = errors.New("reported")

// sentence makes one line of an error.
func sentence(err error) string {
	lines := strings.Split(err.Error(), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}

// dispatch chooses the personality by the name the program was started under.
func dispatch(ctx context.Context, args []string, s streams) error {
	switch filepath.Base(args[0]) {
	case "mount.massif", "mount.fuse.massif":
		return mountHelper(ctx, args[1:], s)
	case "umount.massif", "umount.fuse.massif":
		return umountHelper(ctx, args[1:], s)
	}
	if p := findPersonality(filepath.Base(args[0])); p != nil {
		return p.run(ctx, args[1:], s)
	}
	root := newRoot(s)
	// mount.fuse(8), which mount(8) starts for the type fuse.massif where no helper
	// of ours is installed, runs "massif SOURCE DIR -o OPTIONS".
	if len(args) == 5 && args[3] == "-o" && !hasCommand(root, args[1]) && !strings.HasPrefix(args[1], "-") {
		return mountHelper(ctx, args[1:], s)
	}
	root.SetArgs(args[1:])
	err := root.ExecuteContext(ctx)
	if err != nil && strings.HasPrefix(err.Error(), "unknown command ") {
		err = usageError("%s", strings.ReplaceAll(err.Error(), "\n\t", " "))
	}
	return err
}

func hasCommand(root *cobra.Command, name string) bool {
	for _, c := range root.Commands() {
		if c.Name() == name || c.HasAlias(name) {
			return true
		}
	}
	return name == "help" || name == "completion"
}

// usageError says that a command line makes no sense.
func usageError(format string, args ...any) error {
	return &mount.UsageError{Err: fmt.Errorf(format, args...)}
}
