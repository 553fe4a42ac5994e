package cli

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/mount"
)

func (a *app) volumeDumpCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dump NAME FILE",
		Short: "Save a volume's metadata into a file",
		Long: `Save the metadata of a volume, mounted or not, into FILE: names, attributes, where
data lies, and the content of small files. With it and the object store, "massif
volume load" makes the volume anew. FILE is as private as the volume itself: text, one
JSON object a line, compressed with zstd.

A dump stays good until "massif volume gc" or the mount deletes blocks that it
names: as long as the volume's retention, from the moment of the dump.`,
		Example: `  massif volume dump photos /backup/photos.massif`,
		Args:    exactArgs("NAME", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			var r mount.DumpResult
			bar := a.newStages()
			err = do(cmd, args[0], "dump", map[string]string{"file": file}, &r, bar.tell(nil))
			bar.finish()
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(r)
			}
			fmt.Fprintf(a.out, "%s inodes, %s names, %s blocks in %s\n", humanCount(r.Inodes), humanCount(r.Names), humanCount(r.DumpStats.Blocks), humanBytes(r.Bytes))
			return nil
		},
		ValidArgsFunction: completeVolumeThenFile,
	}
	a.jsonFlag(cmd)
	return cmd
}

func (a *app) volumeLoadCommand() *cobra.Command {
	var o mount.LoadOptions
	cmd := &cobra.Command{
		Use:   "load NAME FILE",
		Short: "Make a volume from a dump of its metadata",
		Long: `Make the volume NAME from a dump and the object store of the dumped volume, on
this machine or another. With --replace the dump takes the place of the metadata
of a volume that is here but damaged; the old metadata is kept beside it.

The store is only read. Either all of it happens, or nothing.`,
		Example: `  massif volume load photos /backup/photos.massif
  massif volume load photos /backup/photos.massif --store s3://my-bucket/photos
  massif volume load photos /backup/photos.massif --replace`,
		Args: exactArgs("NAME", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			registry, err := mount.OpenRegistry()
			if err != nil {
				return err
			}
			bar := a.newProgress("load", "records", 0)
			o.Progress = func(p mount.Progress) { bar.set(p.Done, p.Total) }
			r, err := registry.Load(cmd.Context(), args[0], args[1], o)
			bar.finish()
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(r)
			}
			fmt.Fprintf(a.out, "volume %s is as it was at %s (%s records)\n", r.Record.Name, humanTime(r.Time), humanCount(r.Records))
			if r.Old != "" {
				fmt.Fprintf(a.out, "the metadata it had is kept in %s\n", r.Old)
			}
			return nil
		},
		ValidArgsFunction: completeVolumeThenFile,
	}
	a.jsonFlag(cmd)
	cmd.Flags().BoolVar(&o.Replace, "replace", false, "replace the metadata of a volume that is here")
	cmd.Flags().StringVar(&o.Store, "store", "", "`URL` of the object store (default: what the dump says)")
	cmd.Flags().StringVar(&o.Meta, "meta", "", "`URL` of the metadata database: pebble:///DIR")
	return cmd
}

func completeVolumeThenFile(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 1 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return completeVolume(cmd, args, word)
}
