package shared

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/massif-fs/massif/internal/testseed"
	"golang.org/x/sys/unix"
)

// nameOp is an operation on a few names of one directory.
type nameOp struct {
	kind     string // create, remove, rename, stat
	name, to int
}

// nameResult is what it gave.
type nameResult struct {
	errno syscall.Errno
	ino   uint64 // of create and stat
}

const linearNames = 3

// nameState is which inode each name means; 0: none.
type nameState [linearNames]uint64

var namesModel = porcupine.Model{
	Init: func() any { return nameState{} },
	Step: func(state, input, output any) (bool, any) {
		s, op, out := state.(nameState), input.(nameOp), output.(nameResult)
		old := s[op.name]
		switch op.kind {
		case "create":
			if old != 0 {
				return out.errno == syscall.EEXIST, s
			}
			s[op.name] = out.ino
			return out.errno == 0, s
		case "remove":
			if old == 0 {
				return out.errno == syscall.ENOENT, s
			}
			s[op.name] = 0
			return out.errno == 0, s
		case "rename":
			// With RENAME_NOREPLACE: the kernel looks at the target even if it finds in the
			// end that there was nothing to rename. (Without it, it does nothing and says
			// that all is well if it finds one inode under both names, one after the other.)
			switch out.errno {
			case syscall.ENOENT:
				return old == 0, s
			case syscall.EEXIST:
				return s[op.to] != 0, s
			}
			ok := out.errno == 0 && old != 0 && s[op.to] == 0
			s[op.name], s[op.to] = 0, old
			return ok, s
		default:
			if old == 0 {
				return out.errno == syscall.ENOENT, s
			}
			return out.errno == 0 && out.ino == old, s
		}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// TestNamesLinearizable: creates, removals, renames and lookups of the same names on all
// mounts look as if they had happened one after the other, each between its begin
// and its end. So no kernel shows a name after a change of it has returned elsewhere.
func TestNamesLinearizable(t *testing.T) {
	onMounts(t, 8, func(t *testing.T, dirs []string) {
		rounds, ops := 12, 30
		if testing.Short() {
			rounds = 3
		}
		for round := range rounds {
			namesLinearizable(t, dirs, round, ops)
		}
	})
}

// namesLinearizable does one round in a directory of its own.
func namesLinearizable(t *testing.T, dirs []string, round, ops int) {
	t.Helper()
	sub := fmt.Sprint("round", round)
	check(t, os.Mkdir(filepath.Join(dirs[0], sub), 0o755))
	history := record(len(dirs), ops, seedOf(t, round), func(client int, rnd *rand.Rand) (any, func() any) {
		op := nameOp{kind: []string{"create", "remove", "rename", "stat", "stat", "stat"}[rnd.IntN(6)], name: rnd.IntN(linearNames), to: rnd.IntN(linearNames)}
		path := func(n int) string { return filepath.Join(dirs[client], sub, fmt.Sprint("n", n)) }
		return op, func() any {
			var st unix.Stat_t
			var err error
			switch op.kind {
			case "create":
				var fd int
				if fd, err = unix.Open(path(op.name), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o644); err == nil {
					err = errors.Join(unix.Fstat(fd, &st), unix.Close(fd))
				}
			case "remove":
				err = unix.Unlink(path(op.name))
			case "rename":
				err = rename(path(op.name), path(op.to))
			default:
				err = unix.Stat(path(op.name), &st)
			}
			var errno syscall.Errno
			if err != nil && !errors.As(err, &errno) {
				errno = syscall.EIO
			}
			return nameResult{errno, st.Ino}
		}
	})
	linearizable(t, namesModel, history)
}

// seedOf is the seed of a round.
func seedOf(t *testing.T, round int) uint64 { return testseed.Of(t, 1) + uint64(round)<<32 }

// record lets clients do ops random operations each, and tells when each began and
// ended.
func record(clients, ops int, seed uint64, draw func(client int, rnd *rand.Rand) (any, func() any)) []porcupine.Operation {
	var mu sync.Mutex
	var history []porcupine.Operation
	var wg sync.WaitGroup
	epoch := time.Now()
	for client := range clients {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(client)))
			for range ops {
				input, do := draw(client, rnd)
				begin := time.Since(epoch).Nanoseconds()
				output := do()
				end := time.Since(epoch).Nanoseconds()
				mu.Lock()
				history = append(history, porcupine.Operation{ClientId: client, Input: input, Call: begin, Output: output, Return: end})
				mu.Unlock()
				if rnd.IntN(4) == 0 {
					time.Sleep(time.Duration(rnd.IntN(1000)) * time.Microsecond)
				}
			}
		})
	}
	wg.Wait()
	return history
}

func linearizable(t *testing.T, model porcupine.Model, history []porcupine.Operation) {
	t.Helper()
	switch result, info := porcupine.CheckOperationsVerbose(model, history, 20*time.Second); result {
	case porcupine.Ok:
	case porcupine.Unknown:
		t.Log("the history was too hard to check in time")
	default:
		path := filepath.Join(os.TempDir(), "massif-linearizable.html")
		err := porcupine.VisualizePath(model, info, path)
		var lines []string
		slices.SortFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
		for _, op := range history {
			lines = append(lines, fmt.Sprintf("%9.3f to %9.3f ms: client %d: %+v -> %+v", float64(op.Call)/1e6, float64(op.Return)/1e6, op.ClientId, op.Input, op.Output))
		}
		t.Fatalf("no order of these operations explains their results; see %s (%v)\n%s", path, err, strings.Join(lines, "\n"))
	}
}

// TestSizesLinearizable: truncations and what stat tells of the size, likewise, also
// through files that stay open.
func TestSizesLinearizable(t *testing.T) {
	type result struct {
		errno error
		size  int64
	}
	model := porcupine.Model{
		Init: func() any { return int64(0) },
		Step: func(state, input, output any) (bool, any) {
			out := output.(result)
			if set := input.(int64); set >= 0 {
				return out.errno == nil, set
			}
			return out.errno == nil && out.size == state.(int64), state
		},
	}
	onMounts(t, 8, func(t *testing.T, dirs []string) {
		rounds := 12
		if testing.Short() {
			rounds = 3
		}
		for round := range rounds {
			name := fmt.Sprint("size", round)
			check(t, os.WriteFile(filepath.Join(dirs[0], name), nil, 0o644))
			var files []*os.File
			for _, dir := range dirs {
				f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
				check(t, err)
				files = append(files, f)
			}
			history := record(len(dirs), 40, seedOf(t, round), func(client int, rnd *rand.Rand) (any, func() any) {
				if rnd.IntN(4) == 0 {
					size := rnd.Int64N(1_000_000)
					return size, func() any { return result{errno: files[client].Truncate(size)} }
				}
				open := rnd.IntN(2) == 0
				return int64(-1), func() any {
					if open {
						info, err := files[client].Stat()
						if err != nil {
							return result{errno: err}
						}
						return result{size: info.Size()}
					}
					info, err := os.Stat(filepath.Join(dirs[client], name))
					if err != nil {
						return result{errno: err}
					}
					return result{size: info.Size()}
				}
			})
			for _, f := range files {
				check(t, f.Close())
			}
			linearizable(t, model, history)
		}
	})
}

// TestContentLinearizable: a word of a file that is written and made durable on one
// mount and read on others, through their page caches, is a register.
func TestContentLinearizable(t *testing.T) {
	type result struct {
		errno error
		value uint64
	}
	model := porcupine.Model{
		Init: func() any { return uint64(0) },
		Step: func(state, input, output any) (bool, any) {
			out := output.(result)
			if set := input.(uint64); set != 0 {
				return out.errno == nil, set
			}
			return out.errno == nil && out.value == state.(uint64), state
		},
	}
	onMounts(t, 4, func(t *testing.T, dirs []string) {
		rounds := 10
		if testing.Short() {
			rounds = 3
		}
		for round := range rounds {
			for _, size := range []int{8, 300_000} {
				name := fmt.Sprintf("word%d-%d", round, size)
				check(t, os.WriteFile(filepath.Join(dirs[0], name), make([]byte, size), 0o644))
				// The writer's own mount shows what is not committed yet, so it only writes.
				var files []*os.File
				for _, dir := range dirs {
					f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
					check(t, err)
					files = append(files, f)
				}
				value := uint64(0)
				history := record(len(dirs), 40, seedOf(t, round), func(client int, rnd *rand.Rand) (any, func() any) {
					if client == 0 {
						value++
						v := value
						return v, func() any {
							var b [8]byte
							for i := range b {
								b[i] = byte(v >> (8 * i))
							}
							_, err := files[0].WriteAt(b[:], 0)
							return result{errno: errors.Join(err, files[0].Sync())}
						}
					}
					return uint64(0), func() any {
						var b [8]byte
						_, err := files[client].ReadAt(b[:], 0)
						v := uint64(0)
						for i := range b {
							v |= uint64(b[i]) << (8 * i)
						}
						return result{errno: err, value: v}
					}
				})
				for _, f := range files {
					check(t, f.Close())
				}
				linearizable(t, model, history)
			}
		}
	})
}
