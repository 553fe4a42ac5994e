// Crashtest kills a server again and again under load and checks that nothing
// acknowledged is lost:
//
//	go run ./internal/crashtest/cmd/crashtest -cycles 200 -mnt /mnt/x \
//		-check 'massif volume fsck vol' -- massif mount --foreground vol /mnt/x
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"time"

	"github.com/massif-fs/massif/internal/crashtest"
)

func main() {
	cfg := crashtest.Config{Log: func(format string, args ...any) { fmt.Printf(format+"\n", args...) }}
	flag.StringVar(&cfg.Mnt, "mnt", "", "mount point")
	flag.IntVar(&cfg.Cycles, "cycles", 50, "kills")
	flag.Uint64Var(&cfg.Seed, "seed", 0, "seed; 0 draws one")
	flag.Float64Var(&cfg.Points, "points", 0.5, "share of the kills that strike at crash points")
	flag.DurationVar(&cfg.MinLoad, "min", 100*time.Millisecond, "least time under load")
	flag.DurationVar(&cfg.MaxLoad, "max", 600*time.Millisecond, "greatest time under load")
	flag.IntVar(&cfg.Every, "every", 20, "cycles between checks")
	flag.IntVar(&cfg.Load.Workers, "workers", 4, "goroutines that make load")
	only := flag.String("only", "", "only these crash points, separated by commas")
	check := flag.String("check", "", "shell command to run with nothing mounted, such as fsck; must succeed")
	flag.Parse()
	if flag.NArg() == 0 || cfg.Mnt == "" {
		fmt.Fprintln(os.Stderr, "usage: crashtest -mnt DIR [flags] -- SERVER ARGUMENT...")
		flag.PrintDefaults()
		os.Exit(2)
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64() >> 32
	}
	if *only != "" {
		cfg.Only = strings.Split(*only, ",")
	}
	cfg.Server = func() *exec.Cmd { return exec.Command(flag.Arg(0), flag.Args()[1:]...) }
	cfg.Check = func(ctx context.Context) error {
		out, err := exec.CommandContext(ctx, "sh", "-c", *check).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s: %w\n%s", *check, err, out)
		}
		return err
	}
	if err := run(cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(cfg crashtest.Config) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if cfg.Scratch, err = os.MkdirTemp("", "crashtest-"); err != nil {
		return err
	}
	fmt.Printf("seed %d, logs in %s\n", cfg.Seed, cfg.Scratch)
	res, err := crashtest.Run(ctx, cfg)
	fmt.Printf("%d kills, at points %v, in %s; %d operations acknowledged, %d fsyncs, %d files compared\npoints passed: %v\n",
		res.Kills, res.AtPoint, res.Took.Round(time.Second), res.Ops, res.Synced, res.Checked, res.Seen)
	if err == nil {
		err = os.RemoveAll(cfg.Scratch)
	}
	return err
}
