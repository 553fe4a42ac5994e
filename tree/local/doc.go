// Package local presents a directory of the host as a tree.
//
// # Inodes
//
// The tree's inode numbers are the host's where they fit (below 2^47, on the
// root's file system, and free), else numbers of its own. An inode that was looked
// up is found again by its file handle (name_to_handle_at(2), open_by_handle_at(2)),
// which takes no descriptor and does not care for renames; descriptors (O_PATH)
// are a cache. Opening by handle needs CAP_DAC_READ_SEARCH and a file system that
// has handles. Without, each inode in use costs a descriptor, and the number of
// inodes a door can hold is bounded by RLIMIT_NOFILE.
//
// Inodes that nobody has pinned or opened are forgotten when there are too many
// (Options.MaxIdle); their numbers then give ESTALE until looked up again, contrary
// to what package vfs promises. Doors pin what they use.
//
// An inode whose last name is removed through the tree stays usable while pinned
// or open, as its descriptor is kept. One that somebody else removes on the host
// is lost as soon as its descriptor was closed: ESTALE.
//
// # Whose rights
//
// The tree checks no permissions (doors do) and acts as its own process does. A
// process with CAP_SETUID makes new inodes in the caller's name (setfsuid(2)), so
// that owner, set-group-id inheritance and default ACLs are the host's own doing; one
// without makes them in its own. The umask of the process applies to new inodes
// as it would anywhere: programs that serve trees set it to 0.
//
// # Caching
//
// Others may change the directory at any time, so doors are told to cache nothing,
// or what Options.Valid allows. With Options.Exclusive the operator promises that
// nobody does, and doors cache everything.
package local
