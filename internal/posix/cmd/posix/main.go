// Posix runs pjdfstest on a directory, and on a second one to compare with.
//
//	go run ./internal/posix/cmd/posix -suite DIR [-against EXT4DIR] [-match rename/,chmod/00] MOUNT
//
// It prints what failed on MOUNT, marking what fails on the second one too, and
// exits with 1 if anything failed on MOUNT alone.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/massif-fs/massif/internal/posix"
)

func main() {
	suite := flag.String("suite", os.Getenv("MASSIF_PJDFSTEST"), "the built suite (default $MASSIF_PJDFSTEST)")
	against := flag.String("against", "", "a directory on another file system to compare with")
	match := flag.String("match", "", "only scripts whose names hold one of these, separated by commas")
	jobs := flag.Int("jobs", 8, "scripts at a time")
	asJSON := flag.Bool("json", false, "print the whole report as JSON")
	flag.Parse()
	if flag.NArg() != 1 || *suite == "" {
		fmt.Fprintln(os.Stderr, "usage: posix -suite DIR [-against DIR] [-match LIST] [-jobs N] [-json] DIR")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	cfg := posix.Config{Suite: *suite, Dir: flag.Arg(0), Jobs: *jobs}
	if *match != "" {
		cfg.Match = strings.Split(*match, ",")
	}
	rep := run(ctx, cfg)
	also := map[string]bool{}
	if *against != "" {
		cfg.Dir = *against
		for _, f := range run(ctx, cfg).Bad() {
			for _, c := range f.Failed {
				also[key(f, c)] = true
			}
		}
	}
	if *asJSON {
		json.NewEncoder(os.Stdout).Encode(rep)
	}
	if print(rep, also) {
		os.Exit(1)
	}
}

func run(ctx context.Context, cfg posix.Config) *posix.Report {
	rep, err := posix.Run(ctx, cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, "posix:", err)
		os.Exit(1)
	}
	return rep
}

func key(f posix.File, c posix.Case) string { return fmt.Sprintf("%s:%d", f.Name, c.Number) }

// print shows the failures and tells whether there are any that the other file
// system has not.
func print(rep *posix.Report, also map[string]bool) (own bool) {
	for _, f := range rep.Bad() {
		fmt.Printf("%s: %d of %d failed %s\n", f.Name, len(f.Failed), f.Cases, f.Problem)
		own = own || f.Problem != ""
		for _, c := range f.Failed {
			mark := ""
			if also[key(f, c)] {
				mark = " (there too)"
			} else {
				own = true
			}
			fmt.Printf("  %d %s%s\n", c.Number, c.Text, mark)
		}
	}
	all, failed := rep.Cases()
	fmt.Printf("%d files, %d cases, %d failed\n", len(rep.Files), all, failed)
	return own
}
