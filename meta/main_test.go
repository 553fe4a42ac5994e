package meta

import (
	"testing"

	"github.com/massif-fs/massif/internal/leak"
)

// TestMain checks that engines leave no goroutines behind.
func TestMain(m *testing.M) { leak.Main(m) }
