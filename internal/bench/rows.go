package main

import (
	"fmt"
	"slices"
	"strings"
)

// prep is the state in which a row finds the file system.
type prep uint8

const (
	asIs    prep = iota // as the row before left it
	dropped             // the kernel's caches dropped
	cold                // mounted anew, with no cache of its own either
)

// row is one measured operation.
type row struct {
	section string
	name    string
	unit    string
	prep    prep
	dir     string // in the mount; rows of one directory follow each other
	threads int
	do      func(*work) (float64, error)
}

// lower tells whether less is better.
func lower(unit string) bool { return unit == "s" || unit == "MiB" }

// rows are all rows in the order in which they run.
var allRows = []row{
	{"meta", "create_t1", "op/s", asIs, "m1", 1, create},
	{"meta", "stat_t1", "op/s", asIs, "m1", 1, stat},
	{"meta", "stat_cold_t1", "op/s", cold, "m1", 1, stat},
	{"meta", "list_t1", "file/s", dropped, "m1", 1, list},
	{"meta", "list_warm_t1", "file/s", asIs, "m1", 1, list},
	{"meta", "rename_t1", "op/s", asIs, "m1", 1, rename},
	{"meta", "delete_t1", "op/s", asIs, "m1", 1, remove},
	{"meta", "create_t4", "op/s", asIs, "m4", 4, create},
	{"meta", "stat_t4", "op/s", asIs, "m4", 4, stat},
	{"meta", "stat_cold_t4", "op/s", cold, "m4", 4, stat},
	{"meta", "list_t4", "file/s", dropped, "m4", 4, list},
	{"meta", "rename_t4", "op/s", asIs, "m4", 4, rename},
	{"meta", "delete_t4", "op/s", asIs, "m4", 4, remove},
	{"small", "write4k_t1", "file/s", asIs, "s1", 1, writeSmall},
	{"small", "read4k_cold_t1", "file/s", cold, "s1", 1, readSmall},
	{"small", "read4k_warm_t1", "file/s", asIs, "s1", 1, readSmall},
	{"small", "write4k_fsync_t1", "file/s", asIs, "sf", 1, writeSmallSync},
	{"small", "write4k_t4", "file/s", asIs, "s4", 4, writeSmall},
	{"small", "read4k_cold_t4", "file/s", cold, "s4", 4, readSmall},
	{"tree", "untar", "file/s", asIs, "tree", 1, untar},
	{"tree", "find_cold", "file/s", cold, "tree", 1, find},
	{"tree", "grep_cold", "file/s", cold, "tree", 1, grep},
	{"tree", "remove_all", "file/s", asIs, "tree", 1, removeAll},
	{"big", "seqwrite", "MiB/s", asIs, "big", 1, seqWrite},
	{"big", "seqread_cold", "MiB/s", cold, "big", 1, seqRead},
	{"big", "seqread_warm", "MiB/s", asIs, "big", 1, seqRead},
	{"big", "randread4k_cold", "op/s", cold, "big", 1, randRead},
	{"big", "randread4k_warm", "op/s", asIs, "big", 1, randRead},
	{"big", "randread4k_warm_t4", "op/s", asIs, "big", 4, randRead},
	{"big", "randwrite4k_fsync", "op/s", asIs, "big", 1, randWrite(1)},
	{"big", "randwrite4k_fsync32", "op/s", asIs, "big", 1, randWrite(32)},
	{"big", "overwritten_cold", "MiB/s", cold, "big", 1, seqRead},
}

// costRows are gathered over a whole session.
var costRows = []row{
	{section: "cost", name: "cpu", unit: "s"},
	{section: "cost", name: "memory_peak", unit: "MiB"},
	{section: "cost", name: "server_cpu", unit: "s"},
	{section: "cost", name: "server_memory_peak", unit: "MiB"},
}

// Names lists sections and rows, for help.
func Names() string {
	var b strings.Builder
	last := ""
	for _, r := range allRows {
		if r.section != last {
			fmt.Fprintf(&b, "\n%s:", r.section)
			last = r.section
		}
		fmt.Fprintf(&b, " %s", r.name)
	}
	return strings.TrimPrefix(b.String(), "\n")
}

// chosen picks rows by names of rows and sections. A row brings with it the rows of
// its directory that come before, whose files it uses.
func chosen(match []string) ([]row, error) {
	if len(match) == 0 {
		return allRows, nil
	}
	last := map[string]int{} // by directory: the last row wanted
	for _, m := range match {
		found := false
		for i, r := range allRows {
			if r.name == m || r.section == m {
				last[r.dir] = max(last[r.dir], i)
				found = true
			}
		}
		if !found {
			return nil, fmt.Errorf("bench: no row or section is called %q; there are\n%s", m, Names())
		}
	}
	rows := make([]row, 0, len(allRows))
	for i, r := range allRows {
		if end, ok := last[r.dir]; ok && i <= end {
			rows = append(rows, r)
		}
	}
	return slices.Clip(rows), nil
}
