// Package seal is the cryptography of encrypted volumes: the volume key, how it is
// wrapped by a passphrase and by a recovery key, and how what a volume stores is
// sealed with keys derived from it. doc/encryption.md describes the formats byte by
// byte, and what they do and do not protect.
//
// # Keys
//
// A volume has one random [Key] of 256 bits. It never leaves the clients that have
// unlocked it. What is stored, with the volume's settings, is a [Record]: the key
// wrapped once by a passphrase, through Argon2id, and once by a recovery key that
// is shown when the volume is made and kept nowhere. A passphrase is changed by
// wrapping the key anew; no data is written again. Whether a passphrase is right
// shows in the authentication tag of the wrapped key, and in nothing that is
// cheaper to compute.
//
// # Sealing
//
// Each use has a key of its own, derived with HKDF-SHA256. Content (frames of
// blocks, inline content, values of extended attributes, link targets) is sealed
// with XAES-256-GCM: AES-256-GCM with a key derived for each message and a random
// nonce of 192 bits, so that no number of messages wears a key out. Names are
// sealed deterministically with AES-SIV, so that they can be looked up, bound to
// the directory or inode that they are in.
//
// # Configuration files
//
// [SealConfig] and [OpenConfig] are for configuration files that are encrypted as a
// whole, in the formats of Cloudfuse and blobfuse2.
//
// # Secrets
//
// [Key], [Passphrase] and [RecoveryKey] print as what they are, not as their
// value, whatever verb or logger is used; Wipe overwrites them. The Go runtime may
// have made copies, so this narrows the window and does not close it.
package seal
