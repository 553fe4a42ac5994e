// Package fuse is the door from the kernel to a tree: it mounts a vfs.FS through
// Linux's FUSE and serves it.
//
//	s, err := fuse.Mount(tree, "/mnt/point", fuse.Options{AllowOther: true})
//	…
//	err = s.Unmount() // or umount(8), or Options.MaxIdle
//	s.Wait()
//
// # How the kernel asks
//
// A system call on the mount becomes zero, one or several messages on /dev/fuse:
// stat of a path is a LOOKUP of each component and a GETATTR, unless the kernel
// still believes what it was told before. The calling program waits for the reply. How
// fast a file system is depends first on how many messages a call costs (one
// costs 10 to 30 µs here, whatever the tree does), so most of what this package
// decides is about not being asked.
//
// Inodes: the kernel names inodes by node ids, which here are the tree's inode
// numbers. Each LOOKUP, create or READDIRPLUS entry that tells it of an inode
// counts one; FORGET takes counts back. The door sums them up and calls the tree's
// Pin at the first and Unpin at the last, so that a tree keeps an unlinked file
// just as long as somebody can still name it. Handles: an open file has a
// number too, see handles.go; both can be understood by a successor process.
//
// Package kernel, below this one, carries the messages and knows their form; this
// package decides what is said.
//
// # What the kernel believes, and how long
//
// Five caches, each with its own rule (vfs.Policy is where a tree chooses):
//
//   - Names (dentries): Policy.EntryValid after the lookup; names not found,
//     Policy.NegativeValid. Ended early by INVAL_ENTRY or, all at once, INC_EPOCH.
//   - Attributes: Policy.AttrValid; ended early by INVAL_INODE. A read makes the
//     access time doubtful, a write mtime, ctime and blocks, so that the next stat
//     asks again whatever the validity.
//   - Pages: until the next open, unless Policy.KeepCache (FOPEN_KEEP_CACHE). By
//     default the kernel drops them also when it sees another size or mtime; a tree
//     whose names and attributes are valid for ever and whose pages are kept has
//     promised to tell (EXPLICIT_INVAL_DATA), and then nothing but INVAL_INODE
//     drops them.
//   - Listings: where pages are kept and validities endless (FOPEN_CACHE_DIR).
//   - Link targets: always, they cannot change.
//
// All own changes pass through the kernel, which updates its caches. For what
// changes behind its back the tree has a feed (vfs.Watchable); the door turns remote
// changes into the notifications above (notify.go).
//
// # Leases
//
// Trees that hear of others' changes before these are made (vfs.LeaseFS, in force if
// Policy.Leased is set) allow more: each reply gives attributes, names, absent names,
// pages and listings without an end as far as there is a lease, and nothing otherwise
// (lease.go); a recall is acknowledged when the kernel has dropped what it is about
// (recall.go). The file is opened past the kernel's pages for appending (FOPEN_DIRECT_IO),
// as the tree finds where it ends.
//
// A reply on its way to the kernel can meet a recall. What decides:
//
//   - The recall comes first: recallLog knows, and the reply gets no validity.
//   - Attributes in replies to LOOKUP, GETATTR, STATX and READDIRPLUS: the kernel took its
//     attribute version when it asked, and ignores a reply that is older than the last
//     INVAL_INODE. An inode that it does not know yet has no version: INVAL_INODE says
//     ENOENT although nodeTable says that the kernel was told, and is repeated until
//     the reply has arrived. Those of SETATTR and LINK have no version: no validity.
//   - Names: the kernel holds the directory's lock until it has used the reply, and
//     INVAL_ENTRY waits for it. Revalidation holds none: but then the name is unhashed.
//     INC_EPOCH does the same for all, as the kernel took the epoch when it asked; only
//     for READDIRPLUS it takes it afterwards. Hence INC_EPOCH is used only while a request
//     that has the lock for itself is under way (lockTable).
//   - Listings: dropped behind INVAL_ENTRY.
//   - Pages: locked until the reply to their READ, for which INVAL_INODE with a range
//     waits (and writes back what a mapping has dirtied). A READ that found no lease is
//     repeated, unless its own change waits for this door; then the recall drops the
//     pages once more (pageRecalls).
//
// doc/consistency.md has the whole of it, and what remains.
//
// # Modes
//
// Plain: OPEN and RELEASE for each descriptor, FLUSH for each close of one opened
// for writing. All writes come at once, in the order and (up to Options.MaxWrite) in
// the size of the system calls.
//
// Stateless (vfs.StatelessFS; exclusive or read-only trees): the door answers ENOSYS
// to the first OPEN, CREATE, OPENDIR and FLUSH, and the kernel never sends another
// one. open+close then costs nothing and create+close one message (MKNOD, after the
// LOOKUP) instead of four: with a tree that does nothing (see the benchmarks) 1.4 µs
// instead of 12, and 14 instead of 20. All of READ, WRITE, FSYNC, FALLOCATE, LSEEK and COPY_FILE_RANGE
// name the inode only and go to one vfs.File per inode that the door opens by
// OpenInode, keeps in a bounded table, and closes when the inode is forgotten or
// others are used more. What is given up: the tree does not see opens
// and closes (errors of writes are told by the write itself and by fsync, never
// by close), O_TRUNC is a SETATTR after the open, O_APPEND is the kernel's
// arithmetic (right, because nobody else changes the file), and there is no choice
// per open, hence no passthrough.
//
// Write-back cache (exclusive trees): writes end in the page cache and come later,
// in big pieces, without a caller. The kernel then owns size, mtime and ctime of
// regular files, ignores what the tree says of them, and tells them by SETATTR. It
// helps programs that write little at a time and costs one SETATTR per file. Two
// things are different: errors appear at fsync and close, and LSEEK would not see
// dirty pages, so that the door leaves SEEK_DATA to the kernel, for which a file is
// all data then.
//
// Passthrough (vfs.PassthroughFile, root): the kernel reads, writes and maps the
// local file itself, at the local file system's speed, and the door sees names and
// attributes only. The kernel insists that all open handles of an inode do it the
// same way; the first open decides.
//
// # Permissions
//
// Under default_permissions, the default, the kernel checks modes, ACLs, stickiness
// and ownership from the attributes it is told; trees check nothing. With
// HANDLE_KILLPRIV_V2 it leaves the clearing of set-id bits to the door, which asks
// the tree by SetKillSUIDGID: for a change of owner always, for truncation
// and write if the message says that the caller lacks CAP_FSETID. If the tree keeps
// POSIX ACLs (found by asking it for one) the umask, too, is left to the tree
// (vfs.Caller.Umask), since default ACLs replace it.
//
// # Locks and deadlocks
//
// Advisory locks stay in the kernel, unless the tree is shared and a vfs.LockFS. Then
// also files opened for reading only send FLUSH: a close ends the process's locks.
//
// While a create, unlink or rename runs, the kernel holds the directory's lock until
// the reply; other such calls in that directory wait, lookups of cached names do
// not. While a page is being read its lock is held until the reply. Notifications
// take these locks: INVAL_ENTRY the directory's, INVAL_INODE with a range those of
// the pages. Attribute invalidation and INC_EPOCH take none. Hence the rules:
//
//  1. A handler never sends a notification that can block (attributes are the one
//     exception), and a tree's feed only puts changes into a queue.
//  2. Nobody waits for ever for a notification: a name that is not invalidated after
//     5 ms is left to a helper, and the epoch is raised, which has every name looked
//     up again at its next use. Pages are dropped by helpers of their own.
//  3. A change must be in the tree before it is in the feed: what the kernel drops it
//     may ask for again at once.
//  4. If the queue overflows, everything is dropped.
//
// Recalls obey them, too, but are waited for by whoever makes the change. So they wait
// for nothing that may itself be waiting for a recall: see recall.go.
//
// The door itself holds no lock while it calls the tree, with one exception: Pin and
// Unpin are called under the lock of a shard of the inode table, to keep their order.
// They must be quick and must not wait for requests of this mount.
//
// A process should not use its own mount: a page fault on a mapped file of it stops
// the Go scheduler that would have to serve it, and then only an abort of the
// connection (Server.Abort, /sys/fs/fuse/connections) helps. For ordinary system
// calls it is safe, with many at a time slow: each holds a processor (P) of Go's
// scheduler for a while.
//
// # Interrupts, errors, panics
//
// A signal to a waiting program ends the context of its call, after a grace that
// spares programs EINTR where no local file system gives it. Reads ahead and
// write-back have no caller and are never interrupted. Errors reach programs as
// vfs.ErrnoOf says; those that speak of trouble (EIO, ETIMEDOUT, ENOSPC, …) are
// also logged with operation, inode and cause, once per kind and ten seconds. A
// panic in a tree is an EIO for the call that met it, with the stack in the log.
//
// What FUSE cannot do, whatever the tree: sync(2) and syncfs(2) write the kernel's
// dirty pages but do not reach the tree (only virtio-fs sends SYNCFS); chown(2) that
// changes nothing is no message, so it clears no set-id bits.
package fuse
