// Package sealed is the client's side of encrypted volumes: a meta.Session over
// another one, be it that of the engine in this process or that of a client of a
// metadata server. What goes in is sealed on its way, what comes out is opened, so
// that neither the engine nor its database ever has the plain form:
//
//   - names, deterministically, bound to the directory they are in. A rename to
//     another directory gives the name a new form; the client knows both names.
//   - names of extended attributes below their name space, deterministically, and
//     their values, bound to inode and name. ACLs stay as they are, because the
//     engine keeps their rules and access depends on them.
//   - targets of symbolic links, bound to the volume.
//   - inline content, bound to the inode.
//
// Inode numbers, sizes, times, owners, modes and the shape of the tree are not
// sealed. Blocks are the business of package block, with the sealer of the same key.
//
// What cannot be opened is EIO with a sentence that names the inode; nothing is
// passed over in silence. doc/encryption.md has the formats.
package sealed
