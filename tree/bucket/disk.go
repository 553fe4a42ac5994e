package bucket

import (
	"container/list"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// disk is the cache directory: a sparse file for each content in use, waiting for its
// upload, or kept because it may be read again.
//
//	lock          held by the mount that uses the directory
//	identity      the store it belongs to
//	clean         there while no mount uses it: all files are on the disk as their records say
//	data/ID       bytes; holes where nothing was fetched or written
//	data/ID.rec   what they are: see record
//	lost/         contents that could not be uploaded because somebody else had changed the object
//	moves/        renames of directories under way: see move
//
// The limit is about bytes fetched or written. Writers get ENOSPC when nothing more can be
// dropped; readers go past the disk then.
type disk struct {
	dir              string
	limit, high, low int64 // bytes
	maxIdle          int
	log              *slog.Logger
	lock             *os.File

	mu   sync.Mutex
	used int64
	idle map[string]*list.Element // of *content, by version
	lru  *list.List               // idle contents, least recently used first
	busy map[*content]struct{}    // in use, or waiting for an upload
}

const (
	dataDir     = "data"
	lostDir     = "lost"
	movesDir    = "moves"
	recordExt   = ".rec"
	bootIDFile  = "/proc/sys/kernel/random/boot_id"
	mostIdle    = 100_000
	maxRecord   = 4 << 20
	spanLimit   = 4096 // of a content; more are joined by fetching what lies between
	keepNearEye = 32 << 20
)

type diskConfig struct {
	dir       string
	identity  string
	limit     int64
	high, low int // percents
	empty     bool
	log       *slog.Logger
}

// openDisk opens or makes a cache directory. It returns the contents that wait for their
// upload. EBUSY: another mount uses it.
func openDisk(cfg diskConfig) (d *disk, pending []*content, err error) {
	d = &disk{
		dir: cfg.dir, limit: cfg.limit, high: cfg.limit / 100 * int64(cfg.high), low: cfg.limit / 100 * int64(cfg.low), maxIdle: mostIdle,
		log: cfg.log, idle: make(map[string]*list.Element), lru: list.New(), busy: make(map[*content]struct{}),
	}
	for _, dir := range []string{cfg.dir, filepath.Join(cfg.dir, dataDir), filepath.Join(cfg.dir, lostDir), filepath.Join(cfg.dir, movesDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, nil, err
		}
	}
	if d.lock, err = os.OpenFile(d.path("lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			d.lock.Close()
		}
	}()
	if err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("cache directory %s is in use by another mount: %w", cfg.dir, syscall.EBUSY)
		}
		return nil, nil, err
	}
	if err := d.identify(cfg.identity); err != nil {
		return nil, nil, err
	}
	trusted, err := d.trusted()
	if err != nil {
		return nil, nil, err
	}
	pending, err = d.load(trusted && !cfg.empty)
	return d, pending, err
}

func (d *disk) path(elem ...string) string {
	return filepath.Join(append([]string{d.dir}, elem...)...)
}

// identify refuses a directory that belongs to another store.
func (d *disk) identify(identity string) error {
	have, err := os.ReadFile(d.path("identity"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return writeFile(d.path("identity"), []byte(identity))
	case err != nil:
		return err
	case string(have) != identity:
		return fmt.Errorf("cache directory %s belongs to %s, not to %s", d.dir, have, identity)
	}
	return nil
}

// trusted tells whether the bytes on the disk are what the records say, which they are
// unless the machine has crashed, and notes that they are in use from now on.
func (d *disk) trusted() (bool, error) {
	boot, err := os.ReadFile(bootIDFile)
	if err != nil {
		return false, err
	}
	_, err = os.Stat(d.path("clean"))
	clean := err == nil
	last, err := os.ReadFile(d.path("boot"))
	sameBoot := err == nil && string(last) == string(boot)
	if err := os.Remove(d.path("clean")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	return clean || sameBoot, writeFile(d.path("boot"), boot)
}

// load reads the records. Bytes without a record were never promised to anybody.
func (d *disk) load(keepClean bool) (pending []*content, err error) {
	entries, err := os.ReadDir(d.path(dataDir))
	if err != nil {
		return nil, err
	}
	records := make(map[string]bool)
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), recordExt)
		if !ok {
			continue
		}
		rec, err := readRecord(d.path(dataDir, e.Name()))
		if err != nil {
			d.log.Warn("a record of the cache is damaged", "file", e.Name(), "err", err)
			if errors.Is(err, errRecord) && exists(d.path(dataDir, id)) {
				// What it was cannot be known: whoever misses something finds it there.
				err = errors.Join(os.Rename(d.path(dataDir, e.Name()), d.path(lostDir, e.Name())), os.Rename(d.path(dataDir, id), d.path(lostDir, id)))
				if err != nil {
					return nil, err
				}
			}
			continue
		}
		c := rec.content(d, id)
		switch {
		case rec.Pending:
			d.used += c.charged
			d.busy[c] = struct{}{}
			pending = append(pending, c)
		case keepClean && d.used+c.charged <= d.high && d.lru.Len() < d.maxIdle && d.idle[c.base.name()] == nil:
			d.used += c.charged
			d.idle[c.base.name()] = d.lru.PushBack(c)
		default:
			continue
		}
		records[id] = true
	}
	for _, e := range entries {
		if !records[strings.TrimSuffix(e.Name(), recordExt)] {
			if err := os.Remove(d.path(dataDir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
		}
	}
	return pending, nil
}

// close ends the use of the directory. Contents that wait stay.
func (d *disk) close(drop bool) error {
	if drop {
		d.mu.Lock()
		d.evict(0, 0)
		d.mu.Unlock()
	}
	f, err := os.Open(d.dir)
	if err == nil {
		if err = unix.Syncfs(int(f.Fd())); err == nil {
			err = writeFile(d.path("clean"), nil)
		}
		f.Close()
	}
	return errors.Join(err, d.lock.Close())
}

// reserve takes n bytes of the limit, dropping what can be fetched again: ENOSPC if that is
// not enough. Its caller holds no content's lock.
func (d *disk) reserve(n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.used+n > d.high {
		d.evict(d.low-n, d.maxIdle)
	}
	if d.used+n > d.limit {
		d.shrink(d.limit - n)
	}
	if d.used+n > d.limit {
		return syscall.ENOSPC
	}
	d.used += n
	return nil
}

// release gives bytes of the limit back.
func (d *disk) release(n int64) {
	if n != 0 {
		d.mu.Lock()
		d.used -= n
		d.mu.Unlock()
	}
}

// evict drops idle contents until no more than the given bytes are used and no more than
// so many contents are kept.
func (d *disk) evict(bytes int64, most int) {
	for e := d.lru.Front(); e != nil && (d.used > bytes || d.lru.Len() > most); e = d.lru.Front() {
		d.forget(e)
	}
}

func (d *disk) forget(e *list.Element) {
	c := e.Value.(*content)
	d.lru.Remove(e)
	delete(d.idle, c.base.name())
	d.used -= c.charged
	c.charged = 0
	d.remove(c)
}

// shrink punches clean bytes out of contents in use until no more than the given bytes are
// used: first those far from where they are read, then all.
func (d *disk) shrink(bytes int64) {
	for _, near := range []int64{keepNearEye, 0} {
		for c := range d.busy {
			if d.used <= bytes {
				return
			}
			if c.mu.TryLock() { // its owner may be waiting for d.mu
				d.used -= c.dropClean(near)
				c.mu.Unlock()
			}
		}
	}
}

// expire drops idle contents that were last used before a time.
func (d *disk) expire(before time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for e := d.lru.Front(); e != nil && e.Value.(*content).lastUsed.Before(before); e = d.lru.Front() {
		d.forget(e)
	}
}

// dropIdle drops all that can be fetched again and is not in use.
func (d *disk) dropIdle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.evict(-1, 0)
}

func (d *disk) remove(c *content) {
	for _, name := range []string{c.id, c.id + recordExt} {
		if err := os.Remove(d.path(dataDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			d.log.Warn("a file of the cache cannot be removed", "file", name, "err", err)
		}
	}
}

// take returns a content of a version of an object: the one that is kept, or a new one
// without bytes. The caller is one of its users.
func (d *disk) take(v version) *content {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.idle[v.name()]; e != nil && v.etag != "" {
		c := e.Value.(*content)
		d.lru.Remove(e)
		delete(d.idle, v.name())
		c.users = 1
		d.busy[c] = struct{}{}
		return c
	}
	c := newContent(d, v)
	c.users = 1
	d.busy[c] = struct{}{}
	return c
}

// use makes the caller one more user.
func (d *disk) use(c *content) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.users++
}

// drop ends a use. Without users a content is kept for later, if it is the object's. One that
// waits for its upload stays what it is, but for the descriptor. It returns the number of
// users left.
func (d *disk) drop(c *content, keep bool) int {
	d.mu.Lock()
	c.users--
	left := c.users
	d.mu.Unlock()
	if left > 0 {
		return left
	}
	c.mu.Lock()
	changed := c.changed && !c.stale
	c.closeFile()
	keep = keep && !c.stale && c.base.etag != "" && len(c.have) > 0
	if keep && !changed {
		if err := writeFile(c.recordPath(), c.record(nil).encode()); err != nil {
			d.log.Warn("cache", "err", err)
			keep = false
		}
	}
	c.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.users > 0 || changed { // taken again meanwhile
		return c.users
	}
	delete(d.busy, c)
	c.lastUsed = time.Now()
	if !keep || d.idle[c.base.name()] != nil {
		d.used -= c.charged
		c.charged = 0
		d.remove(c)
		return 0
	}
	d.idle[c.base.name()] = d.lru.PushBack(c)
	d.evict(d.limit, d.maxIdle)
	return 0
}

// discard ends a content that is nobody's any more, whatever it holds.
func (d *disk) discard(c *content) {
	c.mu.Lock()
	c.closeFile()
	c.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.busy, c)
	d.used -= c.charged
	c.charged = 0
	d.remove(c)
}

// unrecord removes the record of a content that waits no more.
func (d *disk) unrecord(c *content) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.recorded {
		return
	}
	c.recorded = false
	if err := os.Remove(c.recordPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.log.Warn("cache", "err", err)
	}
}

// rekey tells that an idle content's object has another name now.
func (d *disk) rekey(from, to version) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.idle[from.name()]
	if e == nil || from.etag == "" || to.etag == "" || d.idle[to.name()] != nil {
		return
	}
	c := e.Value.(*content)
	delete(d.idle, from.name())
	c.base = to
	d.idle[to.name()] = e
	if err := writeFile(c.recordPath(), c.record(nil).encode()); err != nil {
		d.log.Warn("cache", "err", err)
	}
}

// setAside keeps a content that lost against somebody else's change, and returns where.
func (d *disk) setAside(c *content) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale = true
	c.closeFile()
	to := d.path(lostDir, c.id)
	err := os.Rename(d.path(dataDir, c.id), to)
	if errors.Is(err, os.ErrNotExist) { // an empty file
		err = writeFile(to, nil)
	}
	if err == nil {
		err = os.Truncate(to, c.size)
	}
	err = errors.Join(err, writeFile(to+recordExt, c.record(nil).encode()))
	if rerr := os.Remove(c.recordPath()); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	d.mu.Lock()
	delete(d.busy, c)
	d.used -= c.charged
	c.charged = 0
	d.mu.Unlock()
	return to, err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// writeFile replaces a file's content at once.
func writeFile(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// writeDurable is writeFile that returns when the file is on the disk under its name.
func writeDurable(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
