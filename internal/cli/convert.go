package cli

import (
	"encoding/json"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/compat/cloudfuse"
)

func (a *app) convertCommand() *cobra.Command {
	passphrase := passphraseFlags{fd: -1}
	cmd := &cobra.Command{
		Use: "convert CONFIG", Short: "Print the spec that a configuration file of another program is equivalent to", GroupID: "other",
		Long: `Print the spec that a configuration file of Cloudfuse (or blobfuse2) is equivalent to, as
YAML or with --json as JSON. The file may be encrypted (.aes). What the spec does not do as
the file says is told on standard error. Secrets are no part of a spec: where they go is
told, too.`,
		Example: `  massif convert cloudfuse.yaml > photos.yaml
  massif mount photos.yaml /mnt/photos`,
		Args: exactArgs("CONFIG"),
		RunE: func(_ *cobra.Command, args []string) error {
			pass, err := passphrase.get()
			if err != nil {
				return err
			}
			defer pass.Wipe()
			c, err := cloudfuse.Convert(args[0], string(pass))
			if err != nil {
				return err
			}
			for _, w := range c.Warnings {
				fmt.Fprintln(a.err, "massif: warning: "+w)
			}
			if hint := c.SecretsHint(); hint != "" {
				fmt.Fprintln(a.err, "massif: "+hint)
			}
			if a.json {
				return a.printJSON(c.Spec)
			}
			data, err := json.Marshal(c.Spec)
			if err != nil {
				return err
			}
			text, err := yaml.JSONToYAML(data)
			if err != nil {
				return err
			}
			_, err = a.out.Write(text)
			return err
		},
	}
	passphrase.add(cmd.Flags())
	a.jsonFlag(cmd)
	return cmd
}
