package meta

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain checks that engines leave no goroutines behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
