package ondisk

import (
	"errors"
	"slices"
)

// posOf returns the position of the key at b, packed or not.
func (p *unpacker) posOf(b []byte) Pos {
	if b[1]&headerMask == formatLocal {
		return p.pos(b)
	}
	return DecodePos(b[20:])
}

// compare orders two keys by position, each packed or not.
func (p *unpacker) compare(a, b []byte) int {
	if a[1]&headerMask == formatLocal && b[1]&headerMask == formatLocal {
		return p.comparePacked(a, b)
	}
	return p.posOf(a).Compare(p.posOf(b))
}

// merge makes one sorted list of the bsets' keys. Of several keys at a position the one written last wins; if it is
// deleted, none is left.
func (d *nodeDecoder) merge() {
	if len(d.runs) > 1 {
		d.mergeRuns()
		d.needMerge = true
	}
	if !d.needMerge {
		return
	}
	out := d.refs[:0]
	for i, r := range d.refs {
		b := d.work[r:]
		if i+1 < len(d.refs) && d.node.plan.compare(b, d.work[d.refs[i+1]:]) == 0 {
			continue
		}
		if KeyType(b[2]) != KeyDeleted {
			out = append(out, r)
		}
	}
	d.refs = out
}

// mergeRuns merges neighbouring runs until one is left. Equal keys keep their order, older first.
func (d *nodeDecoder) mergeRuns() {
	src, dst := d.refs, make([]uint32, len(d.refs))
	runs := append(slices.Clone(d.runs), len(src))
	for len(runs) > 2 {
		next := runs[:0:0]
		for i := 0; i < len(runs)-1; i += 2 {
			lo, mid := runs[i], runs[i+1]
			hi := mid
			if i+2 < len(runs) {
				hi = runs[i+2]
			}
			d.mergeTwo(dst[lo:hi], src[lo:mid], src[mid:hi])
			next = append(next, lo)
		}
		runs = append(next, len(src))
		src, dst = dst, src
	}
	d.refs = src
}

func (d *nodeDecoder) mergeTwo(dst, a, b []uint32) {
	// Appended bsets are mostly small: the stretches between their keys are copied whole.
	for len(a) > 0 && len(b) > 0 {
		kb := d.work[b[0]:]
		i := 0
		if d.node.plan.compare(d.work[a[0]:], kb) <= 0 {
			i = d.upTo(a, kb)
		}
		n := copy(dst, a[:i])
		dst, a = dst[n:], a[n:]
		dst[0] = b[0]
		dst, b = dst[1:], b[1:]
	}
	n := copy(dst, a)
	copy(dst[n:], b)
}

// upTo returns how many keys at the start of a are not after the key at k, by doubling steps.
func (d *nodeDecoder) upTo(a []uint32, k []byte) int {
	plan := &d.node.plan
	lo, step := 0, 1 // a[lo] is not after k
	for lo+step < len(a) && plan.compare(d.work[a[lo+step]:], k) <= 0 {
		lo += step
		step *= 2
	}
	hi := min(lo+step, len(a)) // a[hi] is after k, or the end
	for lo+1 < hi {
		m := int(uint(lo+hi) >> 1)
		if plan.compare(d.work[a[m]:], k) <= 0 {
			lo = m
		} else {
			hi = m
		}
	}
	return lo + 1
}

// finish copies the keys that are left to memory of just their size.
func (d *nodeDecoder) finish() {
	n := d.node
	if d.want.CheckKey != nil {
		d.checkValues()
	}
	n.n = len(d.refs)
	n.packed = true
	total, uniform := 0, true
	for i, r := range d.refs {
		size := int(d.work[r]) * 8
		if i == 0 {
			n.stride = size
		}
		uniform = uniform && size == n.stride
		total += size
		n.packed = n.packed && d.work[r+1]&headerMask == formatLocal
	}
	n.data = make([]byte, 0, total)
	if !uniform {
		// Written behind the place that is read: the list of keys becomes the list of offsets, unless it is too roomy.
		if n.offs = d.refs; cap(d.refs) > len(d.refs)+len(d.refs)/8+16 {
			n.offs = make([]uint32, len(d.refs))
		}
		n.stride = 0
	}
	for i := 0; i < len(d.refs); {
		// Keys that lie next to each other are copied at once.
		start := d.refs[i]
		end, at := start, uint32(len(n.data))-start
		for ; i < len(d.refs) && d.refs[i] == end; i++ {
			if n.offs != nil {
				n.offs[i] = end + at
			}
			end += uint32(d.work[end]) * 8
		}
		n.data = append(n.data, d.work[start:end]...)
	}
	if n.Level > 0 {
		for i := range n.n {
			// mem_ptr is memory of the host that wrote the node.
			if k := n.Key(i); k.Type == KeyBtreePtrV2 && len(k.Val) >= 8 {
				clear(k.Val[:8])
			}
		}
	}
}

// checkValues leaves out keys that want.CheckKey refuses.
func (d *nodeDecoder) checkValues() {
	out := d.refs[:0]
	for _, r := range d.refs {
		b := d.work[r:]
		end := int(b[0]) * 8
		var k Key
		if b[1]&headerMask == formatLocal {
			k = d.node.plan.key(b[:end:end])
		} else {
			k = decodePlain(b[:end])
		}
		err := d.want.CheckKey(&k)
		if err == nil {
			out = append(out, r)
			continue
		}
		id := "btree_node_bad_bkey"
		if e, ok := errors.AsType[*InvalidKeyError](err); ok {
			id = e.ID
		}
		d.problem(id, int(r), "%v", err)
	}
	d.refs = out
}
