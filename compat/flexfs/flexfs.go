// Package flexfs is the personality of mount.flexfs, the mount client of flexFS: its
// commands, flags, credentials files and fstab lines, with Massif's shared volumes
// behind them. It only translates: what is mounted is a spec of the kind "shared".
//
//	mount.flexfs init creds --adminAddr HOST:PORT [--token UUID] [--secret TEXT] [--credsFile FILE] [--force]
//	mount.flexfs deinit creds [NAME]
//	mount.flexfs init fstab NAME DIR [--credsFile FILE] [--mountOptions LIST] [--now] [--force]
//	mount.flexfs deinit fstab [NAME] DIR
//	mount.flexfs start NAME DIR [FLAGS]
//	mount.flexfs version, license
//
// and, as mount(8) calls it for the type flexfs: mount.flexfs NAME DIR -o OPTIONS,
// where every flag of start is an option.
//
// Credentials lie where flexFS keeps them, in ~/.flexfs/mount/creds/NAME. NAME is the
// volume's name or an alias: any name that a credentials file was given.
//
// Flags are those of every version of flexFS that is documented. One that has no
// effect here (because Massif does by itself what it is for, or does without) is
// accepted with a warning that says why; an unknown one is refused by name.
package flexfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
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

// Personality runs commands of mount.flexfs.
type Personality struct {
	Streams
	Version string
	// Serve serves a mount in this process until it ends.
	Serve func(ctx context.Context, spec *mount.Spec, point string) error
}

// Run runs a command line, without the program's name. A command line that makes no
// sense is a *mount.UsageError.
func (p *Personality) Run(ctx context.Context, args []string) error {
	if isHelperCall(args) {
		return p.helper(ctx, args)
	}
	root := p.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && strings.HasPrefix(err.Error(), "unknown command ") {
		return usageError("%s", strings.ReplaceAll(err.Error(), "\n\t", " "))
	}
	return err
}

func usageError(format string, args ...any) error {
	return &mount.UsageError{Err: fmt.Errorf(format, args...)}
}

func (p *Personality) root() *cobra.Command {
	root := &cobra.Command{
		Use: "mount.flexfs", Short: "Mount a shared volume", SilenceErrors: true, SilenceUsage: true, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return cmdline.UnknownCommand(cmd, args[0])
		},
	}
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	root.SetFlagErrorFunc(cmdline.FlagErrors("unknown flag", true))
	root.AddCommand(p.startCommand(), p.initCommand(), p.deinitCommand(), p.versionCommand(), p.licenseCommand())
	return root
}

func (p *Personality) initCommand() *cobra.Command {
	// Older versions had no "creds" behind "init".
	cmd := p.credsCommand("init", "Make the credentials file of a volume, or a line in fstab")
	cmd.AddCommand(p.credsCommand("creds", "Make the credentials file of a volume"), p.fstabCommand())
	return cmd
}

func (p *Personality) deinitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "deinit", Short: "Remove a credentials file, or a line of fstab", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return cmdline.UnknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(p.forgetCommand(), p.unfstabCommand())
	return cmd
}

func (p *Personality) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cmdline.Args(0),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(p.Out, "mount.flexfs of massif %s\n", p.Version)
			return err
		},
	}
}

func (p *Personality) licenseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "license", Short: "Print the license", Args: cmdline.Args(0),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(p.Out, "Massif is free software under the Apache License, Version 2.0:\n"+
				"https://www.apache.org/licenses/LICENSE-2.0\n"+
				"There is no license key, and nothing is reported to anybody.\n")
			return err
		},
	}
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// credsPath is the credentials file of a volume or alias.
func credsPath(name string) (string, error) {
	if !nameForm.MatchString(name) {
		return "", usageError("%q cannot be a volume's name or alias: use 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit", name)
	}
	home, err := os.UserHomeDir()
	if err != nil || home == "" {
		if os.Geteuid() != 0 {
			return "", errors.New("HOME is not set: the credentials file is not found without it; name it with --credsFile")
		}
		home = "/root" // mount(8) started by init has no $HOME
	}
	return filepath.Join(home, ".flexfs", "mount", "creds", name), nil
}

// absolute makes a path of the command line good for a process elsewhere.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}
