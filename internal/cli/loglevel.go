package cli

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/mount"
)

func (a *app) logLevelCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "log-level MOUNTPOINT [LEVEL]",
		Short:   "Show or change how much a mount logs",
		GroupID: "mounts",
		Long:    `Show the log level of a mount, or set it to debug, info, warn or error.`,
		Example: `  massif log-level /mnt/photos debug`,
		Args:    rangeArgs(1, "MOUNTPOINT", "LEVEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := mount.Connect(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			params := map[string]string{}
			if len(args) > 1 {
				params["level"] = args[1]
			}
			var result struct {
				Is string `json:"is"`
			}
			if err := c.Call(cmd.Context(), "log-level", params, &result, nil); err != nil {
				return err
			}
			fmt.Fprintln(a.out, result.Is)
			return nil
		},
		ValidArgsFunction: completeMounts,
	}
}

func (a *app) accessLogCommand() *cobra.Command {
	var off bool
	cmd := &cobra.Command{
		Use:     "access-log MOUNTPOINT [FILE]",
		Short:   "Log every file system call of a mount, for a while",
		GroupID: "mounts",
		Long: `Write a line for every file system call of a mount to FILE: time, user, group
and process, operation, inode, name, bytes, result, duration. With --off that
ends. FILE must not lie on the mount itself.`,
		Example: `  massif access-log /mnt/photos /tmp/photos.log
  massif access-log /mnt/photos --off`,
		Args: rangeArgs(1, "MOUNTPOINT", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if off == (len(args) == 2) {
				return usageError("%s: name a FILE or give --off", cmd.CommandPath())
			}
			params := map[string]string{}
			if !off {
				file, err := filepath.Abs(args[1])
				if err != nil {
					return err
				}
				params["file"] = file
			}
			c, err := mount.Connect(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			return c.Call(cmd.Context(), "access-log", params, nil, nil)
		},
		ValidArgsFunction: completeMounts,
	}
	cmd.Flags().BoolVar(&off, "off", false, "end the logging")
	return cmd
}
