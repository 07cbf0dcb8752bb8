package node

import (
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// posSet is a set of positions. Those added last are few and kept apart, so that an addition in the middle of thousands does not move half of them.
type posSet struct {
	main, fresh []ondisk.Pos // both sorted; no position is in both
}

// freshPositions is how many positions are kept apart.
const freshPositions = 64

func (s *posSet) len() int { return len(s.main) + len(s.fresh) }

// add adds p, which is not in the set.
func (s *posSet) add(p ondisk.Pos) {
	if l := len(s.main); len(s.fresh) == 0 && (l == 0 || s.main[l-1].Less(p)) {
		s.main = append(s.main, p)
		return
	}
	if len(s.fresh) == freshPositions {
		s.merge()
	}
	s.fresh = slices.Insert(s.fresh, lowerBound(s.fresh, &p), p)
}

// take removes p and reports whether it was in the set.
func (s *posSet) take(p ondisk.Pos) bool {
	for _, part := range []*[]ondisk.Pos{&s.main, &s.fresh} {
		if i := lowerBound(*part, &p); i < len(*part) && (*part)[i] == p {
			*part = slices.Delete(*part, i, i+1)
			return true
		}
	}
	return false
}

// merge puts all into main: from the back, so that it takes no other memory.
func (s *posSet) merge() {
	i, j := len(s.main)-1, len(s.fresh)-1
	s.main = append(s.main, s.fresh...)
	for at := len(s.main) - 1; j >= 0; at-- {
		if i >= 0 && s.fresh[j].Less(s.main[i]) {
			s.main[at] = s.main[i]
			i--
		} else {
			s.main[at] = s.fresh[j]
			j--
		}
	}
	s.fresh = s.fresh[:0]
}

// sorted returns all positions in order: a slice that is the set's until it changes.
func (s *posSet) sorted() []ondisk.Pos {
	if len(s.fresh) > 0 {
		s.merge()
	}
	return s.main
}

// clear empties the set, whose memory is to be buf from now on, and returns what was in it, in order.
func (s *posSet) clear(buf []ondisk.Pos) []ondisk.Pos {
	was := s.sorted()
	s.main = buf[:0]
	return was
}

// memBytes returns the memory that the positions take.
func (s *posSet) memBytes() int { return (cap(s.main) + cap(s.fresh)) * posBytes }
