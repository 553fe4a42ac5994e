package flexfs

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/mount"
)

// request is what the flags of start, or the options of an fstab line, ask for.
type request struct {
	name, point string
	credsFile   string
	foreground  bool
	options     mount.Options
	warnings    []string

	diskFolder, diskQuota string
	pprof                 bool
	pprofPort             string
}

// startFlag is a flag of "start".
type startFlag struct {
	name  string
	short string // one letter
	arg   string // name of the value; "": a switch
	help  string
	// hidden flags are those that flexFS calls internal.
	hidden bool
	// apply does what the flag asks for. Switches get "true" or "false".
	apply func(r *request, value string) error
	// idle, if not empty, says why the flag has no effect here.
	idle string
}

// word makes the apply of a flag that is an option of Massif's.
func word(option string) func(*request, string) error {
	return func(r *request, v string) error {
		return r.options.ParseOptions(option + "=" + strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(v))
	}
}

// toggle makes the apply of a switch that is an option of Massif's.
func toggle(options ...string) func(*request, string) error {
	return func(r *request, v string) error {
		on, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%q: use true or false", v)
		}
		if !on {
			return nil
		}
		return r.options.ParseOptions(strings.Join(options, ","))
	}
}

func flag(field func(*request) *bool) func(*request, string) error {
	return func(r *request, v string) error {
		on, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%q: use true or false", v)
		}
		*field(r) = on
		return nil
	}
}

func count(v string) error {
	if _, err := strconv.ParseUint(v, 10, 32); err != nil {
		return fmt.Errorf("%q: use a number", v)
	}
	return nil
}

// startFlags are the flags of start, of every version that is documented.
var startFlags = []startFlag{
	{name: "acl", help: "enforce POSIX ACLs (Massif always does)", apply: toggle()},
	{name: "xAttr", help: "extended attributes (Massif always has them)", apply: toggle()},
	{name: "noGroupCache", help: "do not cache who is in which group (Massif never does)", apply: toggle()},
	{name: "noATime", help: "do not record when files are read", apply: toggle("noatime")},
	{name: "noExec", help: "do not run programs from the mount", apply: toggle("noexec")},
	{name: "noSUID", help: "ignore set-user-id and set-group-id bits", apply: toggle("nosuid")},
	{name: "nonEmpty", help: "mount over a directory that is not empty", apply: toggle("nonempty")},
	{name: "ro", help: "mount read-only", apply: toggle("ro", "noatime")},
	{name: "rootSquash", help: "treat root as nobody", apply: toggle("root-squash")},
	{name: "rootSquashUID", arg: "UID", help: "user that --rootSquash makes of root (default 65534)", apply: word("root-squash-uid")},
	{name: "rootSquashGID", arg: "GID", help: "group that --rootSquash makes of root's (default 65534)", apply: word("root-squash-gid")},
	{name: "umask", arg: "OCTAL", help: "permission bits taken from every file shown", apply: word("umask")},
	{name: "atTime", arg: "TIME", help: "show the volume, read-only, as it was at a time (RFC 3339)", apply: applyAtTime},
	{name: "diskFolder", arg: "DIR", help: "where the disk cache lies", apply: func(r *request, v string) error { r.diskFolder = v; return nil }},
	{name: "diskQuota", arg: "SIZE", help: "size of the disk cache, or its share of the disk, as in 80%", apply: func(r *request, v string) error { r.diskQuota = v; return nil }},
	{name: "diskMaxBlockSize", arg: "BYTES", help: "largest block in the disk cache; 0: any", apply: func(r *request, v string) error {
		if err := count(v); err != nil || v == "0" {
			return err
		}
		r.warn("diskMaxBlockSize", "the disk cache takes blocks of every size")
		return nil
	}},
	{name: "diskWriteback", help: "acknowledge writes when they are on the local disk", idle: "writes are acknowledged when every mount can read them", apply: toggle()},
	{name: "foreground", short: "f", help: "stay in the foreground (also if NOTIFY_SOCKET is set)", apply: flag(func(r *request) *bool { return &r.foreground })},
	{name: "credsFile", arg: "FILE", help: "credentials file (default ~/.flexfs/mount/creds/<NAME>)", apply: func(r *request, v string) (err error) {
		r.credsFile, err = absolute(v)
		return err
	}},
	{name: "verbose", short: "v", help: "log more", apply: toggle("log-level=debug")},
	{name: "attrValid", arg: "SECONDS", help: "how long the kernel keeps attributes", idle: "attributes are kept until they change", apply: ignoreCount},
	{name: "entryValid", arg: "SECONDS", help: "how long the kernel keeps names", idle: "names are kept until they change", apply: ignoreCount},
	{name: "noMaxPages", help: "do not ask for large FUSE requests", idle: "requests are as large as the kernel allows", apply: toggle()},
	{name: "noUpdate", help: "do not update by itself (Massif never does)", apply: toggle()},
	{name: "noRemount", help: "do not hand over to a new version (Massif never does by itself)", apply: toggle()},
	{name: "staging", help: "update from the pre-release channel", idle: "nothing updates by itself", apply: toggle()},
	{name: "sse", help: "server-side encryption header", idle: "the administrator asks for it in the URL of the object store (sse=AES256)", apply: toggle()},

	{name: "memCapacity", arg: "SIZE", hidden: true, help: "memory: a size, a share of the RAM as in 2%, or a number of 4MiB blocks", apply: applyMemory},
	{name: "dirtyCapacity", arg: "N", hidden: true, help: "blocks not yet written", idle: "the memory limit bounds what is not yet written", apply: ignoreCount},
	{name: "poolCapacity", arg: "N", hidden: true, help: "buffers", idle: "the memory limit bounds buffers", apply: ignoreCount},
	{name: "maxBops", arg: "N", hidden: true, help: "blocks on their way at the same time", apply: word("uploads")},
	{name: "dirtyActive", arg: "N", hidden: true, help: "blocks written at the same time", apply: word("uploads")},
	{name: "prefetchActive", arg: "N", hidden: true, help: "blocks fetched ahead", idle: "read-ahead follows the store's latency", apply: ignoreCount},
	{name: "pprof", hidden: true, help: "serve Go profiles on 127.0.0.1", apply: flag(func(r *request) *bool { return &r.pprof })},
	{name: "pprofPort", arg: "PORT", hidden: true, help: "port of --pprof (default 6060)", apply: func(r *request, v string) error {
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("%q: use a port number", v)
		}
		r.pprofPort = v
		return nil
	}},
	{name: "noSSL", hidden: true, help: "plain text", apply: refuseTLS},
	{name: "noAdminSSL", hidden: true, help: "plain text to the admin server", apply: refuseTLS},
	{name: "noMetaSSL", hidden: true, help: "plain text to the metadata server", apply: refuseTLS},
	{name: "noProxySSL", hidden: true, help: "plain text to proxies", apply: refuseTLS},
}

func ignoreCount(_ *request, v string) error { return count(v) }

func refuseTLS(_ *request, v string) error {
	on, err := strconv.ParseBool(v)
	if err == nil && on {
		err = fmt.Errorf("servers are always spoken to with TLS")
	}
	return err
}

func applyAtTime(r *request, v string) error {
	if _, err := time.Parse(time.RFC3339, v); err != nil {
		return fmt.Errorf("%q: write a time as 2026-01-31T12:00:00Z (RFC 3339)", v)
	}
	if err := word("at-time")(r, v); err != nil {
		return err
	}
	return r.options.ParseOptions("ro")
}

// applyMemory maps the read cache of flexFS to Massif's limit of all memory.
func applyMemory(r *request, v string) error {
	share, isShare := strings.CutSuffix(v, "%")
	if isShare {
		f, err := strconv.ParseFloat(share, 64)
		if err != nil || !(f > 0 && f <= 100) {
			return fmt.Errorf("%q: use a share from 0%% to 100%%", v)
		}
		return r.memory(float64(mount.TotalRAM()) * f / 100)
	}
	if n, err := strconv.ParseUint(v, 10, 32); err == nil { // blocks
		return r.memory(float64(n) * (4 << 20))
	}
	size, err := mount.ParseSize(v)
	if err != nil {
		return err
	}
	return r.memory(float64(size))
}

// memory sets the memory limit, but not below what a mount needs.
func (r *request) memory(bytes float64) error {
	r.options.MemoryLimit = mount.Size(max(bytes, mount.MinMemoryLimit))
	return nil
}

func (r *request) warn(name, why string) {
	r.warnings = append(r.warnings, fmt.Sprintf("--%s has no effect: %s", name, why))
}

// set applies one flag.
func (r *request) set(f *startFlag, value string) error {
	if f.idle != "" && value != "false" {
		r.warn(f.name, f.idle)
	}
	if err := f.apply(r, value); err != nil {
		return fmt.Errorf("--%s: %w", f.name, err)
	}
	return nil
}

// findFlag finds a flag by its name.
func findFlag(name string) *startFlag {
	for i := range startFlags {
		if startFlags[i].name == name {
			return &startFlags[i]
		}
	}
	return nil
}

// finish applies what several flags say together.
func (r *request) finish() error {
	if r.diskQuota == "" {
		if r.diskFolder != "" {
			r.warnings = append(r.warnings, "--diskFolder without --diskQuota: there is no disk cache")
		}
		zero := mount.Size(0)
		r.options.CacheSize = &zero
	} else if err := r.disk(); err != nil {
		return err
	}
	if r.pprof || r.pprofPort != "" {
		port := r.pprofPort
		if port == "" {
			port = "6060"
		}
		r.options.MetricsAddr, r.options.Pprof = "127.0.0.1:"+port, true
	}
	return nil
}

// disk sets up the disk cache.
func (r *request) disk() error {
	folder, err := absolute(r.diskFolder)
	if err != nil {
		return err
	}
	r.options.CacheDir = folder
	share, isShare := strings.CutSuffix(r.diskQuota, "%")
	if !isShare {
		size, err := mount.ParseSize(r.diskQuota)
		if err != nil {
			return fmt.Errorf("--diskQuota: %w", err)
		}
		r.options.CacheSize = &size
		return nil
	}
	f, err := strconv.ParseFloat(share, 64)
	if err != nil || !(f >= 0 && f <= 100) {
		return fmt.Errorf("--diskQuota: %q: use a share from 0%% to 100%%", r.diskQuota)
	}
	total, err := diskSize(folder)
	if err != nil {
		return fmt.Errorf("--diskFolder: %w", err)
	}
	size := mount.Size(float64(total) * f / 100)
	r.options.CacheSize = &size
	return nil
}

// diskSize is the size of the file system on which a folder lies, or will.
func diskSize(folder string) (uint64, error) {
	if folder == "" {
		home, err := mount.Home()
		if err != nil {
			return 0, err
		}
		folder = home
	}
	for {
		var st unix.Statfs_t
		err := unix.Statfs(folder, &st)
		if err == nil {
			return st.Blocks * uint64(st.Bsize), nil
		}
		if !os.IsNotExist(err) || folder == "/" {
			return 0, err
		}
		folder = parent(folder)
	}
}

func parent(path string) string {
	i := strings.LastIndexByte(path, '/')
	if i <= 0 {
		return "/"
	}
	return path[:i]
}

// spec makes the spec of the request.
func (r *request) spec() (*mount.Spec, error) {
	if err := r.finish(); err != nil {
		return nil, err
	}
	file := r.credsFile
	if file == "" {
		var err error
		if file, err = credsPath(r.name); err != nil {
			return nil, err
		}
	}
	r.options.FSName = r.name
	return &mount.Spec{
		Tree:  mount.Tree{Kind: "shared", Config: &mount.SharedTree{Creds: file}},
		Mount: r.options, Source: r.name,
	}, nil
}
