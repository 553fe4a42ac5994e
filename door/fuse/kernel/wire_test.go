package kernel

import (
	"testing"
	"unsafe"
)

// TestSizes compares the structures with the lengths that the kernel expects; a
// missing or misplaced field would change them.
func TestSizes(t *testing.T) {
	for name, s := range map[string]struct{ have, want uintptr }{
		"in_header":           {unsafe.Sizeof(Header{}), headerSize},
		"out_header":          {unsafe.Sizeof(replyHeader{}), replyHeaderSize},
		"attr":                {unsafe.Sizeof(Attr{}), 88},
		"entry_out":           {unsafe.Sizeof(EntryOut{}), 128},
		"getattr_in":          {unsafe.Sizeof(GetAttrIn{}), 16},
		"attr_out":            {unsafe.Sizeof(AttrOut{}), 104},
		"setattr_in":          {unsafe.Sizeof(SetAttrIn{}), 88},
		"statx_in":            {unsafe.Sizeof(StatxIn{}), 24},
		"statx":               {unsafe.Sizeof(Statx{}), 256},
		"statx_out":           {unsafe.Sizeof(StatxOut{}), 288},
		"mknod_in":            {unsafe.Sizeof(MknodIn{}), 16},
		"mkdir_in":            {unsafe.Sizeof(MkdirIn{}), 8},
		"rename2_in":          {unsafe.Sizeof(RenameIn{}), 16},
		"link_in":             {unsafe.Sizeof(LinkIn{}), 8},
		"open_in":             {unsafe.Sizeof(OpenIn{}), 8},
		"open_out":            {unsafe.Sizeof(OpenOut{}), 16},
		"create_in":           {unsafe.Sizeof(CreateIn{}), 16},
		"create_out":          {unsafe.Sizeof(CreateOut{}), 144},
		"release_in":          {unsafe.Sizeof(ReleaseIn{}), 24},
		"flush_in":            {unsafe.Sizeof(FlushIn{}), 24},
		"read_in":             {unsafe.Sizeof(ReadIn{}), 40},
		"write_in":            {unsafe.Sizeof(WriteIn{}), 40},
		"write_out":           {unsafe.Sizeof(writeOut{}), 8},
		"statfs_out":          {unsafe.Sizeof(StatfsOut{}), 80},
		"fsync_in":            {unsafe.Sizeof(FsyncIn{}), 16},
		"setxattr_in":         {unsafe.Sizeof(SetXattrIn{}), 16},
		"getxattr_in":         {unsafe.Sizeof(getXattrIn{}), 8},
		"getxattr_out":        {unsafe.Sizeof(getXattrOut{}), 8},
		"lk_in":               {unsafe.Sizeof(LkIn{}), 48},
		"lk_out":              {unsafe.Sizeof(LkOut{}), 24},
		"access_in":           {unsafe.Sizeof(AccessIn{}), 8},
		"ioctl_in":            {unsafe.Sizeof(IoctlIn{}), 32},
		"fallocate_in":        {unsafe.Sizeof(FallocateIn{}), 32},
		"lseek_in":            {unsafe.Sizeof(LseekIn{}), 24},
		"lseek_out":           {unsafe.Sizeof(LseekOut{}), 8},
		"copy_file_range_in":  {unsafe.Sizeof(CopyFileRangeIn{}), 56},
		"copy_file_range_out": {unsafe.Sizeof(copyFileRangeOut{}), 8},
		"notify_retrieve_in":  {unsafe.Sizeof(retrieveIn{}), 40},
		"init_in":             {unsafe.Sizeof(initIn{}), 64},
		"init_out":            {unsafe.Sizeof(initOut{}), 64},
		"dirent":              {uintptr(direntSize), 24},
		"direntplus":          {uintptr(entrySize + direntSize), 152},
	} {
		if s.have != s.want {
			t.Errorf("fuse_%s has %d bytes, should have %d", name, s.have, s.want)
		}
	}
	if unsafe.Offsetof(initOut{}.flags2) != 32 || unsafe.Offsetof(initOut{}.requestTimeout) != 40 {
		t.Error("fields of fuse_init_out are not in their places")
	}
}

func TestDirList(t *testing.T) {
	buf := make([]byte, 256)
	for i := range buf {
		buf[i] = 0xff
	}
	l := NewDirList(buf)
	if !l.Add(&DirEntry{Ino: 5, Off: 6, Mode: 0100644, Name: "123456789"}) {
		t.Fatal("does not fit")
	}
	if len(l.Bytes()) != 24+16 {
		t.Errorf("%d bytes", len(l.Bytes()))
	}
	d := (*dirent)(unsafe.Pointer(&buf[0]))
	if d.ino != 5 || d.off != 6 || d.nameLen != 9 || d.typ != 8 || string(buf[24:40]) != "123456789\x00\x00\x00\x00\x00\x00\x00" {
		t.Errorf("%+v %q", *d, buf[24:40])
	}
	out := l.AddPlus(&DirEntry{Ino: 7, Off: 8, Mode: 040755, Name: "x"})
	if out == nil || *out != (EntryOut{}) || len(l.Bytes()) != 40+152+8 {
		t.Fatalf("%v, %d bytes", out, len(l.Bytes()))
	}
	if l.AddPlus(&DirEntry{Name: "y"}) != nil || l.Add(&DirEntry{Name: string(make([]byte, 40))}) || len(l.Bytes()) != 200 {
		t.Error("more than fits")
	}
}
