package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/service/admin/adminapi"
)

// Keys of the database. Names and IDs are checked before they become part of a key,
// and cannot hold a '/'.
//
//	m                        schema: {"version":1}
//	e/TABLE/ID               an entity as JSON
//	n/TABLE/ACCOUNT/NAME     ID of the entity of that name
//	h/HASH                   ID of the token; HASH: first 8 bytes of its SHA-256, hex
//	t/ID                     SHA-256 of the token
//	s/ID                     wrapped keys of a volume
//	a/SEQ                    audit record
//	v/SEQ                    event for metadata servers
//	c/NAME                   counter
const schemaVersion = 1

type schemaRecord struct {
	Version int       `json:"version"`
	Created time.Time `json:"created"`
}

// migrations bring the database from the version that is their index to the next.
// Version 0 is the empty database.
var migrations = []func(kv.Txn) error{
	func(kv.Txn) error { return nil }, // 0 -> 1: nothing is there yet
}

// migrate brings the database to schemaVersion. It tells whether the database is new.
func migrate(ctx context.Context, db kv.DB, now time.Time) (fresh bool, err error) {
	err = db.Update(ctx, func(w kv.Txn) error {
		record := schemaRecord{Created: now}
		switch err := getJSON(w, "m", &record); {
		case errors.Is(err, kv.ErrNotFound):
			fresh = true
		case err != nil:
			return err
		default:
			fresh = false
		}
		if record.Version > schemaVersion {
			return fmt.Errorf("the database has version %d, this program knows %d: use a newer massif", record.Version, schemaVersion)
		}
		if record.Version == schemaVersion {
			return nil
		}
		for ; record.Version < schemaVersion; record.Version++ {
			if err := migrations[record.Version](w); err != nil {
				return fmt.Errorf("migration from version %d: %w", record.Version, err)
			}
		}
		return putJSON(w, "m", &record)
	})
	if err != nil {
		return false, err
	}
	return fresh, db.Sync(ctx)
}

func entityKey(table, id string) string          { return "e/" + table + "/" + id }
func nameKey(table, account, name string) string { return "n/" + table + "/" + account + "/" + name }
func seqKey(lane byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{lane, '/'}, seq)
}

func getJSON(r kv.Reader, key string, out any) error {
	data, err := r.Get([]byte(key))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("record %s: %w: %w", key, kv.ErrCorrupt, err)
	}
	return nil
}

func putJSON(w kv.Txn, key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Put([]byte(key), data)
	return nil
}

// read reads an entity by ID; kv.ErrNotFound if there is none.
func read[T any](r kv.Reader, table, id string) (*T, error) {
	e := new(T)
	return e, getJSON(r, entityKey(table, id), e)
}

// readEntity is read where the type is known at run time only.
func readEntity(r kv.Reader, s *adminapi.Schema, id string) (adminapi.Entity, error) {
	e := s.New()
	return e, getJSON(r, entityKey(s.Table, id), e)
}

// scan calls fn with each entity of a table, by ID, from the first after a given ID on.
func scan(r kv.Reader, s *adminapi.Schema, after string, fn func(adminapi.Entity) (more bool, err error)) error {
	start := []byte(entityKey(s.Table, ""))
	end := []byte(entityKey(s.Table, "\xff"))
	if after != "" {
		start = append([]byte(entityKey(s.Table, after)), 0)
	}
	return r.Scan(start, end, func(key, value []byte) (bool, error) {
		e := s.New()
		if err := json.Unmarshal(value, e); err != nil {
			return false, fmt.Errorf("record %s: %w: %w", key, kv.ErrCorrupt, err)
		}
		return fn(e)
	})
}

// next counts up and returns the number.
func next(w kv.Txn, name string) (uint64, error) {
	key := []byte("c/" + name)
	n, err := counter(w, name)
	if err != nil {
		return 0, err
	}
	n++
	w.Put(key, binary.BigEndian.AppendUint64(nil, n))
	return n, nil
}

func counter(r kv.Reader, name string) (uint64, error) {
	data, err := r.Get([]byte("c/" + name))
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case len(data) != 8:
		return 0, fmt.Errorf("counter %s: %w", name, kv.ErrCorrupt)
	}
	return binary.BigEndian.Uint64(data), nil
}

func hashIndex(hash [sha256.Size]byte) string { return "h/" + hex.EncodeToString(hash[:8]) }

// putTokenHash makes a token findable.
func putTokenHash(w kv.Txn, id string, hash [sha256.Size]byte) error {
	if _, err := w.Get([]byte(hashIndex(hash))); !errors.Is(err, kv.ErrNotFound) {
		if err == nil {
			err = errors.New("two tokens begin alike") // once in 2^32 tokens: try again
		}
		return err
	}
	w.Put([]byte(hashIndex(hash)), []byte(id))
	w.Put([]byte("t/"+id), hash[:])
	return nil
}

// findToken finds the token of a hash; kv.ErrNotFound if there is none. What the
// index is asked with are bits of a hash, so that the time it takes tells nothing about
// a token; the whole hash is compared in constant time.
func findToken(r kv.Reader, hash [sha256.Size]byte) (*adminapi.Token, error) {
	id, err := r.Get([]byte(hashIndex(hash)))
	if err != nil {
		return nil, err
	}
	have, err := r.Get([]byte("t/" + string(id)))
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(have, hash[:]) != 1 {
		return nil, kv.ErrNotFound
	}
	return read[adminapi.Token](r, adminapi.TableTokens, string(id))
}
