// Package metarpc carries the metadata engine over the wire: a [Client] is a
// meta.Session whose engine is in another process, behind a [Server].
// doc/metarpc.md in the project says what holds between the two, and in which cases of
// failure.
//
// # Where what is
//
//   - frame.go: frames, and writers that combine those of many goroutines;
//     codec.go, op.go, hello.go: what is in them.
//   - client.go, connection.go: calls under way, and the life of the client's connection;
//     calls.go: the calls of meta.Session; cache.go: what is known under leases;
//     holdings.go: what the client holds on the server.
//   - server.go: who is let in; session.go: a session, its slots, and calls being done
//     once; handler.go: the calls; keeper.go: recalls and the time that leases are good.
//   - early.go and kept.go: replies before a change is durable, and changes that are made
//     again after a crash, at the server and at the client.
//   - scope.go, grant.go, blocks.go: what a session may do; past.go: sessions of the
//     past.
//
// # Concurrency
//
// One goroutine reads each connection, and does what must be in order: the server's
// answers calls that only read and starts the others, the client's fills the cache. Neither
// ever waits for a write or for another client.
package metarpc
