package object

import (
	"bytes"
	"io"
)

// SameBytes compares what two readers give. An error is that of a reader.
func SameBytes(a, b io.Reader) (bool, error) {
	var bufA, bufB [32 << 10]byte
	for {
		n, errA := io.ReadFull(a, bufA[:])
		m, errB := io.ReadFull(b, bufB[:])
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		if ended(errA) && ended(errB) {
			return true, nil
		}
		for _, err := range []error{errA, errB} {
			if err != nil && !ended(err) {
				return false, err
			}
		}
	}
}

func ended(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }
