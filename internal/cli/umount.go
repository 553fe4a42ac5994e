package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/massif-fs/massif/mount"
)

func (a *app) umountCommand() *cobra.Command {
	var o mount.UnmountOptions
	var all bool
	cmd := &cobra.Command{
		Use:     "umount MOUNTPOINT...",
		Aliases: []string{"unmount"},
		Short:   "Unmount, and wait until everything written is stored",
		GroupID: "mounts",
		Long: `Unmount one or more mounts.

The command returns when all that was written is durable and the mount's
process has ended. A mount that a program still uses stays as it is, and the
command names those programs; --lazy takes the name away now and ends the
mount when they are done, --force takes it away from them.`,
		Example: `  massif umount /mnt/photos
  massif umount --all
  massif umount --force /mnt/photos`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all && len(args) > 0 {
				return usageError("%s: name mount points or give --all, not both", cmd.CommandPath())
			}
			if all {
				return nil
			}
			return minArgs(1, "MOUNTPOINT")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Force && o.Lazy {
				return usageError("%s: --force and --lazy contradict each other", cmd.CommandPath())
			}
			if all {
				running, err := mount.List()
				if err != nil {
					return err
				}
				for _, r := range running {
					args = append(args, r.Point)
				}
			}
			return a.unmountAll(cmd.Context(), args, o)
		},
		ValidArgsFunction: completeMounts,
	}
	cmd.Flags().BoolVar(&o.Force, "force", false, "take the mount away from programs that use it")
	cmd.Flags().BoolVarP(&o.Lazy, "lazy", "l", false, "detach now, end when the last program has stopped using it")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "unmount all mounts of this user")
	return cmd
}

// unmountAll tries each and reports each failure.
func (a *app) unmountAll(ctx context.Context, points []string, o mount.UnmountOptions) error {
	if len(points) == 1 {
		return mount.Unmount(ctx, points[0], o)
	}
	failed := false
	for _, p := range points {
		if err := mount.Unmount(ctx, p, o); err != nil {
			fmt.Fprintf(a.err, "massif: %s\n", sentence(err))
			failed = true
		}
	}
	if failed {
		return errReported
	}
	return nil
}

// completeMounts offers the mount points.
func completeMounts(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	running, err := mount.List()
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var points []string
	for _, r := range running {
		points = append(points, r.Point)
	}
	return points, cobra.ShellCompDirectiveDefault
}

// umountHelper is umount.massif(8): umount.massif DIR [-fnlvr]. umount(8) would
// leave the storing of what was written to the background.
func umountHelper(ctx context.Context, args []string, s streams) error {
	flags := pflag.NewFlagSet("umount.massif", pflag.ContinueOnError)
	flags.SetOutput(s.err)
	var o mount.UnmountOptions
	flags.BoolVarP(&o.Force, "force", "f", false, "take the mount away from programs that use it")
	flags.BoolVarP(&o.Lazy, "lazy", "l", false, "detach now, end later")
	for _, f := range []string{"no-mtab:n", "verbose:v", "read-only:r", "suid:s"} {
		flags.BoolP(f[:len(f)-2], f[len(f)-1:], false, "accepted for umount(8)")
	}
	flags.StringP("namespace", "N", "", "accepted for umount(8)")
	flags.StringP("type", "t", "", "accepted for umount(8)")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil
		}
		return &mount.UsageError{Err: err}
	}
	if flags.NArg() != 1 {
		return usageError("usage: umount.massif DIR [-flnvr]")
	}
	if o.Force {
		o.Lazy = false
	}
	return mount.Unmount(ctx, flags.Arg(0), o)
}
