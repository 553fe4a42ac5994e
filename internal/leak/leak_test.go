package leak

import (
	"strings"
	"testing"
	"time"
)

func TestFind(t *testing.T) {
	stop := make(chan struct{})
	go stays(stop)
	if err := find(0); err == nil || !strings.Contains(err.Error(), "leak.stays") {
		t.Errorf("a goroutine that stays: %v", err)
	}
	time.AfterFunc(2*time.Second, func() { close(stop) }) // longer than goleak waits
	if err := find(time.Minute); err != nil {
		t.Errorf("a goroutine that ends: %v", err)
	}
}

func stays(stop <-chan struct{}) { <-stop }
