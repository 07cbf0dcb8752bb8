package data

import (
	"context"
	"sync"
	"unsafe"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// sumBlock is how much one remembered checksum covers, in bytes: what the kernel reads at least.
const sumBlock = 4096

// blockSums remembers the checksums of the blocks of extents that were verified as a whole, so that later reads of a part need no more than
// the blocks that it lies in, and still get nothing that does not verify. They are of the type that the extent has. What is remembered of an extent is
// good as long as there is one with the same checksum at the same place, see [blobID]. Any will go when there is no room.
//
// Safe for concurrent use.
type blockSums struct {
	shards [cacheShards]sumShard
}

type sumShard struct {
	mu     sync.Mutex
	budget int64
	bytes  int64
	sums   map[blobID][]uint64 // by block; never changed
}

func newBlockSums(budget int64) *blockSums {
	b := &blockSums{}
	for i := range b.shards {
		s := &b.shards[i]
		s.budget, s.sums = budget/cacheShards, map[blobID][]uint64{}
	}
	return b
}

// sumsCost is the memory that n checksums take, in bytes: with the key, the slice and what a map leaves empty.
func sumsCost(n int) int64 {
	const entry = int64(unsafe.Sizeof(blobID{})+unsafe.Sizeof([]uint64{})) * 3 / 2
	return entry + int64(n)*8
}

// get returns the checksums of an extent's blocks, nil if they are not known.
func (b *blockSums) get(id *blobID) []uint64 {
	s := &b.shards[id.shard()]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sums[*id]
}

// put remembers those of an extent that was verified.
func (b *blockSums) put(id *blobID, verified []byte) {
	sums := make([]uint64, 0, (len(verified)+sumBlock-1)/sumBlock)
	for len(verified) > 0 {
		n := min(sumBlock, len(verified))
		sums = append(sums, blockSum(checksum.Type(id.csum), verified[:n]))
		verified = verified[n:]
	}
	cost := sumsCost(len(sums))
	s := &b.shards[id.shard()]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sums[*id] != nil || cost > s.budget {
		return
	}
	for victim, of := range s.sums { // in random order
		if s.bytes+cost <= s.budget {
			break
		}
		delete(s.sums, victim)
		s.bytes -= sumsCost(len(of))
	}
	s.sums[*id] = sums
	s.bytes += cost
}

func blockSum(csum checksum.Type, block []byte) uint64 {
	sum, _ := checksum.Compute(csum, nil, crypt.Nonce{}, block) // without a key there is nothing that fails
	return sum.Lo
}

// hasBlockSums reports whether parts of what a CRC entry describes can be verified by themselves: it is stored as it is read.
func hasBlockSums(crc *ondisk.CRC) bool {
	return !crc.Compression.IsCompressed() && !crc.Csum.IsEncryption() && crc.Csum != checksum.None
}

// readBlocks fills dst with bytes of what a CRC entry describes, from an offset on, verifying the blocks they lie in by their sums. It reports whether that
// was possible; if not, the whole must tell what is wrong.
func (r *Reader) readBlocks(ctx context.Context, p *ondisk.DecodedPtr, sums []uint64, from uint64, dst []byte) bool {
	all := uint64(p.CRC.UncompressedSize) * sectorSize
	start := from &^ (sumBlock - 1)
	end := min((from+uint64(len(dst))+sumBlock-1)&^(sumBlock-1), all)
	buf := dst
	if exact := start == from && end == from+uint64(len(dst)); !exact {
		buf = r.buffers.get(int(end - start))
		defer r.buffers.put(buf)
	}
	if r.readBytes(ctx, p.Dev, uint64(p.Offset)*sectorSize+start, buf) != nil {
		return false
	}
	for at := uint64(0); at < uint64(len(buf)); at += sumBlock {
		block := buf[at:min(at+sumBlock, uint64(len(buf)))]
		if blockSum(p.CRC.Csum, block) != sums[(start+at)/sumBlock] {
			return false
		}
	}
	if &buf[0] != &dst[0] {
		copy(dst, buf[from-start:])
	}
	return true
}
