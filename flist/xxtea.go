package flist

import "encoding/binary"

// XXTEA as blocks of version 1 use it: little-endian 32-bit words, padded with zeros,
// with the length in bytes as one more word; the key is 16 raw bytes.

const xxteaDelta = 0x9e3779b9

func xxteaMix(y, z, sum, p, e uint32, k *[4]uint32) uint32 {
	return (z>>5 ^ y<<2) + (y>>3 ^ z<<4) ^ ((sum ^ y) + (k[p&3^e] ^ z))
}

func xxteaKey(key []byte) (k [4]uint32) {
	for i := range k {
		k[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	return k
}

func xxteaEncrypt(plain, key []byte) []byte {
	n := (len(plain) + 3) / 4
	v := make([]uint32, n+1)
	padded := append(plain, 0, 0, 0)
	for i := range n {
		v[i] = binary.LittleEndian.Uint32(padded[4*i:])
	}
	v[n] = uint32(len(plain))
	if len(v) > 1 {
		k := xxteaKey(key)
		last := uint32(len(v) - 1)
		z := v[last]
		var sum uint32
		for rounds := 6 + 52/len(v); rounds > 0; rounds-- {
			sum += xxteaDelta
			e := sum >> 2 & 3
			for p := uint32(0); p < last; p++ {
				v[p] += xxteaMix(v[p+1], z, sum, p, e, &k)
				z = v[p]
			}
			v[last] += xxteaMix(v[0], z, sum, last, e, &k)
			z = v[last]
		}
	}
	out := make([]byte, 4*len(v))
	for i, w := range v {
		binary.LittleEndian.PutUint32(out[4*i:], w)
	}
	return out
}

// xxteaDecrypt decrypts in place. It reports false where the length word cannot be.
func xxteaDecrypt(sealed, key []byte) ([]byte, bool) {
	if len(sealed) < 8 || len(sealed)%4 != 0 {
		return nil, false
	}
	v := make([]uint32, len(sealed)/4)
	for i := range v {
		v[i] = binary.LittleEndian.Uint32(sealed[4*i:])
	}
	k := xxteaKey(key)
	last := uint32(len(v) - 1)
	y := v[0]
	sum := uint32(6+52/len(v)) * xxteaDelta
	for ; sum != 0; sum -= xxteaDelta {
		e := sum >> 2 & 3
		for p := last; p > 0; p-- {
			v[p] -= xxteaMix(y, v[p-1], sum, p, e, &k)
			y = v[p]
		}
		v[0] -= xxteaMix(y, v[last], sum, 0, e, &k)
		y = v[0]
	}
	for i, w := range v[:last] {
		binary.LittleEndian.PutUint32(sealed[4*i:], w)
	}
	n := v[last]
	if n > 4*last || n+3 < 4*last {
		return nil, false
	}
	return sealed[:n], true
}
