// Package posix runs the public suite pjdfstest on a directory and tells which of
// its cases fail.
//
// The suite is no part of this repository. It is a C program and some 240 shell
// scripts that print TAP (https://testanything.org: lines "ok 3" and
// "not ok 4 - why"); whoever runs it builds it first and names its directory
// (see doc/posix.md). The runner makes a copy of the scripts beside a
// configuration of its own, so that a file system is held to what the suite asks
// of ext4, whatever type the kernel reports for it.
//
// Scripts wait for clocks more than they work, so several run side by side, each
// in a directory of its own below the one under test.
package posix

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config says what to run and where.
type Config struct {
	// Suite is the built suite: it holds the program pjdfstest and tests/.
	Suite string
	// Dir is the directory to test; everything made below it is removed again.
	Dir string
	// Match keeps only scripts whose path below tests/ (rename/00.t) holds one of
	// these; empty: all.
	Match []string
	// Jobs is how many scripts run at a time; 0: 8.
	Jobs int
	// Limit is how long one script may take; 0: 3 minutes.
	Limit time.Duration
}

// File is what one script said.
type File struct {
	Name    string // below tests/: rename/00.t
	Cases   int    // cases that ran
	Failed  []Case
	Problem string // why the script as a whole counts as failed; "" if it ended well
	Took    time.Duration
}

// OK tells whether everything in the script passed.
func (f *File) OK() bool { return len(f.Failed) == 0 && f.Problem == "" }

// Case is a failed case.
type Case struct {
	Number int
	Text   string // what was tried, expected and got, as the suite says it
}

// Report is the outcome of a run, in the order of the scripts' names.
type Report struct {
	Files []File
}

// Cases is how many cases ran, and how many of them failed.
func (r *Report) Cases() (all, failed int) {
	for i := range r.Files {
		all += r.Files[i].Cases
		failed += len(r.Files[i].Failed)
	}
	return all, failed
}

// Bad returns the scripts that did not pass.
func (r *Report) Bad() []File {
	return slices.DeleteFunc(slices.Clone(r.Files), func(f File) bool { return f.OK() })
}

// Run runs the suite. It must be called as root. The error is about the run itself:
// failures of the file system are in the report.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("pjdfstest: only root can test what root and others may do")
	}
	if cfg.Jobs <= 0 {
		cfg.Jobs = 8
	}
	if cfg.Limit <= 0 {
		cfg.Limit = 3 * time.Minute
	}
	suite, err := prepare(cfg.Suite)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(suite)
	names, err := scripts(suite, cfg.Match)
	if err != nil {
		return nil, err
	}
	top, err := os.MkdirTemp(cfg.Dir, "pjdfstest-")
	if err != nil {
		return nil, err
	}
	// Cases act as other users, who must get here.
	if err := os.Chmod(top, 0o755); err != nil {
		return nil, err
	}
	defer exec.Command("rm", "-rf", top).Run() // paths longer than PATH_MAX are among what is left

	rep := &Report{Files: make([]File, len(names))}
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(cfg.Jobs, len(names)) {
		wg.Go(func() {
			for i := range next {
				rep.Files[i] = runScript(ctx, suite, names[i], filepath.Join(top, fmt.Sprint(i)), cfg.Limit)
			}
		})
	}
	for i := range names {
		next <- i
	}
	close(next)
	wg.Wait()
	return rep, ctx.Err()
}

// prepare copies the suite to a directory that every user can enter, with a
// configuration that claims ext4.
func prepare(suite string) (string, error) {
	if st, err := os.Stat(filepath.Join(suite, "pjdfstest")); err != nil {
		return "", fmt.Errorf("the suite is not built: %w", err)
	} else if st.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%s: the suite's program cannot be run", suite)
	}
	dir, err := os.MkdirTemp("", "pjdfstest-suite-")
	if err != nil {
		return "", err
	}
	fail := func(err error) (string, error) {
		os.RemoveAll(dir)
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return fail(err)
	}
	out, err := exec.Command("cp", "-r", filepath.Join(suite, "pjdfstest"), filepath.Join(suite, "tests"), dir).CombinedOutput()
	if err != nil {
		return fail(fmt.Errorf("copying the suite: %w: %s", err, bytes.TrimSpace(out)))
	}
	conf := "os=Linux\nfs=EXT4\nGREP=grep\n"
	if err := os.WriteFile(filepath.Join(dir, "tests", "conf"), []byte(conf), 0o644); err != nil {
		return fail(err)
	}
	return dir, nil
}

// scripts lists the scripts of a prepared suite, sorted.
func scripts(suite string, match []string) ([]string, error) {
	var names []string
	root := filepath.Join(suite, "tests")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".t" {
			return err
		}
		name, err := filepath.Rel(root, path)
		if len(match) == 0 || slices.ContainsFunc(match, func(m string) bool { return strings.Contains(name, m) }) {
			names = append(names, name)
		}
		return err
	})
	if err == nil && len(names) == 0 {
		err = errors.New("no script of the suite matches")
	}
	return names, err
}

// runScript runs one script in a fresh directory.
func runScript(ctx context.Context, suite, name, dir string, limit time.Duration) File {
	f := File{Name: name}
	if err := os.Mkdir(dir, 0o755); err != nil {
		f.Problem = err.Error()
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", filepath.Join(suite, "tests", name))
	cmd.Dir = dir
	// The script's children must not outlive it, or they keep the mount busy.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	start := time.Now()
	out, err := cmd.Output()
	f.Took = time.Since(start)
	f.parse(out)
	switch {
	case ctx.Err() != nil:
		f.Problem = fmt.Sprintf("not done after %s", f.Took.Round(time.Second))
	case err != nil && f.Problem == "":
		f.Problem = err.Error()
	}
	return f
}

// parse reads TAP.
func (f *File) parse(out []byte) {
	plan := -1
	sc := bufio.NewScanner(bytes.NewReader(out))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		var low, number int
		if n, _ := fmt.Sscanf(line, "%d..%d", &low, &number); n == 2 && low == 1 {
			plan = number
			if _, why, ok := strings.Cut(line, "#"); ok && number == 0 {
				f.Problem = "skipped: " + strings.TrimSpace(why)
			}
			continue
		}
		text, bad := strings.CutPrefix(line, "not ok ")
		if !bad {
			if text, bad = strings.CutPrefix(line, "ok "); !bad {
				continue
			}
			bad = false
		}
		f.Cases++
		fmt.Sscanf(text, "%d", &number)
		if strings.Contains(text, "# TODO") {
			bad = false // known to the suite as failing on Linux
		}
		if bad {
			f.Failed = append(f.Failed, Case{number, strings.TrimLeft(text, "0123456789 -")})
		}
	}
	if err := sc.Err(); err != nil {
		f.Problem = err.Error()
	} else if plan != f.Cases && f.Problem == "" {
		f.Problem = fmt.Sprintf("%d cases ran, %d were planned", f.Cases, plan)
	}
}
