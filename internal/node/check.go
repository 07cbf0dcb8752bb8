package node

import (
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Check verifies what must hold between the parts of a node: for tests, and where what a caller did is in doubt.
func (n *Node) Check() error {
	var sum Node
	var prev *ondisk.Pos
	for ci := range n.index {
		c := n.index[ci].c
		if c.n < 1 || c.n > chunkKeys {
			return fmt.Errorf("chunk %d: %d keys", ci, c.n)
		}
		if pl := &n.index[ci]; pl.last() != c.pos[c.n-1] || int(pl.n) != c.n {
			return fmt.Errorf("chunk %d: %d keys up to %v, noted %d up to %v", ci, c.n, c.pos[c.n-1], pl.n, pl.last())
		}
		live, unwritten, inFlight := 0, 0, 0
		for i := range c.n {
			p, e := &c.pos[i], &c.ent[i]
			if !n.Covers(*p) || prev != nil && !prev.Less(*p) {
				return fmt.Errorf("chunk %d: key %d at %v out of order", ci, i, *p)
			}
			prev = p
			var k ondisk.Key
			c.load(i, &k)
			if plain := !n.packer.Packs(&k); plain != (e.flags&flagPlain != 0) {
				return fmt.Errorf("key at %v: unpacked is %v", *p, !plain)
			}
			live += len(k.Val)
			sum.live += n.words(e)
			if e.flags&flagUnwritten != 0 {
				unwritten++
				sum.unwritten += n.words(e)
			}
			if e.flags&flagInFlight != 0 {
				inFlight++
			}
			if e.flags&(flagUnwritten|flagInFlight|flagOnDisk) == 0 {
				return fmt.Errorf("key at %v: neither written nor to be written", *p)
			}
		}
		if live != c.live || unwritten != c.unwritten || inFlight != c.inFlight || len(c.arena) < live {
			return fmt.Errorf("chunk %d: %d bytes live, %d unwritten, %d in flight; counted %d, %d, %d", ci, c.live, c.unwritten,
				c.inFlight, live, unwritten, inFlight)
		}
		sum.mem += chunkBytes + cap(c.arena)
		sum.inFlight += inFlight
		sum.count += c.n
	}
	whiteouts := slices.Concat(n.whiteouts.main, n.whiteouts.fresh)
	slices.SortFunc(whiteouts, ondisk.Pos.Compare)
	for i, p := range whiteouts {
		if i > 0 && !whiteouts[i-1].Less(p) {
			return fmt.Errorf("whiteout at %v out of order", p)
		}
		if _, ok := n.Get(p); ok {
			return fmt.Errorf("whiteout and key at %v", p)
		}
		sum.whiteoutWords += n.whiteoutSize(p)
	}
	if sum.count != n.count || sum.live != n.live || sum.unwritten != n.unwritten || sum.inFlight != n.inFlight ||
		sum.mem != n.mem || sum.whiteoutWords != n.whiteoutWords {
		return fmt.Errorf("%d keys, %d words, %d unwritten, %d in flight, %d bytes, %d words of whiteouts; counted %d, %d, %d, %d, %d, %d",
			n.count, n.live, n.unwritten, n.inFlight, n.mem, n.whiteoutWords,
			sum.count, sum.live, sum.unwritten, sum.inFlight, sum.mem, sum.whiteoutWords)
	}
	return n.checkState()
}

// checkState verifies what must hold between what is written and what is not.
func (n *Node) checkState() error {
	switch {
	case n.written%n.p.BlockBytes != 0 || n.written > n.p.NodeBytes || n.writing != 0 && n.writing <= n.written:
		return fmt.Errorf("%d bytes written, in flight up to %d", n.written, n.writing)
	case n.writing == 0 && (n.inFlight > 0 || len(n.inFlightWhiteouts) > 0 || n.inFlightSeqs != SeqRange{}):
		return fmt.Errorf("no write in flight, but %d keys, %d whiteouts, %+v", n.inFlight, len(n.inFlightWhiteouts), n.inFlightSeqs)
	case n.written == 0 && n.writing == 0 && (n.unwritten != n.live || n.whiteouts.len() > 0):
		return fmt.Errorf("nothing written, but %d of %d words are unwritten, %d whiteouts", n.unwritten, n.live, n.whiteouts.len())
	case n.seqs.Oldest > n.seqs.Newest || n.inFlightSeqs.Oldest > n.inFlightSeqs.Newest:
		return fmt.Errorf("sequence numbers %+v, in flight %+v", n.seqs, n.inFlightSeqs)
	case n.written != 0 && !n.Dirty() && n.seqs != SeqRange{}:
		return fmt.Errorf("nothing unwritten, but %+v", n.seqs)
	}
	return nil
}
