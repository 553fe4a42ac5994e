// Fsxtree exercises the namespace of the file system that holds DIR.
//
//	go run ./internal/fsxtree/cmd/fsxtree -n 20000 -seed 7 DIR
//
// It exits with 1 and the operations that led there if the file system was wrong.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"github.com/massif-fs/massif/internal/fsxtree"
)

func main() {
	var cfg fsxtree.Config
	n := flag.Int("n", 20_000, "operations of each worker")
	rounds := flag.Int("rounds", 4, "split them into so many rounds, with a comparison (and -remount) after each")
	remount := flag.String("remount", "", "shell command that unmounts and mounts again")
	flag.Uint64Var(&cfg.Seed, "seed", 0, "seed; 0 draws one")
	flag.IntVar(&cfg.Workers, "workers", 4, "goroutines")
	flag.IntVar(&cfg.MaxNodes, "nodes", 300, "names of each worker")
	flag.BoolVar(&cfg.NoXattr, "no-xattr", false, "no extended attributes")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: fsxtree [flags] DIR")
		flag.PrintDefaults()
		os.Exit(2)
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64() >> 32
	}
	cfg.Dir = flag.Arg(0)
	fmt.Printf("seed %d\n", cfg.Seed)
	if err := run(cfg, *n, *rounds, *remount); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(cfg fsxtree.Config, n, rounds int, remount string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	e, err := fsxtree.New(cfg)
	if err != nil {
		return err
	}
	start := time.Now()
	for i := range rounds {
		if err := e.Run(ctx, n/rounds); err != nil {
			return err
		}
		if err := e.Check(); err != nil {
			return err
		}
		if remount != "" {
			if err := e.CloseAll(); err != nil {
				return err
			}
			if out, err := exec.Command("sh", "-c", remount).CombinedOutput(); err != nil {
				return fmt.Errorf("remount: %w: %s", err, out)
			}
			if err := e.Check(); err != nil {
				return fmt.Errorf("after a remount: %w", err)
			}
		}
		fmt.Printf("round %d: %d names, clean, %s\n", i+1, e.Names(), time.Since(start).Round(time.Millisecond))
	}
	return e.CloseAll()
}
