package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/massif-fs/massif/mount"
)

// volumeRow is a volume as "massif volume list" shows it.
type volumeRow struct {
	*mount.Record
	Mounted string `json:"mounted,omitempty"` // mount point
}

func (a *app) volumeListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the volumes",
		Example: `  massif volume list
  massif volume list --json | jq -r '.[].name'`,
		Args: exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			registry, err := mount.OpenRegistry()
			if err != nil {
				return err
			}
			records, damaged := registry.List()
			running, err := mount.List()
			if err != nil {
				return err
			}
			points := map[string]string{}
			for _, r := range running {
				if r.Volume != "" {
					points[r.Volume] = r.Point
				}
			}
			rows := []volumeRow{}
			for _, r := range records {
				rows = append(rows, volumeRow{r, points[r.UUID]})
			}
			if a.json {
				if err := a.printJSON(rows); err != nil {
					return err
				}
				return damaged
			}
			if len(rows) == 0 && damaged == nil {
				fmt.Fprintln(a.err, "there are no volumes; make one with: massif volume create NAME")
				return nil
			}
			t := newTable(a.out, "NAME", "CREATED", "STORE", "MOUNTED")
			for _, r := range rows {
				state := r.Mounted
				if state == "" {
					state = "-"
				}
				if r.Deleting {
					state = "(being deleted)"
				}
				t.row(r.Name, humanTime(r.Created), r.Store, state)
			}
			if err := t.flush(); err != nil {
				return err
			}
			return damaged
		},
	}
	a.jsonFlag(cmd)
	return cmd
}
