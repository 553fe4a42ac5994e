package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/massif-fs/massif/door/fuse"
)

// Options say how a tree is mounted. The zero value is what a mount without
// options gets. Each field is documented in the table returned by OptionTable,
// from which the flags of "massif mount", the -o options, the keys of a spec's
// "mount" section and the help all come.
type Options struct {
	ReadOnly           bool     `json:"ro,omitempty"`
	NoAtime            bool     `json:"noatime,omitempty"`
	NoExec             bool     `json:"noexec,omitempty"`
	NoSuid             bool     `json:"nosuid,omitempty"`
	NoDev              bool     `json:"nodev,omitempty"`
	AllowOther         *bool    `json:"allow-other,omitempty"`         // nil: true for root
	DefaultPermissions *bool    `json:"default-permissions,omitempty"` // nil: true
	Umask              *Octal   `json:"umask,omitempty"`
	UID                *uint32  `json:"uid,omitempty"`
	GID                *uint32  `json:"gid,omitempty"`
	FSName             string   `json:"fsname,omitempty"`
	AtTime             string   `json:"at-time,omitempty"`
	RootSquash         bool     `json:"root-squash,omitempty"`
	RootSquashUID      *uint32  `json:"root-squash-uid,omitempty"` // nil: 65534
	RootSquashGID      *uint32  `json:"root-squash-gid,omitempty"` // nil: 65534
	EmptyPoint         bool     `json:"empty-point,omitempty"`
	PassphraseFile     string   `json:"passphrase-file,omitempty"`
	WritebackCache     bool     `json:"writeback-cache,omitempty"`
	MaxIdle            Duration `json:"max-idle,omitempty"`
	Transport          string   `json:"transport,omitempty"` // "": auto

	MemoryLimit Size   `json:"memory-limit,omitempty"`
	CacheDir    string `json:"cache-dir,omitempty"`
	CacheSize   *Size  `json:"cache-size,omitempty"` // nil: chosen by the tree
	Writeback   bool   `json:"writeback,omitempty"`
	JournalSize *Size  `json:"journal-size,omitempty"`
	Uploads     int    `json:"uploads,omitempty"`
	LogLevel    string `json:"log-level,omitempty"`
	LogFile     string `json:"log-file,omitempty"`
	LogFormat   string `json:"log-format,omitempty"`
	AccessLog   string `json:"access-log,omitempty"`
	MetricsAddr string `json:"metrics-addr,omitempty"`
	Pprof       bool   `json:"pprof,omitempty"`
}

// Option describes one mount option.
type Option struct {
	// Name as it is written in help, as a flag and as a key of a spec. In -o
	// '_' and '-' mean the same.
	Name string
	// Arg names the value in help; an option without one is a switch.
	Arg string
	// Group is the heading it stands under in help.
	Group string
	// Help is one line or a little more.
	Help string
	// Inverse is the -o word that takes the switch back ("rw" for "ro").
	Inverse string

	set func(o *Options, value string) error
}

// Set sets the option; value is "" for switches without one.
func (opt *Option) Set(o *Options, value string) error { return opt.set(o, value) }

// OptionTable lists every mount option, in the order of the help.
func OptionTable() []Option { return optionTable }

const (
	groupAccess = "Access"
	groupKernel = "Kernel"
	groupCache  = "Memory and caches"
	groupLog    = "Logs and metrics"
)

var optionTable = []Option{
	{Name: "ro", Group: groupAccess, Help: "mount read-only", Inverse: "rw",
		set: setSwitch(func(o *Options) *bool { return &o.ReadOnly })},
	{Name: "allow-other", Group: groupAccess, Inverse: "noallow-other",
		Help: "let users other than the one who mounts in (default for root; others need user_allow_other in /etc/fuse.conf)",
		set:  setTristate(func(o *Options) **bool { return &o.AllowOther })},
	{Name: "default-permissions", Group: groupAccess, Inverse: "nodefault-permissions",
		Help: "the kernel checks owner, mode and ACLs of each access (default)",
		set:  setTristate(func(o *Options) **bool { return &o.DefaultPermissions })},
	{Name: "uid", Arg: "ID", Group: groupAccess, Help: "show all files as belonging to this user",
		set: setID(func(o *Options) **uint32 { return &o.UID })},
	{Name: "gid", Arg: "ID", Group: groupAccess, Help: "show all files as belonging to this group",
		set: setID(func(o *Options) **uint32 { return &o.GID })},
	{Name: "umask", Arg: "OCTAL", Group: groupAccess, Help: "permission bits taken from every file shown",
		set: func(o *Options, v string) error {
			o.Umask = new(Octal)
			return o.Umask.UnmarshalText([]byte(v))
		}},
	{Name: "at-time", Arg: "TIME", Group: groupAccess, Help: "show a volume, read-only, as it was at a time (2026-01-31T12:00:00, or 2h for two hours ago) or at a snapshot (its name)",
		set: func(o *Options, v string) error {
			if v == "" {
				return fmt.Errorf("name a time or a snapshot")
			}
			o.AtTime = v
			return nil
		}},
	{Name: "root-squash", Group: groupAccess, Inverse: "noroot-squash", Help: "treat root as nobody: who is root here gets no more than others on the volume",
		set: setSwitch(func(o *Options) *bool { return &o.RootSquash })},
	{Name: "root-squash-uid", Arg: "ID", Group: groupAccess, Help: "the user that root-squash makes of root (default 65534)",
		set: setID(func(o *Options) **uint32 { return &o.RootSquashUID })},
	{Name: "root-squash-gid", Arg: "ID", Group: groupAccess, Help: "the group that root-squash makes of root's (default 65534)",
		set: setID(func(o *Options) **uint32 { return &o.RootSquashGID })},
	{Name: "empty-point", Group: groupAccess, Inverse: "nonempty", Help: "refuse a mount point that is not an empty directory",
		set: setSwitch(func(o *Options) *bool { return &o.EmptyPoint })},
	{Name: "passphrase-file", Arg: "FILE", Group: groupAccess, Help: "the file (mode 0600) with the passphrase of an encrypted volume (else MASSIF_PASSPHRASE, or it is asked for on the terminal)",
		set: setPath(func(o *Options) *string { return &o.PassphraseFile })},
	{Name: "max-idle", Arg: "DURATION", Group: groupAccess, Help: "unmount when nothing has used the mount for so long (default: never)",
		set: func(o *Options, v string) error { return o.MaxIdle.UnmarshalText([]byte(v)) }},

	{Name: "transport", Arg: "auto|classic|uring", Group: groupKernel, Help: "how messages come from the kernel: by read(2), or by io_uring where root has allowed it (default auto: by read)",
		set: func(o *Options, v string) error {
			_, err := fuse.ParseTransport(v)
			o.Transport = v
			return err
		}},
	{Name: "noatime", Group: groupKernel, Help: "do not record when files are read (default: relatime)", Inverse: "relatime",
		set: setSwitch(func(o *Options) *bool { return &o.NoAtime })},
	{Name: "noexec", Group: groupKernel, Help: "do not run programs from the mount", Inverse: "exec",
		set: setSwitch(func(o *Options) *bool { return &o.NoExec })},
	{Name: "nosuid", Group: groupKernel, Help: "ignore set-user-id and set-group-id bits (always so without root)", Inverse: "suid",
		set: setSwitch(func(o *Options) *bool { return &o.NoSuid })},
	{Name: "nodev", Group: groupKernel, Help: "devices cannot be opened (always so without root)", Inverse: "dev",
		set: setSwitch(func(o *Options) *bool { return &o.NoDev })},
	{Name: "writeback-cache", Group: groupKernel, Help: "let the kernel collect writes: pays for streams of small writes; errors are told by fsync", Inverse: "nowriteback-cache",
		set: setSwitch(func(o *Options) *bool { return &o.WritebackCache })},
	{Name: "fsname", Arg: "NAME", Group: groupKernel, Help: "what mount and df show as the device (default: the source)",
		set: func(o *Options, v string) error { o.FSName = v; return nil }},

	{Name: "memory-limit", Arg: "SIZE", Group: groupCache, Help: "memory for data in flight and caches (default: 300MiB or 10% of the RAM, whichever is more)",
		set: func(o *Options, v string) error { return o.MemoryLimit.UnmarshalText([]byte(v)) }},
	{Name: "cache-dir", Arg: "DIR", Group: groupCache, Help: "where the disk cache lives (default: below the volume's directory)",
		set: func(o *Options, v string) error {
			if v == "" {
				return fmt.Errorf("name a directory")
			}
			dir, err := filepath.Abs(v)
			o.CacheDir = dir
			return err
		}},
	{Name: "cache-size", Arg: "SIZE", Group: groupCache, Help: "bytes of the disk cache; 0: none (default: 10GiB for a remote store, none for a local one)",
		set: setSize(func(o *Options) **Size { return &o.CacheSize })},
	{Name: "writeback", Group: groupCache, Help: "fsync returns when data is in the local journal; it is uploaded afterwards, also after a crash", Inverse: "nowriteback",
		set: setSwitch(func(o *Options) *bool { return &o.Writeback })},
	{Name: "journal-size", Arg: "SIZE", Group: groupCache, Help: "bytes of the write-back journal; writers wait when it is full (default: 10GiB)",
		set: setSize(func(o *Options) **Size { return &o.JournalSize })},
	{Name: "uploads", Arg: "N", Group: groupCache, Help: "blocks sent to the store at the same time (default: 16 for a remote store)",
		set: func(o *Options, v string) error {
			n, err := strconv.Atoi(v)
			if err != nil || n < 1 || n > 1024 {
				return fmt.Errorf("%q: use a number from 1 to 1024", v)
			}
			o.Uploads = n
			return nil
		}},

	{Name: "log-level", Arg: "LEVEL", Group: groupLog, Help: "debug, info, warn or error (default: info); change it later with: massif log-level MOUNTPOINT LEVEL",
		set: func(o *Options, v string) error {
			if !slices.Contains(logLevels, v) {
				return fmt.Errorf("%q: use debug, info, warn or error", v)
			}
			o.LogLevel = v
			return nil
		}},
	{Name: "log-file", Arg: "FILE", Group: groupLog, Help: "where the mount writes its log (default: log/ below Massif's directory; with --foreground: stderr)",
		set: setPath(func(o *Options) *string { return &o.LogFile })},
	{Name: "log-format", Arg: "FORMAT", Group: groupLog, Help: "text or json (default: text)",
		set: func(o *Options, v string) error {
			if v != "text" && v != "json" {
				return fmt.Errorf("%q: use text or json", v)
			}
			o.LogFormat = v
			return nil
		}},
	{Name: "access-log", Arg: "FILE", Group: groupLog, Help: "write a line for every file system call to this file (\"massif access-log\" shows them live)",
		set: setPath(func(o *Options) *string { return &o.AccessLog })},
	{Name: "metrics-addr", Arg: "HOST:PORT", Group: groupLog, Help: "serve Prometheus metrics at http://HOST:PORT/metrics",
		set: func(o *Options, v string) error {
			if !strings.Contains(v, ":") {
				return fmt.Errorf("%q: write HOST:PORT, such as 127.0.0.1:9567", v)
			}
			o.MetricsAddr = v
			return nil
		}},
	{Name: "pprof", Group: groupLog, Help: "serve Go profiles at http://HOST:PORT/debug/pprof/ of --metrics-addr", Inverse: "nopprof",
		set: setSwitch(func(o *Options) *bool { return &o.Pprof })},
}

var logLevels = []string{"debug", "info", "warn", "error"}

// ignoredOptions are words that mount(8) and fstab(5) use for themselves, and such as
// ask for what is so anyway: ACLs and extended attributes, where the tree keeps them.
var ignoredOptions = []string{
	"acl", "xattr", "user_xattr",
	"defaults", "auto", "noauto", "user", "nouser", "users", "group", "owner", "nofail", "_netdev", "async",
	"dirsync", "sync", "loud", "silent", "iversion", "noiversion", "nodiratime", "diratime", "strictatime", "lazytime", "nolazytime",
}

// UsageError is wrapped by errors that are the caller's way of asking: an unknown
// option, a value that cannot be.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// ParseOptions adds options as they stand behind -o: words divided by commas,
// "name" or "name=value". Later ones win. An unknown one is a *UsageError that
// names it and the nearest known one. A comma in a value is written "\,".
func (o *Options) ParseOptions(list string) error {
	for _, word := range SplitOptions(list) {
		if word == "" {
			continue
		}
		name, value, hasValue := strings.Cut(word, "=")
		if err := o.setWord(name, value, hasValue); err != nil {
			return &UsageError{err}
		}
	}
	return nil
}

func (o *Options) setWord(name, value string, hasValue bool) error {
	plain := strings.ReplaceAll(name, "_", "-")
	for i := range optionTable {
		opt := &optionTable[i]
		switch {
		case plain == opt.Name && opt.Arg != "" && !hasValue:
			return fmt.Errorf("option %q needs a value: %s=%s", name, name, opt.Arg)
		case plain == opt.Name && opt.Arg == "" && hasValue && value != "true" && value != "false":
			return fmt.Errorf("option %q takes no value", name)
		case plain == opt.Name:
			if err := opt.set(o, value); err != nil {
				return fmt.Errorf("option %q: %w", name, err)
			}
			return nil
		case opt.Inverse != "" && plain == opt.Inverse:
			return opt.set(o, "false")
		}
	}
	if slices.Contains(ignoredOptions, name) || strings.HasPrefix(name, "x-") || name == "comment" {
		return nil
	}
	if near := Nearest(plain, optionNames()); near != "" {
		return fmt.Errorf("unknown option %q; did you mean %q?", name, near)
	}
	return fmt.Errorf("unknown option %q; \"massif help mount\" lists the options", name)
}

// SplitOptions divides a -o list into its words and takes escapes (\, and \\) away.
func SplitOptions(list string) []string {
	var words []string
	var b strings.Builder
	for i := 0; i < len(list); i++ {
		switch {
		case list[i] == '\\' && i+1 < len(list) && (list[i+1] == ',' || list[i+1] == '\\'):
			i++
			b.WriteByte(list[i])
		case list[i] == ',':
			words = append(words, b.String())
			b.Reset()
		default:
			b.WriteByte(list[i])
		}
	}
	return append(words, b.String())
}

func optionNames() []string {
	var names []string
	for _, opt := range optionTable {
		names = append(names, opt.Name)
		if opt.Inverse != "" {
			names = append(names, opt.Inverse)
		}
	}
	return names
}

// Validate finds contradictions.
func (o *Options) Validate() error {
	switch {
	case o.MemoryLimit != 0 && o.MemoryLimit < MinMemoryLimit:
		return &UsageError{fmt.Errorf("option \"memory-limit\": %v is too little, use at least %v", o.MemoryLimit, Size(MinMemoryLimit))}
	case o.ReadOnly && o.Writeback:
		return &UsageError{fmt.Errorf("options \"ro\" and \"writeback\" contradict each other")}
	case o.Pprof && o.MetricsAddr == "":
		return &UsageError{fmt.Errorf("option \"pprof\" needs \"metrics-addr\"")}
	case !validTransport(o.Transport):
		return &UsageError{fmt.Errorf("option \"transport\": %q is not auto, classic or uring", o.Transport)}
	case o.MaxIdle < 0:
		return &UsageError{fmt.Errorf("option \"max-idle\" must not be negative")}
	}
	return nil
}

func validTransport(s string) bool {
	_, err := fuse.ParseTransport(s)
	return err == nil
}

// MinMemoryLimit is the least memory limit, in bytes: it still holds the blocks of a few
// streams of the largest block size.
const MinMemoryLimit = 64 << 20

// Nobody is the user and the group that root-squash makes of root, unless others are
// named.
const Nobody = 65534

// EffectiveAllowOther is AllowOther or its default.
func (o *Options) EffectiveAllowOther() bool {
	if o.AllowOther != nil {
		return *o.AllowOther
	}
	return os.Geteuid() == 0
}

// EffectiveDefaultPermissions is DefaultPermissions or its default.
func (o *Options) EffectiveDefaultPermissions() bool {
	return o.DefaultPermissions == nil || *o.DefaultPermissions
}

func setSwitch(field func(*Options) *bool) func(*Options, string) error {
	return func(o *Options, v string) error {
		on, err := switchValue(v)
		*field(o) = on
		return err
	}
}

func setTristate(field func(*Options) **bool) func(*Options, string) error {
	return func(o *Options, v string) error {
		on, err := switchValue(v)
		*field(o) = &on
		return err
	}
}

func switchValue(v string) (bool, error) {
	switch v {
	case "", "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%q: use true or false", v)
}

func setID(field func(*Options) **uint32) func(*Options, string) error {
	return func(o *Options, v string) error {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || n == 1<<32-1 {
			return fmt.Errorf("%q: use a number", v)
		}
		id := uint32(n)
		*field(o) = &id
		return nil
	}
}

func setSize(field func(*Options) **Size) func(*Options, string) error {
	return func(o *Options, v string) error {
		n, err := ParseSize(v)
		*field(o) = &n
		return err
	}
}

func setPath(field func(*Options) *string) func(*Options, string) error {
	return func(o *Options, v string) error {
		if v == "" {
			return fmt.Errorf("name a file")
		}
		path, err := filepath.Abs(v)
		*field(o) = path
		return err
	}
}

// Nearest returns the candidate that a slip of the pen away from name would
// explain, or "".
func Nearest(name string, candidates []string) string {
	best, bestDistance := "", 1+len(name)/3
	for _, c := range candidates {
		if d := editDistance(name, c); d <= bestDistance && (best == "" || d < bestDistance) {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance is the Levenshtein distance.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// KnownOptions drops from a -o list the words that ParseOptions would not know, as
// mount(8)'s -s ("sloppy") asks.
func KnownOptions(list string) string {
	var known []string
	for _, word := range SplitOptions(list) {
		name, _, _ := strings.Cut(word, "=")
		name = strings.ReplaceAll(name, "_", "-")
		if slices.Contains(optionNames(), name) {
			known = append(known, strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(word))
		}
	}
	return strings.Join(known, ",")
}
