// Package blockgate gives clients of a shared volume its blocks without giving
// them the credentials of the bucket. doc/block-gate.md has the protocol, the
// invariants and what remains possible.
//
// The server's half is [Gate], an http.Handler on the metadata server's port; the
// client's half is [Client], an object.Store for block.New. A client asks the gate
// for grants, many at once; a grant is a request that the store has signed for a
// few minutes (object.Presigner), which the client then makes to the bucket
// itself, or, where the store cannot sign, the leave to ask the gate for the bytes.
//
// What a session may do is decided by an [Authority] (the metadata server), for
// every grant and every transfer: read a block that a file in its scope points
// to, write a block whose number was allocated to it and is not committed. It
// never deletes, lists or replaces.
//
// # Packs
//
// A block may hold pieces of several files. A session that sees the whole volume
// may read every block whole. To a session confined to a directory the gate gives
// a block's object only if the chunk that it is read for covers all of it;
// otherwise it serves plain bytes, and no others than those that the extents of
// that chunk point to. Where blocks are sealed the gate cannot open them: it then
// serves the frames (64 KiB) that hold those bytes, and zeros for the rest.
//
// # How the gate learns whose block it is
//
// The block engine asks its object store for keys, and knows nothing of files.
// Whoever learns the extents of a chunk tells the client by [Client.Refer] what
// blocks it points to, and the client sends that along. A block of which it knows
// no file, or one that no longer points to it, is missing for a confined session:
// the tree then asks for the extents again, and thereby tells the client.
package blockgate
