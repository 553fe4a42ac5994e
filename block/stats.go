package block

import "github.com/massif-fs/massif/cache"

// Stats are the figures of a Store since New.
type Stats struct {
	Puts, PutBytes, StoredBytes        int64 // blocks, plain bytes, object bytes
	Reads, ReadBytes                   int64 // calls of ReadAt
	Fetches, FetchedBytes, HeaderReads int64 // reads from the object store
	Prefetches, PrefetchesDropped      int64
	Deletes                            int64
	Refetched, Damaged                 int64 // reads that met damage; those where it stayed
	ForeignKeys                        int64 // met by Walk
	LatencySeconds                     float64
	BandwidthBytes                     float64 // per second, of one request
	Memory                             cache.MemoryStats
}

// Stats returns the figures.
func (s *Store) Stats() Stats {
	c := &s.stats
	return Stats{
		Puts: c.puts.Load(), PutBytes: c.putBytes.Load(), StoredBytes: c.storedBytes.Load(),
		Reads: c.reads.Load(), ReadBytes: c.readBytes.Load(),
		Fetches: c.fetches.Load(), FetchedBytes: c.fetchedBytes.Load(), HeaderReads: c.headerGets.Load(),
		Prefetches: c.prefetches.Load(), PrefetchesDropped: c.prefetchDropped.Load(),
		Deletes: c.deletes.Load(), Refetched: c.refetched.Load(), Damaged: c.damaged.Load(),
		ForeignKeys:    c.foreignKeys.Load(),
		LatencySeconds: s.Latency().Seconds(), BandwidthBytes: s.Bandwidth(),
		Memory: s.memory.Stats(),
	}
}
