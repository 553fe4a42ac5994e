package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/mount"
)

func (a *app) volumeSnapshotCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:   "snapshot",
		Short: "Keep states of a volume under a name",
		Long: `A snapshot is a name for the present state of a volume. It costs nothing to
make; what is deleted and overwritten afterwards is kept as long as a snapshot
needs it. "massif mount NAME DIR --at-time SNAPSHOT" shows it, and
"massif volume restore" brings files of it back.`,
	}, a.snapshotCreateCommand(), a.snapshotDeleteCommand(), a.snapshotListCommand())
}

func (a *app) snapshotCreateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "create NAME SNAPSHOT",
		Short: "Make a snapshot",
		Example: `  massif volume snapshot create photos before-cleanup
  massif volume snapshot create admin.example.com/photos before-cleanup`,
		Args: exactArgs("NAME", "SNAPSHOT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return do(cmd, args[0], "snapshot-create", map[string]string{"name": args[1]}, nil, nil)
		},
		ValidArgsFunction: completeVolume,
	}
}

func (a *app) snapshotDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME SNAPSHOT",
		Aliases: []string{"rm"},
		Short:   "Delete a snapshot",
		Long:    `Delete a snapshot. The present files stay as they are; what only the snapshot needed is removed in the background.`,
		Example: `  massif volume snapshot delete photos before-cleanup`,
		Args:    exactArgs("NAME", "SNAPSHOT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return do(cmd, args[0], "snapshot-delete", map[string]string{"name": args[1]}, nil, nil)
		},
		ValidArgsFunction: completeVolume,
	}
}

func (a *app) snapshotListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list NAME",
		Aliases: []string{"ls"},
		Short:   "List the snapshots of a volume",
		Example: `  massif volume snapshot list photos`,
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var list []meta.Snapshot
			if err := do(cmd, args[0], "snapshot-list", nil, &list, nil); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(list)
			}
			if len(list) == 0 {
				fmt.Fprintf(a.err, "volume %s has no snapshots\n", args[0])
				return nil
			}
			t := newTable(a.out, "SNAPSHOT", "TIME")
			for _, s := range list {
				t.row(s.Name, humanTime(s.Time))
			}
			return t.flush()
		},
		ValidArgsFunction: completeVolume,
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) volumeCloneCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clone NAME FROM TO",
		Short: "Copy a file or directory within a volume without copying data",
		Long: `Copy a file, or a directory with all that is below it, within a volume. The copy
shares the blocks of the original, so it takes no time for the data and no space
in the store until one of the two is changed.

FROM and TO are paths from the volume's root. TO must not exist.`,
		Example: `  massif volume clone photos /2026 /2026-edited`,
		Args:    exactArgs("NAME", "FROM", "TO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.copyWithin(cmd, args[0], mount.CloneArgs{From: args[1], To: args[2]})
		},
		ValidArgsFunction: completeVolume,
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) volumeRestoreCommand() *cobra.Command {
	var when string
	cmd := &cobra.Command{
		Use:   "restore NAME FROM TO",
		Short: "Bring deleted or changed files back",
		Long: `Copy a file or directory as it was at a time or in a snapshot to the new path TO
in the present volume. How far back a time may lie is the volume's retention
("massif volume set NAME --retention 7d", for what happens from then on).`,
		Example: `  massif volume restore photos /2026 /2026-back --at-time 2h
  massif volume restore photos /2026/x.jpg /x.jpg --at-time '2026-01-31 12:00'
  massif volume restore photos / /everything --at-time before-cleanup`,
		Args: exactArgs("NAME", "FROM", "TO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if when == "" {
				return usageError("%s: say by --at-time which time or snapshot", cmd.CommandPath())
			}
			c := mount.CloneArgs{From: args[1], To: args[2]}
			c.At, c.Snapshot = mount.ParsePast(when, time.Now())
			return a.copyWithin(cmd, args[0], c)
		},
		ValidArgsFunction: completeVolume,
	}
	a.jsonFlag(cmd)
	cmd.Flags().StringVar(&when, "at-time", "", "a `TIME`, how long ago (2h, 3d), or a snapshot's name")
	return cmd
}

func (a *app) volumeTrashCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trash NAME [PATH]",
		Short: "List what was removed and can be brought back",
		Long: `List the names that were removed from a volume, or from the directory PATH and
all that is below it, as long as the volume's retention reaches back.
"massif volume restore" brings them back, as they were at a time before.`,
		Example: `  massif volume trash photos
  massif volume trash photos /2026
  massif volume restore photos /2026/x.jpg /2026/x.jpg --at-time '2026-01-31 12:00:00'`,
		Args: cmdline.Args(1, "NAME", "PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			trash := mount.TrashArgs{}
			if len(args) > 1 {
				trash.Path = args[1]
			}
			var list []meta.TrashEntry
			if err := do(cmd, args[0], "trash", trash, &list, nil); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(list)
			}
			if len(list) == 0 {
				fmt.Fprintln(a.err, "nothing was removed that can be brought back")
				return nil
			}
			t := newTable(a.out, "REMOVED", "SIZE", "PATH")
			for _, e := range list {
				t.row(humanTime(e.Removed), humanBytes(e.Size), e.Path)
			}
			return t.flush()
		},
		ValidArgsFunction: completeVolume,
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) copyWithin(cmd *cobra.Command, name string, args mount.CloneArgs) error {
	var stats meta.CopyStats
	bar := a.newStages()
	err := do(cmd, name, "clone", args, &stats, bar.tell(nil))
	bar.finish()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(stats)
	}
	fmt.Fprintf(a.out, "%s inodes, %s shared with the original\n", humanCount(stats.Inodes), humanBytes(stats.Bytes))
	return nil
}
