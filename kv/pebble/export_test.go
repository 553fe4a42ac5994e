package pebble

import "github.com/cockroachdb/pebble/v2"

// Engine is the store below, for comparisons.
func (db *DB) Engine() *pebble.DB { return db.p }

var (
	EngineNotFound = pebble.ErrNotFound
	EngineNoSync   = pebble.NoSync
)
