package crashtest

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
)

const pageSize = 4096

// fillPage makes the page that belongs at a place of a version of a file: half
// of it random, so that it compresses by half; no two are equal. Version 0 is a
// hole: zeros.
func fillPage(p []byte, file, version, page uint64) {
	if version == 0 {
		clearBytes(p)
		return
	}
	x := file*0x9e3779b97f4a7c15 ^ version*0xbf58476d1ce4e5b9 ^ page*0x94d049bb133111eb
	x = (x ^ x>>29) | 1
	for i := 0; i+8 <= len(p); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		v := x
		if i%64 >= 32 {
			v = version // compressible
		}
		binary.LittleEndian.PutUint64(p[i:], v)
	}
	for i := len(p) &^ 7; i < len(p); i++ {
		p[i] = byte(x) | 1
	}
}

func clearBytes(p []byte) {
	for i := range p {
		p[i] = 0
	}
}

// fillRange makes size bytes of a version from a page on; size need not be whole pages.
func fillRange(p []byte, file, version, fromPage uint64) []byte {
	for i := 0; i < len(p); i += pageSize {
		fillPage(p[i:min(i+pageSize, len(p))], file, version, fromPage+uint64(i/pageSize))
	}
	return p
}

// versionOf finds which of some versions a page holds; ok is false if none.
func versionOf(p []byte, file, page uint64, versions []uint64) (uint64, bool) {
	var want [pageSize]byte
	for _, v := range versions {
		fillPage(want[:len(p)], file, v, page)
		if string(want[:len(p)]) == string(p) {
			return v, true
		}
	}
	return 0, false
}

// checkWhole checks that a file is a whole version: right size, right bytes.
func checkWhole(path string, data []byte, file, version uint64, size int) error {
	if len(data) != size {
		return wrongf(path, "version %d has %d bytes, must have %d", version, len(data), size)
	}
	for i := 0; i < len(data); i += pageSize {
		if _, ok := versionOf(data[i:min(i+pageSize, len(data))], file, uint64(i/pageSize), []uint64{version}); !ok {
			return wrongf(path, "version %d has wrong bytes in page %d: %s", version, i/pageSize, describe(data[i:]))
		}
	}
	return nil
}

// describe says what bytes look like.
func describe(p []byte) string {
	p = p[:min(len(p), pageSize)]
	zeros := 0
	for _, b := range p {
		if b == 0 {
			zeros++
		}
	}
	if zeros == len(p) {
		return "all zero"
	}
	return fmt.Sprintf("% x…, %d of %d bytes zero", p[:min(16, len(p))], zeros, len(p))
}

// streamBytes makes n bytes from off of an endless stream that belongs to a file.
func streamBytes(file uint64, off int64, n int) []byte {
	first := off / pageSize
	last := (off + int64(n) + pageSize - 1) / pageSize
	p := fillRange(make([]byte, (last-first)*pageSize), file, 1, uint64(first))
	return p[off-first*pageSize:][:n]
}

// readAll reads a file.
func readAll(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
