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
)

func main() {
	massif := flag.String("massif", "massif", "the program to measure")
	work := flag.String("work", os.TempDir(), "directory on the disk to measure on")
	rounds := flag.Int("rounds", 3, "rounds; the table shows medians")
	quick := flag.Bool("quick", false, "one round with a tenth of the work")
	scale := flag.Float64("scale", 1, "multiply the work")
	rows := flag.String("rows", "", "only these rows or sections, separated by commas")
	targets := flag.String("targets", "", "only these file systems (local, massif, bindfs, juicefs), separated by commas")
	asJSON := flag.Bool("json", false, "print all samples as JSON instead of the table")
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

func run(cfg Config, massif, targets string, asJSON bool) error {
	if strings.Contains(massif, "/") {
		var err error
		if massif, err = filepath.Abs(massif); err != nil {
			return err
		}
	}
	cfg.Targets = Found(massif)
	if targets != "" {
		want := strings.Split(targets, ",")
		cfg.Targets = slices.DeleteFunc(cfg.Targets, func(t Target) bool { return !slices.Contains(want, t.Name()) })
	}
	cfg.Log = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
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
