package pebble_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/testseed"
	"github.com/massif-fs/massif/kv"
	"github.com/massif-fs/massif/kv/pebble"
)

const crashWriters = 4

// child is what this test binary does as a child process: "crash SEED DIR" commits
// and syncs until it is killed, and reports on standard output what was synced;
// "lock DIR" tells what happens when it opens the database.
func child(role string) int {
	verb, dir, _ := strings.Cut(role, " ")
	var seed uint64
	if verb == "crash" {
		var number string
		number, dir, _ = strings.Cut(dir, " ")
		var err error
		if seed, err = strconv.ParseUint(number, 10, 64); err != nil {
			fmt.Println("error:", err)
			return 1
		}
	}
	db, err := pebble.Open(dir, pebble.Options{Logger: quiet, MemTableBytes: 128 << 10, CacheBytes: 1 << 20})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if verb != "crash" {
		fmt.Println("opened")
		return 0
	}
	var mu sync.Mutex // one line at a time
	for w := range crashWriters {
		go func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			for {
				var n int64
				err := db.Update(ctx, func(tx kv.Txn) (err error) {
					n, err = writeOne(tx, w)
					return err
				})
				if err == nil && rng.IntN(8) == 0 {
					if err = db.Sync(ctx); err == nil {
						mu.Lock()
						fmt.Printf("%d %d\n", w, n)
						mu.Unlock()
					}
				}
				if err != nil {
					fmt.Println("error:", err)
					os.Exit(1)
				}
			}
		}()
	}
	select {}
}

// writeOne adds the next record of a writer, and one to the order of all of
// them; it returns the record's number.
func writeOne(tx kv.Txn, w int) (int64, error) {
	mine := fmt.Appendf(nil, "n%d", w)
	n, err := readCounter(tx, mine)
	if err != nil {
		return 0, err
	}
	all, err := readCounter(tx, []byte("all"))
	if err != nil {
		return 0, err
	}
	tx.Put(mine, kv.CounterValue(n+1))
	tx.Add([]byte("all"), 1)
	tx.Put(fmt.Appendf(nil, "w%d/%08d", w, n), []byte(strings.Repeat("x", int(n%900))))
	tx.Put(fmt.Appendf(nil, "o%08d", all), fmt.Appendf(nil, "w%d/%08d", w, n))
	return n, nil
}

func readCounter(r kv.Reader, key []byte) (int64, error) {
	v, err := r.Get(key)
	if err == kv.ErrNotFound {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return kv.Counter(v)
}

// TestKill kills a process that commits and syncs, again and again, and looks at
// what it left: a prefix of its commits that contains all it reported as synced.
func TestKill(t *testing.T) {
	rounds := rounds(20)
	dir := t.TempDir()
	var synced [crashWriters]int64
	for w := range synced {
		synced[w] = -1
	}
	seed := testseed.Of(t, 1)
	rnd := rand.New(rand.NewPCG(seed, crashWriters))
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("KV_PEBBLE_CHILD=crash %d %s", seed+uint64(round), dir))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// From the middle of its opening to after many commits; the last one, however
		// slow the machine, after a commit that was synced.
		last := round == rounds-1
		patience := time.Duration(rnd.Int64N(int64(200 * time.Millisecond)))
		if last {
			patience = time.Minute
		}
		timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var w int
			var n int64
			// A line cut short by the kill says a smaller number, or none.
			if _, err := fmt.Sscanf(lines.Text()+"\n", "%d %d\n", &w, &n); err != nil {
				if strings.Contains(lines.Text(), "error") {
					t.Fatal(lines.Text())
				}
				continue
			}
			synced[w] = max(synced[w], n)
			if last {
				_ = cmd.Process.Kill()
			}
		}
		timer.Stop()
		_ = cmd.Wait() // killed
		checkKilled(t, dir, synced[:], round)
		if t.Failed() {
			return
		}
	}
	if slices.Max(synced[:]) < 0 {
		t.Error("nothing was ever synced")
	}
}

func checkKilled(t *testing.T, dir string, synced []int64, round int) {
	db, err := pebble.Open(dir, pebble.Options{Logger: quiet})
	if err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	defer closeIfOpen(t, db)
	err = db.View(ctx, func(r kv.Reader) error {
		var counts [crashWriters]int64
		sum := int64(0)
		for w := range counts {
			var err error
			if counts[w], err = readCounter(r, fmt.Appendf(nil, "n%d", w)); err != nil {
				return err
			}
			if counts[w] <= synced[w] {
				t.Errorf("round %d: writer %d has %d records, number %d was synced", round, w, counts[w], synced[w])
			}
			sum += counts[w]
			n := int64(0)
			prefix := fmt.Appendf(nil, "w%d/", w)
			err = r.Scan(prefix, kv.PrefixEnd(prefix), func(k, v []byte) (bool, error) {
				if string(k) != fmt.Sprintf("w%d/%08d", w, n) || int64(len(v)) != n%900 {
					return false, fmt.Errorf("record %d of writer %d is %q with %d bytes", n, w, k, len(v))
				}
				n++
				return true, nil
			})
			if err == nil && n != counts[w] {
				err = fmt.Errorf("writer %d has %d records and counts %d", w, n, counts[w])
			}
			if err != nil {
				return err
			}
		}
		all, err := readCounter(r, []byte("all"))
		if err != nil {
			return err
		}
		n := int64(0)
		var next [crashWriters]int64
		err = r.Scan([]byte("o"), []byte("p"), func(k, v []byte) (bool, error) {
			w := int(v[1] - '0')
			if string(k) != fmt.Sprintf("o%08d", n) || string(v) != fmt.Sprintf("w%d/%08d", w, next[w]) {
				return false, fmt.Errorf("number %d in the order is %q=%q", n, k, v)
			}
			next[w]++
			n++
			return true, nil
		})
		if err == nil && (n != all || sum != all) {
			err = fmt.Errorf("%d records in the order, %d counted, %d by writer", n, all, sum)
		}
		return err
	})
	if err != nil {
		t.Errorf("round %d: %v", round, err)
	}
}

// TestLocked: a database opens once.
func TestLocked(t *testing.T) {
	dir := t.TempDir()
	db, err := pebble.Open(dir, pebble.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, text string) {
		t.Helper()
		if !strings.Contains(text, dir) || !strings.Contains(text, kv.ErrLocked.Error()) {
			t.Errorf("%s: %q, want a sentence with the path that says it is in use", what, text)
		}
	}
	_, err = pebble.Open(dir, pebble.Options{Logger: quiet})
	refused("this process", fmt.Sprint(err))
	open := func() string {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "KV_PEBBLE_CHILD=lock "+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(out)
		if err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // its status says the same as its text
		return string(text)
	}
	refused("another process", open())
	closeIfOpen(t, db)
	if text := open(); text != "opened\n" {
		t.Errorf("after Close: %q", text)
	}
}
