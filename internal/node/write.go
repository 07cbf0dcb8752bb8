package node

import (
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// WriteParams say how to write a node.
type WriteParams struct {
	Version ondisk.MetadataVersion // of the superblock
	Csum    checksum.Type
	Key     *crypt.Key // nil if Csum is no encryption

	// Scratch is memory for the write, used if it is large enough; a node's size always is. The write needs it until it
	// has ended. For direct transfers it is aligned ([blockdev.AlignedBuffer]), as memory made here is.
	Scratch []byte
}

// Write is a write of a node: Buf goes to sector Off of the node area of each replica, and ends at sector End, the
// sectors_written of the pointer once it is done.
type Write struct {
	Buf        []byte // whole blocks
	Off, End   ondisk.Sector
	JournalSeq uint64   // of the bset; 0 in the first one
	Seqs       SeqRange // of what it carries, to be kept in the journal until the pointer is
	First      bool     // the node as a whole
}

// PrepareWrite encodes what the node's next write is: all keys if nothing was written yet, else those changed since, with
// whiteouts for those deleted. They are in flight then, until the caller ends the write with [Node.WriteDone] or
// [Node.WriteFailed].
//
// The error is ErrInFlight if the write before is not over, ErrClean if there is nothing to write, ErrNoSeq if no journal
// sequence number of the changes is known; it wraps ErrFull if they do not fit, and [checksum.ErrNoKey] without a key that
// is needed. The node is unchanged then.
func (n *Node) PrepareWrite(p *WriteParams) (Write, error) {
	first := n.written == 0
	hdr, words := ondisk.NodeHeaderSize, n.live
	if !first {
		hdr, words = ondisk.NodeEntryHeaderSize, n.unwritten+n.whiteoutWords
	}
	bp := ondisk.BsetParams{Version: p.Version, Csum: p.Csum, BlockBytes: n.p.BlockBytes, NodeSize: n.p.NodeBytes}
	switch {
	case n.writing != 0:
		return Write{}, ErrInFlight
	case !n.Dirty():
		return Write{}, ErrClean
	case !n.fits(n.live, words):
		return Write{}, fmt.Errorf("%w: %d words of keys, %d to be written at %d of %d bytes", ErrFull, n.live, words,
			n.written, n.p.NodeBytes)
	case !first:
		if bp.JournalSeq = n.seqs.Newest; bp.JournalSeq == 0 {
			return Write{}, ErrNoSeq
		}
	}
	keyBytes := words * 8
	size := (hdr + keyBytes + n.p.BlockBytes - 1) &^ (n.p.BlockBytes - 1)
	buf := p.Scratch
	if cap(buf) < size {
		buf = blockdev.AlignedBuffer(size)
	}
	buf = buf[:size:size]
	var out []byte
	if first {
		out = n.packAll(buf[:hdr])
	} else {
		out = n.packUnwritten(buf[:hdr])
	}
	if len(out) != hdr+keyBytes {
		panic(fmt.Sprintf("btree node %v - %v: %d bytes to write, counted %d", n.p.Min, n.p.Max, len(out), hdr+keyBytes))
	}
	clear(buf[len(out):])
	var err error
	if first {
		h := ondisk.NodeHeader{Magic: n.p.Magic, Min: n.p.Min, Max: n.p.Max, Format: n.p.Format}
		err = ondisk.SealNode(buf, &h, n.p.NodeIdentity, keyBytes, &bp, p.Key)
	} else {
		err = ondisk.SealBset(buf, n.written, n.p.Seq, keyBytes, &bp, p.Key)
	}
	if err != nil {
		return Write{}, err
	}
	n.launch(n.written + size)
	return Write{
		Buf: buf, Off: ondisk.Sector(n.written / ondisk.SectorSize), End: ondisk.Sector(n.writing / ondisk.SectorSize),
		JournalSeq: bp.JournalSeq, Seqs: n.inFlightSeqs, First: first,
	}, nil
}

// packAll appends all keys as they are on disk.
func (n *Node) packAll(out []byte) []byte {
	var k ondisk.Key
	for ci := range n.index {
		c := n.index[ci].c
		for i := range c.n {
			out = n.pack(out, c, i, &k)
		}
	}
	return out
}

// packUnwritten appends unwritten keys and whiteouts as they are on disk.
func (n *Node) packUnwritten(out []byte) []byte {
	var k ondisk.Key
	white := n.whiteouts.sorted()
	for ci := range n.index {
		c := n.index[ci].c
		if c.unwritten == 0 {
			continue
		}
		for i := range c.n {
			if c.ent[i].flags&flagUnwritten == 0 {
				continue
			}
			for len(white) > 0 && white[0].Less(c.pos[i]) {
				out = n.packWhiteout(out, white[0])
				white = white[1:]
			}
			out = n.pack(out, c, i, &k)
		}
	}
	for _, p := range white {
		out = n.packWhiteout(out, p)
	}
	return out
}

// pack appends key i of c; k is memory for it.
func (n *Node) pack(out []byte, c *chunk, i int, k *ondisk.Key) []byte {
	c.load(i, k)
	if c.ent[i].flags&flagPlain != 0 {
		return ondisk.AppendKey(out, *k)
	}
	return n.packer.AppendKey(out, k)
}

func (n *Node) packWhiteout(out []byte, p ondisk.Pos) []byte {
	return ondisk.AppendNodeKey(out, &n.p.Format, &ondisk.Key{Pos: p})
}

// launch puts everything unwritten in flight, in a write up to byte end of the node.
func (n *Node) launch(end int) {
	for ci := range n.index {
		c := n.index[ci].c
		if c.unwritten == 0 {
			continue
		}
		for i := range c.ent[:c.n] {
			if e := &c.ent[i]; e.flags&flagUnwritten != 0 {
				e.flags = e.flags&^flagUnwritten | flagInFlight
			}
		}
		c.inFlight = c.unwritten
		c.unwritten = 0
		n.inFlight += c.inFlight
	}
	n.inFlightWhiteouts = n.whiteouts.clear(n.inFlightWhiteouts)
	n.inFlightSeqs, n.seqs = n.seqs, SeqRange{}
	n.unwritten, n.whiteoutWords = 0, 0
	n.writing = end
}

// land calls fn with each entry in flight, which is not any more.
func (n *Node) land(fn func(c *chunk, i int)) {
	if n.writing == 0 {
		panic(fmt.Sprintf("btree node %v - %v: no write in flight", n.p.Min, n.p.Max))
	}
	n.writing = 0
	if n.inFlight > 0 {
		for ci := range n.index {
			c := n.index[ci].c
			if c.inFlight == 0 {
				continue
			}
			for i := range c.n {
				if e := &c.ent[i]; e.flags&flagInFlight != 0 {
					e.flags &^= flagInFlight
					fn(c, i)
				}
			}
			c.inFlight = 0
		}
		n.inFlight = 0
	}
}

// WriteDone ends the write in flight: it is on all the replicas that the pointer will name.
func (n *Node) WriteDone() {
	end := n.writing
	n.land(func(c *chunk, i int) { c.ent[i].flags |= flagOnDisk })
	n.written = end
	n.inFlightWhiteouts = n.inFlightWhiteouts[:0]
	n.inFlightSeqs = SeqRange{}
}

// WriteFailed ends the write in flight: what it carried is unwritten again, and what did reach a disk does not count.
func (n *Node) WriteFailed() {
	n.land(func(c *chunk, i int) {
		e := &c.ent[i]
		if e.flags&flagUnwritten == 0 {
			e.flags |= flagUnwritten
			c.unwritten++
			n.unwritten += n.words(e)
		}
	})
	n.seqs.Join(n.inFlightSeqs)
	n.inFlightSeqs = SeqRange{}
	if n.written == 0 {
		// The next write is of the whole node again: there is nothing to delete.
		n.whiteouts.clear(n.whiteouts.main)
		n.whiteoutWords = 0
		for ci := range n.index {
			c := n.index[ci].c
			for i := range c.ent[:c.n] {
				c.ent[i].flags &^= flagOnDisk
			}
		}
	}
	for _, p := range n.inFlightWhiteouts {
		ci, i, found := n.find(&p)
		if found {
			n.index[ci].c.ent[i].flags |= flagOnDisk
			continue
		}
		n.addWhiteout(p)
	}
	n.inFlightWhiteouts = n.inFlightWhiteouts[:0]
	n.settle()
}
