package bucket

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/vfs"
)

// attrs are the attributes of a node that a bucket does not have by itself. Objects carry
// them as metadata, in the words of s3fs: mode (st_mode, decimal), uid, gid, mtime, ctime, atime
// (seconds with a fraction; rclone's mtime is the same), xattr (JSON with base64 values, URL
// encoded); and btime, in the same form.
type attrs struct {
	mode                       uint32 // permission bits
	uid, gid                   uint32
	atime, mtime, ctime, btime vfs.Time
	xattrs                     map[string][]byte
	other                      map[string]string // metadata that is not ours
	contentType                string
}

const (
	metaMode, metaUID, metaGID                 = "mode", "uid", "gid"
	metaAtime, metaMtime, metaCtime, metaBtime = "atime", "mtime", "ctime", "btime"
	metaXattr                                  = "xattr"
	metaLink                                   = "is_symlink"   // Azure's: a symbolic link
	metaFolder                                 = "hdi_isfolder" // Azure's: a directory
	metaMD5                                    = "md5chksum"    // rclone's: of the bytes
	linkSuffix                                 = ".rclonelink"  // rclone's: a symbolic link
	maxXattrs                                  = 1500           // bytes of them all, encoded: metadata have 2 KiB
)

// defaults are the attributes of what has none.
func (fs *FS) defaults(kind uint32, at vfs.Time) attrs {
	a := attrs{mode: fs.cfg.FileMode, uid: fs.cfg.UID, gid: fs.cfg.GID, atime: at, mtime: at, ctime: at, btime: at}
	switch kind {
	case syscall.S_IFDIR:
		a.mode = fs.cfg.DirMode
	case syscall.S_IFLNK:
		a.mode = 0o777
	}
	return a
}

// attrsOf are the attributes of an object.
func (fs *FS) attrsOf(kind uint32, info *object.Info) attrs {
	at := vfs.TimeOf(info.ModTime)
	if info.ModTime.IsZero() {
		at = vfs.TimeOf(fs.begun)
	}
	a := fs.defaults(kind, at)
	a.contentType = info.ContentType
	if fs.cfg.NoMetadata || len(info.Metadata) == 0 {
		return a
	}
	for key, value := range info.Metadata {
		switch key {
		case metaMode:
			if mode, ok := parseMode(value); ok {
				a.mode = mode
			}
		case metaUID:
			parseID(value, &a.uid)
		case metaGID:
			parseID(value, &a.gid)
		case metaMtime:
			// Without others of their own, a and c follow.
			if t, ok := parseTime(value); ok {
				a.mtime = t
				if info.Metadata[metaAtime] == "" {
					a.atime = t
				}
				if info.Metadata[metaCtime] == "" {
					a.ctime = t
				}
			}
		case metaAtime:
			setTime(value, &a.atime)
		case metaCtime:
			setTime(value, &a.ctime)
		case metaBtime:
			setTime(value, &a.btime)
		case metaXattr:
			a.xattrs = decodeXattrs(value)
		case metaLink, metaFolder:
		default:
			if a.other == nil {
				a.other = make(map[string]string)
			}
			a.other[key] = value
		}
	}
	return a
}

// metadata is what an object with these attributes carries.
func (fs *FS) metadata(kind uint32, link bool, a *attrs) map[string]string {
	if fs.cfg.NoMetadata {
		return nil
	}
	m := map[string]string{
		metaMode: strconv.FormatUint(uint64(kind|a.mode), 10),
		metaUID:  strconv.FormatUint(uint64(a.uid), 10), metaGID: strconv.FormatUint(uint64(a.gid), 10),
		metaAtime: formatTime(a.atime), metaMtime: formatTime(a.mtime), metaCtime: formatTime(a.ctime), metaBtime: formatTime(a.btime),
	}
	maps.Copy(m, a.other)
	if len(a.xattrs) > 0 {
		m[metaXattr] = encodeXattrs(a.xattrs)
	}
	switch {
	case kind == syscall.S_IFLNK && !link:
		m[metaLink] = "true"
	case kind == syscall.S_IFDIR && fs.cfg.Markers == FolderMarkers:
		m[metaFolder] = "true"
	}
	return m
}

// kindOf tells what an object is that stands under a plain name.
func (fs *FS) kindOf(info *object.Info) uint32 {
	switch {
	case isTrue(info.Metadata[metaFolder]) && info.Size == 0:
		return syscall.S_IFDIR
	case isTrue(info.Metadata[metaLink]) && info.Size <= vfs.MaxSymlink && fs.cfg.Links != NoLinks:
		return syscall.S_IFLNK
	}
	return syscall.S_IFREG
}

func isTrue(s string) bool { return strings.EqualFold(s, "true") }

// parseMode reads the permission bits of a mode in decimal, as s3fs writes it, or in octal,
// as rclone does with the type in front.
func parseMode(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n > 0xffff {
		n, err = strconv.ParseUint(s, 8, 32)
	}
	if err != nil || n > 0xffff {
		return 0, false
	}
	return uint32(n) & 0o7777, true
}

func parseID(s string, id *uint32) {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil && n != 1<<32-1 {
		*id = uint32(n)
	}
}

func setTime(s string, t *vfs.Time) {
	if at, ok := parseTime(s); ok {
		*t = at
	}
}

// parseTime reads seconds since the epoch with a fraction, or RFC 3339.
func parseTime(s string) (vfs.Time, bool) {
	if at, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return vfs.TimeOf(at), true
	}
	digits, negative := strings.CutPrefix(s, "-")
	whole, fraction, _ := strings.Cut(digits, ".")
	sec, err := strconv.ParseUint(whole, 10, 62)
	if err != nil || len(fraction) > 20 {
		return vfs.Time{}, false
	}
	nsec := uint64(0)
	if fraction != "" {
		if nsec, err = strconv.ParseUint((fraction + "000000000")[:9], 10, 32); err != nil {
			return vfs.Time{}, false
		}
	}
	t := vfs.Time{Sec: int64(sec), Nsec: uint32(nsec)}
	if negative {
		t.Sec = -t.Sec
		if t.Nsec > 0 {
			t.Sec, t.Nsec = t.Sec-1, 1e9-t.Nsec
		}
	}
	return t, true
}

func formatTime(t vfs.Time) string {
	sec, nsec, sign := t.Sec, t.Nsec, ""
	if sec < 0 {
		sign = "-"
		if nsec > 0 {
			sec, nsec = sec+1, 1e9-nsec
		}
		sec = -sec
	}
	if nsec == 0 {
		return fmt.Sprintf("%s%d", sign, sec)
	}
	return fmt.Sprintf("%s%d.%09d", sign, sec, nsec)
}

func encodeXattrs(x map[string][]byte) string {
	m := make(map[string]string, len(x))
	for name, value := range x {
		m[name] = base64.StdEncoding.EncodeToString(value)
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // strings
	}
	return url.QueryEscape(string(b))
}

// decodeXattrs reads what it can.
func decodeXattrs(s string) map[string][]byte {
	if strings.HasPrefix(s, "%7B") || strings.HasPrefix(s, "%7b") {
		var err error
		if s, err = url.QueryUnescape(s); err != nil {
			return nil
		}
	}
	var m map[string]string
	if json.Unmarshal([]byte(s), &m) != nil {
		return nil
	}
	x := make(map[string][]byte, len(m))
	for name, value := range m {
		if b, err := base64.StdEncoding.DecodeString(value); err == nil && name != "" && len(name) <= 255 {
			x[name] = b
		}
	}
	return x
}
