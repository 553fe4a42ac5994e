// Package flist reads and writes content-addressed file system images: .flist files
// (version 1: SQLite and Cap'n Proto in a tar) and .fl files (version 2: SQLite).
//
// An image holds names, attributes and, for each regular file, the list of its
// blocks. A [Block] is named by the hash of its cipher text and opened with the hash
// of its plain text, so that equal content is stored once, whoever stores it, and
// nobody can read it who has not the image. Block contents lie in stores ([Store])
// that the image names by ranges of block ids ([Router]): directories, web servers, 0-db
// or Redis servers, buckets.
//
//   - [Open] opens an image of either version as an [Image].
//   - [Router.Fetch] gets a block, verified, from the first store that has it.
//   - [Pack] makes an image of a directory through a [Writer], [Unpack] the reverse.
//
// doc/image.md has the formats and what is done about the faults of other writers.
//
// Image files come from anywhere. Whatever they say is bounded before memory is
// taken for it, and refused with a sentence where it cannot be.
package flist
