package mount

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMountinfo(t *testing.T) {
	text := `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
36 22 0:33 / /mnt/a\040b rw,nosuid master:1 shared:7 - fuse.massif my\040volume rw,user_id=0
37 22 0:34 / /mnt/c ro - fuse.massif  rw
garbage
38 22 x
`
	got, err := parseMountinfo(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Mountpoint{
		{ID: 22, Dev: "8:1", Point: "/", Options: "rw,relatime", Type: "ext4", Source: "/dev/sda1", Super: "rw"},
		{ID: 36, Dev: "0:33", Point: "/mnt/a b", Options: "rw,nosuid", Type: "fuse.massif", Source: "my volume", Super: "rw,user_id=0"},
		{ID: 37, Dev: "0:34", Point: "/mnt/c", Options: "ro", Type: "fuse.massif", Super: "rw"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func TestMountpointsOfThisProcess(t *testing.T) {
	all, err := Mountpoints()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.Point == "/" {
			return
		}
	}
	t.Errorf("no root among %d mounts", len(all))
}

func FuzzMountinfo(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue")
	f.Add(`1 2 0:3 / /a\0403\ rw - fuse.massif  rw`)
	f.Fuzz(func(t *testing.T, text string) {
		parseMountinfo(strings.NewReader(text))
		unescapeMountinfo(text)
	})
}
