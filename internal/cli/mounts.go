package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/mount"
)

// mountRow is a mount as "massif mounts" shows it.
type mountRow struct {
	mount.Running
	Options string `json:"options,omitempty"`
	State   string `json:"state"` // "alive", "detached", "dead" or "hung"
}

func (a *app) mountsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "mounts",
		Short:   "List the mounts",
		GroupID: "mounts",
		Long: `List this user's mounts and those in the mount table that no living process
serves. The state is "alive", "dead" (the process is gone; "massif umount"
removes the rest), "hung" (the process does not answer) or "detached" (unmounted
lazily, still in use).`,
		Example: `  massif mounts
  massif mounts --json | jq -r '.[].point'`,
		Args: exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			rows, err := mountRows()
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(rows)
			}
			if len(rows) == 0 {
				fmt.Fprintln(a.err, "nothing is mounted")
				return nil
			}
			t := newTable(a.out, "MOUNTPOINT", "SOURCE", "STATE", "PROCESS", "SINCE", "OPTIONS")
			for _, r := range rows {
				pid, since := "-", "-"
				if r.PID != 0 {
					pid, since = fmt.Sprint(r.PID), humanAgo(time.Since(r.Started))
				}
				t.row(r.Point, r.Source, r.State, pid, since, r.Options)
			}
			return t.flush()
		},
	}
	a.jsonFlag(cmd)
	return cmd
}

func mountRows() ([]mountRow, error) {
	running, err := mount.List()
	if err != nil {
		return nil, err
	}
	table, err := mount.Mountpoints()
	if err != nil {
		return nil, err
	}
	rows := []mountRow{}
	shown := map[string]bool{}
	for _, r := range running {
		row := mountRow{Running: r, State: "detached"}
		for _, m := range table {
			if m.Point == r.Point && strings.HasPrefix(m.Type, "fuse") {
				row.State, row.Options = mount.State(m.Point), m.Options
			}
		}
		shown[r.Point] = true
		rows = append(rows, row)
	}
	for _, m := range table {
		if m.Type != mount.FuseType || shown[m.Point] {
			continue
		}
		shown[m.Point] = true
		state := mount.State(m.Point) // alive: of another user
		rows = append(rows, mountRow{Running: mount.Running{Point: m.Point, Source: m.Source}, Options: m.Options, State: state})
	}
	return rows, nil
}
