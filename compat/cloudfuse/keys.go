package cloudfuse

import (
	"slices"
	"strings"

	"github.com/massif-fs/massif/mount"
)

// kind is what the value of a key can be.
type kind int

const (
	text    kind = iota
	secret       // text that is never shown
	path         // text in which ~/, $HOME and $VARIABLE are expanded
	toggle       // true or false
	whole        // a whole number, 0 or more
	signed       // a whole number
	amount       // a number, 0 or more, with decimals if need be
	octal        // a mode
	period       // a duration with its unit, or seconds
	list         // several texts
	records      // a list of mappings, read where it is used
)

// key is a key of the configuration: what is known about it without a value.
type key struct {
	// name is section and key in lower case: "azstorage.account-name"; keys of the top
	// level have no section.
	name string
	kind kind
	// env is the environment variable that comes before the file.
	env string
	// idle, if not empty, says why the key changes nothing here.
	idle string
	// alias is another key that this one is the old spelling of.
	alias string
}

// Reasons why keys change nothing.
const (
	idleV1      = "no version has heeded it since the first"
	idleWindows = "it is for Windows"
	idleTrace   = "it changes only what the log of Cloudfuse shows; log.level debug shows requests"
	idleKernel  = "the kernel's caches are told of changes, and do not run out"
	idleLog     = "Massif's log is rotated by whoever rotates logs: SIGHUP opens it anew"
	idleMemory  = "attributes and listings lie within the mount's memory limit"
	idlePlugin  = "the SDK's own value is used"
)

// keys are those of every version that the specification of Cloudfuse's configuration
// knows, and of blobfuse2.
var keys = slices.Concat(topKeys, cacheKeys, azureKeys, s3Keys, otherKeys)

var topKeys = []key{
	{name: "config-version", kind: text}, // of the file's format: nothing follows from it
	{name: "components", kind: list},
	{name: "foreground", kind: toggle},
	{name: "read-only", kind: toggle},
	{name: "allow-other", kind: toggle},
	{name: "allow-root", kind: toggle},
	{name: "nonempty", kind: toggle},
	{name: "restricted-characters-windows", kind: toggle, idle: idleWindows},
	{name: "disable-kernel-cache", kind: toggle},
	{name: "default-working-dir", kind: path},
	{name: "dynamic-profile", kind: toggle},
	{name: "profiler-port", kind: whole},
	{name: "profiler-ip", kind: text},
	{name: "cpu-profile", kind: path, idle: "profiles of a mount are had while it lives: dynamic-profile"},
	{name: "mem-profile", kind: path, idle: "profiles of a mount are had while it lives: dynamic-profile"},
	{name: "lazy-write", kind: toggle},
	{name: "list-cache-timeout", kind: whole},
	{name: "cleanup-on-start", kind: toggle},
	{name: "wait-for-mount", kind: period, idle: "the command returns when the mount answers, or has failed"},
	{name: "passphrase", kind: secret},
	{name: "secure-config", kind: toggle},
	{name: "libfuse-options", kind: list},
	{name: "invalidate-on-sync", kind: toggle, idle: idleV1},
	{name: "pre-mount-validate", kind: toggle, idle: idleV1},
	{name: "basic-remount-check", kind: toggle, idle: idleV1},
	{name: "streaming", kind: toggle},
	{name: "block-cache", kind: toggle},
	{name: "use-attr-cache", kind: toggle},
	{name: "preload", kind: toggle},
	{name: "direct-io", kind: toggle},

	{name: "logging.type", kind: text},
	{name: "logging.level", kind: text},
	{name: "logging.file-path", kind: path},
	{name: "logging.max-file-size-mb", kind: whole, idle: idleLog},
	{name: "logging.file-count", kind: whole, idle: idleLog},
	{name: "logging.track-time", kind: toggle, idle: "the times of operations are in the metrics"},
	{name: "logging.goroutine-id", kind: toggle, idle: "Massif's log has no goroutines"},
	{name: "logging.compress", kind: toggle, idle: idleLog},

	{name: "libfuse.default-permission", kind: octal},
	{name: "libfuse.attribute-expiration-sec", kind: whole},
	{name: "libfuse.entry-expiration-sec", kind: whole},
	{name: "libfuse.negative-entry-expiration-sec", kind: whole},
	{name: "libfuse.fuse-trace", kind: toggle, idle: "\"massif access-log\" shows the calls of a mount"},
	{name: "libfuse.extension", kind: path, idle: "Massif is no libfuse, and has no extensions of it"},
	{name: "libfuse.disable-writeback-cache", kind: toggle, idle: "files opened for writing or appending only work with every cache"},
	{name: "libfuse.ignore-open-flags", kind: toggle, idle: "files opened for writing or appending only work with every cache"},
	{name: "libfuse.max-fuse-threads", kind: whole, idle: "requests do not wait for threads"},
	{name: "libfuse.direct-io", kind: toggle},
	{name: "libfuse.umask", kind: octal},
	{name: "libfuse.uid", kind: whole},
	{name: "libfuse.gid", kind: whole},
	{name: "libfuse.network-share", kind: toggle, idle: idleWindows},
	{name: "libfuse.display-capacity-mb", kind: whole},
	{name: "libfuse.windows-sddl", kind: text, idle: idleWindows},
	{name: "libfuse.kernel-list-cache-expiration-sec", kind: whole},
}

var cacheKeys = []key{
	{name: "stream.block-size-mb", kind: amount},
	{name: "stream.buffer-size-mb", kind: amount},
	{name: "stream.max-buffers", kind: whole},
	{name: "stream.file-caching", kind: toggle},
	{name: "stream.blocks-per-file", kind: whole},
	{name: "stream.cache-size-mb", kind: amount},
	{name: "stream.max-blocks-per-file", kind: whole},
	{name: "stream.stream-cache-mb", kind: amount},

	{name: "block_cache.block-size-mb", kind: amount},
	{name: "block_cache.mem-size-mb", kind: amount},
	{name: "block_cache.path", kind: path},
	{name: "block_cache.disk-size-mb", kind: amount},
	{name: "block_cache.disk-timeout-sec", kind: whole},
	{name: "block_cache.prefetch", kind: whole},
	{name: "block_cache.parallelism", kind: whole},
	{name: "block_cache.prefetch-on-open", kind: toggle},
	{name: "block_cache.consistency", kind: toggle, idle: "what lies in the cache always has a checksum, which is verified"},
	{name: "block_cache.cleanup-on-start", kind: toggle},

	{name: "file_cache.path", kind: path},
	{name: "file_cache.policy", kind: text},
	{name: "file_cache.timeout-sec", kind: whole},
	{name: "file_cache.max-eviction", kind: whole, idle: "as much is evicted as there must be room for"},
	{name: "file_cache.max-size-mb", kind: amount},
	{name: "file_cache.high-threshold", kind: whole},
	{name: "file_cache.low-threshold", kind: whole},
	{name: "file_cache.create-empty-file", kind: toggle},
	{name: "file_cache.allow-non-empty-temp", kind: toggle},
	{name: "file_cache.cleanup-on-start", kind: toggle},
	{name: "file_cache.policy-trace", kind: toggle, idle: idleTrace},
	{name: "file_cache.offload-io", kind: toggle, idle: "where a file is read from is chosen for each read"},
	{name: "file_cache.sync-to-flush", kind: toggle},
	{name: "file_cache.ignore-sync", kind: toggle},
	{name: "file_cache.refresh-sec", kind: whole},
	{name: "file_cache.hard-limit", kind: toggle},
	{name: "file_cache.block-offline-access", kind: toggle},
	{name: "file_cache.schedule", kind: records},
	{name: "file_cache.background-download", kind: toggle, idle: idleV1},
	{name: "file_cache.cache-poll-timeout-msec", kind: whole, idle: idleV1},
	{name: "file_cache.upload-modified-only", kind: toggle, idle: idleV1},

	{name: "attr_cache.timeout-sec", kind: whole},
	{name: "attr_cache.no-cache-on-list", kind: toggle},
	{name: "attr_cache.cache-on-list", kind: toggle},
	{name: "attr_cache.enable-symlinks", kind: toggle},
	{name: "attr_cache.no-symlinks", kind: toggle},
	{name: "attr_cache.max-files", kind: whole, idle: idleMemory},
	{name: "attr_cache.no-cache-dirs", kind: toggle, idle: idleMemory},
	{name: "attr_cache.max-size-mb", kind: whole, idle: idleMemory},

	{name: "entry_cache.timeout-sec", kind: whole},

	{name: "size_tracker.journal-name", kind: text, idle: "what a mount stores is not counted"},
	{name: "size_tracker.bucket-capacity-fallback", kind: whole},
	{name: "size_tracker.hard-limit", kind: toggle, idle: "what a mount stores is not counted"},

	{name: "xload.block-size-mb", kind: amount},
	{name: "xload.path", kind: path},
	{name: "xload.mode", kind: text},
	{name: "xload.export-progress", kind: toggle},
	{name: "xload.validate-md5", kind: toggle},
	{name: "xload.cleanup-on-start", kind: toggle},
	{name: "xload.workers", kind: whole},
	{name: "xload.pool-size", kind: whole},
}

var azureKeys = []key{
	{name: "azstorage.type", kind: text, env: "AZURE_STORAGE_ACCOUNT_TYPE"},
	{name: "azstorage.account-name", kind: text, env: "AZURE_STORAGE_ACCOUNT"},
	{name: "azstorage.container", kind: text, env: "AZURE_STORAGE_ACCOUNT_CONTAINER"},
	{name: "azstorage.endpoint", kind: text, env: "AZURE_STORAGE_BLOB_ENDPOINT"},
	{name: "azstorage.mode", kind: text, env: "AZURE_STORAGE_AUTH_TYPE"},
	{name: "azstorage.account-key", kind: secret, env: "AZURE_STORAGE_ACCESS_KEY"},
	{name: "azstorage.sas", kind: secret, env: "AZURE_STORAGE_SAS_TOKEN"},
	{name: "azstorage.appid", kind: text, env: "AZURE_STORAGE_IDENTITY_CLIENT_ID"},
	{name: "azstorage.resid", kind: text, env: "AZURE_STORAGE_IDENTITY_RESOURCE_ID"},
	{name: "azstorage.objid", kind: text, env: "AZURE_STORAGE_IDENTITY_OBJECT_ID"},
	{name: "azstorage.tenantid", kind: text, env: "AZURE_STORAGE_SPN_TENANT_ID"},
	{name: "azstorage.clientid", kind: text, env: "AZURE_STORAGE_SPN_CLIENT_ID"},
	{name: "azstorage.clientsecret", kind: secret, env: "AZURE_STORAGE_SPN_CLIENT_SECRET"},
	{name: "azstorage.oauth-token-path", kind: path, env: "AZURE_OAUTH_TOKEN_FILE"},
	{name: "azstorage.workload-identity-token", kind: secret, env: "WORKLOAD_IDENTITY_TOKEN"},
	{name: "azstorage.user-assertion", kind: secret, env: "AZURE_STORAGE_USER_ASSERTION"},
	{name: "azstorage.aadendpoint", kind: text, env: "AZURE_STORAGE_AAD_ENDPOINT"},
	{name: "azstorage.auth-resource", kind: text, env: "AZURE_STORAGE_AUTH_RESOURCE"},
	{name: "azstorage.use-http", kind: toggle},
	{name: "azstorage.subdirectory", kind: text},
	{name: "azstorage.block-size-mb", kind: whole},
	{name: "azstorage.max-concurrency", kind: whole},
	{name: "azstorage.tier", kind: text},
	{name: "azstorage.block-list-on-mount-sec", kind: whole},
	{name: "azstorage.max-retries", kind: signed},
	{name: "azstorage.max-retry-timeout-sec", kind: signed},
	{name: "azstorage.retry-backoff-sec", kind: signed},
	{name: "azstorage.max-retry-delay-sec", kind: signed},
	{name: "azstorage.http-proxy", kind: text},
	{name: "azstorage.https-proxy", kind: text},
	{name: "azstorage.sdk-trace", kind: toggle, idle: idleTrace},
	{name: "azstorage.fail-unsupported-op", kind: toggle},
	{name: "azstorage.update-md5", kind: toggle},
	{name: "azstorage.validate-md5", kind: toggle},
	{name: "azstorage.virtual-directory", kind: toggle},
	{name: "azstorage.disable-compression", kind: toggle, idle: "objects are never unpacked on their way"},
	{name: "azstorage.max-results-for-list", kind: signed, idle: idlePlugin},
	{name: "azstorage.telemetry", kind: text},
	{name: "azstorage.honour-acl", kind: toggle},
	{name: "azstorage.cpk-enabled", kind: toggle},
	{name: "azstorage.cpk-encryption-key", kind: secret, env: "AZURE_STORAGE_CPK_ENCRYPTION_KEY"},
	{name: "azstorage.cpk-encryption-key-sha256", kind: text, env: "AZURE_STORAGE_CPK_ENCRYPTION_KEY_SHA256", idle: "the digest is computed"},
	{name: "azstorage.preserve-acl", kind: toggle},
	{name: "azstorage.filter", kind: text},
	{name: "azstorage.cap-mbps-read", kind: signed},
	{name: "azstorage.cap-iops", kind: signed},
	{name: "azstorage.set-content-type", kind: toggle, idle: "the type is set always"},
	{name: "azstorage.ca-cert-file", kind: path},
	{name: "azstorage.debug-libcurl", kind: toggle, idle: idleV1},
}

var s3Keys = []key{
	{name: "s3storage.bucket-name", kind: text},
	{name: "s3storage.key-id", kind: secret},
	{name: "s3storage.secret-key", kind: secret},
	{name: "s3storage.region", kind: text},
	{name: "s3storage.profile", kind: text},
	{name: "s3storage.endpoint", kind: text},
	{name: "s3storage.subdirectory", kind: text},
	{name: "s3storage.part-size-mb", kind: whole},
	{name: "s3storage.upload-cutoff-mb", kind: whole, idle: "an object of more than one part is uploaded in parts"},
	{name: "s3storage.concurrency", kind: whole},
	{name: "s3storage.disable-concurrent-download", kind: toggle, idle: "how much is fetched at once follows from who reads"},
	{name: "s3storage.enable-checksum", kind: toggle},
	{name: "s3storage.checksum-algorithm", kind: text},
	{name: "s3storage.use-path-style", kind: toggle},
	{name: "s3storage.usepathstyle", alias: "s3storage.use-path-style"}, // of 0.x
	{name: "s3storage.disable-usage", kind: toggle, idle: "the bucket is never asked for its size"},
	{name: "s3storage.enable-dir-marker", kind: toggle},
	{name: "s3storage.health-check-interval-sec", kind: whole, idle: "a request that fails for a while is tried again, at growing intervals"},
}

var otherKeys = []key{
	{name: "loopbackfs.path", kind: path},

	{name: "mountall.container-allowlist", kind: list},
	{name: "mountall.container-denylist", kind: list},

	{name: "health_monitor.enable-monitoring", kind: toggle},
	{name: "health_monitor.stats-poll-interval-sec", kind: whole},
	{name: "health_monitor.process-monitor-interval-sec", kind: whole},
	{name: "health_monitor.output-path", kind: path},
	{name: "health_monitor.monitor-disable-list", kind: list},
}

var keyTable = func() map[string]*key {
	table := make(map[string]*key, len(keys))
	for i := range keys {
		if table[keys[i].name] != nil {
			panic("cloudfuse: key " + keys[i].name + " is in the table twice")
		}
		table[keys[i].name] = &keys[i]
	}
	return table
}()

// sections are the names of sections.
var sections = func() []string {
	var names []string
	for _, k := range keys {
		if section, _, ok := strings.Cut(k.name, "."); ok && !slices.Contains(names, section) {
			names = append(names, section)
		}
	}
	return names
}()

// keyNames are the keys of a section; "" is the top level, whose names are those of
// sections, too.
func keyNames(section string) []string {
	var names []string
	for _, k := range keys {
		s, name, ok := strings.Cut(k.name, ".")
		if !ok {
			s, name = "", k.name
		}
		if s == section {
			names = append(names, name)
		}
	}
	if section == "" {
		names = append(names, sections...)
	}
	return names
}

// nearest is the known name that an unknown one is a slip of the pen away from, as
// words of a warning.
func nearest(section, name string) string {
	if near := mount.Nearest(name, keyNames(section)); near != "" {
		return "; did you mean \"" + near + "\"?"
	}
	return ""
}
