package file

import (
	"os"
	"testing"

	"github.com/massif-fs/massif/object"
	"github.com/massif-fs/massif/object/objecttest"
)

func factory(opts Options, limit func(*abilities), dir func(testing.TB) string) objecttest.Factory {
	opts.Create = true
	return objecttest.Factory{
		New: func(t testing.TB) object.Store {
			s, err := open(dir(t)+"/new/store", opts, limit)
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		Second: func(t testing.TB, s object.Store) object.Store {
			second, err := open(s.(*Store).Path(), opts, limit)
			if err != nil {
				t.Fatal(err)
			}
			return second
		},
	}
}

func onDisk(t testing.TB) string { return t.TempDir() }

// inMemory returns a directory of a tmpfs, if there is one.
func inMemory(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "massif-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestStore(t *testing.T) {
	objecttest.Run(t, factory(Options{NoSync: true}, nil, inMemory))
}

// writing are the cases in which the way that files are made and removed matters.
var writing = []string{
	"PutGet", "Replace", "Missing", "WrongBodies", "Stream", "Metadata", "Copy", "Rename", "NestedKeys",
	"IfAbsent", "IfAbsentRace", "IfMatch", "IfMatchRace", "IfMatchCounter", "Cancel", "Concurrent", "ConcurrentKeys", "SecondHandle",
	"Multipart", "MultipartConditions", "MultipartAbort", "AbortStale",
}

// TestStoreSync is with every fsync.
func TestStoreSync(t *testing.T) {
	f := factory(Options{}, nil, onDisk)
	f.Only = writing
	objecttest.Run(t, f)
}

// TestLesserFileSystems is as on file systems that can do less.
func TestLesserFileSystems(t *testing.T) {
	for name, limit := range map[string]func(*abilities){
		"no AT_EMPTY_PATH":    func(a *abilities) { a.linkEmpty = false },
		"no O_TMPFILE":        func(a *abilities) { a.tmpfile = false },
		"no RENAME_NOREPLACE": func(a *abilities) { a.tmpfile, a.noReplace = false, false },
		"only locks":          func(a *abilities) { *a = abilities{locks: true} },
		"nothing at all":      func(a *abilities) { *a = abilities{} },
	} {
		t.Run(name, func(t *testing.T) {
			f := factory(Options{NoSync: true, OpenFiles: 3}, limit, inMemory)
			f.Only = writing
			objecttest.Run(t, f)
		})
	}
}
