package cloudfuse

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/mount"
)

// mounted are the mount points of Cloudfuse's mounts, whichever program serves them.
func mounted() ([]string, error) {
	table, err := mount.Mountpoints()
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range table {
		if strings.HasPrefix(m.Type, "fuse") && strings.HasPrefix(m.Source, fsName) && !slices.Contains(points, m.Point) {
			points = append(points, m.Point)
		}
	}
	return points, nil
}

func (p *Personality) listCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the mounts of Cloudfuse", Args: cmdline.Args(0), Example: "  cloudfuse mount list",
		RunE: func(*cobra.Command, []string) error {
			points, err := mounted()
			if err != nil {
				return err
			}
			if len(points) == 0 {
				fmt.Fprintln(p.Out, "No active cloudfuse mounts found")
			}
			for i, point := range points {
				fmt.Fprintf(p.Out, "%d : %s\n", i+1, point)
			}
			return nil
		},
	}
}

func (p *Personality) unmountCommand() *cobra.Command {
	var o mount.UnmountOptions
	var system bool
	flags := func(cmd *cobra.Command) *cobra.Command {
		cmd.Flags().BoolVarP(&o.Lazy, "lazy", "z", false, "detach now, end when the last program has stopped using it")
		cmd.Flags().BoolVar(&system, "disable-remount-system", false, "remove the systemd unit of the mount, too")
		return cmd
	}
	all := flags(&cobra.Command{
		Use: "all", Short: "Unmount all mounts of Cloudfuse", Args: cmdline.Args(0), Example: "  cloudfuse unmount all",
		RunE: func(cmd *cobra.Command, _ []string) error {
			points, err := mounted()
			if err != nil {
				return err
			}
			if len(points) == 0 {
				fmt.Fprintln(p.Out, "Nothing to unmount")
				return nil
			}
			return p.unmountEach(cmd.Context(), points, o, system)
		},
	})
	cmd := flags(&cobra.Command{
		Use: "unmount PATH", Aliases: []string{"umount", "umnt"}, Short: "Unmount a mount of Cloudfuse, and wait until everything written is stored",
		Long: `Unmount a mount of Cloudfuse. The command returns when all that was written is stored.
A PATH with a '*' is a regular expression, and means all mounts that it fits.`,
		Example: "  cloudfuse unmount /mnt/photos", Args: cmdline.Args(1, "PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.Contains(args[0], "*") {
				points, err := matching(args[0])
				if err != nil {
					return err
				}
				return p.unmountEach(cmd.Context(), points, o, system)
			}
			if err := p.unmount(cmd.Context(), args[0], o, system); err != nil {
				return err
			}
			_, err := fmt.Fprintf(p.Out, "Successfully unmounted %s\n", args[0])
			return err
		},
	})
	cmd.ValidArgsFunction = completePoints
	cmd.AddCommand(all)
	return cmd
}

// matching are the mounts that a pattern fits.
func matching(pattern string) ([]string, error) {
	re, err := regexp.Compile("^" + pattern)
	if err != nil {
		return nil, usageError("unmount: %q is no regular expression: %v", pattern, err)
	}
	points, err := mounted()
	if err != nil {
		return nil, err
	}
	points = slices.DeleteFunc(points, func(point string) bool { return !re.MatchString(point) })
	if len(points) == 0 {
		return nil, fmt.Errorf("unmount: no mount fits %q", pattern)
	}
	return points, nil
}

// unmountEach tries each and reports each failure.
func (p *Personality) unmountEach(ctx context.Context, points []string, o mount.UnmountOptions, system bool) error {
	done := 0
	var failed []error
	for _, point := range points {
		if err := p.unmount(ctx, point, o, system); err != nil {
			failed = append(failed, err)
			continue
		}
		done++
	}
	fmt.Fprintf(p.Out, "%d of %d mounts were successfully unmounted\n", done, len(points))
	return errors.Join(failed...)
}

func (p *Personality) unmount(ctx context.Context, point string, o mount.UnmountOptions, system bool) error {
	if system {
		// systemd stops what it has started, and it is unmounted with that.
		if err := p.forgetUnit(ctx, point); err != nil {
			return err
		}
	}
	points, err := mounted()
	if err != nil {
		return err
	}
	if abs, err := cleanPoint(point); system && err == nil && !slices.Contains(points, abs) {
		return nil
	}
	if err := mount.Unmount(ctx, point, o); err != nil {
		return fmt.Errorf("failed to unmount %s: %w", point, err)
	}
	return nil
}

// completePoints offers the mount points.
func completePoints(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	points, err := mounted()
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return points, cobra.ShellCompDirectiveNoFileComp
}

// cleanPoint is a mount point as an absolute path, which need not be there.
func cleanPoint(point string) (string, error) {
	if point == "" {
		return "", usageError("mount path not provided")
	}
	return filepath.Abs(expand(point))
}
