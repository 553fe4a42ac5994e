package cloudfuse

import (
	"slices"
	"strings"

	"github.com/massif-fs/massif/mount"
)

// fuseOptions are the words behind -o that mean something, and the keys they set. A key
// that ends in '=' takes a value.
var fuseOptions = map[string]string{
	"allow_other": "allow-other", "allow_root": "allow-root", "ro": "read-only", "nonempty": "nonempty", "direct_io": "direct-io",
	"attr_timeout=": "libfuse.attribute-expiration-sec", "entry_timeout=": "libfuse.entry-expiration-sec",
	"negative_timeout=": "libfuse.negative-entry-expiration-sec",
	"umask=":            "libfuse.umask", "uid=": "libfuse.uid", "gid=": "libfuse.gid",
}

// fuseOrder is the order in which a refusal lists them.
var fuseOrder = []string{"allow_other", "allow_root", "attr_timeout=SECONDS", "entry_timeout=SECONDS", "negative_timeout=SECONDS", "ro", "nonempty", "umask=OCTAL", "uid=ID", "gid=ID", "direct_io"}

// ignoredOptions are words that mount(8) and fstab have for themselves.
var ignoredOptions = []string{
	"default_permissions", "rw", "dev", "nodev", "suid", "nosuid", "delay_connect", "auto", "noauto", "user", "nouser", "users", "exec", "noexec",
	"defaults", "_netdev", "nofail", "group", "owner", "async", "sync", "relatime", "noatime",
}

// applyOptions gives the settings what words behind -o say.
func applyOptions(s *settings, words []string, from string) error {
	for _, word := range words {
		word = strings.TrimSpace(word)
		name, val, has := strings.Cut(word, "=")
		if has {
			name += "="
		} else {
			val = "true"
		}
		key, known := fuseOptions[name]
		switch {
		case word == "" || slices.Contains(ignoredOptions, word) || strings.HasPrefix(word, "x-") || name == "comment=":
			continue
		case !known:
			return usageError("invalid FUSE option %q; allowed are %s", word, strings.Join(fuseOrder, ", "))
		}
		s.override(key, value{text: val, from: from + " " + strings.TrimSuffix(name, "=")})
	}
	return nil
}

// expandOptions makes flags of the words behind -o that begin with "--", as fstab lines
// have them.
func expandOptions(args []string) ([]string, error) {
	var out, flags []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		var words string
		switch {
		case a == "--":
			return append(append(out, flags...), args[i:]...), nil
		case a == "-o" && i+1 < len(args) && mounts(out):
			i++
			words = args[i]
		case strings.HasPrefix(a, "-o") && len(a) > 2 && mounts(out):
			words = strings.TrimPrefix(a[2:], "=")
		default:
			out = append(out, a)
			continue
		}
		var rest []string
		for _, word := range mount.SplitOptions(words) {
			switch {
			case strings.HasPrefix(word, "--"):
				flags = append(flags, word)
			case word != "":
				rest = append(rest, strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(word))
			}
		}
		if len(rest) > 0 {
			out = append(out, "-o", strings.Join(rest, ","))
		}
	}
	return append(out, flags...), nil
}

// mounts tells whether the arguments are those of a mount: "-o" is another flag
// elsewhere.
func mounts(args []string) bool {
	words := slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "-") })
	if len(words) > 1 && words[0] == "service" {
		words = words[1:]
	}
	return len(words) > 0 && (words[0] == "mount" || words[0] == "mnt")
}

// mountArgs makes a "mount" of a command line without a command, as mount(8) and
// mount.fuse(8) have it: DIR -o OPTIONS, or SOURCE DIR -o OPTIONS, where SOURCE may be a
// configuration file.
func mountArgs(args []string) ([]string, error) {
	var words, flags []string
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-o" && i+1 < len(args):
			flags = append(flags, a, args[i+1])
			i++
		case strings.HasPrefix(a, "-"):
			flags = append(flags, a)
		default:
			words = append(words, a)
		}
	}
	switch len(words) {
	case 1:
	case 2:
		source, lower := words[0], strings.ToLower(words[0])
		words = words[1:]
		if strings.Contains(source, "/") || strings.HasSuffix(lower, ".yaml") || strings.HasSuffix(lower, ".yml") || strings.HasSuffix(lower, ".aes") {
			flags = append([]string{"--config-file=" + source}, flags...)
		}
	default:
		return nil, usageError("there is no command %q; \"cloudfuse help\" lists the commands", args[0])
	}
	return append([]string{"mount", words[0]}, flags...), nil
}
