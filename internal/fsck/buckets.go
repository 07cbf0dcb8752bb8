package fsck

import (
	"sync"
	"unsafe"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// bucket is what a walk over all pointers makes of a bucket.
type bucket struct {
	dirty, cached, striped uint32 // sectors
	stripe                 uint32 // index, from 1.35 on number of stripes
	gen                    uint8
	typ                    ondisk.DataType
	redundancy             uint8
	flags                  bucketFlags
}

type bucketFlags uint8

const (
	bucketGenKnown bucketFlags = 1 << iota // gen is that of the alloc key, or of the first pointer
	bucketHasKey                           // there is an alloc key
	bucketLost                             // its alloc key cannot be read
	bucketClash                            // more than one type of data: told once
	bucketNoKey                            // a pointer but no alloc key: told once
	bucketOverflow                         // more sectors than can be counted: told once
)

// empty reports whether nothing is in the bucket.
func (b *bucket) empty() bool {
	return b.dirty == 0 && b.cached == 0 && b.striped == 0 && b.stripe == 0
}

// alloc returns the bucket as an alloc key, with what only the stored key can know taken from there.
func (b *bucket) alloc(stored *ondisk.Alloc) ondisk.Alloc {
	a := *stored
	a.Gen, a.DirtySectors, a.CachedSectors, a.StripeSectors = b.gen, b.dirty, b.cached, b.striped
	a.Stripe, a.StripeRedundancy = b.stripe, b.redundancy
	hint := b.typ
	if b.empty() {
		hint = ondisk.DataFree
		if stored.DataType == ondisk.DataNeedDiscard {
			hint = ondisk.DataNeedDiscard
		}
	}
	a.DataType = ondisk.DataFree // multiple would stay so
	if stored.DataType == ondisk.DataMultiple && !b.empty() {
		a.DataType = ondisk.DataMultiple
	}
	a.DataType = a.DerivedDataType(hint)
	return a
}

// Buckets are kept in pieces of this many, which come into being when one of them is needed: what most hostile images claim to have
// does not.
const (
	bucketShift = 7
	bucketPiece = 1 << bucketShift
)

type piece [bucketPiece]bucket

// shadow are the buckets of all devices. It is filled by many goroutines.
type shadow struct {
	mu     sync.RWMutex // protects pieces; their buckets are protected by locks
	pieces map[pieceID]*piece
	limit  int // of pieces
	locks  [256]sync.Mutex
}

type pieceID struct {
	dev uint8
	n   uint64
}

func newShadow(memory int64) *shadow {
	return &shadow{pieces: map[pieceID]*piece{}, limit: int(memory / int64(unsafe.Sizeof(piece{})))}
}

// change calls fn with a bucket, which no other goroutine has at the time.
func (s *shadow) change(dev uint8, b ondisk.Bucket, fn func(*bucket)) error {
	id := pieceID{dev, uint64(b) >> bucketShift}
	s.mu.RLock()
	p := s.pieces[id]
	s.mu.RUnlock()
	if p == nil {
		s.mu.Lock()
		if p = s.pieces[id]; p == nil {
			if len(s.pieces) >= s.limit {
				s.mu.Unlock()
				return ErrMemory
			}
			p = new(piece)
			s.pieces[id] = p
		}
		s.mu.Unlock()
	}
	l := &s.locks[(id.n^uint64(dev)<<5)%uint64(len(s.locks))]
	l.Lock()
	fn(&p[b%bucketPiece])
	l.Unlock()
	return nil
}

// get returns a bucket; the zero value if nothing is known of it. It must not run beside change.
func (s *shadow) get(dev uint8, b ondisk.Bucket) bucket {
	if p := s.pieces[pieceID{dev, uint64(b) >> bucketShift}]; p != nil {
		return p[b%bucketPiece]
	}
	return bucket{}
}
