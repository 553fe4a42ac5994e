package cloudfuse

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/internal/atomicfile"
	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/seal"
)

// genConfigCommand makes configurations: of a template, as Cloudfuse does, or of a few
// wishes, as blobfuse2.
func (p *Personality) genConfigCommand() *cobra.Command {
	var c configSource
	var output, temp string
	var w wishes
	cmd := &cobra.Command{
		Use: "gen-config", Short: "Make a configuration file", Args: cmdline.Args(0),
		Long: `Make a configuration file.

With --config-file, that is a template: { 0 } in it becomes what --temp-path says and
{ NAME } the environment variable NAME. The result is encrypted.

Otherwise it is made for a container of Azure storage or, with --s3, a bucket of S3, as
the other flags wish; what only you know is to be filled in.`,
		Example: `  cloudfuse gen-config --config-file=template.yaml --output-file=config.aes --temp-path=/var/cache/cloudfuse
  cloudfuse gen-config --block-cache --ro -o config.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("config-file") {
				return p.fromTemplate(&c, output, temp)
			}
			if w.cache == "" {
				w.cache = temp
			}
			text := w.config()
			if output == "" || output == "console" {
				_, err := fmt.Fprint(p.Out, text)
				return err
			}
			if err := atomicfile.Write(expand(output), []byte(text), 0o600); err != nil {
				return fmt.Errorf("gen-config: %w", err)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	c.addFlags(flags)
	flags.Lookup("config-file").Usage = "`FILE` of the template"
	flags.Lookup("config-file").DefValue = ""
	flags.StringVar(&output, "output-file", "", "`FILE` to write (default: of a template, its name and .aes; else standard output)")
	flags.StringVarP(&output, "o", "o", "", "the same")
	flags.Lookup("o").Hidden = true
	flags.StringVar(&temp, "temp-path", "", "`DIR` of the cache")
	flags.StringVar(&w.cache, "tmp-path", "", "`DIR` of the cache")
	flags.BoolVar(&w.blocks, "block-cache", false, "cache blocks instead of whole files")
	flags.BoolVar(&w.direct, "direct-io", false, "believe nothing without asking the store")
	flags.BoolVar(&w.readOnly, "ro", false, "mount read-only")
	flags.BoolVar(&w.s3, "s3", false, "for a bucket of S3")
	return cmd
}

// placeholder is { NAME } in a template.
var placeholder = regexp.MustCompile(`\{\s*([A-Za-z0-9_]+)\s*\}`)

// fill puts values in the place of placeholders.
func fill(template, temp string, getenv func(string) (string, bool)) (string, error) {
	var missing []string
	text := placeholder.ReplaceAllStringFunc(template, func(hit string) string {
		name := placeholder.FindStringSubmatch(hit)[1]
		if name == "0" {
			return temp
		}
		v, ok := getenv(name)
		if !ok {
			missing = append(missing, name)
		}
		return v
	})
	if len(missing) > 0 {
		return "", fmt.Errorf("the environment has no %s", strings.Join(missing, ", "))
	}
	return text, nil
}

func (p *Personality) fromTemplate(c *configSource, output, temp string) error {
	template, err := readFile(c.path())
	if err != nil {
		return fmt.Errorf("gen-config: %w", err)
	}
	text, err := fill(string(template), temp, os.LookupEnv)
	if err != nil {
		return fmt.Errorf("gen-config: %s: %w", c.path(), err)
	}
	if _, err := parseConfig([]byte(text)); err != nil {
		return fmt.Errorf("gen-config: %s: %w", c.path(), err)
	}
	pass, err := c.pass()
	if errors.Is(err, errNoPassphrase) {
		return fmt.Errorf("gen-config: no passphrase provided to encrypt the config file; give it by --passphrase or in %s", passphraseEnv)
	}
	if err != nil {
		return fmt.Errorf("gen-config: %w", err)
	}
	defer pass.Wipe()
	data, err := seal.SealConfig(pass, []byte(text))
	if err != nil {
		return fmt.Errorf("gen-config: %w", err)
	}
	if output == "" {
		output = c.path() + sealedSuffix
	}
	return replaced("gen-config", c.path(), expand(output), data, false)
}

// wishes are what a made configuration shall be like.
type wishes struct {
	blocks, direct, readOnly, s3 bool
	cache                        string
}

func (w *wishes) config() string {
	storage, cache := "azstorage", "file_cache"
	if w.s3 {
		storage = "s3storage"
	}
	if w.blocks {
		cache = "block_cache"
	}
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if w.readOnly {
		say("read-only: true")
	}
	if w.direct {
		say("direct-io: true")
	}
	say("logging:\n  level: log_warning")
	say("components:\n  - libfuse\n  - %s", cache)
	if !w.direct {
		say("  - attr_cache")
	}
	say("  - %s", storage)
	if !w.direct {
		say("libfuse:\n  attribute-expiration-sec: 120\n  entry-expiration-sec: 120\n  negative-entry-expiration-sec: 120")
		say("attr_cache:\n  timeout-sec: 120")
	}
	switch {
	case w.blocks:
		say("block_cache:\n  block-size-mb: 16")
		if w.cache != "" {
			say("  path: %s", yamlText(w.cache))
		}
	default:
		if w.cache == "" {
			w.cache = "$HOME/.cloudfuse/file_cache"
		}
		say("file_cache:\n  path: %s\n  timeout-sec: 120\n  allow-non-empty-temp: true", yamlText(w.cache))
	}
	if w.s3 {
		say("s3storage:\n  bucket-name: # your bucket\n  region: us-east-1\n  endpoint: https://s3.us-east-1.amazonaws.com\n  key-id: # or AWS_ACCESS_KEY_ID, or a profile\n  secret-key:")
	} else {
		say("azstorage:\n  type: block # or adls\n  account-name: # or AZURE_STORAGE_ACCOUNT\n  container: # or AZURE_STORAGE_ACCOUNT_CONTAINER\n  mode: key # or sas, spn, msi, azcli, workloadidentity\n  account-key: # or AZURE_STORAGE_ACCESS_KEY")
	}
	return b.String()
}

// yamlText writes a text so that YAML reads it as it is.
func yamlText(s string) string {
	if t, err := scalarNode(s); err == nil {
		return t
	}
	return fmt.Sprintf("%q", s)
}
