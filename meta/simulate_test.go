package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/mem"
	"github.com/massif-fs/massif/vfs"
)

// simulation runs random calls on sessions of an engine and on a world, and
// compares the two: what each call returns, and all that can be seen after it.
type simulation struct {
	*rapid.T
	db       *watchedDB
	e        *Engine
	sessions []Session
	w        *world
	now      time.Time
	moments  []moment  // since the last crash, the oldest first
	before   []moment  // before it
	began    time.Time // the past must be there from this time on, if it is kept
	options  Options

	store map[uint64]bool // blocks that the object store has
	shots []shot

	inline bool // files are inline when they are small
}

// moment is the world after a call.
type moment struct {
	sync, commits int // how many calls of Sync had been made; commits since the last one
	at            time.Time
	w             *world
}

// watchedDB counts syncs.
type watchedDB struct {
	*mem.DB
	mu    sync.Mutex
	syncs int
}

func (db *watchedDB) Sync(ctx context.Context) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.syncs++
	return db.DB.Sync(ctx)
}

func (db *watchedDB) where() (syncs, commits int) {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.syncs, db.Unsynced()
}

var simCaller = vfs.Caller{UID: 1000, GID: 100}

func newSimulation(t *rapid.T, retention time.Duration) *simulation {
	f := testFormat()
	f.Retention = retention
	s := &simulation{T: t, db: &watchedDB{DB: mem.NewWithHistory()}, now: time.Unix(1_800_000_000, 0), store: make(map[uint64]bool)}
	s.inline = rapid.Bool().Draw(t, "inline")
	f.Created = s.now
	if err := Create(bg, s.db, f); err != nil {
		t.Fatal(err)
	}
	s.began = s.now
	s.w = newWorld(uint64(f.ChunkSize), vfs.TimeOf(s.now))
	s.options = Options{Logger: quiet, Clock: func() time.Time { return s.now }, AttrCache: rapid.SampledFrom([]int{1, 128, 0}).Draw(t, "cache")}
	s.open()
	return s
}

func (s *simulation) open() {
	e, err := Open(bg, s.db, s.options)
	if err != nil {
		s.Fatal(err)
	}
	s.e, s.sessions = e, nil
	for range 2 {
		s.sessions = append(s.sessions, s.session())
	}
	s.moments = []moment{{w: s.w.clone(), at: s.now}}
	s.moments[0].sync, s.moments[0].commits = s.db.where()
}

func (s *simulation) session() Session {
	n, err := s.e.NewSession(bg, SessionInfo{})
	if err != nil {
		s.Fatal(err)
	}
	return n
}

// tick begins a call: time passes, by more than stamps are ahead after a crash, so
// that they are those of this clock.
func (s *simulation) tick() vfs.Time {
	s.now = s.now.Add(2 * time.Second)
	return vfs.TimeOf(s.now)
}

// tock ends it.
func (s *simulation) tock() {
	s.w.bury()
	m := moment{at: s.now, w: s.w.clone()}
	m.sync, m.commits = s.db.where()
	s.moments = append(s.moments, m)
}

// expect compares a call's error with those that are right; ok tells whether the
// call should have done something, and has.
func (s *simulation) expect(err error, right ...syscall.Errno) (ok bool) {
	var errnos []syscall.Errno
	for _, e := range right {
		if e != 0 {
			errnos = append(errnos, e)
		}
	}
	if got := vfs.ErrnoOf(err); got == 0 && len(errnos) > 0 || got != 0 && !slices.Contains(errnos, got) || errors.Is(err, kv.ErrCorrupt) {
		s.Fatalf("error %v, should be one of %v", err, errnos)
	}
	return len(errnos) == 0
}

// What calls are about is drawn here.

func (s *simulation) any() Session {
	return s.sessions[rapid.IntRange(0, len(s.sessions)-1).Draw(s.T, "session")]
}

func (s *simulation) inos(pick func(*thing) bool) []vfs.Ino {
	var list []vfs.Ino
	for ino, x := range s.w.things {
		if pick(x) {
			list = append(list, ino)
		}
	}
	slices.Sort(list)
	return list
}

func (s *simulation) pick(what string, pick func(*thing) bool) vfs.Ino {
	list := s.inos(pick)
	if len(list) == 0 || rapid.IntRange(0, 40).Draw(s.T, "wrong") == 0 {
		list = append(s.inos(func(*thing) bool { return true }), 1<<40)
	}
	return rapid.SampledFrom(list).Draw(s.T, what)
}

func (s *simulation) dir() vfs.Ino  { return s.pick("dir", (*thing).isDir) }
func (s *simulation) file() vfs.Ino { return s.pick("file", (*thing).isRegular) }
func (s *simulation) ino() vfs.Ino  { return s.pick("ino", func(*thing) bool { return true }) }

func (s *simulation) name() string {
	if rapid.IntRange(0, 100).Draw(s.T, "bad name") == 0 {
		return rapid.SampledFrom([]string{"", ".", "..", "a/b", "a\x00", strings.Repeat("n", 256)}).Draw(s.T, "name")
	}
	return rapid.SampledFrom([]string{"a", "b", "c", "d", strings.Repeat("long", 63) + "\xff\x01\n"}).Draw(s.T, "name")
}

// offset draws places near where something is.
func (s *simulation) offset(what string) uint64 {
	base := rapid.SampledFrom([]uint64{0, 4096, s.w.chunk, 2 * s.w.chunk, 3 * s.w.chunk, 1 << 40}).Draw(s.T, what)
	return base + uint64(rapid.IntRange(-3, 3).Draw(s.T, "offset by")*int(min(base, 1)))
}

// Life and death of the engine

func (s *simulation) sync() {
	s.tick()
	s.expect(s.any().Sync(bg))
	s.tock()
}

// reopen ends the engine properly.
func (s *simulation) reopen() {
	s.tick()
	s.expect(s.e.Close())
	s.forgetUses()
	s.before = append(s.before, s.moments...)
	s.open()
}

// quota begins, changes or ends a quota on a directory. Nothing ever reaches it: what
// is checked is the counting.
func (s *simulation) quota() {
	ino := s.dir()
	s.tick()
	d, errno := s.w.dir(ino)
	if d != nil && rapid.Bool().Draw(s.T, "remove") {
		if err := s.e.RemoveQuota(bg, ino); err != nil && vfs.ErrnoOf(err) != syscall.ENODATA {
			s.Fatal(err)
		}
		return
	}
	s.expect(s.e.SetQuota(bg, ino, 1<<50, 0), errno)
}

func (s *simulation) forgetUses() {
	for _, x := range s.w.things {
		clear(x.opens)
	}
	s.w.bury()
}

// crash loses some of what was not synced. The volume must then be one that it was
// since.
func (s *simulation) crash() {
	s.tick()
	s.e.cancel() // the old engine's goroutines must not go on
	s.e.tasks.Wait()
	syncs, commits := s.db.where()
	keep := rapid.IntRange(0, commits).Draw(s.T, "commits that survive")
	s.db = &watchedDB{DB: s.db.CrashAt(keep)}
	last := 0
	for i, m := range s.moments {
		if m.sync < syncs || m.commits <= keep {
			last = i
		}
	}
	// The next one may have been committed, too: a call's last commit may not be
	// the one that counts.
	candidates := s.moments[last:min(last+2, len(s.moments))]
	past := s.moments[:last+1]
	var why []string
	for i, c := range candidates {
		s.w = c.w.clone()
		s.forgetUses()
		if i == 0 {
			s.before = append(s.before, past...)
			s.open()
		}
		s.w = c.w.clone()
		s.forgetUses()
		diff := s.w.differs(s.sessions[0])
		if diff == "" {
			s.moments[0].w = s.w.clone()
			return
		}
		why = append(why, diff)
	}
	s.Fatalf("after a crash that kept %d of %d commits the volume is neither of two states: %s", keep, commits, strings.Join(why, "; "))
}

func (s *simulation) run() {
	often := func(fn func()) func(*rapid.T) {
		return func(t *rapid.T) { s.T = t; fn() }
	}
	rarely := func(fn func()) func(*rapid.T) {
		return often(func() {
			if rapid.IntRange(0, 3).Draw(s.T, "rarely") == 0 {
				fn()
			}
		})
	}
	create := func(kind uint32) func(*rapid.T) { return often(func() { s.create(kind) }) }
	s.Repeat(map[string]func(*rapid.T){
		"":      often(s.check),
		"mknod": create(syscall.S_IFREG), "create": create(syscall.S_IFREG), "mkdir": create(syscall.S_IFDIR), "symlink": create(syscall.S_IFLNK),
		"fifo": create(syscall.S_IFIFO), "device": create(syscall.S_IFCHR),
		"link": often(s.link), "link again": often(s.link), "tmpfile": often(s.tmpfile), "unlink": often(func() { s.remove(false) }), "rmdir": often(func() { s.remove(true) }),
		"rename": often(s.rename), "rename again": often(s.rename),
		"setattr": often(s.setAttr), "touch": rarely(s.touch), "xattr": often(s.xattr),
		"use": often(s.use), "end session": rarely(s.endSession),
		"commit": often(s.commit), "commit again": often(s.commit), "commit once more": often(s.commit), "allocate": often(s.allocate),
		"copy range": often(s.copyRange), "compact": often(s.compact),
		"quota": rarely(s.quota), "sync": rarely(s.sync), "reopen": rarely(s.reopen), "crash": rarely(s.crash), "past": rarely(s.past),
		"time passes": rarely(s.pass), "maintain": rarely(s.maintain), "snapshot": often(s.snapshot), "settings": rarely(s.settings),
		"clone": rarely(s.clone), "restore": rarely(s.restore), "dump": rarely(s.dump),
	})
	s.cleanUp()
	s.expect(s.e.Close())
}

// TestModel compares the engine with a model over random calls, with and without
// history, inline content and a cache, over ends and crashes. The flags -rapid.checks
// and -rapid.steps make it longer.
func TestModel(t *testing.T) {
	for _, retention := range []time.Duration{0, 100 * time.Hour} {
		t.Run(fmt.Sprint("retention ", retention), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { newSimulation(t, retention).run() })
		})
	}
}
