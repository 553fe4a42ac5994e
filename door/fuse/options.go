package fuse

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Tristate is a choice that may be left to the door.
type Tristate uint8

const (
	Auto Tristate = iota
	On
	Off
)

// ParseTristate reads "auto", "on" or "off".
func ParseTristate(s string) (Tristate, error) {
	switch s {
	case "auto", "":
		return Auto, nil
	case "on", "yes", "true":
		return On, nil
	case "off", "no", "false":
		return Off, nil
	}
	return Auto, fmt.Errorf("%q is not auto, on or off", s)
}

func (t Tristate) String() string { return [...]string{"auto", "on", "off"}[t] }

// Transport is how messages come from the kernel.
type Transport uint8

const (
	TransportAuto    Transport = iota
	TransportClassic           // by read(2) and write(2)
	TransportURing             // by io_uring(7)
)

var transports = []string{"auto", "classic", "uring"}

// ParseTransport reads "auto", "classic" or "uring".
func ParseTransport(s string) (Transport, error) {
	if s == "" {
		return TransportAuto, nil
	}
	if i := slices.Index(transports, s); i >= 0 {
		return Transport(i), nil
	}
	return TransportAuto, fmt.Errorf("%q is not auto, classic or uring", s)
}

func (t Transport) String() string { return transports[t] }

// Options say how a tree is mounted. The zero value mounts a tree with
// permission checks by the kernel, for the mounting user only.
type Options struct {
	// FsName is shown as the mount's source (df, findmnt). Default: "massif".
	FsName string
	// Subtype is shown as the type "fuse.<Subtype>". Default: "massif".
	Subtype string

	// AllowOther lets other users than the mounting one use the mount. Without
	// root this needs user_allow_other in /etc/fuse.conf.
	AllowOther bool
	// NoDefaultPermissions switches the kernel's permission checks off: every
	// caller may do everything the mount lets in at all.
	NoDefaultPermissions bool

	// ReadOnly makes every change fail with EROFS. Trees whose Policy is read-only
	// are mounted so always.
	ReadOnly bool
	NoExec   bool
	NoSuid   bool // forced by fusermount3 where the mounter is not root
	NoDev    bool // likewise
	NoAtime  bool
	// Extra are further mount options as mount(8) would pass them: "context=…",
	// "dirsync", … Unknown ones make the mount fail.
	Extra []string

	// UID, GID and Umask, where set, replace what the tree says about owner, group
	// and permission bits (the bits set in Umask are cleared) in what is shown to
	// the kernel and so in its permission checks.
	UID, GID, Umask *uint32

	// NoXattr does without extended attributes and ACLs. With them the kernel asks
	// for security.capability before the first write to each file, a message that
	// costs small files much.
	NoXattr bool

	// MaxWrite bounds one READ or WRITE, in bytes. Default 1 MiB, which is also
	// the kernel's limit unless fs.fuse.max_pages_limit was raised.
	MaxWrite int
	// MaxReadAhead is how far the kernel reads ahead in buffered files, in bytes;
	// beyond 128 KiB only when mounted as root. Default 4 MiB.
	MaxReadAhead int
	// MaxBackground is how many requests without a waiting caller (readahead,
	// write-back, asynchronous direct I/O) the kernel sends at once. Default 64.
	MaxBackground int
	// MaxRequestMemory bounds the buffers of requests in progress, in bytes: each has
	// one of MaxWrite, of which it touches as much as its data is long. While it is
	// spent no request is taken, also none that could be answered at once. (Locks
	// that are waited for have small ones besides.) Default 128 MiB.
	MaxRequestMemory int
	// MaxOpenInodes bounds the Files the door itself keeps open on a mount
	// without OPEN messages (see Stateless). Default 4096.
	MaxOpenInodes int
	// MaxNodes is how many inodes the kernel may remember before it is asked to forget
	// some; those in use stay. Door and tree keep a few words for each. Default
	// 1,048,576. Kernels before 6.18 remember as much as their memory allows.
	MaxNodes int

	// Transport is the way of messages from the kernel. uring fails where the kernel has
	// not been allowed to use it (root: echo Y >/sys/module/fuse/parameters/enable_uring)
	// and for trees whose locks the door serves (see package kernel, uring.go).
	// Auto: classic. (Linux 6.18 can leave programs waiting for ever, and deaf to signals,
	// whose messages lay in a queue when the server was killed.)
	Transport Transport

	// Stateless: spare OPEN, RELEASE, FLUSH and OPENDIR messages. Auto: on if the tree
	// is a vfs.StatelessFS and exclusive or read-only.
	Stateless Tristate
	// WritebackCache: let the kernel collect writes. Auto: off. It makes streams of
	// small writes cheaper, but costs a SETATTR per file written and a GETATTR
	// after each close, tells errors at fsync instead of at the write, and hides
	// dirty pages from SEEK_DATA, which is therefore left to the kernel's answer
	// that all is data. Possible for exclusive trees only, since the kernel then
	// owns size and times of files.
	WritebackCache Tristate
	// Passthrough: let the kernel read and write the files behind
	// vfs.PassthroughFile itself. Needs root and OPEN messages, and excludes
	// WritebackCache. Auto: on unless Stateless or WritebackCache is.
	Passthrough Tristate

	// MaxIdle unmounts when no request has come for so long and nothing on the
	// mount is open. 0: never.
	MaxIdle time.Duration

	// Recorder, if not nil, is told of each request.
	Recorder Recorder
	// AccessLog, if not nil, is called after each request with what it was.
	AccessLog func(*Access)
	// Logger receives what an administrator should know. Default: slog.Default().
	Logger *slog.Logger
	// Debug logs each message from and to the kernel.
	Debug bool
}

// Recorder collects statistics of requests. Record is called from many
// goroutines; op is one of the Op numbers (see OpName), bytes what was read or
// written, errno 0 if all went well.
type Recorder interface {
	Record(op int, d time.Duration, bytes int, errno syscall.Errno)
}

// Access is a line of the access log. It is valid during the call only.
type Access struct {
	Op       int
	Ino      uint64
	Name     string // the entry's name, for operations on one
	UID, GID uint32
	PID      uint32
	Start    time.Time
	Duration time.Duration
	Bytes    int
	Errno    syscall.Errno
}

const (
	defaultMaxWrite      = 1 << 20
	defaultReadAhead     = 4 << 20
	defaultMaxBackground = 64
	defaultRequestMemory = 128 << 20
	defaultOpenInodes    = 4096
	defaultNodes         = 1 << 20
)

func (o *Options) withDefaults() (Options, error) {
	r := *o
	set := func(p *int, def int) {
		if *p <= 0 {
			*p = def
		}
	}
	set(&r.MaxWrite, defaultMaxWrite)
	set(&r.MaxReadAhead, defaultReadAhead)
	set(&r.MaxBackground, defaultMaxBackground)
	set(&r.MaxRequestMemory, defaultRequestMemory)
	set(&r.MaxOpenInodes, defaultOpenInodes)
	set(&r.MaxNodes, defaultNodes)
	if r.MaxWrite < 4096 {
		r.MaxWrite = 4096
	}
	if limit := maxPagesLimit() * pageSize; r.MaxWrite > limit {
		r.MaxWrite = limit
	}
	if r.MaxBackground > 65535 {
		r.MaxBackground = 65535
	}
	if r.FsName == "" {
		r.FsName = "massif"
	}
	if r.Subtype == "" {
		r.Subtype = "massif"
	}
	if strings.ContainsAny(r.Subtype, ",/ \t\n\x00") {
		return r, fmt.Errorf("subtype %q: only letters, digits and a few signs are possible", r.Subtype)
	}
	if strings.ContainsAny(r.FsName, "\n\x00") {
		return r, fmt.Errorf("fsname %q: line breaks are not possible", r.FsName)
	}
	for _, e := range r.Extra {
		if strings.ContainsAny(e, ",\x00") {
			return r, fmt.Errorf("mount option %q: give several options one by one", e)
		}
	}
	if r.Logger == nil {
		r.Logger = slog.Default()
	}
	return r, nil
}
