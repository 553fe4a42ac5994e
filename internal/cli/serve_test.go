package cli

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// configFlags are flags of several kinds.
func configFlags() (*pflag.FlagSet, *string, *[]string, *bool) {
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	listen := flags.String("listen", ":443", "")
	hosts := flags.StringSlice("host", nil, "")
	on := flags.Bool("on", false, "")
	flags.String("config", "", "")
	return flags, listen, hosts, on
}

func TestServerConfig(t *testing.T) {
	flags, listen, hosts, on := configFlags()
	if err := flags.Parse([]string{"--listen", ":1"}); err != nil {
		t.Fatal(err)
	}
	err := parseConfig(flags, []byte("listen = \":2\"\nhost = [\"a\", \"b\"]\non = true\n"))
	if err != nil || *listen != ":1" || strings.Join(*hosts, " ") != "a b" || !*on {
		t.Errorf("%v, %q, %q, %v", err, *listen, *hosts, *on)
	}
	for text, want := range map[string]string{
		"lisen = 1":       `did you mean "listen"?`,
		"config = \"x\"":  `"config" is not known`,
		"[listen]\na = 1": "write a value",
		"on = \"maybe\"":  `the key "on"`,
		"a = = 1":         "line 1, column",
	} {
		flags, _, _, _ := configFlags()
		if err := parseConfig(flags, []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v does not say %q", text, err, want)
		}
	}
}

func FuzzServerConfig(f *testing.F) {
	f.Add("listen = \":2\"\nhost = [\"a\", \"b\"]\non = true\n")
	f.Add("[a.b]\nc=1979-05-27T07:32:00Z")
	f.Fuzz(func(t *testing.T, text string) {
		flags, _, _, _ := configFlags()
		_ = parseConfig(flags, []byte(text)) // whatever it says: no panic
	})
}

// TestExampleConfigs: the configuration files in examples/ are right.
func TestExampleConfigs(t *testing.T) {
	root := newRoot(streams{strings.NewReader(""), io.Discard, io.Discard})
	for file, server := range map[string]string{"admin.toml": "admin", "meta.toml": "meta"} {
		cmd, _, err := root.Find([]string{"serve", server})
		if err != nil {
			t.Fatal(err)
		}
		if err := applyConfig(cmd.Flags(), filepath.Join("..", "..", "examples", file)); err != nil {
			t.Error(err)
		}
		if cmd.Flags().Lookup("dir").Value.String() == "" {
			t.Errorf("%s names no directory", file)
		}
	}
}
