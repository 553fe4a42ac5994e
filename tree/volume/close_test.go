package volume

import (
	"context"
	"sync"
	"testing"
	"time"
)

// TestCloseTwice: an end that is forced while an ordinary one is under way.
func TestCloseTwice(t *testing.T) {
	w := newWorld(t, nil, nil)
	for range 200 {
		var both sync.WaitGroup
		both.Go(func() {
			if err := w.fs.Close(); err != nil {
				t.Error(err)
			}
		})
		both.Go(func() {
			ctx, cancel := context.WithTimeout(bg, time.Minute)
			defer cancel()
			if err := w.fs.ForceClose(ctx); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		w.reopen()
	}
}
