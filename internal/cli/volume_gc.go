package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/mount"
)

func (a *app) volumeGCCommand() *cobra.Command {
	var args mount.GCArgs
	var grace durationFlag
	cmd := &cobra.Command{
		Use:   "gc NAME",
		Short: "Remove what a volume no longer needs",
		Long: `Remove from the store what nobody needs any more: blocks of deleted files whose
retention is over, and objects that a crash has left behind (orphans). A mounted
volume deletes blocks by itself; orphans are only found here.

On a mounted or shared volume an object must be a day old to count as an orphan, since a
younger one may be on its way into the metadata (--grace changes that; a shared
volume takes no less).`,
		Example: `  massif volume gc photos
  massif volume gc photos --dry-run
  massif volume gc photos --compact`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, names []string) error {
			if cmd.Flags().Changed("grace") {
				d := time.Duration(grace.value)
				args.Grace = &d
			}
			var r mount.GCResult
			bar := a.newStages()
			err := do(cmd, names[0], "gc", args, &r, bar.tell(nil))
			bar.finish()
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(r)
			}
			verb := "removed"
			if args.DryRun {
				verb = "to be removed"
			}
			fmt.Fprintf(a.out, "%s objects, %s; orphans %s: %s, %s", humanCount(r.Objects), humanBytes(r.Bytes), verb, humanCount(r.Orphans), humanBytes(r.OrphanBytes))
			if r.Young > 0 {
				fmt.Fprintf(a.out, "; too young to tell: %s", humanCount(r.Young))
			}
			if r.Foreign+r.ForeignKeys > 0 {
				fmt.Fprintf(a.out, "; not this volume's, left alone: %s", humanCount(r.Foreign+r.ForeignKeys))
			}
			if r.Compacted > 0 {
				fmt.Fprintf(a.out, "; compacted chunks: %s", humanCount(r.Compacted))
			}
			fmt.Fprintln(a.out)
			return nil
		},
		ValidArgsFunction: completeVolume,
	}
	a.jsonFlag(cmd)
	cmd.Flags().BoolVarP(&args.DryRun, "dry-run", "n", false, "only count")
	cmd.Flags().BoolVar(&args.Compact, "compact", false, "also write chunks anew that lie in many pieces")
	cmd.Flags().Var(&grace, "grace", "how old an orphan must be (default: 1d on a mounted or shared volume, else 0)")
	return cmd
}
