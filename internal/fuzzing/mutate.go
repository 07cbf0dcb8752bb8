package fuzzing

import (
	"bytes"
	"encoding/binary"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Mutation is one change of one structure, in a form that a fuzzer can make up: whatever its fields hold means something, or nothing
// is changed.
type Mutation struct {
	Kind  Kind
	Part  uint16 // which of its kind
	Op    uint8
	Index uint16 // of the key, section or record that is changed; else an offset in bytes
	Off   uint8  // in it
	Width uint8  // of Value, in bytes
	Value uint64
}

// MutationSize is the size of an encoded mutation in bytes.
const MutationSize = 16

// Operations. Those of [Node] besides OpRaw act on one key, unpacked and packed again.
const (
	OpRaw      = iota // overwrite bytes, Index being an offset
	OpHeader          // of a node or an entry of the journal: overwrite bytes of its header
	OpField           // of a key: Off says which field of it is set; of others overwrite bytes of section or record Index
	OpAddField        // as OpField, but Value is added
	OpValue           // overwrite bytes of the value
	OpInsert          // insert a copy of the key whose offset is Value further on
	OpRemove          // take out a key or a section
	OpSplice          // give it the value and type of key Value
	OpUnsum           // have an extent say that its data has no checksum
	OpResize          // give it a value, or a section, of Off words
	numOps
)

// DecodeMutation reads a mutation; b holds at least [MutationSize] bytes.
func DecodeMutation(b []byte) Mutation {
	le := binary.LittleEndian
	return Mutation{Kind: Kind(b[0] % uint8(NumKinds)), Part: le.Uint16(b[1:]), Op: b[3] % numOps, Index: le.Uint16(b[4:]), Off: b[6],
		Width: b[7], Value: le.Uint64(b[8:])}
}

// Append appends what [DecodeMutation] reads.
func (m Mutation) Append(b []byte) []byte {
	le := binary.LittleEndian
	b = append(b, byte(m.Kind))
	b = le.AppendUint16(b, m.Part)
	b = append(b, m.Op)
	b = le.AppendUint16(b, m.Index)
	b = append(b, m.Off, m.Width)
	return le.AppendUint64(b, m.Value)
}

// Mutate applies mutations and returns the parts that differ, for [Image.Changed].
func (img *Image) Mutate(all []Mutation) map[*Part][]byte {
	changed := map[*Part][]byte{}
	for _, m := range all {
		parts := img.Parts[m.Kind]
		if len(parts) == 0 {
			continue
		}
		p := parts[int(m.Part)%len(parts)]
		b := changed[p]
		if b == nil {
			b = bytes.Clone(p.Bytes)
			changed[p] = b
		}
		switch p.Kind {
		case Super:
			m.super(b)
		case Node:
			m.node(p, b, img.block)
		case Jset:
			m.jset(b)
		case Data:
			m.put(b, int(m.Index))
		}
	}
	return changed
}

// put overwrites up to 8 bytes at an offset, taken modulo the length.
func (m *Mutation) put(b []byte, at int) {
	if len(b) == 0 {
		return
	}
	var v [8]byte
	binary.LittleEndian.PutUint64(v[:], m.Value)
	copy(b[at%len(b):], v[:m.width()])
}

func (m *Mutation) width() int { return 1 << (m.Width % 4) }

// super changes a field before the sections, or a section. Those behind one that changes its size move.
func (m *Mutation) super(b []byte) {
	if m.Op == OpRaw || m.Op == OpHeader {
		m.put(b[sumSize:superSize], int(m.Index))
		return
	}
	used := superSize + 8*int(binary.LittleEndian.Uint32(b[superU64sAt:]))
	if used > len(b) {
		return
	}
	records := split(b[superSize:used], func(s []byte) int { return 8 * int(binary.LittleEndian.Uint32(s)) })
	if len(records) == 0 {
		return
	}
	i := int(m.Index) % len(records)
	s := records[i]
	switch m.Op {
	case OpRemove:
		s = nil
	case OpResize:
		s = resized(s, 8+8*int(m.Off))
		binary.LittleEndian.PutUint32(s, uint32(len(s)/8))
	case OpAddField:
		m.add(s, int(m.Off)+int(m.Index)/len(records)*8)
	default:
		m.put(s, int(m.Off)+int(m.Index)/len(records)*8)
	}
	records[i] = s
	all := bytes.Join(records, nil)
	if superSize+len(all) <= len(b) {
		clear(b[superSize+copy(b[superSize:], all):])
		binary.LittleEndian.PutUint32(b[superU64sAt:], uint32(len(all)/8))
	}
}

// jset changes the header of a journal entry or one of its records.
func (m *Mutation) jset(b []byte) {
	if m.Op == OpRaw || m.Op == OpHeader {
		m.put(b[24:jsetSize], int(m.Index)) // not the magic: there would be no entry
		return
	}
	end := jsetSize + 8*int(binary.LittleEndian.Uint32(b[jsetU64sAt:]))
	if end > len(b) {
		return
	}
	records := split(b[jsetSize:end], func(s []byte) int { return 8 + 8*int(binary.LittleEndian.Uint16(s)) })
	if len(records) == 0 {
		return
	}
	s := records[int(m.Index)%len(records)]
	at := int(m.Off) + int(m.Index)/len(records)*8
	switch m.Op {
	case OpAddField:
		m.add(s, at)
	case OpSplice:
		copy(s, records[m.Value%uint64(len(records))])
	default:
		m.put(s, at)
	}
}

// split cuts b into records that tell their size, as far as that makes sense. The records are b's own bytes.
func split(b []byte, size func([]byte) int) (records [][]byte) {
	for len(b) >= 8 {
		n := size(b)
		if n < 8 || n > len(b) {
			n = len(b)
		}
		records = append(records, b[:n:n])
		b = b[n:]
	}
	return records
}

func resized(b []byte, n int) []byte {
	out := make([]byte, n)
	copy(out, b)
	return out
}

// add adds to a word.
func (m *Mutation) add(b []byte, at int) {
	if len(b) < 8 {
		return
	}
	w := b[at%len(b)&^7:]
	binary.LittleEndian.PutUint64(w, binary.LittleEndian.Uint64(w)+m.Value)
}

// node changes a btree node.
func (m *Mutation) node(p *Part, b []byte, block int) {
	switch m.Op {
	case OpRaw:
		m.put(b[sumSize:], int(m.Index)*int(m.Off+1))
		return
	case OpHeader:
		m.put(b[nodeCryptAt:nodeBsetAt+bsetSize], int(m.Index))
		return
	}
	total := 0
	for i := range p.node.Bsets {
		total += len(keysOf(p, b, i))
	}
	if total == 0 {
		return
	}
	index := int(m.Index) % total
	for i := range p.node.Bsets {
		keys := keysOf(p, b, i)
		if index < len(keys) {
			m.putKeys(p, b, i, m.keys(keys, index), block)
			return
		}
		index -= len(keys)
	}
}

// bsetOf is where struct bset of a bset is and where its keys are.
func bsetOf(p *Part, i int) (bset, keys int) {
	at := p.node.Bsets[i].Offset
	if at == 0 {
		return nodeBsetAt, nodeBsetAt + bsetSize
	}
	return at + entryBsetAt, at + entryBsetAt + bsetSize
}

// keysOf unpacks the keys of a bset.
func keysOf(p *Part, b []byte, i int) (keys []ondisk.Key) {
	bset, at := bsetOf(p, i)
	end := at + 8*int(binary.LittleEndian.Uint16(b[bset+bsetU64sAt:]))
	if end > len(b) {
		return nil
	}
	n := ondisk.RawNode{NodeHeader: p.node.NodeHeader, Bsets: []ondisk.RawBset{{Keys: b[at:end]}}}
	for k, err := range n.Keys(0) {
		if err != nil {
			return keys
		}
		keys = append(keys, k)
	}
	return keys
}

// keys changes one of keys and returns all.
func (m *Mutation) keys(keys []ondisk.Key, i int) []ondisk.Key {
	k := keys[i]
	k.Val = bytes.Clone(k.Val)
	switch m.Op {
	case OpField:
		m.field(&k, func(uint64) uint64 { return m.Value })
	case OpAddField:
		m.field(&k, func(old uint64) uint64 { return old + m.Value })
	case OpValue:
		m.put(k.Val, int(m.Off))
	case OpRemove:
		return append(keys[:i:i], keys[i+1:]...)
	case OpInsert:
		k.Pos.Offset += m.Value
		return append(append(keys[:i+1:i+1], k), keys[i+1:]...)
	case OpSplice:
		from := keys[m.Value%uint64(len(keys))]
		k.Type, k.Val = from.Type, bytes.Clone(from.Val)
	case OpUnsum:
		unsum(k)
	case OpResize:
		k.Val = resized(k.Val, 8*int(m.Off%64))
	}
	keys[i] = k
	return keys
}

func (m *Mutation) field(k *ondisk.Key, change func(uint64) uint64) {
	switch m.Off % 7 {
	case 0:
		k.Pos.Inode = change(k.Pos.Inode)
	case 1:
		k.Pos.Offset = change(k.Pos.Offset)
	case 2:
		k.Pos.Snapshot = uint32(change(uint64(k.Pos.Snapshot)))
	case 3:
		k.Size = uint32(change(uint64(k.Size)))
	case 4:
		k.Type = ondisk.KeyType(change(uint64(k.Type)))
	case 5:
		k.Version.Lo = change(k.Version.Lo)
	case 6:
		k.Version.Hi = uint32(change(uint64(k.Version.Hi)))
	}
}

// unsum takes the type of checksum out of the crc entries of an extent.
func unsum(k ondisk.Key) {
	b := k.Val
	if k.Type == ondisk.KeyReflinkV && len(b) >= 8 {
		b = b[8:]
	}
	for len(b) >= 8 {
		w, words := binary.LittleEndian.Uint64(b), 1
		switch {
		case w&1 != 0: // a pointer
		case w&2 != 0:
			w &^= 0xf << 24
		case w&4 != 0:
			w &^= 0xf << 40
			words = 2
		case w&8 != 0:
			w &^= 0xf << 56
			words = 3
		}
		binary.LittleEndian.PutUint64(b, w)
		b = b[min(8*words, len(b)):]
	}
}

// putKeys packs keys into the place of those of bset i, if they fit there.
func (m *Mutation) putKeys(p *Part, b []byte, i int, keys []ondisk.Key, block int) {
	bset, at := bsetOf(p, i)
	limit := len(b)
	if i+1 < len(p.node.Bsets) {
		limit = p.node.Bsets[i+1].Offset
	}
	var packed []byte
	for j := range keys {
		if len(keys[j].Val)/8 > 200 {
			return // the length of a key is one byte
		}
		packed = ondisk.AppendNodeKey(packed, &p.node.Format, &keys[j])
	}
	end := at + len(packed)
	if end > limit || i+1 < len(p.node.Bsets) && end <= limit-block || len(packed)/8 > 0xffff {
		return // the next bset would not be found
	}
	copy(b[at:], packed)
	clear(b[end:limit])
	binary.LittleEndian.PutUint16(b[bset+bsetU64sAt:], uint16(len(packed)/8))
}

// Keys returns the keys of a [Node] in the order that [Mutation.Index] counts them in.
func (p *Part) Keys() (keys []ondisk.Key) {
	for i := range p.node.Bsets {
		keys = append(keys, keysOf(p, p.Bytes, i)...)
	}
	return keys
}
