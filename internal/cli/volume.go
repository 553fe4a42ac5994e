package cli

import (
	"encoding/json"

	"github.com/spf13/cobra"
)

func (a *app) volumeCommand() *cobra.Command {
	cmd := a.group(&cobra.Command{
		Use:     "volume",
		Aliases: []string{"vol"},
		Short:   "Make, look at and look after volumes",
		GroupID: "volumes",
		Long: `A volume is a file system of its own: its names and attributes live in a
metadata database on this machine, the data of its files as blocks in an object
store, which is a directory or an S3 bucket.

The commands that look into a volume work on mounted volumes too: then the mount
does the work. Most of them also take a shared volume as "massif mount" does,
HOST[:PORT]/VOLUME: then its metadata server does the work.`,
	},
		a.volumeCreateCommand(), a.volumeListCommand(), a.volumeInfoCommand(), a.volumeDeleteCommand(),
		a.volumeSetCommand(), a.volumeDfCommand(), a.volumeQuotaCommand(),
		a.volumeFsckCommand(), a.volumeGCCommand(), a.volumeSnapshotCommand(), a.volumeCloneCommand(), a.volumeRestoreCommand(), a.volumeTrashCommand(),
		a.volumeDumpCommand(), a.volumeLoadCommand(), a.volumePassphraseCommand(),
	)
	new(passphraseFlags).add(cmd.PersistentFlags())
	return cmd
}

// completeVolume offers the volumes as first argument.
func completeVolume(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return volumeNames(), cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// do runs an operation on a volume, wherever it is open.
func do(cmd *cobra.Command, name, op string, args, result any, progress func(json.RawMessage)) error {
	registry, err := registryFor(cmd)
	if err != nil {
		return err
	}
	return registry.Do(cmd.Context(), name, op, args, result, progress)
}
