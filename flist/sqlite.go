package flist

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// openSQLite opens a database of an image for reading. It is taken to be immutable:
// neither locks nor journals are looked for. SQLite's own checks guard against files that
// are no good databases.
func openSQLite(ctx context.Context, path string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(abs); err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "file", Path: abs, RawQuery: "mode=ro&immutable=1&_pragma=query_only(1)&_pragma=trusted_schema(0)&_pragma=cell_size_check(1)&_pragma=cache_size(-2048)"}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(sqliteReaders)
	db.SetMaxIdleConns(sqliteReaders)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(badImage("it is no SQLite database"), db.Close())
	}
	return db, nil
}

// sqliteReaders is how many queries an image answers at once; each has a page cache of
// its own, of 2 MiB.
const sqliteReaders = 4

// createSQLite makes a new database at path, which must not exist.
func createSQLite(path string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(abs, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	// The image is written to a name of its own and renamed when it is whole: no journal.
	u := url.URL{Scheme: "file", Path: abs, RawQuery: "_pragma=journal_mode(off)&_pragma=synchronous(off)"}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// damaged says that a query failed because of the image, or passes on that the caller
// gave up.
func damaged(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ErrFormat):
		return err
	}
	return badImage("a query failed: %v", err)
}

// columns lists the columns of a table, empty if there is none.
func columns(ctx context.Context, db *sql.DB, table string) (map[string]bool, error) {
	rows, err := db.QueryContext(ctx, fmt.Sprintf("SELECT name FROM pragma_table_info('%s')", table))
	if err != nil {
		return nil, damaged(ctx, err)
	}
	defer rows.Close()
	all := map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, damaged(ctx, err)
		}
		all[name] = true
	}
	return all, damaged(ctx, rows.Err())
}

// needColumns refuses a table that has not all it should.
func needColumns(ctx context.Context, db *sql.DB, table string, names ...string) error {
	have, err := columns(ctx, db, table)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !have[n] {
			return badImage("table %s has no column %s", table, n)
		}
	}
	return nil
}

// brief is the context of a query that takes microseconds: the driver would have a
// goroutine wait for the end of ctx beside each.
func brief(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }
