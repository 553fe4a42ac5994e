// Package block keeps file data as blocks: immutable objects in an object store.
//
// A block has a number (its [ID], never used twice in a volume) and holds between
// 1 byte and 64 MiB. It is written once, as a whole, by [Store.Put]; after that
// any part of it can be read by [Store.ReadAt], and all of it deleted. Which
// bytes of which block make up a file is the metadata's business.
//
// # Layout
//
// The object of a block is a header and a row of frames (doc/block-format.md). A
// frame holds 64 KiB of the block, and is compressed, sealed, verified and
// fetched alone, so that a small read costs a small request. Frames that do not
// compress are stored raw, with a checksum for each 4 KiB unit: then a page of a
// raw block is one read of one page.
//
// # Reading
//
// A read looks for the parsed header (a bounded cache), then for the frames: in
// the memory cache, in the write-back stage, in the disk cache, in the object
// store. Parallel readers of one frame share one fetch. Every byte that comes
// from outside this process's memory is verified with checksums that know volume,
// block and position; damage is fetched again once past all caches, and is EIO
// if it stays. A reader never gets wrong bytes.
//
// A store on this machine (object.Capabilities.Remote false) is read around the
// memory cache where frames need no work, because the kernel has its pages.
//
// # Writing
//
// Put returns when the block is durable: in the object store, or, with a
// [StageConfig], in a journal on the local disk, from where it moves to the
// store in the background.
//
// # Memory
//
// Everything that grows with the size of data comes from the mount's
// cache.Budget: Put and ReadAt wait while it is spent. Put itself does not copy
// raw data: the store reads it from the caller's slices.
package block
