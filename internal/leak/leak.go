// Package leak checks in tests that no goroutine is left.
//
// It is goleak with patience: goleak gives goroutines less than half a second to end,
// which those that were told to end may not get on a busy machine. A leak is one
// that does not end.
package leak

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long goroutines have to end.
const patience = time.Minute

// None fails the test if goroutines are left that the options do not except.
func None(t testing.TB, options ...goleak.Option) {
	t.Helper()
	if err := find(patience, options...); err != nil {
		t.Error(err)
	}
}

// Main is for TestMain: it runs the tests, looks whether they have left goroutines if
// all went well, and ends the process.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := find(patience); err != nil {
			fmt.Fprintf(os.Stderr, "the tests left goroutines: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}

func find(patience time.Duration, options ...goleak.Option) error {
	for deadline := time.Now().Add(patience); ; {
		err := goleak.Find(options...)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
