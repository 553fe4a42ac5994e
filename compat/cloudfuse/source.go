package cloudfuse

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/massif-fs/massif/internal/terminal"
	"github.com/massif-fs/massif/seal"
)

// Names of what belongs to configuration files.
const (
	defaultConfig = "config.yaml"
	sealedSuffix  = ".aes"
	passphraseEnv = "CLOUDFUSE_SECURE_CONFIG_PASSPHRASE"
	// blobfusePassphraseEnv is what blobfuse2 calls it.
	blobfusePassphraseEnv = "BLOBFUSE2_SECURE_CONFIG_PASSPHRASE"
)

var errNoPassphrase = errors.New("no passphrase provided to decrypt the config file; give it by --passphrase or in " + passphraseEnv)

// configSource says where the configuration is.
type configSource struct {
	file       string
	named      bool // by a flag
	secure     bool
	passphrase string
}

func (c *configSource) addFlags(flags *pflag.FlagSet) {
	flags.StringVarP(&c.file, "config-file", "c", defaultConfig, "`FILE` of the configuration")
	flags.StringVarP(&c.passphrase, "passphrase", "p", "", "`PASSPHRASE` of an encrypted configuration; better in "+passphraseEnv)
}

// sealed tells whether the file is encrypted.
func (c *configSource) sealed() bool {
	return c.secure || strings.EqualFold(filepath.Ext(c.file), sealedSuffix)
}

// path is the file, with what stands for something in it expanded.
func (c *configSource) path() string { return expand(c.file) }

// pass is the passphrase of the configuration: that of the flag, else of the
// environment, else what the person at the terminal says.
func (c *configSource) pass() (seal.Passphrase, error) {
	for _, text := range []string{c.passphrase, os.Getenv(passphraseEnv), os.Getenv(blobfusePassphraseEnv)} {
		if text != "" {
			return seal.Passphrase(text), nil
		}
	}
	text, err := terminal.Secret("Passphrase of " + c.path() + ": ")
	if errors.Is(err, terminal.ErrNone) || err == nil && text == "" {
		return nil, errNoPassphrase
	}
	return seal.Passphrase(text), err
}

// readFile reads a file that is not larger than a configuration may be.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxConfig)
	}
	return data, nil
}

// text reads the configuration file as plain text.
func (c *configSource) text() ([]byte, error) {
	data, err := readFile(c.path())
	if err != nil || !c.sealed() {
		return data, err
	}
	pass, err := c.pass()
	if err != nil {
		return nil, err
	}
	defer pass.Wipe()
	plain, err := seal.OpenConfig(pass, data)
	if err != nil {
		return nil, fmt.Errorf("failed to decrypt config file %s: %w", c.path(), err)
	}
	return plain, nil
}
