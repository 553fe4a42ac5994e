package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/mount"
)

func (a *app) volumeQuotaCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:   "quota",
		Short: "Limit the size of a volume or of directories in it",
		Long: `A quota limits the bytes and inodes below a directory of a volume, or of the
whole volume (path "/"). Writing beyond it gives "Disk quota exceeded", on the
volume's own quota "No space left on device"; df in the directory shows it.`,
	}, a.quotaSetCommand(), a.quotaRemoveCommand(), a.quotaListCommand())
}

func (a *app) quotaSetCommand() *cobra.Command {
	var bytes sizeFlag
	var inodes uint64
	cmd := &cobra.Command{
		Use:   "set NAME PATH",
		Short: "Set the quota of a directory",
		Example: `  massif volume quota set photos /raw --bytes 100GiB
  massif volume quota set photos / --inodes 1000000`,
		Args: exactArgs("NAME", "PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if bytes.value == 0 && inodes == 0 {
				return usageError("%s: give --bytes or --inodes; \"massif volume quota remove\" takes a quota away", cmd.CommandPath())
			}
			return do(cmd, args[0], "quota-set", mount.QuotaArgs{Path: args[1], Bytes: uint64(bytes.value), Inodes: inodes}, nil, nil)
		},
		ValidArgsFunction: completeVolume,
	}
	cmd.Flags().Var(&bytes, "bytes", "limit of the bytes below it; 0: none")
	cmd.Flags().Uint64Var(&inodes, "inodes", 0, "limit of the files and directories below it; 0: none")
	return cmd
}

func (a *app) quotaRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME PATH",
		Aliases: []string{"rm"},
		Short:   "Take a directory's quota away",
		Example: `  massif volume quota remove photos /raw`,
		Args:    exactArgs("NAME", "PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return do(cmd, args[0], "quota-remove", map[string]string{"path": args[1]}, nil, nil)
		},
		ValidArgsFunction: completeVolume,
	}
}

func (a *app) quotaListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list NAME",
		Aliases: []string{"ls"},
		Short:   "List the quotas of a volume",
		Example: `  massif volume quota list photos`,
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var entries []mount.QuotaEntry
			if err := do(cmd, args[0], "quota-list", nil, &entries, nil); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(entries)
			}
			if len(entries) == 0 {
				fmt.Fprintf(a.err, "volume %s has no quotas\n", args[0])
				return nil
			}
			t := newTable(a.out, "PATH", "USED", "LIMIT", "INODES", "LIMIT")
			for _, e := range entries {
				t.row(e.Path, humanBytes(e.UsedBytes), limitOf(e.Bytes, humanBytes), humanCount(e.UsedInodes), limitOf(e.Inodes, humanCount))
			}
			return t.flush()
		},
		ValidArgsFunction: completeVolume,
	}
	a.jsonFlag(cmd)
	return cmd
}
