package vfs

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A Recall waits for each watcher's Ack, however often it is called, and for no longer
// than its context.
func TestFeedRecall(t *testing.T) {
	var f Feed
	if err := f.Recall(context.Background(), Change{Kind: ChangeAttr, Ino: 2}); err != nil {
		t.Fatal("without watchers:", err)
	}
	var held Change
	arrived := make(chan struct{})
	stop1 := f.Watch(func(c Change) { c.Ack.Done(); c.Ack.Done() })
	stop2 := f.Watch(func(c Change) { held = c; close(arrived) })
	done := make(chan error, 1)
	go func() { done <- f.Recall(context.Background(), Change{Kind: ChangeEntry, Parent: 1, Name: "x"}) }()
	<-arrived
	select {
	case err := <-done:
		t.Fatalf("returned before the second watcher's Ack: %v", err)
	case <-time.After(10 * time.Millisecond):
	}
	if !held.Remote || held.Name != "x" {
		t.Fatalf("told %+v", held)
	}
	held.Ack.Done()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	stop2()
	stop3 := f.Watch(func(Change) {})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	if err := f.Recall(ctx, Change{Kind: ChangeAll}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	stop1()
	stop3()
}
