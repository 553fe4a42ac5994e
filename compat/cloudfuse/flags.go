package cloudfuse

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// mountFlag is a flag of "mount": another way to give a key a value.
type mountFlag struct {
	name, short string
	arg         string // name of the value; "": a switch
	key         string
	help        string
	// old flags are those that Cloudfuse 2 no longer shows, or has no longer.
	old bool
	// convert makes the key's value of the flag's; nil: it is the same.
	convert func(string) (string, error)
}

func inverse(v string) (string, error) {
	switch strings.ToLower(v) {
	case "true", "t", "1":
		return "false", nil
	case "false", "f", "0":
		return "true", nil
	}
	return "", fmt.Errorf("%q: use true or false", v)
}

// accountType is what --use-adls says about the type of an account.
func accountType(v string) (string, error) {
	no, err := inverse(v)
	if no == "false" {
		return "adls", err
	}
	return "block", err
}

// mountFlags are those of every version of Cloudfuse and blobfuse2.
var mountFlags = []mountFlag{
	{name: "foreground", short: "f", key: "foreground", help: "stay in the foreground"},
	{name: "read-only", key: "read-only", help: "mount read-only"},
	{name: "log-type", arg: "TYPE", key: "logging.type", help: "base, syslog or silent"},
	{name: "log-level", arg: "LEVEL", key: "logging.level", help: "LOG_OFF, LOG_CRIT, LOG_ERR, LOG_WARNING, LOG_INFO, LOG_TRACE or LOG_DEBUG"},
	{name: "log-file-path", arg: "FILE", key: "logging.file-path", help: "file of the log (default ~/.cloudfuse/cloudfuse.log)"},
	{name: "log-goroutine-id", key: "logging.goroutine-id", help: "no effect", old: true},
	{name: "log-compress", key: "logging.compress", help: "no effect", old: true},
	{name: "cleanup-on-start", key: "cleanup-on-start", help: "empty the cache directory first"},
	{name: "disable-kernel-cache", key: "disable-kernel-cache", help: "the kernel keeps no data of files"},
	{name: "lazy-write", key: "lazy-write", help: "upload files after they are closed"},
	{name: "wait-for-mount", arg: "DURATION", key: "wait-for-mount", help: "no effect: the command returns when the mount answers"},
	{name: "default-working-dir", arg: "DIR", key: "default-working-dir", help: "directory of logs and generated configurations (default ~/.cloudfuse)"},

	{name: "container-name", arg: "NAME", key: "azstorage.container", help: "the container to mount"},
	{name: "subdirectory", arg: "PATH", key: "azstorage.subdirectory", help: "mount only what is below this path"},
	{name: "use-adls", key: "azstorage.type", convert: accountType, help: "the account has a hierarchical namespace"},
	{name: "virtual-directory", key: "azstorage.virtual-directory", help: "directories without a marker count"},
	{name: "cancel-list-on-mount-seconds", arg: "SECONDS", key: "azstorage.block-list-on-mount-sec", help: "list nothing for so long after the mount"},
	{name: "disable-compression", key: "azstorage.disable-compression", help: "no effect: objects are never unpacked"},
	{name: "tmp-path", arg: "DIR", key: "file_cache.path", help: "directory of the file cache"},
	{name: "cache-size-mb", arg: "MB", key: "file_cache.max-size-mb", help: "size of the file cache"},
	{name: "file-cache-timeout", arg: "SECONDS", key: "file_cache.timeout-sec", help: "how long a file is cached"},
	{name: "high-disk-threshold", arg: "PERCENT", key: "file_cache.high-threshold", help: "from here on files are evicted early"},
	{name: "low-disk-threshold", arg: "PERCENT", key: "file_cache.low-threshold", help: "down to here"},
	{name: "sync-to-flush", key: "file_cache.sync-to-flush", help: "fsync uploads (default true)"},
	{name: "attr-cache-timeout", arg: "SECONDS", key: "attr_cache.timeout-sec", help: "how long attributes are cached"},
	{name: "no-symlinks", key: "attr_cache.no-symlinks", help: "no symbolic links"},
	{name: "block-size-mb", arg: "MB", key: "stream.block-size-mb", help: "block of the component stream"},
	{name: "block-cache-block-size", arg: "MB", key: "block_cache.block-size-mb", help: "block of the block cache"},
	{name: "block-cache-pool-size", arg: "MB", key: "block_cache.mem-size-mb", help: "memory of the block cache"},
	{name: "block-cache-path", arg: "DIR", key: "block_cache.path", help: "where blocks are kept on disk (default: nowhere)"},
	{name: "block-cache-disk-size", arg: "MB", key: "block_cache.disk-size-mb", help: "disk for blocks"},
	{name: "block-cache-prefetch", arg: "N", key: "block_cache.prefetch", help: "blocks fetched ahead"},
	{name: "block-cache-prefetch-on-open", key: "block_cache.prefetch-on-open", help: "fetch ahead when a file is opened"},
	{name: "attr-timeout", arg: "SECONDS", key: "libfuse.attribute-expiration-sec", help: "how long the kernel keeps attributes"},
	{name: "entry-timeout", arg: "SECONDS", key: "libfuse.entry-expiration-sec", help: "how long the kernel keeps names"},
	{name: "negative-timeout", arg: "SECONDS", key: "libfuse.negative-entry-expiration-sec", help: "how long the kernel remembers that a file is not there"},
	{name: "allow-other", key: "allow-other", help: "other users may use the mount"},
	{name: "disable-writeback-cache", key: "libfuse.disable-writeback-cache", help: "no effect"},
	{name: "ignore-open-flags", key: "libfuse.ignore-open-flags", help: "no effect"},

	{name: "streaming", key: "streaming", old: true, help: "use the component stream"},
	{name: "block-cache", key: "block-cache", old: true, help: "use the component block_cache"},
	{name: "use-attr-cache", key: "use-attr-cache", old: true, help: "use the component attr_cache"},
	{name: "preload", key: "preload", old: true, help: "use the component xload"},
	{name: "list-cache-timeout", arg: "SECONDS", key: "list-cache-timeout", old: true, help: "how long listings are cached"},
	{name: "restricted-characters-windows", key: "restricted-characters-windows", old: true, help: "no effect"},
	{name: "invalidate-on-sync", key: "invalidate-on-sync", old: true, help: "no effect"},
	{name: "pre-mount-validate", key: "pre-mount-validate", old: true, help: "no effect"},
	{name: "basic-remount-check", key: "basic-remount-check", old: true, help: "no effect"},
	{name: "network-share", key: "libfuse.network-share", old: true, help: "no effect"},
	{name: "display-capacity-mb", arg: "MB", key: "libfuse.display-capacity-mb", old: true, help: "size that df shows"},
	{name: "kernel-list-cache-timeout", arg: "SECONDS", key: "libfuse.kernel-list-cache-expiration-sec", old: true, help: "how long the kernel keeps listings"},
	{name: "max-blocks-per-file", arg: "N", key: "stream.max-blocks-per-file", old: true, help: "blocks of the component stream for a file"},
	{name: "stream-cache-mb", arg: "MB", key: "stream.stream-cache-mb", old: true, help: "memory of the component stream"},
	{name: "block-cache-disk-timeout", arg: "SECONDS", key: "block_cache.disk-timeout-sec", old: true, help: "how long blocks are kept on disk"},
	{name: "block-cache-parallelism", arg: "N", key: "block_cache.parallelism", old: true, help: "blocks under way at once"},
	{name: "block-cache-strong-consistency", key: "block_cache.consistency", old: true, help: "no effect"},
	{name: "file-cache-policy", arg: "POLICY", key: "file_cache.policy", old: true, help: "lru"},
	{name: "file-cache-timeout-in-seconds", arg: "SECONDS", key: "file_cache.timeout-sec", old: true, help: "how long a file is cached"},
	{name: "max-eviction", arg: "N", key: "file_cache.max-eviction", old: true, help: "no effect"},
	{name: "empty-dir-check", key: "file_cache.allow-non-empty-temp", convert: inverse, old: true, help: "refuse a cache directory that is not empty"},
	{name: "ignore-sync", key: "file_cache.ignore-sync", old: true, help: "fsync does nothing"},
	{name: "hard-limit", key: "file_cache.hard-limit", old: true, help: "the size of the cache is never exceeded"},
	{name: "background-download", key: "file_cache.background-download", old: true, help: "no effect"},
	{name: "cache-poll-timeout-msec", arg: "MS", key: "file_cache.cache-poll-timeout-msec", old: true, help: "no effect"},
	{name: "upload-modified-only", key: "file_cache.upload-modified-only", old: true, help: "no effect"},
	{name: "cache-on-list", key: "attr_cache.cache-on-list", old: true, help: "attributes of listings are cached"},
	{name: "enable-symlinks", key: "attr_cache.enable-symlinks", old: true, help: "symbolic links"},
	{name: "attr-cache-max-size-mb", arg: "MB", key: "attr_cache.max-size-mb", old: true, help: "no effect"},
	{name: "use-https", key: "azstorage.use-http", convert: inverse, old: true, help: "speak HTTPS (default)"},
	{name: "max-concurrency", arg: "N", key: "azstorage.max-concurrency", old: true, help: "blocks under way at once"},
	{name: "max-retry", arg: "N", key: "azstorage.max-retries", old: true, help: "how often a request is tried again"},
	{name: "max-retry-interval-in-seconds", arg: "SECONDS", key: "azstorage.max-retry-delay-sec", old: true, help: "longest pause between tries"},
	{name: "retry-delay-factor", arg: "SECONDS", key: "azstorage.retry-backoff-sec", old: true, help: "first pause between tries"},
	{name: "http-proxy", arg: "URL", key: "azstorage.http-proxy", old: true, help: "proxy for HTTP"},
	{name: "https-proxy", arg: "URL", key: "azstorage.https-proxy", old: true, help: "proxy for HTTPS"},
	{name: "telemetry", arg: "TEXT", key: "azstorage.telemetry", old: true, help: "added to the user agent"},
	{name: "honour-acl", key: "azstorage.honour-acl", old: true, help: "modes from ACLs"},
	{name: "preserve-acl", key: "azstorage.preserve-acl", old: true, help: "ACLs outlive a new upload"},
	{name: "cpk-enabled", key: "azstorage.cpk-enabled", old: true, help: "encrypt with a customer's key"},
	{name: "filter", arg: "EXPRESSION", key: "azstorage.filter", old: true, help: "show matching blobs only"},
	{name: "cap-mbps-read", arg: "MBPS", key: "azstorage.cap-mbps-read", old: true, help: "limit of reads"},
	{name: "cap-iops", arg: "N", key: "azstorage.cap-iops", old: true, help: "limit of requests"},
	{name: "set-content-type", key: "azstorage.set-content-type", old: true, help: "no effect"},
	{name: "ca-cert-file", arg: "FILE", key: "azstorage.ca-cert-file", old: true, help: "certificates to trust beside the system's"},
	{name: "debug-libcurl", key: "azstorage.debug-libcurl", old: true, help: "no effect"},
	{name: "fuse-trace", short: "d", key: "libfuse.fuse-trace", old: true, help: "no effect"},
}

// given are the flags of a command line, in its order.
type given []struct {
	flag  *mountFlag
	value string
}

// flagValue is a mount flag on a command line.
type flagValue struct {
	f  *mountFlag
	to *given
}

func (v *flagValue) String() string { return "" }
func (v *flagValue) Type() string {
	if v.f.arg == "" {
		return "bool"
	}
	return v.f.arg
}

func (v *flagValue) Set(s string) error {
	if v.f.convert != nil {
		var err error
		if s, err = v.f.convert(s); err != nil {
			return err
		}
	}
	*v.to = append(*v.to, struct {
		flag  *mountFlag
		value string
	}{v.f, s})
	return nil
}

func (g *given) addFlags(flags *pflag.FlagSet) {
	flags.SortFlags = false
	for i := range mountFlags {
		f := &mountFlags[i]
		flag := flags.VarPF(&flagValue{f, g}, f.name, f.short, f.help)
		if f.arg == "" {
			flag.NoOptDefVal = "true"
		}
		flag.Hidden = f.old
	}
}

// apply gives the settings what the flags say.
func (g given) apply(s *settings) {
	for _, one := range g {
		key := one.flag.key
		// There are no flags of s3storage: those of the storage mean the one in use.
		if key == "azstorage.subdirectory" && s.s3() {
			key = "s3storage.subdirectory"
		}
		if key == "azstorage.container" && s.s3() {
			key = "s3storage.bucket-name"
		}
		s.override(key, value{text: one.value, from: "--" + one.flag.name})
	}
}
