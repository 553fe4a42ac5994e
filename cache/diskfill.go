package cache

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// writer is the only one that makes and extends cache files.
func (d *Disk) writer() {
	defer d.wg.Done()
	select {
	case <-d.scanned: // how much there is must be known before there is more
	case <-d.stop:
	}
	for {
		select {
		case it := <-d.queue:
			d.fill(it)
		case <-d.stop:
			for {
				select {
				case it := <-d.queue:
					if d.scanDone() || it.done != nil {
						d.fill(it)
					} else {
						d.filled(it)
					}
				default:
					return
				}
			}
		}
	}
}

// fill writes queued ranges, unless the cache is pausing.
func (d *Disk) fill(it fill) {
	if it.done != nil {
		close(it.done)
		return
	}
	defer d.filled(it)
	if d.paused() || !d.makeRoom(it) {
		d.failed.Add(int64(len(it.ranges)))
		return
	}
	f := d.acquire(it.id)
	if f != nil && len(f.table) != it.slots {
		// Another geometry can only be that of a foreign or damaged file.
		d.release(f)
		d.Drop(it.id)
		f = nil
	}
	if f == nil {
		fd, table, size, err := d.create(it.id, it.slots)
		if err != nil {
			d.writeFailed(it, err)
			return
		}
		f = d.install(it.id, fd, table, size)
	}
	defer d.release(f)
	for i, r := range it.ranges {
		if err := d.write(f, r); err != nil {
			d.failed.Add(int64(len(it.ranges) - i - 1))
			d.writeFailed(fill{id: it.id, ranges: it.ranges[i:]}, err)
			return
		}
	}
}

// write appends a range to its file.
func (d *Disk) write(f *diskFile, r Range) error {
	if r.Slot < 0 || r.Slot >= len(f.table) || len(r.Data) == 0 {
		return nil
	}
	f.mu.Lock()
	have := f.table[r.Slot].len > 0
	f.mu.Unlock()
	d.mu.Lock()
	off := f.size
	d.mu.Unlock()
	if have || off+int64(len(r.Data)) > maxDiskFile {
		return nil
	}
	if err := pwriteFull(f.fd, r.Data, off); err != nil {
		_ = unix.Ftruncate(f.fd, off) // or the tail stays unused: harmless
		return err
	}
	e := slotEntry{uint32(off), uint32(len(r.Data)), d.sum(f.id, r.Slot, r.Data)}
	var p [entryBytes]byte
	le := binary.LittleEndian
	le.PutUint32(p[:], e.off)
	le.PutUint32(p[4:], e.len)
	le.PutUint64(p[8:], e.sum)
	if err := pwriteFull(f.fd, p[:], int64(diskHeader+entryBytes*r.Slot)); err != nil {
		return err
	}
	f.mu.Lock()
	f.table[r.Slot] = e
	f.mu.Unlock()
	d.mu.Lock()
	d.grow(f, off+int64(len(r.Data)))
	d.since += int64(len(r.Data))
	d.mu.Unlock()
	d.fills.Add(1)
	return nil
}

// makeRoom evicts until the ranges fit under the limits.
func (d *Disk) makeRoom(it fill) bool {
	need := it.bytes + diskHeader + int64(entryBytes*it.slots) + 4096
	if need > d.cfg.Limit {
		return false
	}
	d.mu.Lock()
	victims := d.shrink(need)
	check := d.since >= freeCheckBytes || time.Since(d.checked) >= freeCheckTime
	d.mu.Unlock()
	d.unlink(victims)
	return !check || d.checkFree(need)
}

// checkFree keeps MinFree bytes free on the file system.
func (d *Disk) checkFree(need int64) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(d.cfg.Dir, &st); err != nil {
		d.pause(err)
		return false
	}
	short := d.cfg.MinFree + need - int64(st.Bavail)*st.Bsize
	d.mu.Lock()
	d.checked, d.since = time.Now(), 0
	var victims []uint64
	for short > 0 {
		f := d.evict()
		if f == nil {
			break
		}
		short -= diskUse(f.size)
		victims = append(victims, f.id)
	}
	d.mu.Unlock()
	d.unlink(victims)
	if short > 0 {
		d.pause(syscall.ENOSPC)
		return false
	}
	return true
}

// shrink evicts until need more bytes, in one more file, fit. The caller unlinks
// the blocks returned. d.mu is held.
func (d *Disk) shrink(need int64) (victims []uint64) {
	for d.used+need > d.cfg.Limit || len(d.files) >= d.cfg.MaxBlocks {
		f := d.evict()
		if f == nil {
			break
		}
		victims = append(victims, f.id)
	}
	return victims
}

// evict takes one file out of the index by the rules of S3-FIFO. d.mu is held.
func (d *Disk) evict() *diskFile {
	for tries := (d.small.len + d.main.len) * (maxFrequency + 2); tries > 0; tries-- {
		if d.small.len > 0 && (d.main.len == 0 || d.small.bytes*10 >= d.small.bytes+d.main.bytes) {
			f := d.small.tail
			if f.freq > 0 {
				d.small.remove(f)
				f.freq, f.inMain = 0, true
				d.main.push(f)
				continue
			}
			d.ghost.add(ghostKey(f.id, 0))
			d.removeFile(f)
			d.evicted.Add(1)
			return f
		}
		f := d.main.tail
		if f == nil {
			return nil
		}
		if f.freq > 0 {
			f.freq--
			d.main.remove(f)
			d.main.push(f)
			continue
		}
		d.removeFile(f)
		d.evicted.Add(1)
		return f
	}
	return nil
}

func (d *Disk) paused() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Now().Before(d.pausing)
}

// writeFailed handles an error of a file: the cache becomes smaller if the disk is
// full, and pauses writing in any case. Readers never see it.
func (d *Disk) writeFailed(it fill, err error) {
	d.failed.Add(1)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		free := max(d.cfg.Limit/20, 4*it.bytes)
		var victims []uint64
		d.mu.Lock()
		for free > 0 {
			f := d.evict()
			if f == nil {
				break
			}
			free -= diskUse(f.size)
			victims = append(victims, f.id)
		}
		d.mu.Unlock()
		d.unlink(victims)
	}
	d.pause(err)
}

// pause stops writing for a while: shortly where the disk is full, longer for other
// errors.
func (d *Disk) pause(err error) {
	wait := 30 * time.Second
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		wait = 5 * time.Second
	}
	d.mu.Lock()
	d.pausing = time.Now().Add(wait)
	warn := time.Since(d.warned) > time.Minute
	if warn {
		d.warned = time.Now()
	}
	d.mu.Unlock()
	if warn {
		var pe *os.PathError
		if !errors.As(err, &pe) {
			err = &os.PathError{Op: "write", Path: d.cfg.Dir, Err: err}
		}
		d.log.Warn("disk cache: writing pauses", "for", wait, "error", err)
	}
}
