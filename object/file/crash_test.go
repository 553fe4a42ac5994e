package file

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/massif-fs/massif/internal/crashpoint"
	"github.com/massif-fs/massif/internal/testseed"
	"github.com/massif-fs/massif/object"
)

// The crash tests run a process that works on a store and says what it begins and
// what is done; they kill it and look at what is left.

const (
	crashDirEnv  = "MASSIF_TEST_CRASH_DIR"
	crashSeedEnv = "MASSIF_TEST_CRASH_SEED"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		crashWorker(dir)
		return
	}
	os.Exit(m.Run())
}

const (
	crashWorkers = 4
	crashKeys    = 3 // of each worker
)

// version is the content of a key at some time, 0 for none.
func content(key string, version int) []byte {
	if version == 0 {
		return nil
	}
	one := fmt.Appendf(nil, "<%s %d>", key, version)
	size := len(one) + version*7919%100_000
	return bytes.Repeat(one, size/len(one)+1)[:size]
}

// crashWorker works until it is killed. Each line it prints is "begin KEY VERSION"
// or "done KEY VERSION".
func crashWorker(dir string) {
	s, err := Open(dir, Options{NoSync: os.Getenv("MASSIF_TEST_CRASH_SYNC") == ""})
	if err != nil {
		fmt.Println("fail", err)
		os.Exit(1)
	}
	var out sync.Mutex
	say := func(line string) {
		out.Lock()
		defer out.Unlock()
		if _, err := os.Stdout.WriteString(line + "\n"); err != nil {
			os.Exit(1) // the test has gone
		}
	}
	seed, err := strconv.ParseUint(os.Getenv(crashSeedEnv), 10, 64)
	if err != nil {
		say("fail " + err.Error())
		os.Exit(1)
	}
	for w := range crashWorkers {
		go func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			for version := 1; ; version++ {
				key := fmt.Sprintf("w%d/%d/k", w, rng.IntN(crashKeys))
				if err := crashStep(s, rng, key, version, say); err != nil {
					say("fail " + err.Error())
					os.Exit(1)
				}
			}
		}()
	}
	select {}
}

// crashStep gives the key a new content, in one of several ways, or none.
func crashStep(s *Store, rng *rand.Rand, key string, version int, say func(string)) error {
	ctx := context.Background()
	data := content(key, version)
	put := func(key string, opts *object.PutOptions) error {
		_, err := s.Put(ctx, key, bytes.NewReader(data), int64(len(data)), opts)
		return err
	}
	kind := rng.IntN(6)
	if kind == 0 {
		version = 0
	}
	begin := func() { say(fmt.Sprintf("begin %s %d", key, version)) }
	var err error
	switch kind {
	case 0:
		begin()
		err = s.Delete(ctx, key)
	case 1:
		if err = put(key+".from", nil); err == nil {
			begin()
			err = s.Rename(ctx, key, key+".from")
		}
	case 2:
		if err = put(key+".copy", nil); err == nil {
			begin()
			_, err = s.Copy(ctx, key, key+".copy", nil)
		}
	case 3:
		var up object.Upload
		if up, err = s.CreateMultipart(ctx, key, nil); err != nil {
			return err
		}
		half := len(data) / 2
		p1, err1 := up.PutPart(ctx, 1, bytes.NewReader(data[:half]), int64(half))
		p2, err2 := up.PutPart(ctx, 2, bytes.NewReader(data[half:]), int64(len(data)-half))
		if err1 != nil || err2 != nil {
			return fmt.Errorf("parts: %v, %v", err1, err2)
		}
		begin()
		_, err = up.Complete(ctx, []object.Part{p1, p2})
	case 4:
		begin()
		err = put(key, &object.PutOptions{Metadata: map[string]string{"version": strconv.Itoa(version)}})
	default:
		begin()
		err = put(key, nil)
	}
	if err == nil {
		say(fmt.Sprintf("done %s %d", key, version))
	}
	return err
}

// crashLog is what the process said.
type crashLog struct {
	done  map[string]int // version that was done last
	begun map[string]int // and the one that was begun after it, -1 if none
	lines int
}

// runCrash runs a worker until it dies, by itself or after kill.
func runCrash(t *testing.T, dir string, seed uint64, env []string, kill func(p *os.Process, lines int)) crashLog {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), crashDirEnv+"="+dir, fmt.Sprint(crashSeedEnv, "=", seed)), env...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(5*time.Minute, func() {
		t.Error("the worker lives on")
		_ = cmd.Process.Kill()
	})
	defer timer.Stop()
	log := crashLog{done: map[string]int{}, begun: map[string]int{}}
	for sc := bufio.NewScanner(pipe); sc.Scan(); {
		f := strings.Fields(sc.Text())
		if len(f) != 3 || f[0] == "fail" {
			_ = cmd.Process.Kill()
			t.Errorf("worker: %s", sc.Text())
			break
		}
		version, err := strconv.Atoi(f[2])
		if err != nil {
			t.Fatal(err)
		}
		if f[0] == "begin" {
			log.begun[f[1]] = version
		} else {
			log.done[f[1]], log.begun[f[1]] = version, -1
		}
		log.lines++
		kill(cmd.Process, log.lines)
	}
	_ = cmd.Wait()
	return log
}

// checkCrash compares the store with the log: each key has the content that was
// done last or the one that was begun after it, whole, and nothing else is there.
func checkCrash(t *testing.T, dir string, log crashLog) {
	t.Helper()
	s, err := Open(dir, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	for w := range crashWorkers {
		for k := range crashKeys {
			key := fmt.Sprintf("w%d/%d/k", w, k)
			want := []int{log.done[key]}
			if v, ok := log.begun[key]; ok && v >= 0 {
				want = append(want, v)
			}
			got := []byte(nil)
			body, info, err := s.Get(ctx, key, 0, -1)
			if err == nil {
				got, err = io.ReadAll(body)
				body.Close()
				if err != nil || int64(len(got)) != info.Size {
					t.Errorf("%s: %d bytes of %d, %v", key, len(got), info.Size, err)
				}
			}
			ok := false
			for _, v := range want {
				ok = ok || bytes.Equal(got, content(key, v)) && (v == 0) == (got == nil)
			}
			if !ok {
				t.Errorf("%s holds %.30q (%d bytes), want version %v: %v", key, got, len(got), want, err)
			}
			if v := info.Metadata["version"]; v != "" && !strings.HasSuffix(string(got[:bytes.IndexByte(got, '>')]), " "+v) {
				t.Errorf("%s has metadata of version %s and content %.30q", key, v, got)
			}
		}
	}
	page, err := s.List(ctx, object.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range page.Objects {
		if base := strings.TrimSuffix(strings.TrimSuffix(o.Key, ".from"), ".copy"); !strings.HasSuffix(base, "/k") {
			t.Errorf("%q is listed", o.Key)
		}
	}
	if _, err := s.AbortStale(ctx, "", time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, ownUpload)); len(left) != 0 {
		t.Errorf("%d uploads are left", len(left))
	}
}

// removeTemp makes Open take all temporary files for old, and checks that it
// removes them.
func removeTemp(t *testing.T, dir string) {
	t.Helper()
	temp := filepath.Join(dir, ownTemp)
	entries, err := os.ReadDir(temp)
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	for _, e := range entries {
		if err := os.Chtimes(filepath.Join(temp, e.Name()), old, old); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(dir, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if left, _ := os.ReadDir(temp); len(left) != 0 {
		t.Errorf("%d of %d leftovers are still there: %v", len(left), len(entries), left)
	}
}

func crashDir(t *testing.T) string {
	dir := inMemory(t)
	s, err := Open(dir, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	return dir
}

func TestCrashPoints(t *testing.T) {
	points := []string{"written", "synced", "named", "published", "renamed", "unlinked", "completed", "uploadended", "mkdir"}
	hits := []int{1, 17}
	if testing.Short() {
		hits = []int{5}
	}
	for _, point := range points {
		for _, n := range hits {
			t.Run(fmt.Sprintf("%s-%d", point, n), func(t *testing.T) {
				dir := crashDir(t)
				log := runCrash(t, dir, testseed.Of(t, uint64(n)), []string{fmt.Sprintf("%s=object.file.%s:%d", crashpoint.EnvAt, point, n)}, func(p *os.Process, lines int) {
					if lines > 100_000 {
						t.Errorf("the point is not reached")
						_ = p.Kill()
					}
				})
				// One object may need several directories, and several are written at
				// a time; but a point that is reached again is one that was passed.
				if n > 1 && point != "mkdir" && log.lines < 1 {
					t.Errorf("the worker died after %d lines", log.lines)
				}
				checkCrash(t, dir, log)
				removeTemp(t, dir)
			})
		}
	}
}

func TestCrashAnywhere(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	dir := crashDir(t)
	seed := testseed.Of(t, 1)
	rnd := rand.New(rand.NewPCG(seed, crashWorkers))
	for round := range rounds {
		// The workers' versions begin anew each time, and so must the store.
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		at := 1 + rnd.IntN(600)
		log := runCrash(t, dir, seed+uint64(round), nil, func(p *os.Process, lines int) {
			if lines == at {
				_ = p.Kill()
			}
		})
		checkCrash(t, dir, log)
	}
	removeTemp(t, dir)
}
