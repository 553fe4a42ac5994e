package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/compat/cloudfuse"
	"github.com/massif-fs/massif/compat/flexfs"
	"github.com/massif-fs/massif/compat/wildland"
)

// personality is a program whose command line massif takes when it is started under
// that name.
type personality struct {
	Name string `json:"name"`
	What string `json:"like"` // it is like
	run  func(ctx context.Context, args []string, s streams) error
	// failure, if not empty, is what the program's sentences about failures begin with,
	// and every failure of it has the exit status 1.
	failure string
	// secrets are flags with values that ps shall not show.
	secrets []string
}

// personalities are those that there are.
var personalities = []personality{
	{Name: "mount.flexfs", What: "the mount client of flexFS, and mount(8)'s helper for the type flexfs", run: runFlexfs},
	{Name: "cloudfuse", What: "Cloudfuse, which mounts buckets of S3 and containers of Azure storage", run: runCloudfuse, failure: cloudfuse.Failure, secrets: []string{"passphrase", "p"}},
	{Name: cloudfuse.MonitorName, What: "the health monitor of Cloudfuse, which watches one mount", run: runMonitor, failure: cloudfuse.MonitorName + " error"},
	{Name: "wildland-fuse", What: "the FUSE driver of Wildland", run: runWildland},
}

func runWildland(ctx context.Context, args []string, s streams) error {
	p := wildland.Personality{Out: s.out, Err: s.err, Serve: serveForeground}
	return p.Run(ctx, args)
}

func runFlexfs(ctx context.Context, args []string, s streams) error {
	p := flexfs.Personality{
		Streams: flexfs.Streams{In: s.in, Out: s.out, Err: s.err},
		Version: currentVersion().Version, Serve: serveForeground,
	}
	return p.Run(ctx, args)
}

func runCloudfuse(ctx context.Context, args []string, s streams) error {
	return newCloudfuse(s).Run(ctx, args)
}

func runMonitor(ctx context.Context, args []string, s streams) error {
	return newCloudfuse(s).RunMonitor(ctx, args)
}

func newCloudfuse(s streams) *cloudfuse.Personality {
	v := currentVersion()
	return &cloudfuse.Personality{
		Streams: cloudfuse.Streams{In: s.in, Out: s.out, Err: s.err},
		Build:   cloudfuse.Build{Version: v.Version, Commit: v.Commit, Date: v.Date},
		Serve:   serveForeground,
	}
}

// findPersonality finds the one of a program's name.
func findPersonality(name string) *personality {
	for i := range personalities {
		if personalities[i].Name == name {
			return &personalities[i]
		}
	}
	return nil
}

func (a *app) personalitiesCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the personalities", Args: exactArgs(),
		Example: "  massif personalities list",
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				return a.printJSON(personalities)
			}
			t := newTable(a.out, "NAME", "IS LIKE")
			for _, p := range personalities {
				t.row(p.Name, p.What)
			}
			return t.flush()
		},
	}
	a.jsonFlag(list)
	install := &cobra.Command{
		Use: "install DIR [NAME...]", Short: "Make links to this program under the names of personalities",
		Long: `Make a symbolic link to this program in DIR for each personality, or for those named.
Existing links are replaced, other files are not touched. mount(8) looks for helpers in
/sbin.`,
		Example: `  massif personalities install /usr/local/bin
  massif personalities install /sbin mount.flexfs`,
		Args: minArgs(1, "DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			program, err := os.Executable()
			if err != nil {
				return err
			}
			names := args[1:]
			if len(names) == 0 {
				for _, p := range personalities {
					names = append(names, p.Name)
				}
			}
			for _, name := range names {
				if findPersonality(name) == nil {
					return usageError("there is no personality %q; \"massif personalities list\" shows those that are", name)
				}
			}
			for _, name := range names {
				link := filepath.Join(args[0], name)
				if err := placeLink(program, link); err != nil {
					return err
				}
				fmt.Fprintln(a.out, link)
			}
			return nil
		},
	}
	return a.group(&cobra.Command{
		Use: "personalities", Short: "Take the command lines of other programs", GroupID: "other",
		Long: `Started under the name of another program, massif takes that program's command line,
configuration and output: a personality. "install" makes the links.`,
	}, list, install)
}
