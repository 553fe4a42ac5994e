// Package kernel speaks with Linux's FUSE: it carries messages between the kernel and a
// Handler, as fast as one process can.
//
//	fd := …                                   // of /dev/fuse, after mount(2)
//	conn, err := kernel.Open(fd, kernel.Config{Features: kernel.MaxPages | …, MaxWrite: 1 << 20}, handler)
//	…conn.Init()…                             // what was agreed on
//	conn.Serve()                              // until the mount is gone
//	conn.Close()
//
// # The protocol
//
// A mount of type fuse is a connection: the kernel on one side, on the other whoever
// has its descriptor. read(2) takes one message: a Header (what is asked, of which
// node, by whom, under which number), a structure that belongs to the Opcode, and names
// (each ended by a NUL) or data. write(2) gives one reply: length, minus an errno,
// the number of the message, and a structure or data. Replies may come in any order,
// from any thread. All is in the machine's own byte order and aligned to eight bytes;
// structures only ever grow at their ends, and both sides say first, in INIT, which
// version they speak and which features they have (Init). So one program serves all
// kernels from Linux 5.4 (protocol 7.31) to 6.18 (7.45) and later ones.
//
// Node ids are the handler's numbers for inodes. Each reply with an EntryOut is a
// reference that the kernel holds, FORGET gives references back. Handles (Fh) are
// the handler's numbers for open files. Both mean nothing to this package.
//
// ENOSYS in a reply means that the handler has not got the operation at all. For most
// the kernel remembers that and does without from then on, which is a way to be spared
// OPEN (NoOpenSupport), FLUSH, ACCESS or extended attributes. Unknown opcodes get it,
// too.
//
// FORGET, INTERRUPT and NOTIFY_REPLY have no reply. INTERRUPT tells that the caller of
// another message has got a signal; the answer is still owed (Request.Interrupted).
//
// Notifications are messages from this side that the kernel has not asked for: forget a
// name, pages, attributes; take these pages; send again what was not answered. Most
// take locks that the kernel holds while it waits for replies, so that a handler
// must not send them: see each one's description.
//
// # Speed
//
// What an operation costs is, next to the handler's work, two system calls and two
// changes from one process to another. What this package does to add nothing:
//
//   - A reader reads a message, calls the handler and writes the reply, all on one
//     goroutine, which no channel, lock or allocation (names excepted) stands
//     before. How there come to be enough readers, and why not more, is in watch.go.
//   - Each has one buffer in which messages, results and replies have their places
//     (reader.go): a READ's data is put there by the handler and goes out with one
//     write(2), a WRITE's data lies at the beginning of a page.
//   - Requests in progress are in no list that would have to be changed for each: an
//     INTERRUPT, which is rare, looks at all readers instead.
//   - Replies are written without a word to Go's scheduler, if they are small.
//
// Where root has allowed it messages can come by io_uring instead (Config.IOUring): a
// queue and a thread for each processor, one system call a message, and no processor
// has to be woken to handle what a program on another one asks. uring.go says how it
// works and what it cannot do.
//
// What can take for ever, waiting for a lock (SETLKW), has a goroutine and a small
// buffer of its own, so that it uses up no reader.
//
// # Robustness
//
// A message that is shorter than its opcode needs gets EINVAL, a panic of the handler
// EIO; both never happen to a correct kernel and handler. Memory is bounded by
// Config.MaxMemory (a buffer for each message in progress) and, for locks waited for,
// by their number; when it is spent messages wait in the kernel.
//
// When the mount is gone (unmounted, or aborted) all requests in progress are
// interrupted, since nobody waits for them, and Serve ends when their handlers do.
//
// # Hand-over
//
// The descriptor and Init are all that another process needs to go on with a living
// mount: Adopt. Messages that the former server has read and not answered come again
// after Resend (Linux 6.9), marked as such (Request.Resent). A descriptor of the same
// connection must stay open somewhere meanwhile; when the last is closed the mount is
// dead.
package kernel
