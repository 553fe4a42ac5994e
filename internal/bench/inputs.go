package main

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"
)

// inputs are what the rows work with, in memory, made once.
type inputs struct {
	pool []byte            // incompressible
	tree []byte            // a tar of a source tree
	sums map[string]uint64 // by name in the tree
}

// makeInputs makes the data; the tree only if a row needs it.
func makeInputs(work string, scale float64, rows []row) (*inputs, error) {
	in := &inputs{pool: make([]byte, 8*mib)}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(in.pool); i += 8 {
		binary.LittleEndian.PutUint64(in.pool[i:], rng.Uint64())
	}
	if !slices.ContainsFunc(rows, func(r row) bool { return r.section == "tree" }) {
		return in, nil
	}
	return in, in.makeTree(scale)
}

// makeTree packs the source of Go's standard library, which every machine that
// builds Massif has.
func (in *inputs) makeTree(scale float64) error {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return err
	}
	src := filepath.Join(strings.TrimSpace(string(out)), "src")
	if src, err = filepath.EvalSymlinks(src); err != nil {
		return err
	}
	in.sums = map[string]uint64{}
	most := max(64, int(float64(1<<20)*scale))
	if scale < 1 {
		most = int(12_000 * scale)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	err = filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == src {
			return err
		}
		if len(in.sums) >= most {
			return filepath.SkipAll
		}
		info, err := d.Info()
		if err != nil || !info.IsDir() && !info.Mode().IsRegular() {
			return err
		}
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		if h.Name, err = filepath.Rel(src, path); err != nil {
			return err
		}
		var data []byte
		if !d.IsDir() {
			if data, err = os.ReadFile(path); err != nil {
				return err
			}
			h.Size = int64(len(data))
			in.sums[h.Name] = sumOf(data)
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err == nil {
		err = w.Close()
	}
	in.tree = buf.Bytes()
	return err
}

func sumOf(b []byte) uint64 {
	h := fnv.New64a()
	h.Write(b)
	return h.Sum64()
}

const anyGeneration = 1<<64 - 1

// fill makes a block that no other place or generation has: its number and
// generation at both ends, random bytes between.
func (in *inputs) fill(b []byte, number, generation uint64) {
	off := (number*7919 + generation*104729) * 64 % uint64(len(in.pool)-blockSize)
	copy(b, in.pool[off:off+uint64(len(b))])
	for _, at := range []int{0, len(b) - 16} {
		binary.LittleEndian.PutUint64(b[at:], number)
		binary.LittleEndian.PutUint64(b[at+8:], generation)
	}
}

// right tells whether a block is what fill made for this place.
func right(b []byte, number, generation uint64) bool {
	end := len(b) - 16
	g := binary.LittleEndian.Uint64(b[8:])
	return binary.LittleEndian.Uint64(b) == number && binary.LittleEndian.Uint64(b[end:]) == number &&
		binary.LittleEndian.Uint64(b[end+8:]) == g && (generation == anyGeneration || g == generation)
}

// alignedBlock is a block's memory for O_DIRECT.
func alignedBlock() []byte {
	b := make([]byte, 2*blockSize)
	off := int(-uintptr(unsafe.Pointer(&b[0])) & (blockSize - 1))
	return b[off : off+blockSize : off+blockSize]
}
