package ondisk

import (
	"errors"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
)

// maxNodeProblems bounds the list of a node; a hopeless node has as many problems as keys.
const maxNodeProblems = 100

// nodeDecoder is the state of [DecodeNode].
type nodeDecoder struct {
	want  *NodeWant
	node  *Node
	hdr   NodeHeader // as on disk
	limit int        // bytes of buf that may be used
	block int        // in bytes

	work []byte   // the node, decrypted; behind it keys of old bsets, converted
	refs []uint32 // keys in work
	runs []int    // where in refs the keys of each bset start
	raw  unpacker // of hdr.Format: differs from node.plan in very old nodes
	lost int      // problems beyond maxNodeProblems

	unpack bool // no key may stay packed

	needMerge bool // equal positions or deleted keys were met
}

// DecodeNode decodes the btree node whose area starts with buf. buf needs to hold what the pointer says is written; with
// an old pointer that does not say, the whole node. It is decrypted in place: decode a buffer only once. The node keeps
// no reference to it.
//
// The error wraps [ErrChecksum] if a checksum is wrong and [ErrIncompatible] if the node is from another world; as a
// [*NodeError] it says whether parts are intact ([NodeWant.Salvage]).
func DecodeNode(buf []byte, want *NodeWant) (*Node, error) {
	d := nodeDecoder{want: want, block: int(want.BlockSectors) * SectorSize}
	if d.block <= 0 || d.block&(d.block-1) != 0 || want.NodeSize <= 0 || want.NodeSize > MaxNodeSize {
		return nil, fmt.Errorf("btree node: block of %d sectors, node of %d bytes", want.BlockSectors, want.NodeSize)
	}
	d.limit = int(want.Ptr.SectorsWritten) * SectorSize
	if d.limit == 0 {
		d.limit = want.NodeSize
	}
	if d.limit > want.NodeSize || d.limit > len(buf) {
		return nil, nodeErr("btree_node_data_missing", 0, nil, "%d bytes written, have %d of a node of %d", d.limit, len(buf), want.NodeSize)
	}
	d.work = buf[:d.limit:d.limit]
	n := &Node{Btree: want.Btree, Level: want.Level}
	d.node = n
	if err := d.bsets(); err != nil {
		return nil, err
	}
	d.merge()
	d.finish()
	if d.lost > 0 {
		n.Problems = append(n.Problems, NodeProblem{ID: "btree_node_bad_bkey", Msg: fmt.Sprintf("%d more problems", d.lost)})
	}
	return n, nil
}

func (d *nodeDecoder) problem(id string, off int, format string, args ...any) {
	if len(d.node.Problems) >= maxNodeProblems {
		d.lost++
		return
	}
	d.node.Problems = append(d.node.Problems, NodeProblem{ID: id, Offset: off, Msg: fmt.Sprintf(format, args...)})
}

// bsets reads all bsets of the node.
func (d *nodeDecoder) bsets() error {
	a, ok := bsetAt(d.work, 0, d.limit)
	if !ok {
		return nodeErr("btree_node_data_missing", 0, nil, "%d bytes, want at least %d", d.limit, nodeHdrSize)
	}
	if err := d.identity(&a); err != nil {
		return err
	}
	written, gap := 0, false
	for written < d.limit {
		a, ok := bsetAt(d.work, written, d.limit)
		if !ok || a.Seq != d.node.Seq {
			break
		}
		if err := d.bset(&a); err != nil {
			if !d.want.Salvage || !err.Salvageable || written == 0 {
				return err
			}
			d.problem(err.ID, err.Offset, "bset left out: %s", err.Msg)
			gap = true
			if written = d.nextIntact(written + d.block); written == 0 {
				break
			}
			continue
		}
		written = roundUp(a.end, d.block)
	}
	d.node.Written = written
	switch {
	case d.want.Ptr.SectorsWritten == 0:
		return d.afterEnd(written)
	case written < d.limit && !gap:
		err := salvageable("btree_node_data_missing", written, nil, "%d bytes found, the pointer says %d", written, d.limit)
		if !d.want.Salvage {
			return err
		}
		d.problem(err.ID, err.Offset, "%s", err.Msg)
	}
	return nil
}

// afterEnd looks for bsets of the node behind its last one, in nodes whose pointer does not say how long they are.
func (d *nodeDecoder) afterEnd(written int) error {
	for off := written; off < d.limit; off += d.block {
		a, ok := bsetAt(d.work, off, d.limit)
		if !ok || a.Seq != d.node.Seq || d.blacklisted(a.JournalSeq) {
			continue
		}
		err := salvageable("btree_node_bset_after_end", off, nil, "bset of this node after its end at %d", written)
		if !d.want.Salvage {
			return err
		}
		d.problem(err.ID, err.Offset, "%s", err.Msg)
		return nil
	}
	return nil
}

func (d *nodeDecoder) blacklisted(seq uint64) bool {
	return d.want.Blacklisted != nil && d.want.Blacklisted(seq)
}

// nextIntact returns the place of the next bset from off on that is of this node and has the right checksum; 0 if none.
func (d *nodeDecoder) nextIntact(off int) int {
	for ; off < d.limit; off += d.block {
		a, ok := bsetAt(d.work, off, d.limit)
		if !ok || a.Seq != d.node.Seq || a.end > d.limit || a.Csum() == checksum.None {
			continue // without a checksum, remains of older contents would not be told from bsets
		}
		if got, want, err := a.verify(d.work, d.want.Key); err == nil && got == want {
			return off
		}
	}
	return 0
}

// identity checks that this is the node that the pointer means, as far as the plain part of the header tells.
func (d *nodeDecoder) identity(first *bsetArea) error {
	d.hdr, _ = decodeNodeHeader(d.work)
	switch p := &d.want.Ptr; {
	case d.hdr.Magic != d.want.Magic:
		return nodeErr("btree_node_bad_magic", 0, nil, "magic %#x, want %#x", d.hdr.Magic, d.want.Magic)
	case p.V2 && first.Seq != p.Seq:
		return nodeErr("btree_node_bad_seq", 0, nil, "seq %#x, the pointer says %#x", first.Seq, p.Seq)
	case !p.V2 && first.Seq == 0:
		return nodeErr("btree_node_bad_seq", 0, nil, "seq 0")
	}
	d.node.Seq = first.Seq
	return nil
}

// bset verifies, decrypts and reads one bset.
func (d *nodeDecoder) bset(a *bsetArea) *NodeError {
	if err := d.openBset(a); err != nil {
		return err
	}
	switch {
	case a.Version.Major() > VersionMax.Major() || a.Version < VersionMin:
		return nodeErr("btree_node_unsupported_version", a.start, ErrIncompatible, "bset of version %v", a.Version)
	case a.Flags&bsetFlagSeparateWhiteouts != 0:
		return nodeErr("btree_node_unsupported_version", a.start, ErrIncompatible, "bset with separate whiteouts")
	case a.BigEndian():
		return nodeErr("btree_node_unsupported_version", a.start, ErrIncompatible, "bset of a big-endian host")
	}
	if a.start == 0 {
		if err := d.header(a); err != nil {
			return err
		}
	} else if a.U64s == 0 {
		d.problem("bset_empty", a.start, "empty bset")
	}
	info := BsetInfo{Offset: a.start, End: a.end, JournalSeq: a.JournalSeq, Version: a.Version, Csum: a.Csum()}
	if info.Blacklisted = d.blacklisted(a.JournalSeq); info.Blacklisted {
		switch {
		case a.start == 0:
			d.problem("bset_blacklisted_journal_seq", 0, "first bset has blacklisted journal seq %d", a.JournalSeq)
		case d.want.Ptr.SectorsWritten != 0:
			d.problem("first_bset_blacklisted_journal_seq", a.start, "bset has blacklisted journal seq %d, ignored", a.JournalSeq)
		}
	}
	if a.start == 0 || !info.Blacklisted {
		d.runs = append(d.runs, len(d.refs))
		d.node.JournalSeq = max(d.node.JournalSeq, a.JournalSeq)
		if d.converts(a.Version) {
			d.convertKeys(a, &info)
		} else {
			d.scan(a.keys, a.end, a.start, &info)
		}
	}
	d.node.Bsets = append(d.node.Bsets, info)
	return nil
}

// openBset verifies the checksum of a bset and decrypts it.
func (d *nodeDecoder) openBset(a *bsetArea) *NodeError {
	switch {
	case a.end > d.limit:
		return salvageable("bset_past_end_of_btree_node", a.start, ErrChecksum, "bset of %d words ends at %d, behind %d", a.U64s, a.end, d.limit)
	case a.Offset() != 0 && int(a.Offset())*SectorSize != a.start:
		return salvageable("bset_wrong_sector_offset", a.start, nil, "bset is for sector %d", a.Offset())
	}
	got, want, err := a.verify(d.work, d.want.Key)
	switch {
	case errors.Is(err, checksum.ErrNoKey):
		return nodeErr("bset_unknown_csum", a.start, err, "checksum type %v", a.Csum())
	case err != nil:
		return salvageable("bset_unknown_csum", a.start, err, "checksum type %v", a.Csum())
	case got != want:
		return salvageable("bset_bad_csum", a.start, ErrChecksum, "%v of bset: have %v, want %v", a.Csum(), got, want)
	}
	a.crypt(d.work, d.want.Key)
	return nil
}

// header checks the node's header, which comes with its first bset.
func (d *nodeDecoder) header(a *bsetArea) *NodeError {
	var nrFields uint8
	d.hdr, nrFields = decodeNodeHeader(d.work)
	h, n, p := &d.hdr, d.node, &d.want.Ptr
	minPos, maxPos := h.Min, h.Max
	format := h.Format
	ptrMin := p.Min
	d.convertHeader(a.Version, &minPos, &maxPos, &ptrMin, &format)
	if p.V2 && p.RangeUpdated() {
		minPos, maxPos = ptrMin, p.Max
	}
	switch {
	case h.Btree() != uint32(d.want.Btree):
		return nodeErr("btree_node_bad_btree", 0, nil, "of btree %d, want %d", h.Btree(), d.want.Btree)
	case h.Level() != d.want.Level:
		return nodeErr("btree_node_bad_level", 0, nil, "of level %d, want %d", h.Level(), d.want.Level)
	case p.V2 && minPos != ptrMin:
		return nodeErr("btree_node_bad_min_key", 0, nil, "min_key %v, the pointer says %v", minPos, ptrMin)
	case maxPos != p.Max:
		return nodeErr("btree_node_bad_max_key", 0, nil, "max_key %v, the pointer says %v", maxPos, p.Max)
	case maxPos.Less(minPos): // only with pointers that do not say where their node starts
		return nodeErr("btree_node_bad_min_key", 0, nil, "min_key %v after max_key %v", minPos, maxPos)
	case nrFields != numFields:
		return nodeErr("btree_node_bad_format", 0, nil, "format of %d fields", nrFields)
	case d.want.Level == 0 && d.want.Btree.Has(BtreeIsExtents) && h.Flags&nodeFlagNewExtentOverwrite == 0:
		return nodeErr("btree_node_unsupported_version", 0, ErrIncompatible, "extents without NEW_EXTENT_OVERWRITE")
	}
	strict := d.want.VersionMin >= versionSnapshotField || d.want.VersionMin == 0
	if err := format.validate(strict); err != nil {
		return nodeErr("btree_node_bad_format", 0, err, "bad format")
	}
	// Positions packed with a format that overflows are not ordered as integers: such keys are unpacked at once.
	d.unpack = !strict && format.Validate() != nil
	n.Gen, n.Min, n.Max, n.Format = h.Gen(), minPos, maxPos, format
	n.plan.init(&n.Format)
	d.raw.init(&h.Format)
	return nil
}

// scan checks the keys in work[at:end] and notes where they are. bsetAt is for messages.
func (d *nodeDecoder) scan(at, end, bsetAt int, info *BsetInfo) {
	n, want := d.node, d.want
	ranged := want.Ptr.RangeUpdated()
	kb := n.plan.keyBytes
	var prev Pos
	var prevType KeyType
	first := true
	if d.refs == nil && at < end && d.work[at] != 0 {
		d.refs = make([]uint32, 0, min((d.limit-at)/(int(d.work[at])*8)+8, d.limit/8))
	}
	for at < end {
		b := d.work[at:end]
		size := int(b[0]) * 8
		format := b[1] & headerMask
		hdr := KeySize
		if format == formatLocal {
			hdr = kb
		}
		switch {
		case size == 0 || size > len(b):
			d.problem("btree_node_bkey_past_bset_end", at, "key of %d bytes, %d left in the bset", size, len(b))
			return
		case format > formatPlain:
			d.problem("btree_node_bkey_bad_format", at, "key format %d", format)
			at = d.resync(at+8, end, prev, first)
			continue
		case size < hdr || size-hdr > MaxValSize:
			d.problem("btree_node_bkey_bad_u64s", at, "u64s %d, key alone %d", b[0], hdr/8)
			at = d.resync(at+8, end, prev, first)
			continue
		}
		var pos Pos
		var length uint32
		if format == formatLocal {
			pos, length = n.plan.pos(b), uint32(n.plan.field(b, fieldSize))
			info.Packed++
		} else {
			k := decodePlain(b[:KeySize])
			pos, length = k.Pos, k.Size
			info.Unpacked++
		}
		t := KeyType(b[2])
		if t == KeyDeleted {
			length = 0 // whiteouts are packed without size: what the format adds means nothing
		}
		ref := uint32(at)
		next := at + size
		id := d.judge(t, length, pos, prev, prevType, first)
		if id == "btree_node_bkey_out_of_order" && d.outlier(next, end, pos, prev) {
			// Not this key is misplaced but the one before it: to drop what follows would lose far more.
			d.problem(id, int(d.refs[len(d.refs)-1]), "%v at %v before %v, in bset %d", prevType, prev, pos, bsetAt)
			d.refs = d.refs[:len(d.refs)-1]
			id = ""
		}
		if id != "" {
			if !ranged || (id != "bkey_before_start_of_btree_node" && id != "bkey_after_end_of_btree_node") {
				d.problem(id, at, "%v at %v, size %d, in bset %d", t, pos, length, bsetAt)
			}
			at = next
			continue
		}
		if t == KeyDeleted || (!first && pos == prev) {
			d.needMerge = true
		}
		d.refs = append(d.refs, ref)
		prev, prevType, first = pos, t, false
		at = next
	}
}

// outlier reports whether the last key taken, at prev, rather than the one at pos, is out of order: both the key before
// prev and the one at work[next] fit to pos.
func (d *nodeDecoder) outlier(next, end int, pos, prev Pos) bool {
	plan := &d.node.plan
	run := d.refs[d.runs[len(d.runs)-1]:]
	if len(run) > 1 && !plan.posOf(d.work[run[len(run)-2]:]).Less(pos) {
		return false
	}
	b := d.work[next:end]
	if len(b) < max(KeySize, plan.keyBytes) || b[1]&headerMask > formatPlain {
		return false
	}
	following := plan.posOf(b)
	return pos.Less(following) && following.Less(prev)
}

// judge returns the name of the check that a key fails, or "".
func (d *nodeDecoder) judge(t KeyType, size uint32, pos, prev Pos, prevType KeyType, first bool) string {
	n := d.node
	if id := genericKeyCheck(n.Btree, n.Level, t, size, pos); id != "" {
		return id
	}
	if pos.Less(n.Min) {
		return "bkey_before_start_of_btree_node"
	}
	if n.Max.Less(pos) {
		return "bkey_after_end_of_btree_node"
	}
	if !first && !prev.Less(pos) && (prev != pos || prevType != KeyDeleted || t == KeyDeleted) {
		return "btree_node_bkey_out_of_order"
	}
	return ""
}

// resync returns where a plausible key follows after one whose length cannot be trusted.
func (d *nodeDecoder) resync(at, end int, prev Pos, first bool) int {
	n := d.node
	for ; at < end; at += 8 {
		b := d.work[at:end]
		size, hdr := int(b[0])*8, KeySize
		format := b[1] & headerMask
		if format == formatLocal {
			hdr = n.plan.keyBytes
		}
		if format > formatPlain || size < hdr || size > len(b) || size-hdr > MaxValSize {
			continue
		}
		pos := n.plan.posOf(b)
		if (first || prev.Less(pos)) && !pos.Less(n.Min) && !n.Max.Less(pos) {
			return at
		}
	}
	return end
}
