package mount

import (
	"fmt"
	"slices"
	"strings"
)

// forceable are the options that a volume or its token may demand of every mount.
// Nothing that names files, addresses or sizes of the machine that mounts is among
// them: who runs an admin server must not write on others' machines through it.
var forceable = []string{
	"ro", "noatime", "noexec", "nosuid", "nodev", "umask", "max-idle",
	"root-squash", "root-squash-uid", "root-squash-gid", "acl", "xattr",
}

// ForcedFlags checks a list of options that an administrator demands, such as
// "ro,noexec", and returns it in the form of ParseOptions. Upper case letters are
// taken as mount.flexfs writes them: noExec, rootSquash, rootSquashUID.
func ForcedFlags(list string) (string, error) {
	var out []string
	for _, word := range SplitOptions(list) {
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		name, value, hasValue := strings.Cut(word, "=")
		plain := ""
		for _, f := range forceable {
			if foldOption(f) == foldOption(name) {
				plain = f
			}
		}
		if plain == "" {
			return "", fmt.Errorf("option %q cannot be demanded of mounts; those that can are %s", name, strings.Join(forceable, ", "))
		}
		var scratch Options
		if err := scratch.setWord(plain, value, hasValue); err != nil {
			return "", err
		}
		if hasValue && value != "true" {
			plain += "=" + value
		}
		if value == "false" {
			return "", fmt.Errorf("option %q can be demanded, not taken back", name)
		}
		if !slices.Contains(out, plain) {
			out = append(out, plain)
		}
	}
	return strings.Join(out, ","), nil
}

// foldOption makes one form of the ways to write an option.
func foldOption(name string) string {
	return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(strings.TrimLeft(name, "-")))
}
