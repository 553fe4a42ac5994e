package cloudfuse

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/massif-fs/massif/mount"
)

// Defaults of Cloudfuse that are not Massif's.
const (
	defaultKernelTime    = 120 * time.Second
	defaultAttrTime      = 120 * time.Second
	defaultEntryTime     = 30 * time.Second
	defaultFileCacheTime = 216000 * time.Second
	defaultHigh          = 80
	defaultLow           = 60
	defaultPprofPort     = 6060
	freeShare            = 80 // percent of the free disk that a cache may take

	fsName = "cloudfuse" // what mount tables show, and Cloudfuse's own list looks for
)

// translation makes a spec of settings.
type translation struct {
	*settings
	spec     *mount.Spec
	bucket   *mount.BucketTree
	pipeline []string
}

// translate makes the spec of a mount, and warns of what is not as the settings say.
// It touches nothing but the size of the disk under the cache, and sends nothing.
func (s *settings) translate() (*mount.Spec, error) {
	t := &translation{settings: s, bucket: &mount.BucketTree{}, spec: &mount.Spec{}}
	t.pipeline = s.pipeline()
	t.options()
	t.log()
	switch s.storage() {
	case "s3storage":
		t.s3storage()
	case "azstorage":
		t.azstorage()
	case "loopbackfs":
		t.loopback()
	}
	if t.spec.Tree.Config == nil {
		t.spec.Tree = mount.Tree{Kind: "bucket", Config: t.bucket}
		t.spec.Source = t.bucket.Store
		t.caching()
		t.attributes()
		t.kernel()
	}
	for _, name := range []string{
		"config-version", "passphrase", "secure-config", // read before
		"mountall.container-allowlist", "mountall.container-denylist", // of "mount all"
	} {
		s.read(name)
	}
	for _, name := range healthKeys {
		s.read(name)
	}
	if s.err != nil {
		return nil, s.err
	}
	s.unused(t.whyUnused)
	return t.spec, t.spec.Validate()
}

// with tells whether a component is in the pipeline.
func (t *translation) with(component string) bool { return slices.Contains(t.pipeline, component) }

// whyUnused is the reason for which a value changed nothing.
func (t *translation) whyUnused(name string) string {
	section, _, _ := strings.Cut(name, ".")
	if slices.ContainsFunc(components, func(c component) bool { return c.name == section }) && !t.with(section) {
		return "the component " + section + " is not in use"
	}
	if idle := keyTable[name].idle; idle != "" {
		return idle
	}
	return "nothing here depends on it"
}

// options are those of the mount itself.
func (t *translation) options() {
	o := &t.spec.Mount
	o.FSName = fsName
	o.ReadOnly = t.toggle("read-only", false) || t.with("xload")
	allow := t.toggle("allow-other", false)
	o.AllowOther = &allow
	if t.toggle("allow-root", false) && !allow {
		t.warn("allow-root", "has no effect: a mount is for one user or, with allow-other, for all")
	}
	o.EmptyPoint = !t.toggle("nonempty", false)
	o.Writeback = t.toggle("lazy-write", false) && !o.ReadOnly
	if mode, ok := t.mode("libfuse.umask"); ok {
		o.Umask = (*mount.Octal)(&mode)
	}
	o.UID, o.GID = t.id("libfuse.uid"), t.id("libfuse.gid")
	if t.toggle("dynamic-profile", false) {
		host := t.text("profiler-ip")
		if host == "" {
			host = "localhost"
		}
		o.MetricsAddr, o.Pprof = fmt.Sprintf("%s:%d", host, t.whole("profiler-port", defaultPprofPort)), true
	}
	t.toggle("foreground", false) // read where the mount is started
	t.list("libfuse-options")     // applied already
}

// id is a user or group, if one is given.
func (t *translation) id(name string) *uint32 {
	if !t.has(name) {
		return nil
	}
	n := t.whole(name, 0)
	if n >= 1<<32-1 {
		t.fail(name, "%d is no ID", n)
	}
	id := uint32(n)
	return &id
}

// workDir is the directory of logs and generated configurations.
func (s *settings) workDir() string {
	if dir := s.path("default-working-dir"); dir != "" {
		return dir
	}
	dir, err := home()
	if err != nil {
		s.fail("default-working-dir", "is not given, and %v", err)
	}
	return filepath.Join(dir, ".cloudfuse")
}

// logLevels are Cloudfuse's levels as Massif's.
var logLevels = map[string]string{
	"": "warn", "log_off": "error", "log_crit": "error", "log_err": "error", "log_warning": "warn", "log_info": "info", "log_trace": "debug", "log_debug": "debug",
}

func (t *translation) log() {
	o := &t.spec.Mount
	level, known := logLevels[strings.ToLower(t.text("logging.level"))]
	if !known {
		t.fail("logging.level", "%q is none of LOG_OFF, LOG_CRIT, LOG_ERR, LOG_WARNING, LOG_INFO, LOG_TRACE, LOG_DEBUG", t.shown("logging.level"))
	}
	o.LogLevel = level
	o.LogFile = t.path("logging.file-path")
	if o.LogFile == "" {
		o.LogFile = filepath.Join(t.workDir(), "cloudfuse.log")
	}
	switch t.choice("logging.type", "base", "syslog", "silent") {
	case "silent":
		o.LogFile = "/dev/null"
	case "syslog":
		t.warn("logging.type", "syslog has no effect: the log is written to %s", o.LogFile)
	}
	t.workDir()
}

// loopback is a local directory in the place of a storage.
func (t *translation) loopback() {
	dir := t.path("loopbackfs.path")
	if dir == "" {
		t.fail("loopbackfs.path", "the directory is not named")
	}
	t.spec.Tree = mount.Tree{Kind: "local", Config: &mount.LocalTree{Path: dir}}
	t.spec.Source = "file://" + dir
	t.spec.Mount.Writeback = false
}

// caching is what the component in the middle of the pipeline says about data.
func (t *translation) caching() {
	b := t.bucket
	clean := t.toggle("cleanup-on-start", false)
	switch {
	case t.with("file_cache"):
		t.fileCache()
		b.CacheEmptyAtStart = t.toggle("file_cache.cleanup-on-start", clean)
	case t.with("block_cache"):
		t.blockCache()
		b.CacheEmptyAtStart = t.toggle("block_cache.cleanup-on-start", clean)
	case t.with("xload"):
		t.xload()
		b.CacheEmptyAtStart = t.toggle("xload.cleanup-on-start", clean)
	default:
		b.Caching = "stream"
		b.CacheDropAtEnd = true
		if t.with("stream") {
			t.stream()
		}
	}
}

// leastCache is the least size of a cache directory, in bytes: there lies what is written
// until it is uploaded.
const leastCache = 64 << 20

// disk makes a directory the cache's: of the given size, or of most of what is free.
func (t *translation) disk(dirKey, dir, sizeKey string) {
	o := &t.spec.Mount
	o.CacheDir = dir
	size := mount.Size(t.megabytes(sizeKey, 0))
	if size == 0 {
		free, err := freeDisk(dir)
		if err != nil {
			t.fail(dirKey, "%v", err)
		}
		size = mount.Size(free / 100 * freeShare)
	}
	if size < leastCache {
		if t.has(sizeKey) {
			t.warn(sizeKey, "is too little for a cache, which gets %v", mount.Size(leastCache))
		}
		size = leastCache
	}
	o.CacheSize = &size
}

// freeDisk is what is free where a directory lies, or will.
func freeDisk(dir string) (uint64, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			return st.Bavail * uint64(st.Bsize), nil
		}
		if err != unix.ENOENT || dir == "/" {
			return 0, fmt.Errorf("%s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}

func (t *translation) fileCache() {
	b := t.bucket
	b.Caching = "file_cache"
	dir := t.path("file_cache.path")
	if dir == "" {
		dir = filepath.Join(t.workDir(), "file_cache")
	}
	t.disk("file_cache.path", dir, "file_cache.max-size-mb")
	timeout := max(t.seconds("file_cache.timeout-sec", defaultFileCacheTime), time.Second)
	if t.direct() {
		timeout = time.Second
	}
	b.CacheTimeout = mount.Duration(timeout)
	b.CacheHigh, b.CacheLow = t.percent("file_cache.high-threshold", defaultHigh), t.percent("file_cache.low-threshold", defaultLow)
	if b.CacheLow >= b.CacheHigh {
		t.fail("file_cache.low-threshold", "%d%% is not below the high threshold of %d%%", b.CacheLow, b.CacheHigh)
	}
	b.CreateEmpty = t.toggle("file_cache.create-empty-file", false)
	b.CacheDropAtEnd = !t.toggle("file_cache.allow-non-empty-temp", false)
	b.IgnoreSync = t.toggle("file_cache.ignore-sync", false)
	if !t.toggle("file_cache.sync-to-flush", true) {
		t.warn("file_cache.sync-to-flush", "false has no effect: fsync uploads; with ignore-sync it does not")
	}
	if t.choice("file_cache.policy", "lru", "lfu") == "lfu" {
		t.warn("file_cache.policy", "lfu has no effect: what was least recently used goes first")
	}
	if t.has("file_cache.hard-limit") && !t.toggle("file_cache.hard-limit", false) {
		t.warn("file_cache.hard-limit", "false has no effect: the size of the cache is never exceeded")
	}
	if t.whole("file_cache.refresh-sec", 0) > 0 {
		t.warn("file_cache.refresh-sec", "has no effect: a changed object is noticed when its attributes are asked for again, after attr_cache.timeout-sec")
	}
	if t.toggle("file_cache.block-offline-access", false) {
		t.warn("file_cache.block-offline-access", "has no effect")
	}
	if len(t.maps("file_cache.schedule")) > 0 {
		t.warn("file_cache.schedule", "has no effect: files are uploaded when they are closed or, with lazy-write, soon after")
	}
}

func (t *translation) blockCache() {
	b := t.bucket
	b.Caching = "block_cache"
	const defaultBlock = 16 << 20
	b.BlockSize = mount.Size(t.megabytes("block_cache.block-size-mb", defaultBlock))
	memory := t.megabytes("block_cache.mem-size-mb", 0)
	t.memory("block_cache.mem-size-mb", memory)
	if dir := t.path("block_cache.path"); dir != "" {
		t.disk("block_cache.path", dir, "block_cache.disk-size-mb")
		b.CacheTimeout = mount.Duration(t.seconds("block_cache.disk-timeout-sec", 120*time.Second))
	} else {
		// What is written lies on disk until it is uploaded, in Massif's own directory.
		b.CacheDropAtEnd = true
		if t.has("block_cache.disk-size-mb") {
			t.warn("block_cache.disk-size-mb", "has no effect without block_cache.path")
			t.megabytes("block_cache.disk-size-mb", 0)
		}
		t.seconds("block_cache.disk-timeout-sec", 0)
	}
	if t.has("block_cache.prefetch") {
		n := t.whole("block_cache.prefetch", 0)
		switch {
		case n > 0 && n < 11:
			t.fail("block_cache.prefetch", "%d is not 0 (none) and not 11 or more", n)
		case memory > 0 && int64(n) > memory/max(int64(b.BlockSize), 1):
			t.fail("block_cache.prefetch", "%d blocks of %v are more than the %v of block_cache.mem-size-mb", n, b.BlockSize, mount.Size(memory))
		case n > 1024:
			t.fail("block_cache.prefetch", "%d is more than 1024", n)
		}
		ahead := int(n)
		b.Prefetch = &ahead
	}
	b.Parallel = int(min(t.whole("block_cache.parallelism", 0), 1024))
	b.PrefetchOnOpen = t.toggle("block_cache.prefetch-on-open", false)
}

// memory makes a number of bytes the memory limit, if it is one; 0: the default stays.
func (t *translation) memory(key string, bytes int64) {
	if bytes == 0 {
		return
	}
	if bytes < mount.MinMemoryLimit {
		t.warn(key, "is too little for a mount, which gets %v", mount.Size(mount.MinMemoryLimit))
		bytes = mount.MinMemoryLimit
	}
	t.spec.Mount.MemoryLimit = mount.Size(bytes)
}

func (t *translation) stream() {
	block := t.megabytes("stream.block-size-mb", 0)
	if block > 0 {
		t.bucket.BlockSize = mount.Size(block)
	}
	// buffer-size × max-buffers, or in older files blocks × block-size within a cache
	// of one size: the memory is one budget here.
	buffers := t.megabytes("stream.buffer-size-mb", 0) * int64(t.whole("stream.max-buffers", 0))
	for _, old := range []string{"stream.stream-cache-mb", "stream.cache-size-mb"} {
		buffers = max(buffers, t.megabytes(old, 0))
	}
	key := "stream.max-buffers"
	if !t.has(key) {
		key = "stream.stream-cache-mb"
	}
	t.memory(key, buffers)
	t.whole("stream.blocks-per-file", 0)
	t.whole("stream.max-blocks-per-file", 0)
	t.toggle("stream.file-caching", false) // a file has one cache, whoever opened it
}

func (t *translation) xload() {
	b := t.bucket
	b.Caching = "xload"
	if mode := t.choice("xload.mode", "preload", "upload", "sync"); mode != "" && mode != "preload" {
		t.fail("xload.mode", "%s is not supported: only preload is", mode)
	}
	block := "xload.block-size-mb"
	if !t.has(block) {
		block = "stream.block-size-mb"
	}
	b.BlockSize = mount.Size(t.megabytes(block, 16<<20))
	dir := t.path("xload.path")
	if dir == "" {
		dir = t.path("file_cache.path")
	}
	if dir == "" {
		t.fail("xload.path", "the directory is not named")
		return
	}
	t.disk("xload.path", dir, "file_cache.max-size-mb")
	b.CacheDropAtEnd = true
	b.Parallel = int(min(t.whole("xload.workers", 0), 1024))
	t.whole("xload.pool-size", 0) // the memory limit bounds the pool
	if t.toggle("xload.export-progress", false) {
		t.warn("xload.export-progress", "has no effect: \"massif stats\" shows how far it is")
	}
}

// attributes is how long what is known of files is believed, and what is kept of them.
func (t *translation) attributes() {
	b := t.bucket
	known := time.Duration(0)
	if t.with("attr_cache") && !t.direct() {
		known = t.seconds("attr_cache.timeout-sec", defaultAttrTime)
	}
	listing := known
	if t.has("attr_cache.cache-on-list") && !t.toggle("attr_cache.cache-on-list", true) || t.toggle("attr_cache.no-cache-on-list", false) {
		listing = 0
	}
	for _, key := range []string{"list-cache-timeout", "entry_cache.timeout-sec"} {
		if t.has(key) {
			listing = t.seconds(key, defaultEntryTime)
		}
	}
	if t.with("entry_cache") && !t.has("entry_cache.timeout-sec") && !t.has("list-cache-timeout") {
		listing = defaultEntryTime
	}
	b.AttrTimeout, b.NegativeTimeout, b.ListTimeout = lasting(known), lasting(known), lasting(listing)

	// Links are on, as in the versions that had a switch against them; later ones have
	// a switch for them.
	links := !t.toggle("attr_cache.no-symlinks", false)
	if t.has("attr_cache.enable-symlinks") {
		links = t.toggle("attr_cache.enable-symlinks", true)
	}
	switch {
	case !links:
		b.Symlinks = "none"
	case t.s3():
		b.Symlinks = "rclonelink"
	default:
		b.Symlinks = "metadata"
	}
}

func lasting(d time.Duration) *mount.Duration {
	m := mount.Duration(d)
	return &m
}

// direct tells whether nothing is to be believed without asking.
func (t *translation) direct() bool {
	a, b := t.toggle("direct-io", false), t.toggle("libfuse.direct-io", false)
	return a || b
}

// kernel is what the kernel may keep, and the modes it is shown.
func (t *translation) kernel() {
	b := t.bucket
	direct := t.direct()
	b.NoKernelData = t.toggle("disable-kernel-cache", false)
	if b.NoKernelData && direct {
		t.fail("disable-kernel-cache", "it excludes direct-io, which is more")
	}
	b.NoKernelData = b.NoKernelData || direct
	for _, one := range []struct {
		key string
		to  **mount.Duration
	}{
		{"libfuse.attribute-expiration-sec", &b.KernelAttr},
		{"libfuse.entry-expiration-sec", &b.KernelEntry},
		{"libfuse.negative-entry-expiration-sec", &b.KernelNegative},
	} {
		d := t.seconds(one.key, defaultKernelTime)
		if direct {
			d = 0
		}
		*one.to = lasting(d)
	}
	t.seconds("libfuse.kernel-list-cache-expiration-sec", 0) // as long as names

	file, dir := mount.Octal(0o755), mount.Octal(0o775)
	if *t.spec.Mount.AllowOther {
		file, dir = 0o777, 0o777
	}
	if mode, ok := t.mode("libfuse.default-permission"); ok {
		file, dir = mount.Octal(mode), mount.Octal(mode)
	}
	b.FileMode, b.DirMode = &file, &dir

	for _, key := range []string{"libfuse.display-capacity-mb", "size_tracker.bucket-capacity-fallback"} {
		if t.has(key) && (!strings.HasPrefix(key, "size_tracker") || t.with("size_tracker")) {
			b.Capacity = mount.Size(t.megabytes(key, 0))
		}
	}
}

// itoa writes a number for a URL.
func itoa(n uint64) string { return strconv.FormatUint(n, 10) }
