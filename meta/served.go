package meta

import "context"

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

// Sync makes all changes durable that have been committed before it was called.
func (e *Engine) Sync(ctx context.Context) error {
	return fail("sync metadata", "", e.db.Sync(ctx))
}
