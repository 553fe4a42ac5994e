package flist

import (
	"bytes"
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"testing"
)

func randomBytes(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// The vector that the XXTEA libraries of many languages share.
func TestXXTEAVector(t *testing.T) {
	key := make([]byte, 16)
	copy(key, "1234567890")
	const plain, want = "Hello World! 你好，中国！", "QncB1C0rHQoZ1eRiPM4dsZtRi9pNrp7sqvX76cFXvrrIHXL6"
	got := xxteaEncrypt([]byte(plain), key)
	if s := base64.StdEncoding.EncodeToString(got); s != want {
		t.Fatalf("encrypts to %s, want %s", s, want)
	}
	back, ok := xxteaDecrypt(got, key)
	if !ok || string(back) != plain {
		t.Fatalf("decrypts to %q, %v", back, ok)
	}
}

func TestBlocks(t *testing.T) {
	for _, v := range []Version{V1, V2} {
		for i, n := range []int{1, 2, 3, 4, 5, 8, 1000, 65537, BlockSize - 1, BlockSize} {
			for _, plain := range [][]byte{randomBytes(uint64(i), n), bytes.Repeat([]byte{7}, n)} {
				b, sealed := v.Seal(plain)
				if len(sealed) > MaxSealed {
					t.Fatalf("a block of %d bytes takes %d", n, len(sealed))
				}
				if b2, again := v.Seal(plain); b2.String() != b.String() || !bytes.Equal(again, sealed) {
					t.Fatal("equal content gives different blocks")
				}
				dst := make([]byte, BlockSize)
				got, err := v.Open(b, bytes.Clone(sealed), dst)
				if err != nil || !bytes.Equal(got, plain) {
					t.Fatalf("version %d, %d bytes: %v", v, n, err)
				}
				wrong := bytes.Clone(sealed)
				wrong[len(wrong)/2] ^= 1
				if _, err := v.Open(b, wrong, dst); !errors.Is(err, ErrWrongBlock) {
					t.Fatalf("a changed byte: %v", err)
				}
				if _, err := v.Open(b, bytes.Clone(sealed[:len(sealed)-1]), dst); !errors.Is(err, ErrWrongBlock) {
					t.Fatalf("a cut block: %v", err)
				}
				other, sealedOther := v.Seal([]byte("another block"))
				if _, err := v.Open(b, sealedOther, dst); !errors.Is(err, ErrWrongBlock) {
					t.Fatalf("a swapped block: %v", err)
				}
				// An id that fits the bytes, with a key that does not.
				if _, err := v.Open(Block{ID: b.ID, Key: other.Key}, bytes.Clone(sealed), dst); !errors.Is(err, ErrWrongBlock) {
					t.Fatalf("a wrong key: %v", err)
				}
			}
		}
	}
}

func FuzzOpenBlock(f *testing.F) {
	for _, v := range []Version{V1, V2} {
		b, sealed := v.Seal([]byte("some content, some content, some content"))
		f.Add(sealed, b.Key)
	}
	dst := make([]byte, BlockSize)
	f.Fuzz(func(t *testing.T, sealed, key []byte) {
		if len(sealed) > MaxSealed {
			return
		}
		for _, v := range []Version{V1, V2} {
			if len(key) < v.hashSize() {
				continue
			}
			// The id is made to fit, so that what lies behind it is reached.
			b := Block{ID: v.hash(sealed), Key: key[:v.hashSize()]}
			plain, err := v.Open(b, bytes.Clone(sealed), dst)
			if err == nil && !v.Verify(b, plain) {
				t.Fatal("unverified content")
			}
			if err != nil && !errors.Is(err, ErrWrongBlock) {
				t.Fatal(err)
			}
		}
	})
}
