package cloudfuse

import (
	"os"
	"strings"

	"github.com/massif-fs/massif/mount"
)

// Converted is what Convert makes of a configuration.
type Converted struct {
	Spec *mount.Spec
	// Warnings are about what the spec does not do.
	Warnings []string
	// Secrets are the environment variables in which the spec's mount wants the secrets
	// of the configuration: a spec never holds any.
	Secrets []string
}

// Convert makes the spec of a configuration file, which may be encrypted: with the
// passphrase, or that of the environment, or that which is asked for. It sends nothing:
// what the file leaves to the storage to say is not known.
func Convert(file, passphrase string) (*Converted, error) {
	r := &mountRequest{configSource: configSource{file: file, named: true, passphrase: passphrase}}
	s, err := r.settings()
	if err != nil {
		return nil, err
	}
	if s.storage() == "azstorage" && s.text("azstorage.type") == "" {
		s.warnings = append(s.warnings, "azstorage.type is not set: block is assumed here, a mount asks the account")
	}
	spec, err := s.translate()
	if err != nil {
		return nil, err
	}
	c := &Converted{Spec: spec, Warnings: s.warnings}
	if tree, ok := spec.Tree.Config.(*mount.BucketTree); ok && tree.Secrets != nil {
		c.Secrets = secretVariables(tree.Secrets)
	}
	return c, nil
}

// secretVariables are the environment variables for what is secret.
func secretVariables(s *mount.BucketSecrets) []string {
	var names []string
	for _, one := range []struct{ val, env string }{
		{s.AccessKey, "AWS_ACCESS_KEY_ID"}, {s.SecretKey, "AWS_SECRET_ACCESS_KEY"}, {s.SessionToken, "AWS_SESSION_TOKEN"},
		{s.AccountKey, "AZURE_STORAGE_ACCESS_KEY"}, {s.SAS, "AZURE_STORAGE_SAS_TOKEN"}, {s.ClientSecret, "AZURE_STORAGE_SPN_CLIENT_SECRET"},
		{s.Token, "WORKLOAD_IDENTITY_TOKEN"}, {s.UserAssertion, "AZURE_STORAGE_USER_ASSERTION"}, {s.CustomerKey, "AZURE_STORAGE_CPK_ENCRYPTION_KEY"},
	} {
		if one.val != "" && os.Getenv(one.env) != one.val {
			names = append(names, one.env)
		}
	}
	return names
}

// SecretsHint says where the secrets go; "" if there are none.
func (c *Converted) SecretsHint() string {
	if len(c.Secrets) == 0 {
		return ""
	}
	return "a spec holds no secrets: give those of the configuration in " + strings.Join(c.Secrets, ", ")
}
