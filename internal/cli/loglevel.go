package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/mount"
)

func (a *app) logLevelCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "log-level MOUNTPOINT [LEVEL]",
		Short:   "Show or change how much a mount logs",
		GroupID: "mounts",
		Long:    `Show the log level of a mount, or set it to debug, info, warn or error.`,
		Example: `  massif log-level /mnt/photos debug`,
		Args:    cmdline.Args(1, "MOUNTPOINT", "LEVEL"),
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
	return &cobra.Command{
		Use:     "access-log MOUNTPOINT",
		Short:   "Watch every file system call of a mount",
		GroupID: "mounts",
		Long: `Print a line for every file system call of a mount, as long as the command
runs: time, operation, inode, name, user, group, process, bytes, duration, error.
Calls that the kernel answers from its caches do not reach the mount.

To log from the start of a mount into a file, mount with --access-log FILE.`,
		Example: `  massif access-log /mnt/photos
  massif access-log /mnt/photos | grep errno=`,
		Args: exactArgs("MOUNTPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := mount.Connect(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			var writeErr error
			err = c.Call(ctx, "access-log", nil, nil, func(p json.RawMessage) {
				var lines string
				if writeErr = json.Unmarshal(p, &lines); writeErr == nil {
					_, writeErr = io.WriteString(a.out, lines)
				}
				if writeErr != nil { // such as the end of a pipe
					cancel()
				}
			})
			if errors.Is(err, context.Canceled) {
				return writeErr
			}
			return err
		},
		ValidArgsFunction: completeMounts,
	}
}
