package ondisk

import (
	"math"
)

// Versions below which bsets need conversion; only filesystems from before 1.0 hold such.
const (
	versionBkeyRenumber  MetadataVersion = 10
	versionInodeChange   MetadataVersion = 11
	versionSnapshotField MetadataVersion = 12
)

// converts reports whether keys of a bset of version v of this node have to be converted, or unpacked.
func (d *nodeDecoder) converts(v MetadataVersion) bool {
	if d.unpack {
		return true
	}
	if v >= versionSnapshotField {
		return false
	}
	return v < versionBkeyRenumber || v < versionInodeChange && d.want.Btree == BtreeInodes || d.setsSnapshot()
}

// setsSnapshot reports whether keys from before 0.12 get snapshot U32_MAX.
func (d *nodeDecoder) setsSnapshot() bool {
	return d.want.Level > 0 || d.want.Btree.Has(BtreeHasSnapshots)
}

// convertHeader brings the header of a node of version v, and the start of the range in its pointer, up to date.
func (d *nodeDecoder) convertHeader(v MetadataVersion, minPos, maxPos, ptrMin *Pos, f *Format) {
	if v < versionInodeChange {
		switch {
		case d.want.Btree == BtreeInodes:
			minPos.Inode, minPos.Offset = minPos.Offset, minPos.Inode
			maxPos.Inode, maxPos.Offset = maxPos.Offset, maxPos.Inode
			f.Bits[fieldInode], f.Bits[fieldOffset] = f.Bits[fieldOffset], f.Bits[fieldInode]
			f.Offset[fieldInode], f.Offset[fieldOffset] = f.Offset[fieldOffset], f.Offset[fieldInode]
		case d.want.Btree.Has(BtreeIsExtents):
			for _, p := range [2]*Pos{minPos, ptrMin} {
				if *p != PosMin {
					*p = p.NextSlot()
				}
			}
		}
	}
	if v < versionSnapshotField {
		maxPos.Snapshot = math.MaxUint32
		if d.setsSnapshot() {
			f.Offset[fieldSnapshot] = math.MaxUint32 - lowMask(min(f.Bits[fieldSnapshot], 32))
		}
	}
}

// convertKeys appends the keys of an old bset, converted and unpacked, to work, and scans them there.
func (d *nodeDecoder) convertKeys(a *bsetArea, info *BsetInfo) {
	keys := d.work[a.keys:a.end]
	var out []byte
	for at := 0; at < len(keys); {
		b := keys[at:]
		size := int(b[0]) * 8
		hdr := KeySize
		if b[1]&headerMask == formatLocal {
			hdr = d.raw.keyBytes
		}
		if size < hdr || size > len(b) || size-hdr > MaxValSize || b[1]&headerMask > formatPlain {
			d.problem("btree_node_bkey_past_bset_end", a.keys+at, "key of %d bytes, %d left in the bset", size, len(b))
			break
		}
		var k Key
		if b[1]&headerMask == formatLocal {
			k = d.raw.key(b[:size:size])
		} else {
			k = decodePlain(b[:size])
		}
		d.convertKey(a.Version, &k)
		out = AppendKey(out, k)
		at += size
	}
	at := len(d.work)
	d.work = append(d.work, out...)
	d.scan(at, len(d.work), a.start, info)
}

// convertKey brings a key of a bset of version v up to date.
func (d *nodeDecoder) convertKey(v MetadataVersion, k *Key) {
	if v < versionBkeyRenumber {
		k.Type = renumberType(d.want.Btree, d.want.Level, k.Type)
	}
	if v < versionInodeChange && d.want.Btree == BtreeInodes {
		k.Pos.Inode, k.Pos.Offset = k.Pos.Offset, k.Pos.Inode
	}
	if v < versionSnapshotField && d.setsSnapshot() {
		k.Pos.Snapshot = math.MaxUint32
	}
}

// renumberType translates key types from before 0.10, when each btree counted its own.
func renumberType(id BtreeID, level uint8, t KeyType) KeyType {
	type old struct {
		id BtreeID
		t  KeyType
	}
	if level > 0 {
		if t == 128 {
			return KeyBtreePtr
		}
		return t
	}
	switch (old{id, t}) {
	case old{BtreeExtents, 128}, old{BtreeExtents, 129}:
		return KeyExtent
	case old{BtreeExtents, 130}:
		return KeyReservation
	case old{BtreeInodes, 128}:
		return KeyInode
	case old{BtreeInodes, 130}:
		return KeyInodeGeneration
	case old{BtreeDirents, 128}:
		return KeyDirent
	case old{BtreeXattrs, 128}:
		return KeyXattr
	case old{BtreeDirents, 129}, old{BtreeXattrs, 129}:
		return KeyHashWhiteout
	case old{BtreeAlloc, 128}:
		return KeyAlloc
	case old{BtreeQuotas, 128}:
		return KeyQuota
	}
	return t
}
