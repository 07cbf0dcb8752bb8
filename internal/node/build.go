package node

import (
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// builder fills a new node with keys that come in order.
type builder struct {
	n     *Node
	flags uint8
	keys  [chunkKeys]ondisk.Key
	have  int
}

// add adds a key whose value stays as it is until it is stored, with the chunk.
func (b *builder) add(k ondisk.Key) {
	b.keys[b.have] = k
	if b.have++; b.have == chunkKeys {
		b.flush()
	}
}

// flush makes a chunk of the keys that are there.
func (b *builder) flush() {
	if b.have == 0 {
		return
	}
	size := 0
	for i := range b.keys[:b.have] {
		size += len(b.keys[i].Val)
	}
	n := b.n
	c := n.addChunk(len(n.chunks), size)
	for i := range b.keys[:b.have] {
		k := &b.keys[i]
		e := n.makeEntry(k, b.flags)
		e.off = n.store(c, k.Val)
		c.pos[i], c.ent[i] = k.Pos, e
		n.live += n.words(&e)
	}
	c.n = b.have
	n.count += b.have
	n.maxes[len(n.maxes)-1] = c.pos[c.n-1]
	if b.flags&flagUnwritten != 0 {
		c.unwritten = c.n
		n.unwritten = n.live
	}
	b.have = 0
}

// versionSnapshotField is the version from which on nodes are as they are now; older ones are converted when they are read.
const versionSnapshotField ondisk.MetadataVersion = 12

// FromDisk returns a node with the keys of one that was read, all of them written. Nodes that were not sound, have bsets that
// do not count or are of an old version are marked for rewriting. It keeps nothing of d.
func FromDisk(d *ondisk.Node, magic uint64, nodeBytes, blockBytes int) *Node {
	n := New(Params{
		NodeIdentity: ondisk.NodeIdentity{Btree: d.Btree, Level: d.Level, Gen: d.Gen, Seq: d.Seq},
		Magic:        magic, Min: d.Min, Max: d.Max, Format: d.Format, NodeBytes: nodeBytes, BlockBytes: blockBytes,
	})
	n.written = d.Written
	n.rewrite = len(d.Problems) > 0
	for i := range d.Bsets {
		n.rewrite = n.rewrite || d.Bsets[i].Blacklisted || d.Bsets[i].Version < versionSnapshotField
	}
	n.reserve(d.Len())
	b := builder{n: n, flags: flagOnDisk}
	for i := range d.Len() {
		b.add(d.Key(i))
	}
	b.flush()
	return n
}

// reserve makes place for the chunks of so many keys.
func (n *Node) reserve(keys int) {
	chunks := (keys + chunkKeys - 1) / chunkKeys
	n.chunks = make([]*chunk, 0, chunks)
	n.maxes = make([]ondisk.Pos, 0, chunks)
}
