// Package cloudfuse is the personality of Cloudfuse, and of blobfuse2 that it came
// from: their commands, flags, fstab lines, configuration files and environment, with
// Massif's buckets behind them. It only translates: what is mounted is a spec.
//
//	cloudfuse mount DIR --config-file=FILE [FLAGS] [-o OPTIONS]
//	cloudfuse mount all DIR --config-file=FILE [FLAGS]
//	cloudfuse mount list
//	cloudfuse unmount DIR, unmount all
//	cloudfuse secure encrypt|decrypt|get|set --config-file=FILE
//	cloudfuse gen-config, health-monitor, service, completion, version, help
//
// and, as mount(8) calls it: cloudfuse DIR -o OPTIONS, where options that begin with
// "--" are flags.
//
// # Configuration
//
// A value comes from a flag, else from the environment, else from the configuration
// file, else it is the default. The table of keys knows those of every version. A key
// that is unknown, and one that changes nothing here, is warned about by name and
// line: nothing is passed over in silence. doc/cloudfuse.md lists what differs.
//
// Configuration files may be encrypted as a whole (package seal has the formats).
//
// # Exit statuses and sentences
//
// Every failure has exit status 1 and a sentence on standard error that begins with
// "cloudfuse error: ". Sentences that programs look for are those of Cloudfuse, with
// the cause behind them.
package cloudfuse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/mount"
)

// Streams are what a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Build says what program this is.
type Build struct{ Version, Commit, Date string }

// Personality runs commands of Cloudfuse.
type Personality struct {
	Streams
	Build
	// Serve serves a mount in this process until it ends.
	Serve func(ctx context.Context, spec *mount.Spec, point string) error
}

// Failure is what sentences about failures begin with.
const Failure = "cloudfuse error"

// Run runs a command line, without the program's name.
func (p *Personality) Run(ctx context.Context, args []string) error {
	root := p.root()
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") && !isCommand(root, args[0]) {
		var err error
		if args, err = mountArgs(args); err != nil {
			return err
		}
	}
	args, err := expandOptions(args)
	if err != nil {
		return err
	}
	root.SetArgs(args)
	err = root.ExecuteContext(ctx)
	if err != nil && strings.HasPrefix(err.Error(), "unknown command ") {
		return usageError("%s", strings.ReplaceAll(err.Error(), "\n\t", " "))
	}
	return err
}

func usageError(format string, args ...any) error {
	return &mount.UsageError{Err: fmt.Errorf(format, args...)}
}

func (p *Personality) warn(format string, args ...any) {
	fmt.Fprintf(p.Err, "cloudfuse warning: "+format+"\n", args...)
}

func (p *Personality) root() *cobra.Command {
	root := &cobra.Command{
		Use: "cloudfuse", Short: "Mount a bucket or container of S3 or Azure storage", SilenceErrors: true, SilenceUsage: true,
		Version: p.Version, Args: cobra.ArbitraryArgs,
		RunE: func(*cobra.Command, []string) error {
			return usageError("missing command options; \"cloudfuse help\" lists the commands")
		},
	}
	root.SetVersionTemplate("cloudfuse version {{.Version}}\n")
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	root.SetFlagErrorFunc(cmdline.FlagErrors("unknown flag:", true))
	root.PersistentFlags().Bool("disable-version-check", false, "no effect: no version is ever asked for")
	root.AddCommand(p.mountCommand(), p.unmountCommand(), p.secureCommand(), p.genConfigCommand(),
		p.serviceCommand(), p.healthCommand(), p.versionCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	return root
}

func isCommand(root *cobra.Command, name string) bool {
	return strings.HasPrefix(name, "__complete") ||
		slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == name || c.HasAlias(name) })
}

// group makes a command that only holds others.
func group(cmd *cobra.Command, sub ...*cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return cmdline.UnknownCommand(cmd, args[0])
		}
		return usageError("missing command options; \"%s --help\" lists the commands", cmd.CommandPath())
	}
	cmd.AddCommand(sub...)
	return cmd
}

func (p *Personality) versionCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use: "version", Aliases: []string{"ver"}, Short: "Print the version", Args: cmdline.Args(0),
		RunE: func(*cobra.Command, []string) error {
			if check {
				p.warn("--check: Massif asks nobody for newer versions")
			}
			_, err := fmt.Fprintf(p.Out, "cloudfuse version: %s\ngit commit: %s\ncommit date: %s\ngo version: %s\nOS/Arch: %s/%s\n",
				p.Version, p.Commit, p.Date, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "no effect: no version is ever asked for")
	return cmd
}

// home is the directory of a user whose processes may have no $HOME.
func home() (string, error) {
	dir, err := os.UserHomeDir()
	switch {
	case err == nil && dir != "":
		return dir, nil
	case os.Geteuid() == 0:
		return "/root", nil // mount(8) started by init has none
	}
	return "", errors.New("HOME is not set")
}
