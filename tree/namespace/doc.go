// Package namespace is a tree made of trees: storages are mounted at one or several
// paths of it while it is in use, overlap, merge, and are unmounted.
//
//	ns := namespace.New(namespace.Options{})
//	ids, err := ns.Mount(ctx, []namespace.Item{{
//		Paths:   []string{"/photos", "/by-date/2026"},
//		Storage: namespace.Storage{Open: func(ctx context.Context) (*namespace.Backend, error) { … }},
//	}}, true)
//	…
//	err = ns.Unmount(ctx, ids[0])
//
// doc/namespace.md states the rules (who gets a name, where new files go, what names
// files in conflict have), the life of storages, and how inode numbers are made. Where
// the tree differs from what package vfs promises:
//
//   - Its inode numbers have 64 bits, so a namespace cannot be a storage of another one.
//   - An inode that was looked up and neither pinned nor opened is forgotten when slots
//     (after ten seconds) or the table of unions (65,536) run out; its number gives ESTALE.
//   - A position in the listing of a union directory means the same only within one
//     Dir from one reading of position 0 on. Listing one holds its names in memory.
//   - Advisory locks are left to the kernel: they hold within this mount.
package namespace
