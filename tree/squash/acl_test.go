package squash

import (
	"encoding/binary"
	"testing"

	"github.com/massif-fs/massif/vfs"
)

// acl makes an ACL in the kernel's form of tag, permission and ID.
func acl(entries ...[3]uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

func TestACLRights(t *testing.T) {
	const userObj, user, groupObj, group, mask, other = 1, 2, 4, 8, 0x10, 0x20
	c := &vfs.Caller{UID: 65534, GID: 65534}
	a := &vfs.Attr{UID: 1, GID: 1}
	own := &vfs.Attr{UID: 1, GID: 65534}
	for _, x := range []struct {
		name string
		acl  []byte
		a    *vfs.Attr
		want uint32
	}{
		{"others", acl([3]uint32{userObj, 7}, [3]uint32{groupObj, 7}, [3]uint32{mask, 7}, [3]uint32{other, 4}), a, 4},
		{"a named user, masked", acl([3]uint32{userObj, 7}, [3]uint32{user, 7, 65534}, [3]uint32{groupObj, 0}, [3]uint32{mask, 5}, [3]uint32{other, 0}), a, 5},
		{"another named user", acl([3]uint32{userObj, 7}, [3]uint32{user, 7, 5}, [3]uint32{groupObj, 7}, [3]uint32{mask, 7}, [3]uint32{other, 0}), a, 0},
		{"a named group", acl([3]uint32{userObj, 7}, [3]uint32{groupObj, 0}, [3]uint32{group, 6, 65534}, [3]uint32{mask, 4}, [3]uint32{other, 7}), a, 4},
		{"the file's group", acl([3]uint32{userObj, 7}, [3]uint32{groupObj, 5}, [3]uint32{mask, 7}, [3]uint32{other, 7}), own, 5},
		{"no ACL", []byte{1, 2, 3}, a, 0},
	} {
		if got := aclRights(x.acl, c, x.a); got != x.want {
			t.Errorf("%s: %o, want %o", x.name, got, x.want)
		}
	}
}

func FuzzACLRights(f *testing.F) {
	f.Add(acl([3]uint32{1, 7}, [3]uint32{2, 7, 65534}, [3]uint32{0x20, 4}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := aclRights(b, &vfs.Caller{UID: 65534, GID: 65534}, &vfs.Attr{UID: 1, GID: 1}); got > 7 {
			t.Errorf("%o", got)
		}
	})
}
