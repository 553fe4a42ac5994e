package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"syscall"
	"time"

	"github.com/massif-fs/massif/internal/cli"
)

// serverEnv makes this program Massif itself, under watch: a server whose live heap is
// asked for by SIGUSR1 and comes in the file that the variable names. From outside
// only the resident size can be seen, in which garbage and caches of the runtime are.
const serverEnv = "MASSIF_BENCH_SERVER"

// profileEnv names a file for a profile of the server's processor time.
const profileEnv = "MASSIF_BENCH_PROFILE"

// watched runs Massif with the arguments of this program.
func watched(file string) int {
	ask := make(chan os.Signal, 1)
	signal.Notify(ask, syscall.SIGUSR1)
	go func() { // as long as the process
		for range ask {
			debug.FreeOSMemory() // collects, too
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			os.WriteFile(file+".new", strconv.AppendUint(nil, m.HeapAlloc+m.StackInuse, 10), 0o600)
			os.Rename(file+".new", file)
		}
	}()
	if name := os.Getenv(profileEnv); name != "" {
		out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err == nil {
			err = pprof.StartCPUProfile(out)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer out.Close()
		defer pprof.StopCPUProfile()
	}
	return cli.Main(os.Args)
}

// heap is the server's live heap and stacks, in bytes.
func (s *server) heap() (float64, error) {
	file := s.state + "/memory"
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	if err := syscall.Kill(s.pid(), syscall.SIGUSR1); err != nil {
		return 0, err
	}
	for end := time.Now().Add(readyTime); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(file)
		if err == nil {
			return strconv.ParseFloat(string(text), 64)
		}
		if !errors.Is(err, fs.ErrNotExist) || time.Now().After(end) {
			return 0, fmt.Errorf("the server does not tell its memory: %w", err)
		}
	}
}
