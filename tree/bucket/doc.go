// Package bucket presents the objects of a store as files, one object a file, as they
// are and so that other programs find them again.
//
// Directories are prefixes of keys, and markers where they are to last. What a bucket has no
// place for (mode, owner, times, extended attributes, links) stands in the metadata of
// objects, in the words of s3fs, rclone and Azure's tools.
//
// # What is where
//
// A node (node.go) is a file, directory or link that somebody uses or that is remembered;
// it knows its parent and its name, and keys are made from that when a request is. A
// content (content.go) is the bytes of one file: a sparse file in the cache directory
// (disk.go) that holds what was fetched of one version of the object and what was written over it since.
// Uploads (save.go, compose.go) make a new object of it, on the condition that the object
// is still that version.
//
// # Promises
//
//   - An object is replaced whole or not at all, and never if somebody else has changed it
//     since: then the caller gets ESTALE and what was written is kept aside.
//   - When close or fsync has returned without an error, what was written is in the store, or
//     with Config.Writeback on the local disk, from where it is uploaded also after a crash.
//   - An open file stays what it was: bytes of another version are ESTALE, never mixed in.
//   - Memory and disk are bounded by Config, whatever the bucket holds.
//
// doc/bucket.md in the repository tells how, and what is different from a local file system.
//
// # Locks
//
// FS.mu guards the table of nodes and is held across no request; after it come a
// node's mu, then a content's mu, then the disk's. How calls keep the places of nodes still
// while they talk to the store is told in node.go.
package bucket
