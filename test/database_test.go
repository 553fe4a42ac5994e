package test

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestSQLite has several processes write and read one database in WAL mode.
func TestSQLite(t *testing.T) {
	sqlite := tool(t, "sqlite3")
	t.Parallel()
	v := newVolume(t, options{})
	db := v.path("test.db")
	query := func(sql string) string {
		t.Helper()
		return strings.TrimSpace(command{input: sql}.run(t, sqlite, "-batch", "-bail", "-cmd", ".timeout 60000", db))
	}
	if mode := query("PRAGMA journal_mode=WAL;"); mode != "wal" {
		t.Fatalf("journal mode %q", mode)
	}
	query("CREATE TABLE item(id INTEGER PRIMARY KEY, writer INT, n INT, text TEXT); CREATE INDEX by_writer ON item(writer, n);")
	writers, rows := 3, 150
	if testing.Short() {
		rows = 30
	}
	errs := make([]error, writers+2)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			var sql strings.Builder
			for i := range rows {
				fmt.Fprintf(&sql, "BEGIN IMMEDIATE; INSERT INTO item(writer, n, text) VALUES(%d, %d, hex(randomblob(%d))); COMMIT;\n", w, i, 50+i%2000)
			}
			errs[w] = sqliteScript(sqlite, db, sql.String())
		})
	}
	for r := range 2 {
		wg.Go(func() {
			// Each writer's rows are there without a gap, whenever one looks.
			check := "SELECT 'gap' FROM (SELECT writer, count(*) c, max(n) m FROM item GROUP BY writer) WHERE c <> m + 1;\n"
			errs[writers+r] = sqliteScript(sqlite, db, strings.Repeat(check, rows))
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	check := func() {
		t.Helper()
		if got := query("PRAGMA integrity_check; SELECT count(*) FROM item;"); got != fmt.Sprintf("ok\n%d", writers*rows) {
			t.Errorf("integrity and count: %s", got)
		}
	}
	check()
	v.remount()
	check()
	// A crash of the server in the middle of transactions.
	done := make(chan error, 1)
	go func() {
		done <- sqliteScript(sqlite, db, strings.Repeat("BEGIN; INSERT INTO item(writer, n, text) SELECT 99, id, text FROM item LIMIT 50; COMMIT; DELETE FROM item WHERE writer = 99;\n", 5000))
	}()
	waitForGrowth(t, db+"-wal", done)
	v.kill()
	<-done // fails: its database is gone
	v.clear()
	v.start()
	if got := query("PRAGMA integrity_check; SELECT count(*) FROM item WHERE writer <> 99; SELECT count(*) % 50 FROM item WHERE writer = 99;"); got != fmt.Sprintf("ok\n%d\n0", writers*rows) {
		t.Errorf("after a crash: %s", got)
	}
}

// waitForGrowth returns when a file has bytes that a program writes which must not end
// before.
func waitForGrowth(t testing.TB, name string, ended <-chan error) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if st, err := os.Stat(name); err == nil && st.Size() > 100_000 {
			return
		}
		select {
		case err := <-ended:
			t.Fatalf("%s: its writer ended: %v", name, err)
		case <-time.After(time.Millisecond):
		}
	}
	t.Fatalf("%s does not grow", name)
}

// sqliteScript runs statements; anything printed is an error.
func sqliteScript(sqlite, db, script string) error {
	out, err := command{input: script}.output(sqlite, "-batch", "-bail", "-cmd", ".timeout 60000", db)
	if err != nil || strings.TrimSpace(out) != "" {
		return fmt.Errorf("sqlite3: %w: %.500s", err, out)
	}
	return nil
}

// TestPostgres makes a cluster with page checksums, runs pgbench on it, and has
// the checksums verified; then once more after the mount's server was killed.
func TestPostgres(t *testing.T) {
	bin, uid := postgres(t)
	t.Parallel()
	v := newVolume(t, options{mount: []string{"--allow-other"}})
	data, sock := v.path("pg"), filepath.Join(v.dir, "sock")
	for _, d := range []string{data, sock} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(d, int(uid), int(uid)); err != nil {
			t.Fatal(err)
		}
	}
	c := command{uid: uid, dir: sock, env: []string{"PGHOST=" + sock, "PGUSER=postgres", "PGDATABASE=postgres", "HOME=" + sock}}
	pg := func(name string, args ...string) string {
		t.Helper()
		return c.run(t, filepath.Join(bin, name), args...)
	}
	pg("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-k", "--no-instructions", "--no-sync")
	up := func() {
		t.Helper()
		pg("pg_ctl", "-D", data, "-w", "-t", "180", "-l", filepath.Join(sock, "log"), "-o",
			fmt.Sprintf("-c unix_socket_directories=%s -c listen_addresses='' -c shared_buffers=16MB", sock), "start")
	}
	down := func() { t.Helper(); pg("pg_ctl", "-D", data, "-w", "-t", "180", "-m", "fast", "stop") }
	up()
	// Should the test fail, the server must not keep the mount busy.
	t.Cleanup(func() { c.output(filepath.Join(bin, "pg_ctl"), "-D", data, "-m", "immediate", "stop") })
	seconds := "6"
	if testing.Short() {
		seconds = "2"
	}
	pg("pgbench", "-i", "-q", "-s", "2")
	out := pg("pgbench", "-c", "4", "-j", "2", "-T", seconds)
	t.Log(grepLine(out, "tps"))
	consistent := func() {
		t.Helper()
		sums := strings.TrimSpace(pg("psql", "-AtX", "-c",
			"SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches) "+
				"AND (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)"))
		if sums != "t" {
			t.Errorf("the balances do not agree: %s", sums)
		}
	}
	consistent()
	down()
	pg("pg_checksums", "--check", "-D", data)
	v.remount()
	up()
	consistent()
	down()
}

// postgres finds PostgreSQL's programs and a user who may run it.
func postgres(t testing.TB) (bin string, uid uint32) {
	t.Helper()
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(dirs) == 0 {
		missing(t, "PostgreSQL is not installed")
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			id, err := strconv.ParseUint(u.Uid, 10, 32)
			if err == nil && id != 0 {
				return dirs[len(dirs)-1], uint32(id)
			}
		}
	}
	missing(t, "no user may run PostgreSQL")
	return "", 0
}

func grepLine(text, what string) string {
	for line := range strings.SplitSeq(text, "\n") {
		if strings.Contains(line, what) {
			return line
		}
	}
	return ""
}
