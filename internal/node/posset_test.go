package node

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

func TestPosSet(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var s posSet
		want := map[ondisk.Pos]bool{}
		rising := uint64(0)
		for range 2000 {
			p := ondisk.Pos{Inode: rng.Uint64N(2), Offset: rng.Uint64N(200), Snapshot: rng.Uint32N(2)}
			if rng.IntN(8) == 0 {
				rising++
				p = ondisk.Pos{Inode: 3, Offset: rising}
			}
			switch r := rng.IntN(100); {
			case r == 0:
				if got := s.sorted(); !slices.Equal(got, slices.SortedFunc(maps.Keys(want), ondisk.Pos.Compare)) {
					t.Fatalf("seed %d: sorted: %v", seed, got)
				}
			case r == 1 && seed%2 == 0:
				got := s.clear(make([]ondisk.Pos, 3))
				if !slices.Equal(got, slices.SortedFunc(maps.Keys(want), ondisk.Pos.Compare)) {
					t.Fatalf("seed %d: cleared: %v", seed, got)
				}
				clear(want)
			case r < 30:
				if got := s.take(p); got != want[p] {
					t.Fatalf("seed %d: take %v: %v", seed, p, got)
				}
				delete(want, p)
			case !want[p]:
				s.add(p)
				want[p] = true
			}
			if s.len() != len(want) {
				t.Fatalf("seed %d: %d positions, want %d", seed, s.len(), len(want))
			}
		}
	}
}
