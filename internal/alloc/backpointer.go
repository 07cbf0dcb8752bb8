package alloc

import "github.com/go-bcachefs/bcachefs/internal/ondisk"

// backpointerPos returns where the backpointer of a pointer stands.
func backpointerPos(p *ondisk.DecodedPtr) ondisk.Pos {
	return ondisk.BackpointerPos(uint64(p.Dev), p.Offset, p.CRC.Offset, ondisk.DefaultBackpointerShift)
}

// changeBackpointer sets or deletes the backpointer of a pointer of k, blindly (spec/04 § 5.5).
func changeBackpointer(tx Tx, dev *Device, btree ondisk.BtreeID, level uint8, k *ondisk.Key, p *ondisk.DecodedPtr, typ ondisk.DataType,
	sectors uint32, set bool) {
	pos := backpointerPos(p)
	if !set {
		tx.UpdateBuffered(ondisk.BtreeBackpointers, ondisk.Key{Type: ondisk.KeyDeleted, Pos: pos})
		return
	}
	bp := ondisk.Backpointer{Btree: btree, Level: level, DataType: typ, BucketLen: sectors, Pos: k.Pos}
	b, _ := dev.Bucket(p.Offset)
	bp.SetBucketOffset(pos.Offset - uint64(dev.Sector(b))<<ondisk.DefaultBackpointerShift)
	val := txBytes(tx, ondisk.BackpointerSize)
	bp.Put(val)
	tx.UpdateBuffered(ondisk.BtreeBackpointers, ondisk.Key{Type: ondisk.KeyBackpointer, Pos: pos, Val: val})
}

// BackpointersOf returns the range of positions that the backpointers of pointers into a bucket have, both inclusive.
func BackpointersOf(dev *Device, b ondisk.Bucket) (from, to ondisk.Pos) {
	from = ondisk.BackpointerPos(uint64(dev.Index), dev.Sector(b), 0, ondisk.DefaultBackpointerShift)
	to = ondisk.BackpointerPos(uint64(dev.Index), dev.Sector(b+1), 0, ondisk.DefaultBackpointerShift)
	to.Offset--
	return from, to
}
