package alloc

import (
	"math"
	"math/bits"
)

// ReserveFlags say how a promise is made.
type ReserveFlags uint8

// ReserveNoFail makes a promise even if there is no space: for what must not fail since it does not make the usage grow in the end.
const ReserveNoFail ReserveFlags = 1

// Reservation is a promise of sectors. It is taken before data is made dirty, and commits that make the usage grow take from it. It
// is used by one goroutine at a time.
type Reservation struct {
	space   *Space
	sectors uint64
}

// Sectors returns what is left of the promise; replicas each count.
func (r *Reservation) Sectors() uint64 { return r.sectors }

// Reserve promises sectors, each replicas times. What is not used must be put back with [Reservation.Put]. If there is no space, the error is
// [ErrNoSpace].
func (s *Space) Reserve(sectors uint64, replicas int, flags ReserveFlags) (Reservation, error) {
	r := Reservation{space: s}
	return r, r.Add(sectors, replicas, flags)
}

// Add makes a promise larger, or fails and leaves it as it is. It does not allocate unless it fails.
func (r *Reservation) Add(sectors uint64, replicas int, flags ReserveFlags) error {
	hi, n := bits.Mul64(sectors, uint64(max(0, replicas)))
	if hi != 0 || n > math.MaxInt64/4 {
		return &NoSpaceError{Wanted: max(sectors, n), Free: deflate(r.space.Usage().Free)}
	}
	if !r.space.takeFast(int64(n)) {
		if err := r.space.takeSlow(n, flags); err != nil {
			return err
		}
	}
	r.sectors += n
	return nil
}

// takeFast promises n sectors out of a shard, or of what no shard has.
func (s *Space) takeFast(n int64) bool {
	sh := s.some()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if n > sh.available {
		old := s.available.Load()
		get := min(n+spaceShardPortion, old)
		for get >= n && !s.available.CompareAndSwap(old, old-get) {
			old = s.available.Load()
			get = min(n+spaceShardPortion, old)
		}
		if get < n {
			return false
		}
		sh.available += get
	}
	sh.available -= n
	sh.promised += n
	return true
}

// takeSlow reckons how much there is, and promises n sectors of that.
func (s *Space) takeSlow(n uint64, flags ReserveFlags) error {
	s.lockAll()
	defer s.unlockAll()
	for i := range s.shards {
		s.shards[i].available = 0
	}
	free := deflate(s.usage().Free)
	if n > free && flags&ReserveNoFail == 0 {
		s.available.Store(int64(free))
		return &NoSpaceError{Wanted: n, Free: free}
	}
	s.available.Store(int64(free - min(free, n)))
	s.shards[0].promised += int64(n)
	return nil
}

// Put gives back what is left of the promise. It may be called more than once, and on the zero value.
func (r *Reservation) Put() {
	if r.sectors == 0 {
		return
	}
	sh := r.space.some()
	sh.mu.Lock()
	sh.promised -= int64(r.sectors)
	sh.mu.Unlock()
	r.sectors = 0
}

// PutSome gives back a part of the promise, at most what is left.
func (r *Reservation) PutSome(sectors uint64) {
	part := Reservation{space: r.space, sectors: min(sectors, r.sectors)}
	r.sectors -= part.sectors
	part.Put()
}

// Commit changes the totals as a commit does, in its atomic part, and takes what the usage grows by from the promise r, which may be nil.
// exceeded is by how many sectors the usage grew without having been promised, which is a mistake of the caller's.
func (s *Space) Commit(delta *UsageTotals, r *Reservation) (exceeded uint64) {
	grown := delta.Btree + delta.Data + delta.Reserved
	have := int64(0)
	if r != nil {
		have = int64(r.sectors)
	}
	sh := s.some()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.totals.sum(delta)
	if over := grown - have; over > 0 {
		for old := s.available.Load(); !s.available.CompareAndSwap(old, max(0, old-over)); old = s.available.Load() {
		}
		exceeded = uint64(over)
		grown = have
	}
	if grown > 0 {
		r.sectors -= uint64(grown)
		sh.promised -= grown
	}
	return exceeded
}
