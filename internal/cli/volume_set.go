package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/mount"
)

func (a *app) volumeSetCommand() *cobra.Command {
	var inlineLimit, quotaBytes sizeFlag
	var retention durationFlag
	var quotaInodes uint64
	var compression string
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change a volume's settings",
		Long: `Change settings of a volume, mounted or not. Compression and inline limit hold
for what is written from now on. Block size, store and name are for ever.`,
		Example: `  massif volume set photos --retention 7d
  massif volume set photos --compression zstd --quota-bytes 1TiB`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s mount.Settings
			changed := cmd.Flags().Changed
			if changed("compression") {
				s.Compression = &compression
			}
			if changed("inline-limit") {
				if inlineLimit.value > 1<<30 {
					return usageError("the inline limit cannot be that large")
				}
				limit := uint32(inlineLimit.value)
				s.InlineLimit = &limit
			}
			if changed("retention") {
				d := time.Duration(retention.value)
				s.Retention = &d
			}
			if changed("quota-bytes") {
				n := uint64(quotaBytes.value)
				s.QuotaBytes = &n
			}
			if changed("quota-inodes") {
				s.QuotaInodes = &quotaInodes
			}
			if s == (mount.Settings{}) {
				return usageError("%s: name a setting to change; \"%s --help\" lists them", cmd.CommandPath(), cmd.CommandPath())
			}
			if err := do(cmd, args[0], "set", s, nil, nil); err != nil {
				return err
			}
			fmt.Fprintf(a.out, "volume %s is changed\n", args[0])
			return nil
		},
		ValidArgsFunction: completeVolume,
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&compression, "compression", "", "of new blocks: lz4, zstd or none")
	flags.Var(&inlineLimit, "inline-limit", "new files up to this size live in the metadata, at most 64KiB; 0: none")
	flags.Var(&retention, "retention", "how long deleted and overwritten data can be brought back; 0: not at all")
	flags.Var(&quotaBytes, "quota-bytes", "limit of the volume's size; 0: none")
	flags.Uint64Var(&quotaInodes, "quota-inodes", 0, "limit of the number of files and directories; 0: none")
	return cmd
}
