package mount

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
)

// Mountpoint is a line of /proc/self/mountinfo, as proc(5) describes it.
type Mountpoint struct {
	ID      int
	Dev     string // MAJOR:MINOR
	Point   string
	Options string // of the mount
	Type    string // "fuse.massif", "ext4"
	Source  string
	Super   string // options of the file system
}

// Mountpoints lists what is mounted in this process's mount namespace, later
// mounts after earlier ones.
func Mountpoints() ([]Mountpoint, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMountinfo(f)
}

func parseMountinfo(r io.Reader) ([]Mountpoint, error) {
	var out []Mountpoint
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), 4<<20)
	for s.Scan() {
		if m, ok := parseMountinfoLine(s.Text()); ok {
			out = append(out, m)
		}
	}
	return out, s.Err()
}

// parseMountinfoLine reads "36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw".
func parseMountinfoLine(line string) (Mountpoint, bool) {
	before, after, ok := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !ok || len(left) < 6 || len(right) < 1 {
		return Mountpoint{}, false
	}
	id, err := strconv.Atoi(left[0])
	if err != nil {
		return Mountpoint{}, false
	}
	m := Mountpoint{ID: id, Dev: left[2], Point: unescapeMountinfo(left[4]), Options: left[5], Type: unescapeMountinfo(right[0])}
	// An empty source leaves two blanks, which Fields has joined.
	if len(right) > 2 {
		m.Source, m.Super = unescapeMountinfo(right[1]), right[2]
	} else if len(right) == 2 {
		m.Super = right[1]
	}
	return m, true
}

// unescapeMountinfo undoes the kernel's \ooo for blank, tab, line feed and backslash.
func unescapeMountinfo(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountedAt returns the uppermost mount at a path.
func mountedAt(point string) (Mountpoint, bool, error) {
	all, err := Mountpoints()
	if err != nil {
		return Mountpoint{}, false, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Point == point {
			return all[i], true, nil
		}
	}
	return Mountpoint{}, false, nil
}

// FuseType is the type that Massif's mounts have in the mount table.
const FuseType = "fuse.massif"
