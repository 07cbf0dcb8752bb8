package node

import (
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// builder fills a new node with keys that come in order.
type builder struct {
	n     *Node
	flags uint8
	c     *chunk // the last one; nil at first
}

// room says that up to chunkKeys keys follow, with so many bytes of values together.
func (b *builder) room(valBytes int) {
	b.c = b.n.addChunk(len(b.n.index), valBytes)
}

// add adds a key.
func (b *builder) add(k *ondisk.Key) {
	n, c := b.n, b.c
	off := n.store(c, k.Val)
	e := &c.ent[c.n]
	n.fill(e, k, off, b.flags)
	c.pos[c.n] = k.Pos
	c.n++
	n.count++
	n.note(len(n.index) - 1)
	words := n.words(e)
	n.live += words
	if b.flags&flagUnwritten != 0 {
		c.unwritten++
		n.unwritten += words
	}
}

// addKeys adds count keys of another node, from cur on.
func (b *builder) addKeys(cur Cursor, count int) {
	var k ondisk.Key
	for count > 0 {
		group := min(count, chunkKeys)
		count -= group
		ahead, size := cur, 0
		for range group {
			size += int(ahead.c.ent[ahead.i].words) * 8
			ahead.Next()
		}
		b.room(size)
		for range group {
			cur.Load(&k)
			b.add(&k)
			cur.Next()
		}
	}
}

// versionSnapshotField is the version from which on nodes are as they are now; older ones are converted when they are read.
const versionSnapshotField ondisk.MetadataVersion = 12

// FromDisk returns a node with the keys of one that was read, all of them written. Nodes that were not sound, have bsets that
// do not count or are of an old version are marked for rewriting. It keeps nothing of d.
func FromDisk(d *ondisk.Node, magic uint64, nodeBytes, blockBytes int) *Node {
	format := d.Format
	sound := format.Validate() == nil // formats from before 0.12 may overflow
	if !sound {
		format = ondisk.Format{}
	}
	n := New(Params{
		NodeIdentity: ondisk.NodeIdentity{Btree: d.Btree, Level: d.Level, Gen: d.Gen, Seq: d.Seq},
		Magic:        magic, Min: d.Min, Max: d.Max, Format: format, NodeBytes: nodeBytes, BlockBytes: blockBytes,
	})
	n.written = d.Written
	n.rewrite = !sound || len(d.Problems) > 0
	for i := range d.Bsets {
		n.rewrite = n.rewrite || d.Bsets[i].Blacklisted || d.Bsets[i].Version < versionSnapshotField
	}
	n.reserve(d.Len())
	b := builder{n: n, flags: flagOnDisk}
	var k ondisk.Key
	for i := 0; i < d.Len(); i += chunkKeys {
		end := min(i+chunkKeys, d.Len())
		size := 0
		for j := i; j < end; j++ {
			size += d.ValSize(j)
		}
		b.room(size)
		for j := i; j < end; j++ {
			d.LoadKey(j, &k)
			b.add(&k)
		}
	}
	return n
}

// reserve makes place for the chunks of so many keys.
func (n *Node) reserve(keys int) {
	chunks := (keys + chunkKeys - 1) / chunkKeys
	n.index = make([]place, 0, chunks)
}
