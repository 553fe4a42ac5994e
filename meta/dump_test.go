package meta

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/vfs"
)

// dumped returns a dump without its time.
func dumped(t testing.TB, e *Engine, o DumpOptions) string {
	t.Helper()
	var b bytes.Buffer
	if _, err := e.Dump(bg, &b, o); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	from := strings.Index(text, `"time":`)
	return text[:from] + text[strings.Index(text, `"format":`):]
}

// reload loads a dump of e and opens it.
func reload(t testing.TB, e *Engine, o DumpOptions, clock *testClock) *testVolume {
	t.Helper()
	var b bytes.Buffer
	stats, err := e.Dump(bg, &b, o)
	if err != nil {
		t.Fatal(err)
	}
	db := mem.New()
	got, err := Load(bg, db, &b, LoadOptions{})
	if err != nil || got != stats {
		t.Fatalf("%+v of %+v: %v", got, stats, err)
	}
	return openVolume(t, db, clock)
}

// furnish makes one of everything.
func (v *testVolume) furnish() {
	v.Helper()
	v.plant()
	var a vfs.Attr
	d := v.mkdir(vfs.Root, "bytes \xff\xfe\n")
	v.ok(v.s.Mknod(bg, root, d, "dev", syscall.S_IFCHR|0o600, 0x103, &a))
	v.ok(v.s.Mknod(bg, root, d, "fifo", syscall.S_IFIFO|0o600, 0, &a))
	v.ok(v.s.Symlink(bg, root, d, "link \x80", "target \x90", &a))
	v.ok(v.s.SetXattr(bg, root, d, "user.\xc0", []byte{0, 255}, 0))
	v.ok(v.s.SetXattr(bg, root, d, "user.empty", nil, 0))
	v.ok(v.s.SetAttr(bg, root, d, &vfs.SetAttr{Valid: vfs.SetMtime, Mtime: vfs.Time{Sec: -77, Nsec: 5}}, &a))
	v.ok(v.e.SetQuota(bg, d, 1<<40, 1000))
	f := v.file(d, "f")
	v.write(f, 0, 1000)
	v.write(f, 0, 10)
	v.write(f, 5*MinChunkSize, 10)
	v.ok(v.s.Allocate(bg, root, f, 0, 3*MinChunkSize, 9))
	v.write(v.file(vfs.Root, "x"), 0, 77)
	v.ok(v.s.Unlink(bg, root, vfs.Root, "x", &a))
	held := v.file(vfs.Root, "held")
	v.write(held, 0, 99)
	v.s.Open(held)
	v.ok(v.s.Unlink(bg, root, vfs.Root, "held", &a))
}

func TestDumpLoad(t *testing.T) {
	for _, history := range []bool{false, true} {
		t.Run(fmt.Sprint("history ", history), func(t *testing.T) {
			v := newVolume(t, withHistory)
			v.furnish()
			_, err := v.e.CreateSnapshot(bg, "now")
			v.ok(err)
			when := v.clock.Now()
			v.want(v.s.Unlink(bg, root, vfs.Root, "y", new(vfs.Attr)), syscall.ENOENT)
			v.write(v.file(vfs.Root, "late"), 0, 100)
			o := DumpOptions{History: history}
			w := reload(t, v.e, o, v.clock)
			defer func() { v.ok(w.e.Close()) }()
			w.settle()
			v.s.Release(0, 1)
			want, got := v.tree(vfs.Root), w.tree(vfs.Root)
			if !slices.Equal(got, want) {
				t.Fatalf("%q\nshould be\n%q", got, want)
			}
			a, b := v.e.ListQuotas(), w.e.ListQuotas()
			if !slices.Equal(a, b) {
				t.Errorf("quotas are %+v, should be %+v", b, a)
			}
			if _, err := w.e.Check(bg, func(p Problem) { t.Error(p) }); err != nil {
				t.Error(err)
			}
			past, err := w.e.At(bg, when)
			snap, errSnap := w.e.AtSnapshot(bg, "now")
			if !history {
				v.want(err, syscall.ENOENT)
				v.want(errSnap, syscall.ENOENT)
				return
			}
			v.ok(err)
			v.ok(errSnap)
			old, err := v.e.At(bg, when)
			v.ok(err)
			for _, p := range []*Engine{past, snap} {
				if dumped(t, p, DumpOptions{}) == "" || trimHeader(dumped(t, p, DumpOptions{})) != trimHeader(dumped(t, old, DumpOptions{})) {
					t.Error("the past differs")
				}
				v.ok(p.Close())
			}
			v.ok(old.Close())
		})
	}
}

// trimHeader leaves out counters, and blocks, which are those of the present.
func trimHeader(dump string) string {
	var kept []string
	for _, line := range strings.Split(dump, "\n")[1:] {
		if !strings.HasPrefix(line, `{"block"`) && !strings.HasPrefix(line, `{"end"`) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// TestDumpSame: a loaded volume gives the same dump.
func TestDumpSame(t *testing.T) {
	v := newVolume(t, withHistory)
	v.furnish()
	_, err := v.e.CreateSnapshot(bg, "s")
	v.ok(err)
	v.want(v.s.Unlink(bg, root, vfs.Root, "nothing", new(vfs.Attr)), syscall.ENOENT)
	o := DumpOptions{History: true}
	var b bytes.Buffer
	_, err = v.e.Dump(bg, &b, o)
	v.ok(err)
	text := b.String()
	db := mem.New()
	_, err = Load(bg, db, strings.NewReader(text), LoadOptions{Progress: func(DumpStats) {}})
	v.ok(err)
	e := &Engine{db: db, readOnly: true, clockNow: time.Now} // opening would remove what is held
	again := dumped(t, e, o)
	if want := dumped(t, v.e, o); again != want {
		for i, line := range strings.Split(want, "\n") {
			if other := strings.Split(again, "\n"); i >= len(other) || other[i] != line {
				t.Fatalf("line %d is\n%.300s, should be\n%.300s", i+1, other[min(i, len(other)-1)], line)
			}
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	v := newVolume(t, withHistory)
	v.furnish()
	var b bytes.Buffer
	_, err := v.e.Dump(bg, &b, DumpOptions{History: true})
	v.ok(err)
	good := b.String()
	lines := strings.SplitAfter(good, "\n")
	last := func(part, with string) int {
		for i := len(lines) - 1; ; i-- {
			if strings.HasPrefix(lines[i], `{"`+part) && strings.Contains(lines[i], with) {
				return i
			}
		}
	}
	change := func(part, old, new string) string {
		i := last(part, old)
		c := slices.Clone(lines)
		c[i] = strings.Replace(c[i], old, new, 1)
		return strings.Join(c, "")
	}
	drop := func(part string) string {
		i := last(part, "")
		return strings.Join(slices.Delete(slices.Clone(lines), i, i+1), "")
	}
	for name, text := range map[string]string{
		"empty":           "",
		"no dump":         "hello\n",
		"another object":  "{}\n",
		"cut":             good[:len(good)/2],
		"no end":          drop("end"),
		"no header":       drop("massif"),
		"no name":         drop("name"),
		"no inode":        drop("inode"),
		"no block":        drop("block"),
		"too new":         change("massif", `"version":1,`, `"version":2,`),
		"twice":           lines[0] + good,
		"more":            good + "{}\n",
		"unknown field":   change("name", `"parent"`, `"parental"`),
		"wrong size":      change("chunk", `"extents":[[`, `"extents":[[99999999,1,0,0,0],[`),
		"wrong link":      change("inode", `"nlink":1`, `"nlink":3`),
		"wrong kind":      change("inode", `"mode":3`, `"mode":1`),
		"impossible name": change("name", `"name":"`, `"name":"/`),
		"history":         change("history", `"key":"`, `"key":"AAAA`),
		"two objects":     change("name", "}}", "}}{}"),
	} {
		db := mem.New()
		_, err := Load(bg, db, strings.NewReader(text), LoadOptions{})
		if vfs.ErrnoOf(err) != syscall.EINVAL {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Open(bg, db, Options{Logger: quiet}); !errors.Is(err, ErrNoVolume) {
			t.Errorf("%s leaves something: %v", name, err)
		}
		if err := (&loader{ctx: bg, db: db}).empty(); err != nil {
			t.Errorf("%s leaves something: %v", name, err)
		}
	}
	_, err = Load(bg, v.db, strings.NewReader(good), LoadOptions{})
	v.want(err, syscall.EEXIST)
	db := mem.New()
	v.ok(db.Update(bg, func(w kv.Txn) error { w.Put([]byte("z"), nil); return nil }))
	_, err = Load(bg, db, strings.NewReader(good), LoadOptions{})
	v.want(err, syscall.ENOTEMPTY)
	db = mem.New()
	_, err = Load(bg, db, strings.NewReader(good), LoadOptions{Change: func(f *Format) { f.ChunkSize *= 2 }})
	v.want(err, syscall.EINVAL)
	_, err = Load(bg, db, strings.NewReader(good), LoadOptions{Change: func(f *Format) { f.Name = "other" }})
	v.ok(err)
	w := openVolume(t, db, v.clock)
	if w.e.Settings().Name != "other" {
		t.Error(w.e.Settings())
	}
	v.ok(w.e.Close())
}

// FuzzLoad: whatever a dump says, it is refused or it is a sound volume.
func FuzzLoad(f *testing.F) {
	v := newVolume(f, withHistory)
	d := v.mkdir(vfs.Root, "d")
	v.write(v.file(d, "f"), 0, 1000)
	var a vfs.Attr
	v.ok(v.s.Symlink(bg, root, d, "link", "target", &a))
	v.ok(v.s.Link(bg, root, a.Ino, d, "\xff", &a))
	v.ok(v.s.SetXattr(bg, root, d, "user.a", []byte("b"), 0))
	v.ok(v.e.SetQuota(bg, d, 1<<40, 1000))
	_, err := v.s.Commit(bg, nil, []FileWrite{{Ino: v.file(d, "inline"), SetInline: true, Inline: []byte("text")}})
	v.ok(err)
	_, err = v.e.CreateSnapshot(bg, "s")
	v.ok(err)
	v.ok(v.s.Unlink(bg, root, d, "link", &a))
	for _, history := range []bool{false, true} {
		var b bytes.Buffer
		_, err := v.e.Dump(bg, &b, DumpOptions{History: history})
		v.ok(err)
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		db := mem.New()
		if _, err := Load(bg, db, bytes.NewReader(text), LoadOptions{}); err != nil {
			return
		}
		e, err := Open(bg, db, Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.reapAll(bg, systemSession); err != nil {
			t.Error(err)
		}
		if _, err := e.Check(bg, func(p Problem) { t.Error(p) }); err != nil {
			t.Error(err)
		}
		reload(t, e, DumpOptions{}, newTestClock()).e.Close()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
}
