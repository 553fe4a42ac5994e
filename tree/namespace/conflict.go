package namespace

import (
	"strconv"
	"strings"

	"github.com/massif-fs/massif/vfs"
)

const conflictMark = ".wl_"

// conflictName is the name under which a file of a storage is shown where its own is
// taken: the storage's id stands before the last extension.
func conflictName(name string, id int) string {
	stem, ext := splitExtension(name)
	return stem + conflictMark + strconv.Itoa(id) + ext
}

// splitExtension divides a name before its last extension. Dots at the beginning do
// not begin one.
func splitExtension(name string) (stem, ext string) {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 || strings.Trim(name[:dot], ".") == "" {
		return name, ""
	}
	return name[:dot], name[dot:]
}

// parseConflictName takes a name that conflictName makes apart.
func parseConflictName(name string) (true_ string, id int, ok bool) {
	if len(name) > vfs.MaxName {
		return "", 0, false
	}
	for at := strings.LastIndex(name, conflictMark); at >= 0; at = strings.LastIndex(name[:at], conflictMark) {
		rest := name[at+len(conflictMark):]
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		n, err := strconv.Atoi(rest[:digits])
		if err != nil {
			continue
		}
		true_ = name[:at] + rest[digits:]
		if true_ != "" && conflictName(true_, n) == name {
			return true_, n, true
		}
	}
	return "", 0, false
}
