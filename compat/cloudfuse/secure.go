package cloudfuse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/internal/atomicfile"
	"github.com/massif-fs/massif/internal/cmdline"
	"github.com/massif-fs/massif/seal"
)

func (p *Personality) secureCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "secure", Short: "Encrypt and decrypt configuration files, and read and change encrypted ones",
		Long: `Encrypt and decrypt configuration files, and read and change encrypted ones.

The passphrase is that of --passphrase, else of ` + passphraseEnv + `,
else it is asked for. Files that are written have the mode 0600; the file that is read
stays, unless --remove-source is given.`,
	}, p.encryptCommand(), p.decryptCommand(), p.getCommand(), p.setCommand())
}

// secureFlags are those of all commands of "secure".
func secureFlags(cmd *cobra.Command) *configSource {
	c := &configSource{}
	cmd.Flags().SortFlags = false
	c.addFlags(cmd.Flags())
	cmd.Args = cmdline.Args(0)
	return c
}

func (p *Personality) encryptCommand() *cobra.Command {
	var output string
	var remove bool
	cmd := &cobra.Command{Use: "encrypt", Short: "Encrypt a configuration file", Example: "  cloudfuse secure encrypt --config-file=config.yaml --output-file=config.aes"}
	c := secureFlags(cmd)
	cmd.Flags().StringVarP(&output, "output-file", "o", "", "`FILE` to write (default: the configuration file and .aes)")
	cmd.Flags().BoolVar(&remove, "remove-source", false, "remove the unencrypted file")
	cmd.RunE = func(*cobra.Command, []string) error {
		plain, err := readFile(c.path())
		if err != nil {
			return fmt.Errorf("secure encrypt: %w", err)
		}
		if _, err := parseConfig(plain); err != nil {
			return fmt.Errorf("secure encrypt: %s: %w", c.path(), err)
		}
		pass, err := c.pass()
		if err != nil {
			return fmt.Errorf("secure encrypt: %w", err)
		}
		defer pass.Wipe()
		data, err := seal.SealConfig(pass, plain)
		if err != nil {
			return fmt.Errorf("secure encrypt: %w", err)
		}
		if output == "" {
			output = c.path() + sealedSuffix
		}
		return replaced("secure encrypt", c.path(), expand(output), data, remove)
	}
	return cmd
}

func (p *Personality) decryptCommand() *cobra.Command {
	var output string
	var remove bool
	cmd := &cobra.Command{Use: "decrypt", Short: "Decrypt a configuration file", Example: "  cloudfuse secure decrypt --config-file=config.aes --output-file=config.yaml"}
	c := secureFlags(cmd)
	cmd.Flags().StringVarP(&output, "output-file", "o", "", "`FILE` to write (default: the configuration file without .aes)")
	cmd.Flags().BoolVar(&remove, "remove-source", false, "remove the encrypted file")
	cmd.RunE = func(*cobra.Command, []string) error {
		c.secure = true
		plain, err := c.text()
		if err != nil {
			return fmt.Errorf("secure decrypt: %w", err)
		}
		if output == "" {
			if !strings.EqualFold(filepath.Ext(c.path()), sealedSuffix) {
				return usageError("secure decrypt: the name of %s does not end in %s: name the file to write with --output-file", c.path(), sealedSuffix)
			}
			output = c.path()[:len(c.path())-len(sealedSuffix)]
		}
		return replaced("secure decrypt", c.path(), expand(output), plain, remove)
	}
	return cmd
}

// replaced writes what was made of a file, and removes that if asked to.
func replaced(what, from, to string, data []byte, remove bool) error {
	if a, err := os.Stat(from); err == nil {
		if b, err := os.Stat(to); err == nil && os.SameFile(a, b) {
			return usageError("%s: %s would be written over itself", what, from)
		}
	}
	if err := atomicfile.Write(to, data, 0o600); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if remove {
		if err := os.Remove(from); err != nil {
			return fmt.Errorf("%s: %s is written, but %w", what, to, err)
		}
	}
	return nil
}

func (p *Personality) getCommand() *cobra.Command {
	var key string
	cmd := &cobra.Command{Use: "get", Short: "Show a value of an encrypted configuration file", Example: "  cloudfuse secure get --config-file=config.aes --key=logging.level"}
	c := secureFlags(cmd)
	cmd.Flags().StringVarP(&key, "key", "k", "", "the `KEY`, as in logging.level")
	cmd.RunE = func(*cobra.Command, []string) error {
		c.secure = true
		file, err := c.document("secure get", key)
		if err != nil {
			return err
		}
		node := lookUp(file, splitKey(key))
		switch n := node.(type) {
		case nil:
			return fmt.Errorf("secure get: key %q not found in %s", key, c.path())
		case *ast.MappingNode:
			fmt.Fprintln(p.Out, "Fetching group level configuration")
			for _, v := range n.Values {
				fmt.Fprintf(p.Out, "%s = %s\n", key+"."+v.Key.GetToken().Value, shortText(v.Value))
			}
		case *ast.SequenceNode:
			fmt.Fprintln(p.Out, "Fetching options level configuration")
			fmt.Fprintf(p.Out, "%s = %s\n", key, shortText(node))
		default:
			fmt.Fprintln(p.Out, "Fetching scalar configuration")
			fmt.Fprintf(p.Out, "%s = %s\n", key, shortText(node))
		}
		return nil
	}
	return cmd
}

func (p *Personality) setCommand() *cobra.Command {
	var key, val string
	cmd := &cobra.Command{Use: "set", Short: "Change a value of an encrypted configuration file", Example: "  cloudfuse secure set --config-file=config.aes --key=logging.level --value=log_debug"}
	c := secureFlags(cmd)
	cmd.Flags().StringVarP(&key, "key", "k", "", "the `KEY`, as in logging.level")
	cmd.Flags().StringVar(&val, "value", "", "the new `VALUE`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c.secure = true
		if !cmd.Flags().Changed("value") {
			return usageError("secure set: --value is missing")
		}
		pass, err := c.pass() // once: it may be asked for
		if err != nil {
			return fmt.Errorf("secure set: %w", err)
		}
		defer pass.Wipe()
		c.passphrase = string(pass)
		file, err := c.document("secure set", key)
		if err != nil {
			return err
		}
		parts := splitKey(key)
		switch n := lookUp(file, parts).(type) {
		case nil:
			fmt.Fprintln(p.Out, "Key not found in config file, adding now")
		case *ast.MappingNode, *ast.SequenceNode:
			return fmt.Errorf("secure set: %q is not a single value, and only such can be set", key)
		default:
			fmt.Fprintf(p.Out, "Current value : %s = %s\n", key, shortText(n))
		}
		text, err := setValue(file, parts, val)
		if err != nil {
			return fmt.Errorf("secure set: %w", err)
		}
		data, err := seal.SealConfig(pass, []byte(text))
		if err != nil {
			return fmt.Errorf("secure set: %w", err)
		}
		if err := atomicfile.Write(c.path(), data, 0o600); err != nil {
			return fmt.Errorf("secure set: %w", err)
		}
		_, err = fmt.Fprintf(p.Out, "Updated value : %s = %s\n", key, val)
		return err
	}
	return cmd
}

// document is the configuration as a tree that keeps its comments.
func (c *configSource) document(what, key string) (*ast.File, error) {
	if key == "" {
		return nil, usageError("%s: --key is missing", what)
	}
	plain, err := c.text()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	file, err := parser.ParseBytes(plain, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", what, c.path(), yamlError(err))
	}
	return file, nil
}

// splitKey parts a key into section and name.
func splitKey(key string) []string { return strings.Split(key, ".") }

// body is the mapping of a document; nil if there is none.
func body(file *ast.File) *ast.MappingNode {
	for _, doc := range file.Docs {
		if m, ok := doc.Body.(*ast.MappingNode); ok {
			return m
		}
	}
	return nil
}

// find finds the pair of a key, whatever the case of its letters.
func find(m *ast.MappingNode, name string) *ast.MappingValueNode {
	if m == nil {
		return nil
	}
	for _, v := range m.Values {
		if strings.EqualFold(v.Key.GetToken().Value, name) {
			return v
		}
	}
	return nil
}

// lookUp finds the value of a key; nil if there is none.
func lookUp(file *ast.File, parts []string) ast.Node {
	m := body(file)
	for i, part := range parts {
		v := find(m, part)
		if v == nil {
			return nil
		}
		if i == len(parts)-1 {
			return v.Value
		}
		m, _ = v.Value.(*ast.MappingNode)
	}
	return nil
}

// shortText is a value on one line.
func shortText(node ast.Node) string {
	switch n := node.(type) {
	case *ast.LiteralNode:
		return n.Value.Value
	case *ast.SequenceNode:
		var items []string
		for _, v := range n.Values {
			items = append(items, shortText(v))
		}
		return "[" + strings.Join(items, " ") + "]"
	case *ast.MappingNode:
		var items []string
		for _, v := range n.Values {
			items = append(items, v.Key.GetToken().Value+":"+shortText(v.Value))
		}
		return "map[" + strings.Join(items, " ") + "]"
	case *ast.NullNode:
		return ""
	}
	return node.GetToken().Value
}

// setValue changes a value in the text of a configuration and returns the new text.
// What else stands in it, comments too, stays as it is.
func setValue(file *ast.File, parts []string, val string) (string, error) {
	text, err := withValue(file, parts, val)
	if err != nil {
		return "", err
	}
	// Nothing is written that does not say what was meant.
	again, err := parser.ParseBytes([]byte(text), 0)
	if err != nil {
		return "", yamlError(err)
	}
	if node := lookUp(again, parts); node == nil || shortText(node) != val {
		return "", fmt.Errorf("the value of %s cannot be written as YAML", strings.Join(parts, "."))
	}
	return text, nil
}

func withValue(file *ast.File, parts []string, val string) (string, error) {
	for _, part := range parts {
		if part == "" || strings.ContainsAny(part, ": \t\n#") {
			return "", fmt.Errorf("%q is no key", strings.Join(parts, "."))
		}
	}
	if len(parts) > 2 {
		return "", fmt.Errorf("%q is no key: one has a section and a name", strings.Join(parts, "."))
	}
	scalar, err := scalarNode(val)
	if err != nil {
		return "", err
	}
	m := body(file)
	if v := find(m, parts[0]); v != nil && len(parts) == 1 {
		return text1(file, v, scalar)
	} else if v != nil {
		sub, ok := v.Value.(*ast.MappingNode)
		if old := find(sub, parts[1]); old != nil {
			return text1(file, old, scalar)
		}
		if !ok {
			if _, empty := v.Value.(*ast.NullNode); !empty {
				return "", fmt.Errorf("%q is no section", parts[0])
			}
		}
		more, err := parser.ParseBytes([]byte(parts[1]+": "+scalar+"\n"), 0)
		if err != nil {
			return "", err
		}
		if !ok || len(sub.Values) == 0 {
			v.Value = body(more)
			body(more).AddColumn(2)
		} else {
			pair := body(more).Values[0]
			pair.AddColumn(sub.Values[0].Key.GetToken().Position.Column - 1)
			sub.Values = append(sub.Values, pair)
		}
		return checked(file.String())
	}
	text := strings.TrimSuffix(file.String(), "\n")
	if m == nil || len(m.Values) == 0 {
		text = ""
	}
	if text != "" {
		text += "\n"
	}
	if len(parts) == 1 {
		return checked(text + parts[0] + ": " + scalar + "\n")
	}
	return checked(text + parts[0] + ":\n  " + parts[1] + ": " + scalar + "\n")
}

// text1 gives a pair another value.
func text1(file *ast.File, v *ast.MappingValueNode, scalar string) (string, error) {
	more, err := parser.ParseBytes([]byte("x: "+scalar+"\n"), 0)
	if err != nil {
		return "", err
	}
	node := body(more).Values[0].Value
	if old := v.Value.GetComment(); old != nil {
		if err := node.SetComment(old); err != nil {
			return "", err
		}
	}
	v.Value = node
	return checked(file.String())
}

// scalarNode writes a value so that YAML reads it as it is.
func scalarNode(val string) (string, error) {
	if strings.ContainsAny(val, "\n\r") {
		return "", errors.New("the value has more than one line")
	}
	if val == "" || token.IsNeedQuoted(val) {
		// A number or a word for true or false means what it says.
		plain := !strings.EqualFold(val, "null") && strings.IndexFunc(val, func(r rune) bool {
			return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_' || r == '.')
		}) < 0
		if val == "" || !plain {
			return "'" + strings.ReplaceAll(val, "'", "''") + "'", nil
		}
	}
	return val, nil
}

// checked sees to it that a text is a configuration still.
func checked(text string) (string, error) {
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	_, err := parseConfig([]byte(text))
	return text, err
}
