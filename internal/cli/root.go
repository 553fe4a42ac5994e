package cli

import (
	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/mount"
)

// app is what the commands share.
type app struct {
	streams
	json bool // --json of listings
}

func newRoot(s streams) *cobra.Command {
	a := &app{streams: s}
	root := &cobra.Command{
		Use:   "massif",
		Short: "any storage as a POSIX file system",
		Long: `Massif makes any storage a POSIX file system.

A volume is a file system of its own: names and attributes live in a local
metadata database, file data as compressed, checksummed blocks in a directory
or an S3 bucket. An image is a read-only tree whose content is fetched when it is
read. A local directory can be mounted as it is.`,
		Example: `  # Make a volume on this machine and use it.
  massif volume create photos
  massif mount photos /mnt/photos
  cp -a ~/Pictures /mnt/photos
  massif umount /mnt/photos

  # The same with the data in a bucket.
  massif volume create archive --store 's3://my-bucket/archive?region=eu-central-1'`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetFlagErrorFunc(cmdline.FlagErrors("unknown flag", false))
	root.AddGroup(
		&cobra.Group{ID: "volumes", Title: "Volumes:"},
		&cobra.Group{ID: "images", Title: "Images:"},
		&cobra.Group{ID: "mounts", Title: "Mounts:"},
		&cobra.Group{ID: "servers", Title: "Shared volumes:"},
		&cobra.Group{ID: "other", Title: "Other:"},
	)
	root.AddCommand(
		a.volumeCommand(), a.fsckCommand(), a.imageCommand(),
		a.mountCommand(), a.umountCommand(), a.mountsCommand(), a.statsCommand(), a.logLevelCommand(), a.accessLogCommand(),
		a.namespaceCommand(), a.ctlCommand(),
		a.serveCommand(), a.adminCommand(), a.credsCommand(),
		a.versionCommand(), a.manCommand(), a.helpersCommand(), a.personalitiesCommand(), a.convertCommand(),
	)
	root.SetHelpCommandGroupID("other")
	root.SetCompletionCommandGroupID("other")
	return root
}

// unknownCommand names the nearest commands.
func unknownCommand(cmd *cobra.Command, name string) error {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if near := mount.Nearest(name, names); near != "" {
		return usageError("there is no command %q; did you mean %q?", cmd.CommandPath()+" "+name, cmd.CommandPath()+" "+near)
	}
	return usageError("there is no command %q; \"%s help\" lists the commands", cmd.CommandPath()+" "+name, cmd.Root().Name())
}

// exactArgs and minArgs check the number of arguments and name them, as cmdline.Args.
func exactArgs(names ...string) cobra.PositionalArgs {
	return cmdline.Args(len(names), names...)
}

func minArgs(min int, name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < min {
			return usageError("%s: %s is missing; usage: %s", cmd.CommandPath(), name, cmd.UseLine())
		}
		return nil
	}
}

// jsonFlag gives a listing its --json.
func (a *app) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON")
}

// group makes a command that only holds others.
func (a *app) group(cmd *cobra.Command, sub ...*cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return cmd.Help()
	}
	cmd.AddCommand(sub...)
	return cmd
}
