package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/massif-fs/massif/mount"
)

func (a *app) volumeDeleteCommand() *cobra.Command {
	var yes bool
	var o mount.DeleteOptions
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Aliases: []string{"rm"},
		Short:   "Delete a volume with all its data",
		Long: `Delete a volume: its blocks in the store, its metadata and what this machine
knows of it. A volume that is mounted is refused. There is no way back.

An interrupted deletion is finished by repeating the command.`,
		Example: `  massif volume delete scratch
  massif volume delete scratch --yes`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			registry, err := mount.OpenRegistry()
			if err != nil {
				return err
			}
			r, err := registry.Get(args[0])
			if err != nil {
				return err
			}
			if !yes {
				question := fmt.Sprintf("Delete volume %s and all data in %s for good?", r.Name, r.Store)
				if err := a.confirm(question, r.Name); err != nil {
					return err
				}
			}
			bar := a.newProgress("deleting", "objects", 0)
			o.Progress = func(p mount.DeleteProgress) { bar.set(p.Objects, 0) }
			err = registry.Delete(cmd.Context(), r.Name, o)
			bar.finish()
			return err
		},
		ValidArgsFunction: completeVolume,
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&o.KeepStore, "keep-store", false, "leave the blocks in the store alone")
	return cmd
}

// confirm asks on the terminal and wants word as the answer. Without a terminal
// it refuses: nobody can be asked.
func (a *app) confirm(question, word string) error {
	f, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return usageError("this cannot be undone: confirm it with --yes")
	}
	fmt.Fprintf(a.err, "%s\nType %q to go on: ", question, word)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	if strings.TrimSpace(line) != word {
		fmt.Fprintln(a.err, "nothing was done")
		return errReported
	}
	return nil
}
