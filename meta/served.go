package meta

import (
	"context"
	"maps"
	"slices"
)

// What a metadata server needs of an engine and its sessions.

// ID is the session's number in the store.
func (s *session) ID() uint64 { return s.id }

// Limited tells whether there are quotas, so that space is to be reserved.
func (e *Engine) Limited() bool {
	qt := e.quotas
	qt.mu.Lock()
	defer qt.mu.Unlock()
	return qt.volume.limit.bytes > 0 || len(qt.dirs) > 0
}

// OnSettings calls fn whenever settings or quotas have changed. It must not call the
// engine but for what they are now.
func (e *Engine) OnSettings(fn func()) (stop func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.settingsNext++
	id := e.settingsNext
	if e.onSettings == nil {
		e.onSettings = make(map[int]func())
	}
	e.onSettings[id] = fn
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.onSettings, id)
	}
}

// tellSettings calls the functions of OnSettings.
func (e *Engine) tellSettings() {
	e.mu.Lock()
	fns := slices.Collect(maps.Values(e.onSettings))
	e.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
}

// Sync makes all changes durable that have been committed before it was called.
func (e *Engine) Sync(ctx context.Context) error {
	return fail("sync metadata", "", e.db.Sync(ctx))
}
