package crashtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// replacer replaces a file as editors and databases do: write a new one beside it,
// fsync, rename over it. The name must always be there, in one whole version.
type replacer struct {
	w       *loader
	file    uint64
	allowed []uint64 // versions that may be there; 0: no file
	version uint64
}

func newReplacer(w *loader) *replacer {
	return &replacer{w: w, file: w.rng.Uint64(), allowed: []uint64{0}}
}

func (r *replacer) size(version uint64) int { return 1 + int((r.file>>8+version*7919)%150_000) }

func (r *replacer) act() error {
	r.version++
	name, tmp := r.w.path("config"), r.w.path("config.new")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(fillRange(make([]byte, r.size(r.version)), r.file, r.version, 0))
	if err := r.w.syncClose(f, err); err != nil {
		return err
	}
	r.allowed = append(r.allowed, r.version) // from here on the rename may have happened
	if err := os.Rename(tmp, name); err != nil {
		return err
	}
	r.w.did(1)
	if r.w.rng.IntN(2) == 0 {
		return nil
	}
	if err := r.w.syncDir(r.w.dir); err != nil {
		return err
	}
	r.allowed = []uint64{r.version}
	return nil
}

func (r *replacer) verify() error {
	name := r.w.path("config")
	data, err := readAll(name)
	if errors.Is(err, fs.ErrNotExist) {
		if !slices.Contains(r.allowed, 0) {
			return wrongf(name, "is not there; version %v was renamed to it", r.allowed)
		}
		r.allowed = []uint64{0}
		return nil
	}
	if err != nil {
		return err
	}
	r.w.check()
	for _, v := range r.allowed {
		if v != 0 && checkWhole(name, data, r.file, v, r.size(v)) == nil {
			r.allowed = []uint64{v}
			return nil
		}
	}
	return wrongf(name, "holds %d bytes that are no whole version of %v: %s", len(data), r.allowed, describe(data))
}

// mover renames a file along names in two directories. It must be there under
// exactly one of the names that it may have.
type mover struct {
	w       *loader
	file    uint64
	made    bool     // the directories are there
	created bool     // fsynced
	allowed []string // names it may have, in time's order; "": none
	n       int
}

func newMover(w *loader) *mover {
	return &mover{w: w, file: w.rng.Uint64(), allowed: []string{""}}
}

const moverSize = 9000

func (m *mover) now() string { return m.allowed[len(m.allowed)-1] }

func (m *mover) act() error {
	if !m.made {
		for _, d := range []string{"left", "right"} {
			if err := os.Mkdir(m.w.path(d), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		if err := m.w.syncDir(m.w.dir); err != nil {
			return err
		}
		m.made = true
	}
	dirs := []string{"left", "right"}
	m.n++
	next := fmt.Sprintf("%s/moved%d", dirs[m.w.rng.IntN(2)], m.n)
	if m.now() == "" {
		m.allowed = append(m.allowed, next)
		f, err := os.OpenFile(m.w.path(next), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = f.Write(fillRange(make([]byte, moverSize), m.file, 1, 0))
		if err := m.w.syncClose(f, err); err != nil {
			return err
		}
		m.created = true
	} else {
		from := m.now()
		m.allowed = append(m.allowed, next)
		if err := os.Rename(m.w.path(from), m.w.path(next)); err != nil {
			return err
		}
	}
	m.w.did(1)
	if m.w.rng.IntN(3) == 0 {
		return nil
	}
	for _, d := range dirs {
		if err := m.w.syncDir(m.w.path(d)); err != nil {
			return err
		}
	}
	m.allowed = []string{m.now()}
	return nil
}

func (m *mover) verify() error {
	if !m.made {
		return nil
	}
	var found []string
	for _, d := range []string{"left", "right"} {
		entries, err := os.ReadDir(m.w.path(d))
		if err != nil {
			return wrongf(m.w.path(d), "a directory that was there: %w", err)
		}
		for _, e := range entries {
			found = append(found, d+"/"+e.Name())
		}
	}
	switch {
	case len(found) > 1:
		return wrongf(m.w.dir, "a renamed file is there twice: %v", found)
	case len(found) == 0 && !slices.Contains(m.allowed, ""):
		return wrongf(m.w.dir, "a renamed file is gone; it must be one of %v", m.allowed)
	case len(found) == 0:
		m.allowed, m.created = []string{""}, false
		return nil
	case !slices.Contains(m.allowed, found[0]):
		return wrongf(m.w.dir, "a renamed file is at %s, must be at one of %v", found[0], m.allowed)
	}
	m.w.check()
	m.allowed = []string{found[0]}
	data, err := readAll(m.w.path(found[0]))
	if err != nil {
		return err
	}
	if !m.created && len(data) < moverSize {
		// Created but not yet made durable: begin again.
		m.allowed = []string{""}
		return os.Remove(m.w.path(found[0]))
	}
	m.created = true
	return checkWhole(m.w.path(found[0]), data, m.file, 1, moverSize)
}
