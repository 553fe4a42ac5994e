package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if file := os.Getenv(serverEnv); file != "" {
		os.Exit(watched(file))
	}
	massif := flag.String("massif", "massif", "the program to measure")
	work := flag.String("work", os.TempDir(), "directory on the disk to measure on")
	rounds := flag.Int("rounds", 3, "rounds; the table shows medians")
	quick := flag.Bool("quick", false, "one round with a tenth of the work")
	scale := flag.Float64("scale", 1, "multiply the work")
	rows := flag.String("rows", "", "only these rows or sections, separated by commas")
	targets := flag.String("targets", "", "only these file systems (local, massif, shared, bindfs, juicefs, juicefs-redis; shared-direct, juicefs-xattr), separated by commas")
	asJSON := flag.Bool("json", false, "print all samples as JSON instead of the table")
	scaling := flag.Bool("shared-scale", false, "measure the metadata server: operations per second against clients, what files and sessions cost it")
	list := flag.Bool("list", false, "list the rows")
	flag.Parse()
	if *list {
		fmt.Println(Names())
		return
	}
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "bench: no arguments, only flags; see -help")
		os.Exit(2)
	}
	if *scaling {
		if err := runScale(*work, *quick); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	cfg := Config{Work: *work, Rounds: *rounds, Scale: *scale}
	if *quick {
		cfg.Rounds, cfg.Scale = 1, 0.1
	}
	if *rows != "" {
		cfg.Match = strings.Split(*rows, ",")
	}
	if err := run(cfg, *massif, *targets, *asJSON); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// runScale measures the metadata server; quick, with a tenth of the files and of the time.
func runScale(work string, quick bool) error {
	s := Scale{Work: work, Clients: []int{1, 2, 4, 8, 16, 32, 64}, Time: 5 * time.Second, Files: 100_000, Sessions: 100, Log: logf}
	if quick {
		s.Time, s.Files = s.Time/10, s.Files/10
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return s.Run(ctx, os.Stdout)
}

func logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// named picks targets by their names; that of a variant of Massif may be shortened:
// shared is massif-shared.
func named(all []Target, names []string) ([]Target, error) {
	var targets []Target
	for _, n := range names {
		i := slices.IndexFunc(all, func(t Target) bool { return t.Name() == n || t.Name() == MassifName+"-"+n })
		if i < 0 {
			return nil, fmt.Errorf("bench: there is no file system %q here; is its program on PATH?", n)
		}
		targets = append(targets, all[i])
	}
	return targets, nil
}

func run(cfg Config, massif, targets string, asJSON bool) error {
	if strings.Contains(massif, "/") {
		var err error
		if massif, err = filepath.Abs(massif); err != nil {
			return err
		}
	}
	cfg.Targets = Found(massif)
	if targets != "" {
		var err error
		if cfg.Targets, err = named(append(cfg.Targets, Variants(massif)...), strings.Split(targets, ",")); err != nil {
			return err
		}
	}
	cfg.Log = logf
	if os.Geteuid() != 0 {
		cfg.Log("without root the kernel's caches cannot be dropped: cold rows are left out")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	rep, err := Run(ctx, cfg)
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(rep)
	}
	return rep.Print(os.Stdout)
}
