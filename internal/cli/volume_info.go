package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/mount"
)

func (a *app) volumeInfoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "info NAME",
		Short:   "Show a volume's settings and size",
		Example: `  massif volume info photos`,
		Args:    exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var info mount.VolumeInfo
			if err := do(cmd, args[0], "info", nil, &info, nil); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(info)
			}
			s := info.Settings
			t := newTable(a.out)
			t.row("name", info.Name)
			t.row("uuid", info.UUID)
			t.row("created", humanTime(info.Created))
			t.row("metadata", metadataOf(&info))
			t.row("store", info.Store)
			t.row("block size", mount.Size(s.ChunkSize).String())
			t.row("compression", s.Compression)
			t.row("inline limit", mount.Size(s.InlineLimit).String())
			t.row("retention", mount.Duration(s.Retention).String())
			t.row("encryption", encryptionOf(&s))
			t.row("used", usedOf(info.Usage.Bytes, info.Usage.BytesLimit))
			t.row("inodes", countOf(info.Usage.Inodes, info.Usage.InodesLimit))
			if n := len(info.Quotas); n > 0 {
				t.row("quotas", fmt.Sprintf("of %d directories (massif volume quota list %s)", n, info.Name))
			}
			return t.flush()
		},
		ValidArgsFunction: completeVolume,
	}
	a.jsonFlag(cmd)
	return cmd
}

// metadataOf says where the metadata are.
func metadataOf(info *mount.VolumeInfo) string {
	if info.Meta == "" {
		return "with its metadata server"
	}
	return info.Meta
}

// encryptionOf says how a volume is encrypted.
func encryptionOf(s *meta.Format) string {
	if s.Seal == nil {
		return "none"
	}
	return fmt.Sprintf("%s, key %s", s.Seal.Cipher, s.Seal.KeyID)
}

func (a *app) volumeDfCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "df [NAME...]",
		Short:   "Show the space that volumes take",
		Example: `  massif volume df`,
		RunE: func(cmd *cobra.Command, args []string) error {
			registry, err := mount.OpenRegistry()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				records, err := registry.List()
				if err != nil {
					return err
				}
				for _, r := range records {
					args = append(args, r.Name)
				}
			}
			type row struct {
				Name string `json:"name"`
				mount.Usage
			}
			rows := []row{}
			for _, name := range args {
				r := row{Name: name}
				if err := registry.Do(cmd.Context(), name, "df", nil, &r.Usage, nil); err != nil {
					return err
				}
				rows = append(rows, r)
			}
			if a.json {
				return a.printJSON(rows)
			}
			t := newTable(a.out, "VOLUME", "USED", "LIMIT", "INODES", "LIMIT", "STORE FREE")
			for _, r := range rows {
				free := "-"
				if r.StoreTotal > 0 {
					free = humanBytes(r.StoreFree)
				}
				t.row(r.Name, humanBytes(r.Bytes), limitOf(r.BytesLimit, humanBytes), humanCount(r.Inodes), limitOf(r.InodesLimit, humanCount), free)
			}
			return t.flush()
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return volumeNames(), cobra.ShellCompDirectiveNoFileComp
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func limitOf(limit uint64, write func(uint64) string) string {
	if limit == 0 {
		return "-"
	}
	return write(limit)
}

func usedOf(used int64, limit uint64) string {
	if limit == 0 {
		return humanBytes(used)
	}
	return fmt.Sprintf("%s of %s", humanBytes(used), humanBytes(limit))
}

func countOf(used int64, limit uint64) string {
	if limit == 0 {
		return humanCount(used)
	}
	return fmt.Sprintf("%s of %s", humanCount(used), humanCount(limit))
}
