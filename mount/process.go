package mount

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
)

const defaultMemoryLimit = 300 << 20

// memoryLimit is the budget of a mount: what the options say, else 300 MiB or a
// tenth of the RAM, whichever is more.
func memoryLimit(o *Options) int64 {
	if o.MemoryLimit != 0 {
		return int64(o.MemoryLimit)
	}
	return max(defaultMemoryLimit, TotalRAM()/10)
}

// TotalRAM is the machine's memory in bytes (MemTotal of /proc/meminfo), 0 if unknown.
func TotalRAM() int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kib int64
		if n, _ := fmt.Sscanf(s.Text(), "MemTotal: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

// tuneProcess prepares this process for serving a mount.
//
// The garbage collector gets a soft limit: the budget, whose buffers lie outside
// the Go heap but count for the operator, plus the heap's own share. OOM killing a
// server takes a file system from everybody, so as root it is made unlikely.
//
// Go's scheduler gets two processors more than there are: who reads from the kernel
// holds one while he waits, and when uploads and compression have the others, a message
// would wait until one of them is preempted, which takes milliseconds. So the system's
// scheduler decides, which prefers who has slept.
func tuneProcess(limit int64, log *slog.Logger) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit + 128<<20)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 2)
	}
	if os.Geteuid() == 0 {
		if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-800"), 0); err != nil {
			log.Debug("OOM score not lowered", "err", err)
		}
	}
}

// printable makes a line of what may hold line breaks.
func printable(s string) string {
	return strings.Join(strings.Fields(s), " ")
}
