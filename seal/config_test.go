package seal

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"testing"
)

const configText = "s3storage:\n  bucket-name: photos\n"

// The bytes were computed with other implementations of Argon2id and AES-GCM.
func TestConfigBytes(t *testing.T) {
	var salt [configSalt]byte
	var nonce [configNonce]byte
	for i := range salt {
		salt[i] = byte(i)
	}
	for i := range nonce {
		nonce[i] = byte(0xa0 + i)
	}
	got := sealConfigWith(Passphrase("correct horse"), []byte(configText), salt, nonce)
	if hex.EncodeToString(got) != configGolden {
		t.Errorf("sealed:\n%x, want\n%s", got, configGolden)
	}
}

const configGolden = "1000000102030405060708090a0b0c0d0e0f0c00a0a1a2a3a4a5a6a7a8a9aaab88c7ae92875945219d0139f87236d718" +
	"34fb041c6bfc176329ec2eb6207d1b38f440d1b512d6d47e4c5cd88c8fe5ec271d"

func TestConfigFormats(t *testing.T) {
	sealed, err := SealConfig(Passphrase("correct horse"), []byte(configText))
	if err != nil {
		t.Fatal(err)
	}
	again, err := SealConfig(Passphrase("correct horse"), []byte(configText))
	if err != nil || bytes.Equal(sealed, again) {
		t.Errorf("two files are the same: %v", err)
	}
	old := func(key string) []byte {
		nonce := bytes.Repeat([]byte{7}, configNonce)
		return gcmOf([]byte(key)).Seal(nonce, nonce, []byte(configText), nil)
	}
	key32 := "0123456789abcdef0123456789abcdef"
	// A key of 24 bytes that is base64 of 18, and one of 32 that is base64 of 24.
	key24, both := "0123456789abcdef01234567", base64.StdEncoding.EncodeToString([]byte("0123456789abcdef01234567"))
	lucky := append([]byte{configSalt, 0}, bytes.Repeat([]byte{7}, configNonce-2)...)
	lucky = gcmOf([]byte(key32)).Seal(lucky, lucky, bytes.Repeat([]byte("x"), 64), nil)
	for _, c := range []struct {
		name, pass string
		data       []byte
	}{
		{"format 2", "correct horse", sealed},
		{"format 1, 16 bytes", key32[:16], old(key32[:16])},
		{"format 1, 24 bytes", key24, old(key24)},
		{"format 1, 32 bytes", key32, old(key32)},
		{"format 1, base64", base64.StdEncoding.EncodeToString([]byte(key32)), old(key32)},
		{"format 1, a key that is base64 of another", both, old(both)},
		{"format 1, base64 of a key that is a key", both, old(key24)},
	} {
		text, err := OpenConfig(Passphrase(c.pass), c.data)
		if err != nil || string(text) != configText {
			t.Errorf("%s: %q, %v", c.name, text, err)
		}
		for _, wrong := range []string{"correct hors", key32[1:] + "x", base64.StdEncoding.EncodeToString([]byte(key32[1:] + "x"))} {
			if _, err := OpenConfig(Passphrase(wrong), c.data); !errors.Is(err, ErrWrongPassphrase) {
				t.Errorf("%s, wrong passphrase: %v", c.name, err)
			}
		}
		for _, i := range []int{0, 2, configSalt + 2, configHeader - 1, configHeader, len(c.data) - 1} {
			damaged := bytes.Clone(c.data)
			damaged[i] ^= 1
			if text, err := OpenConfig(Passphrase(c.pass), damaged); err == nil {
				t.Fatalf("%s: byte %d changed, and it opens: %q", c.name, i, text)
			}
		}
	}
	if _, err := OpenConfig(Passphrase(key32), lucky); err != nil {
		t.Errorf("format 1 that begins as format 2 does: %v", err)
	}
}

func TestConfigRefused(t *testing.T) {
	if _, err := SealConfig(nil, []byte(configText)); err == nil {
		t.Error("sealed without a passphrase")
	}
	if _, err := SealConfig(Passphrase("x"), make([]byte, MaxConfig)); err == nil {
		t.Error("sealed what could not be opened")
	}
	most, err := SealConfig(Passphrase("x"), make([]byte, MaxConfig-configHeader-configTag))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := OpenConfig(Passphrase("x"), most); err != nil || len(text) != MaxConfig-configHeader-configTag {
		t.Errorf("the largest: %d bytes, %v", len(text), err)
	}
	for _, data := range [][]byte{nil, {1}, make([]byte, configNonce+configTag-1), make([]byte, MaxConfig+1)} {
		if _, err := OpenConfig(Passphrase("x"), data); !errors.Is(err, errConfig) {
			t.Errorf("%d bytes: %v", len(data), err)
		}
	}
}

// FuzzOpenConfig opens anything with the passphrase of format 1; that of format 2 would
// be the speed of Argon2id.
func FuzzOpenConfig(f *testing.F) {
	pass := Passphrase("0123456789abcdef")
	f.Add([]byte{}, []byte(pass))
	nonce := make([]byte, configNonce)
	f.Add(gcmOf(pass).Seal(nonce, nonce, []byte(configText), nil), []byte(pass))
	f.Add([]byte("\x10\x00................\x0c\x00............................."), []byte("x"))
	f.Fuzz(func(t *testing.T, data, pass []byte) {
		if isFormat2(data) && data[2] != 0 {
			t.Skip("slow")
		}
		text, err := OpenConfig(pass, data)
		if err == nil && len(text) > len(data) {
			t.Errorf("%d bytes of %d", len(text), len(data))
		}
	})
}
