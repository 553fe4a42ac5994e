package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/meta"
	"github.com/massif-fs/massif/mount"
	"github.com/massif-fs/massif/seal"
)

func (a *app) volumeCreateCommand() *cobra.Command {
	blockSize := sizeFlag{value: meta.DefaultChunkSize}
	inlineLimit := sizeFlag{value: meta.DefaultInlineLimit}
	var retention durationFlag
	var quotaBytes sizeFlag
	var quotaInodes uint64
	var store, metaURL, compression string
	var encrypt bool
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a volume",
		Long: `Make a volume. Without --store and --meta everything lies below Massif's own
directory ($MASSIF_HOME, else $XDG_DATA_HOME/massif, else ~/.local/share/massif).

The store must be empty and the volume's alone. Credentials come from the
environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, …;
AZURE_STORAGE_ACCESS_KEY, AZURE_STORAGE_SAS_TOKEN, …; GOOGLE_APPLICATION_CREDENTIALS),
the clouds' own configuration files, or the machine's identity; they are not kept in
the volume. Stores are
  file:///DIR
  s3://BUCKET/PREFIX               elsewhere than at AWS: ?endpoint=https://HOST
  az://CONTAINER/PREFIX?account=NAME, or adls:// for a hierarchical namespace
  gs://BUCKET/PREFIX

With --encrypt, content, names, link targets and extended attributes are encrypted
before they reach the store or the metadata database. The passphrase is asked for, or
read from --passphrase-file, --passphrase-fd or MASSIF_PASSPHRASE. A recovery key is
printed once; without it a lost passphrase is lost data.

Either the whole volume is there afterwards, or nothing has changed.`,
		Example: `  massif volume create photos
  massif volume create photos --store file:///mnt/disk2/photos --compression zstd
  massif volume create archive --store 's3://my-bucket/archive?region=eu-central-1' --retention 30d
  massif volume create backup --store 'az://backup/v1?account=mystorage'
  massif volume create diary --encrypt
  massif volume create scratch --quota-bytes 100GiB --quota-inodes 1000000`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			registry, err := mount.OpenRegistry()
			if err != nil {
				return err
			}
			if blockSize.value > 1<<30 || inlineLimit.value > 1<<30 {
				return usageError("block size and inline limit cannot be that large")
			}
			var record *seal.Record
			var recovery *seal.RecoveryKey
			if encrypt {
				if record, recovery, err = newSecret(cmd, args[0]); err != nil {
					return err
				}
			}
			r, err := registry.Create(cmd.Context(), mount.CreateOptions{
				Store: store, Meta: metaURL,
				Format: meta.Format{
					Name: args[0], ChunkSize: uint32(blockSize.value), Compression: compression,
					InlineLimit: uint32(inlineLimit.value), Retention: time.Duration(retention.value),
					QuotaBytes: uint64(quotaBytes.value), QuotaInodes: quotaInodes, Seal: record,
				},
			})
			if err != nil {
				return err
			}
			if a.json {
				created := struct {
					*mount.Record
					RecoveryKey string `json:"recoveryKey,omitempty"`
				}{Record: r}
				if recovery != nil {
					created.RecoveryKey = recovery.Reveal()
				}
				return a.printJSON(created)
			}
			fmt.Fprintf(a.out, "volume %s is made; mount it with: massif mount %s MOUNTPOINT\n", r.Name, r.Name)
			if recovery != nil {
				a.printRecoveryKey(recovery)
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	a.jsonFlag(cmd)
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&store, "store", "", "`URL` of the object store for the blocks: file:///DIR, s3://, az://, adls:// or gs://")
	flags.StringVar(&metaURL, "meta", "", "`URL` of the metadata database: pebble:///DIR")
	flags.BoolVar(&encrypt, "encrypt", false, "encrypt names and content with a key that a passphrase protects")
	flags.Var(&blockSize, "block-size", "largest block, a power of two from 256KiB to 8MiB")
	flags.StringVar(&compression, "compression", "lz4", "of the blocks: lz4, zstd or none")
	flags.Var(&inlineLimit, "inline-limit", "files up to this size live in the metadata, at most 64KiB; 0: none")
	flags.Var(&retention, "retention", "how long deleted and overwritten data can be brought back, such as 7d; 0: not at all")
	flags.Var(&quotaBytes, "quota-bytes", "limit of the volume's size; 0: none")
	flags.Uint64Var(&quotaInodes, "quota-inodes", 0, "limit of the number of files and directories; 0: none")
	cmd.RegisterFlagCompletionFunc("compression", cobra.FixedCompletions([]string{"lz4", "zstd", "none"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// newSecret makes the key of a new volume with the passphrase that the command gets.
func newSecret(cmd *cobra.Command, name string) (*seal.Record, *seal.RecoveryKey, error) {
	p, err := passphraseFlagsOf(cmd)
	if err != nil {
		return nil, nil, err
	}
	pass, err := p.chosen(cmd.Context(), name)
	if err != nil {
		return nil, nil, err
	}
	defer pass.Wipe()
	record, key, recovery, err := seal.Create(pass)
	if err != nil {
		return nil, nil, err
	}
	key.Wipe()
	return record, recovery, nil
}

// sizeFlag is a flag that takes a size such as 4MiB.
type sizeFlag struct{ value mount.Size }

func (f *sizeFlag) String() string { return f.value.String() }
func (f *sizeFlag) Type() string   { return "SIZE" }
func (f *sizeFlag) Set(s string) (err error) {
	f.value, err = mount.ParseSize(s)
	return err
}

// durationFlag is a flag that takes a duration such as 7d.
type durationFlag struct{ value mount.Duration }

func (f *durationFlag) String() string { return f.value.String() }
func (f *durationFlag) Type() string   { return "DURATION" }
func (f *durationFlag) Set(s string) (err error) {
	if s == "" {
		return errors.New("a duration is missing")
	}
	f.value, err = mount.ParseDuration(s)
	return err
}
