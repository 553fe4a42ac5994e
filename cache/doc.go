// Package cache bounds the memory of a mount and keeps immutable ranges near:
// in memory and on a local disk.
//
// # The budget
//
// A mount has one [Budget], its hard memory limit. Whoever needs memory in
// proportion to data (dirty write buffers, buffers of an upload or download, the
// read cache) takes it from a [Share] of the budget first, and waits where the
// budget is spent. Two kinds of share exist:
//
//   - A plain share ([Budget.Share]) has a reserve, which nobody else can take, and
//     a limit. As long as a class of work never needs more than its reserve to make
//     progress, no other class can starve it into a deadlock.
//   - An elastic share ([Budget.Elastic]) holds what can be given back at once:
//     cached data. It uses what the others leave, and is asked to give back
//     when a plain share has to wait.
//
// [Buffers] hands out page-aligned buffers in size classes, counted by the
// budget and kept off the Go heap, so that the garbage collector neither scans
// them nor lets the heap grow to twice their size.
//
// # The caches
//
// Both caches hold immutable ranges named by a 64-bit block id and an index
// inside that block. Because what they hold never changes, coherence is a
// question of dropping what is no longer needed, never of correctness.
//
//   - [Memory] holds buffers, evicts by S3-FIFO (scan resistant), and returns pinned
//     buffers, so that a reader copies at most once.
//   - [Disk] holds the ranges of a block in one file for each block below a
//     directory, survives restarts, and verifies each range it returns.
package cache
