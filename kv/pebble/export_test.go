package pebble

import "github.com/cockroachdb/pebble/v2"

// Engine is the store below, for comparisons.
func (db *DB) Engine() *pebble.DB { return db.p }

var (
	EngineNotFound = pebble.ErrNotFound
	EngineNoSync   = pebble.NoSync
	EngineSync     = pebble.Sync
)

// SetFewKeys sets how many keys DeleteRange deletes one by one, -1 for none, and
// returns a function that sets it back.
func SetFewKeys(n int) (restore func()) {
	old := fewKeys
	fewKeys = n
	return func() { fewKeys = old }
}
