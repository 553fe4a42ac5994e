package mount

import "testing"

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
