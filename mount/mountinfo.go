package mount

import (
	"fmt"

	"github.com/moby/sys/mountinfo"
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
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("mount table: %w", err)
	}
	all := make([]Mountpoint, len(infos))
	for i, m := range infos {
		all[i] = Mountpoint{
			ID: m.ID, Dev: fmt.Sprintf("%d:%d", m.Major, m.Minor), Point: m.Mountpoint, Options: m.Options,
			Type: m.FSType, Source: m.Source, Super: m.VFSOptions,
		}
	}
	return all, nil
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
