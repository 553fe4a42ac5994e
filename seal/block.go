package seal

// BlockSealer seals the frames of blocks: it is a block.Sealer. Each frame is a
// message with a random nonce of its own, bound to what the block engine says of
// its place.
type BlockSealer struct{ x *xaes }

// BlockSealerID is the way of sealing in a block's header.
const BlockSealerID = 1

// Overhead implements block.Sealer.
func (s *BlockSealer) Overhead() int { return xaesOverhead }

// Seal implements block.Sealer.
func (s *BlockSealer) Seal(dst, plain, aad []byte) []byte { return s.x.seal(dst, plain, aad) }

// Open implements block.Sealer.
func (s *BlockSealer) Open(dst, sealed, aad []byte) ([]byte, error) {
	return s.x.open(dst, sealed, aad)
}

// ID implements block.Sealer.
func (s *BlockSealer) ID() uint8 { return BlockSealerID }
