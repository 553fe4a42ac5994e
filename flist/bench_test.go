package flist

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// What a look at one of many small files costs.
func BenchmarkLookup(b *testing.B) {
	source := b.TempDir()
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(source, fmt.Sprint(i)), nil, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for _, v := range []Version{V1, V2} {
		file, _ := packTree(b, v, source)
		im, _ := openImage(b, file)
		b.Run(fmt.Sprintf("v%d/lookup", v), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if _, err := im.Lookup(b.Context(), Root, fmt.Sprint(i%1000)); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("v%d/list1000", v), func(b *testing.B) {
			for b.Loop() {
				if l, err := im.ReadDir(b.Context(), Root, 0, 1000); err != nil || len(l) != 1000 {
					b.Fatal(len(l), err)
				}
			}
		})
	}
}
