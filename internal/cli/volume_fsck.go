package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/mount"
)

func (a *app) volumeFsckCommand() *cobra.Command {
	return a.newFsck(&cobra.Command{Use: "fsck NAME", Example: `  massif volume fsck photos
  massif volume fsck photos --data`})
}

// fsckCommand is the same under the name that people look for.
func (a *app) fsckCommand() *cobra.Command {
	cmd := a.newFsck(&cobra.Command{Use: "fsck VOLUME", GroupID: "volumes", Example: `  massif fsck photos
  massif fsck photos --data
  massif fsck photos --repair`})
	new(passphraseFlags).add(cmd.Flags())
	return cmd
}

func (a *app) newFsck(cmd *cobra.Command) *cobra.Command {
	var args mount.FsckArgs
	cmd.Short = "Check a volume"
	cmd.Long = `Check a volume, mounted or not: the records of its metadata against each other,
and that the store has every block they name. With --data every block is read
and its checksums are verified.

Each problem is printed as it is found, at the end the files that lack data. The
exit status is 1 if there are problems. Objects that nobody refers to (orphans)
are no problem; "massif volume gc" removes them.

Nothing is changed, unless --repair is given: it makes the metadata consistent
again. What has lost its name is then found in lost+found; what the store lacks
cannot be brought back. A shared volume cannot be repaired while it is served.`
	cmd.Args = exactArgs("NAME")
	cmd.ValidArgsFunction = completeVolume
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		var r mount.FsckResult
		bar := a.newStages()
		err := do(cmd, names[0], "fsck", args, &r, bar.tell(func(p mount.Progress) {
			if p.Problem != "" && !a.json {
				fmt.Fprintf(a.out, "%s: %s\n", p.Stage, p.Problem)
			}
		}))
		bar.finish()
		if err != nil {
			return err
		}
		if a.json {
			if err := a.printJSON(r); err != nil {
				return err
			}
		} else {
			a.printFsck(names[0], args, r)
		}
		if !r.Clean {
			return errReported
		}
		return nil
	}
	a.jsonFlag(cmd)
	cmd.Flags().BoolVar(&args.Data, "data", false, "read and verify every block")
	cmd.Flags().BoolVar(&args.Repair, "repair", false, "make the metadata consistent again")
	return cmd
}

func (a *app) printFsck(name string, args mount.FsckArgs, r mount.FsckResult) {
	m, s := r.Meta, r.Store
	fmt.Fprintf(a.out, "metadata: %s inodes (%s directories), %s in %s blocks\n", humanCount(m.Inodes), humanCount(m.Directories), humanBytes(m.Bytes), humanCount(m.Blocks))
	fmt.Fprintf(a.out, "store:    %s objects, %s; %s orphans (%s)\n", humanCount(s.Objects), humanBytes(s.Bytes), humanCount(s.Orphans), humanBytes(s.OrphanBytes))
	if args.Data {
		fmt.Fprintf(a.out, "data:     %s blocks read and verified\n", humanCount(r.Verified))
	}
	if r.Repaired > 0 {
		fmt.Fprintf(a.out, "repaired: %s problems of the metadata\n", humanCount(r.Repaired))
	}
	if r.Clean {
		fmt.Fprintf(a.out, "volume %s is clean\n", name)
		return
	}
	fmt.Fprintf(a.out, "volume %s has problems: %s in the metadata, %s blocks missing, %s damaged, %s foreign objects; %s files lack data\n", name,
		humanCount(m.Problems), humanCount(s.Missing), humanCount(r.Damaged), humanCount(s.Foreign), humanCount(len(r.Files)))
}

// stages shows an operation's progress.
type stages struct {
	a     *app
	stage string
	bar   *progress
}

func (a *app) newStages() *stages { return &stages{a: a} }

// tell returns a receiver of progress messages that shows them, after it has
// handed them to also (may be nil).
func (s *stages) tell(also func(mount.Progress)) func(json.RawMessage) {
	return func(raw json.RawMessage) {
		var p mount.Progress
		if json.Unmarshal(raw, &p) != nil {
			return // of a newer version
		}
		if p.Problem != "" {
			s.clear()
		}
		if also != nil {
			also(p)
		}
		if p.Problem != "" {
			return
		}
		if s.bar == nil || s.stage != p.Stage {
			s.clear()
			s.stage, s.bar = p.Stage, s.a.newProgress(p.Stage, p.Unit, p.Total)
		}
		s.bar.set(p.Done, p.Total)
	}
}

func (s *stages) clear() {
	if s.bar != nil {
		s.bar.finish()
		s.bar = nil
	}
}

func (s *stages) finish() { s.clear() }
