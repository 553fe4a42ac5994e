package flist

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"capnproto.org/go/capnp/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// The key of the root directory, as real images have it.
func TestPathKey(t *testing.T) {
	if k := pathKey(""); k != "cae66941d9efbd404e4d88758ea67670" {
		t.Fatal(k)
	}
}

func sampleDir(entries int) *dirRecord {
	d := &dirRecord{mtime: 1, ctime: 2, name: "b", location: "a/b", parent: pathKey("a"), acl: "0123456789abcdef"}
	for i := range entries {
		e := entryRecord{name: fmt.Sprintf("entry-%d", i), kind: uint16(i % 4), size: uint64(i), mtime: 3, ctime: 4, acl: "fedcba9876543210"}
		switch e.kind {
		case kindDir:
			e.key = pathKey(fmt.Sprint("a/b/", e.name))
		case kindFile:
			for k := range i % 5 {
				b, _ := V1.Seal([]byte{byte(i), byte(k)})
				e.blocks = append(e.blocks, b)
			}
		case kindLink:
			e.target = strings.Repeat("x", i%50)
		case kindSpecial:
			e.special, e.device = uint16(i/4%4), "8,17"
		}
		d.entries = append(d.entries, e)
	}
	return d
}

var recordCmp = cmp.Options{cmp.AllowUnexported(dirRecord{}, entryRecord{}), cmpopts.IgnoreFields(dirRecord{}, "byName"), cmpopts.EquateEmpty()}

func TestDirRecord(t *testing.T) {
	for _, n := range []int{0, 1, 4, 5000} {
		d := sampleDir(n)
		data, err := d.marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseDir(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d, got, recordCmp); diff != "" {
			t.Fatal(diff)
		}
		// Real images have records of many segments, with far and double-far pointers.
		if got, err = parseDir(segmented(t, data)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d, got, recordCmp); diff != "" {
			t.Fatal(diff)
		}
	}
}

// segmented makes a message of one segment one of three: every pointer becomes a far
// pointer, all but the root's one of the double kind.
func segmented(t testing.TB, data []byte) []byte {
	t.Helper()
	if n := binary.LittleEndian.Uint32(data); n != 0 {
		t.Fatalf("the message has %d segments", n+1)
	}
	words := make([]uint64, len(data)/8-1)
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(data[8*(i+1):])
	}
	var pads []uint64 // segment 2
	var visit func(i int)
	// moved replaces pointer i and visits what it points to.
	moved := func(i int) {
		p := words[i]
		if p == 0 {
			return
		}
		visit(i)
		target := i + 1 + int(int32(p)>>2)
		words[i] = 2 | 1<<2 | uint64(len(pads))<<3 | 2<<32
		pads = append(pads, 2|uint64(target)<<3|1<<32, p&^(1<<32-1)|p&3)
	}
	visit = func(i int) {
		p := words[i]
		at := i + 1 + int(int32(p)>>2)
		switch {
		case p&3 == 0: // struct
			for k := range int(p >> 48) {
				moved(at + int(p>>32&0xffff) + k)
			}
		case p&3 == 1 && p>>32&7 == 7: // composite list
			tag := words[at]
			n, data, ptrs := int(uint32(tag)>>2), int(tag>>32&0xffff), int(tag>>48)
			for e := range n {
				for k := range ptrs {
					moved(at + 1 + e*(data+ptrs) + data + k)
				}
			}
		}
	}
	visit(0)
	// Segment 0 has the root pointer alone, to that of segment 1.
	segments := [][]uint64{{2 | 1<<32}, words, pads}
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(segments)-1))
	for _, seg := range segments {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(seg)))
	}
	for _, seg := range segments {
		for _, w := range seg {
			out = binary.LittleEndian.AppendUint64(out, w)
		}
	}
	return out
}

func TestACIRecord(t *testing.T) {
	a := aciRecord{mode: 0o4755, uid: 0, gid: 4294967294, uname: "root", gname: "x"}
	data, err := a.marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseACI(data)
	if err != nil || got != a {
		t.Fatalf("%+v, %v", got, err)
	}
	// A record of the first years: one word of data, no numbers.
	msg, seg, _ := capnp.NewMessage(capnp.SingleSegment(nil))
	s, err := capnp.NewRootStruct(seg, capnp.ObjectSize{DataSize: 8, PointerCount: 3})
	if err != nil {
		t.Fatal(err)
	}
	s.SetUint16(0, 0o100755)
	_ = s.SetNewText(0, "root")
	data, _ = msg.Marshal()
	got, err = parseACI(data)
	if err != nil || got.mode != 0o755 || got.uid != -1 || got.gid != -1 || got.uname != "root" {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, c := range []struct {
		id   int64
		name string
		want int64
	}{{-1, "root", 0}, {-1, "4711", 4711}, {-1, "nobody-has-this-name", fallbackID}, {12, "root", 12}} {
		lookup := func(n string) (string, error) {
			if n == "root" {
				return "0", nil
			}
			return "", errors.New("unknown")
		}
		if id := resolveID(c.id, c.name, lookup); id != c.want {
			t.Errorf("%d %q is %d, want %d", c.id, c.name, id, c.want)
		}
	}
}

// Writers forget the type of special files.
func TestSpecialWithoutType(t *testing.T) {
	for _, c := range []struct {
		special uint16
		device  string
		typ     uint32
		rdev    uint32
	}{
		{specialSocket, "8,17", syscall.S_IFCHR, makeDevice(8, 17)},
		{specialSocket, "(nothing)", syscall.S_IFSOCK, 0},
		{specialBlock, "259,1048575", syscall.S_IFBLK, makeDevice(259, 1048575)},
		{specialFIFO, "(nothing)", syscall.S_IFIFO, 0},
		{specialChar, "1,3\x00", syscall.S_IFCHR, makeDevice(1, 3)},
		{specialChar, "nonsense", syscall.S_IFSOCK, 0},
	} {
		e := entryRecord{kind: kindSpecial, special: c.special, device: c.device}
		if typ, rdev := e.mode(); typ != c.typ || rdev != c.rdev {
			t.Errorf("%+v: %#o %#x", c, typ, rdev)
		}
	}
}

func FuzzRecords(f *testing.F) {
	for _, n := range []int{0, 3, 9} {
		data, _ := sampleDir(n).marshal()
		f.Add(data)
		if n > 0 {
			f.Add(segmented(f, data))
		}
	}
	a := aciRecord{mode: 0o755, uname: "root", gname: "root"}
	data, _ := a.marshal()
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if d, err := parseDir(data); err == nil {
			total := 0
			for _, e := range d.entries {
				total += len(e.blocks) + 1
			}
			if total > len(data)/8+1 {
				t.Fatalf("%d bytes gave %d elements", len(data), total)
			}
		} else if !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
		if _, err := parseACI(data); err != nil && !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
	})
}
