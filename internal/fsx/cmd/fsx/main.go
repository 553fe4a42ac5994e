// Fsx exercises the data path of the file system that holds FILE.
//
//	go run ./internal/fsx/cmd/fsx -n 1000000 -seed 7 FILE
//
// It exits with 1 and the operations that led there if the file system was wrong;
// the same flags do the same operations again. Without -seed it draws one and
// prints it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"

	"github.com/massif-fs/massif/internal/fsx"
)

func main() {
	var cfg fsx.Config
	flag.IntVar(&cfg.Ops, "n", 100_000, "operations")
	flag.Uint64Var(&cfg.Seed, "seed", 0, "seed; 0 draws one")
	flag.IntVar(&cfg.Files, "files", 1, "files to work on")
	flag.Int64Var(&cfg.MaxSize, "size", 256<<10, "greatest size of a file, in bytes")
	flag.Int64Var(&cfg.MaxLen, "len", 64<<10, "greatest length of an operation, in bytes")
	flag.Int64Var(&cfg.Align, "align", 1, "offsets and lengths are multiples of it")
	flag.BoolVar(&cfg.Direct, "direct", false, "O_DIRECT reads and writes too")
	flag.BoolVar(&cfg.NoMmap, "no-mmap", false, "no memory maps")
	flag.IntVar(&cfg.SyncEvery, "sync-every", 200, "mean number of operations between fsyncs; -1: never")
	flag.BoolVar(&cfg.Keep, "keep", false, "leave the files there")
	flag.IntVar(&cfg.RemountEvery, "remount-every", 10_000, "mean number of operations between calls of -remount")
	remount := flag.String("remount", "", "shell command that unmounts and mounts again")
	require := flag.String("require", "", "operations that must be there: punch,zero,falloc,copy,seek,direct")
	without := flag.String("without", "", "operations to leave out: seek,copy,…")
	logFile := flag.String("log", "", "after a failure, write the last operations to this file")
	quiet := flag.Bool("q", false, "no progress")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: fsx [flags] FILE")
		flag.PrintDefaults()
		os.Exit(2)
	}
	cfg.Path = flag.Arg(0)
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64() >> 32
	}
	if *require != "" {
		cfg.Require = strings.Split(*require, ",")
	}
	if *without != "" {
		cfg.Without = strings.Split(*without, ",")
	}
	if *remount != "" {
		cfg.Remount = func() error {
			out, err := exec.Command("sh", "-c", *remount).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		}
	}
	start := time.Now()
	if !*quiet {
		fmt.Printf("seed %d\n", cfg.Seed)
		cfg.Progress = func(n int) {
			if n%50_000 == 0 {
				fmt.Printf("%d operations, %.0f/s\n", n, float64(n)/time.Since(start).Seconds())
			}
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	res, err := fsx.Run(ctx, cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		writeLog(*logFile, err)
		os.Exit(1)
	}
	fmt.Printf("%d operations clean in %.1fs, %.1f GiB:", res.Ops, res.Took.Seconds(), float64(res.Bytes)/(1<<30))
	for name, n := range res.Done {
		fmt.Printf(" %s %d", name, n)
	}
	fmt.Println()
	if len(res.Left) > 0 {
		fmt.Println("left out, not there:", strings.Join(res.Left, " "))
	}
}

func writeLog(name string, err error) {
	var e *fsx.Error
	if name == "" || !errors.As(err, &e) {
		return
	}
	f, err := os.Create(name)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fsx:", err)
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%+v\n", e.Config)
	for _, op := range e.Log {
		fmt.Fprintf(f, "%7d %s\n", op.N, op)
	}
}
