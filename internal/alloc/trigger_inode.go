package alloc

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

func isInode(k *ondisk.Key) bool { return kindOf(k.Type) == triggerInode }

// inodeFlags returns the flags of an inode of any encoding, and where in the value they are; nil for other keys.
func inodeFlags(k *ondisk.Key) (flags ondisk.InodeFlags, word []byte) {
	at := 16
	switch k.Type {
	case ondisk.KeyInode:
		at = 8
	case ondisk.KeyInodeV2, ondisk.KeyInodeV3:
	default:
		return 0, nil
	}
	if len(k.Val) < at+4 {
		return 0, nil
	}
	word = k.Val[at : at+4]
	return ondisk.InodeFlags(binary.LittleEndian.Uint32(word)) & (1<<20 - 1), word
}

// isUnlinkedInode reports whether a key is an inode that is to be deleted once nobody has it open. Those of which there are versions in
// snapshots below stay, for they are still wanted there.
func isUnlinkedInode(k *ondisk.Key) bool {
	f, _ := inodeFlags(k)
	return f&ondisk.InodeUnlinked != 0 && f&ondisk.InodeHasChildSnapshot == 0
}

// setInodeJournalSeq notes the journal entry that an inode was changed in: fsync flushes up to there.
func setInodeJournalSeq(k *ondisk.Key, seq uint64) {
	if len(k.Val) >= 8 {
		binary.LittleEndian.PutUint64(k.Val, seq)
	}
}

// inode is the trigger of inodes (spec/04 § 6.5).
func (t *Triggers) inode(tx Tx, s *scratch, old, k *ondisk.Key) error {
	delta := 0
	if isInode(k) {
		delta++
		val := txBytes(tx, len(k.Val)) // the atomic part writes to it
		copy(val, k.Val)
		k.Val = val
	}
	if isInode(old) {
		delta--
	}
	s.account(tx, ondisk.AccountingPos{Type: ondisk.AccountingNrInodes}, int64(delta))
	if delta != 0 && t.cfg.Snapshots != nil {
		if err := t.parentHasChildren(tx, k.Pos, delta > 0); err != nil {
			return err
		}
		if delta > 0 { // copied from a version above it may have a flag that is not its own
			has, err := t.hasChildInodes(tx, k.Pos)
			if err != nil {
				return err
			}
			if !has {
				setHasChildren(k, false)
			}
		}
	}
	if was, now := isUnlinkedInode(old), isUnlinkedInode(k); was != now {
		typ := ondisk.KeyDeleted
		if now {
			typ = ondisk.KeySet
		}
		tx.UpdateBuffered(ondisk.BtreeDeletedInodes, ondisk.Key{Type: typ, Pos: k.Pos})
	}
	return nil
}

// setHasChildren changes the flag that there are versions of an inode in snapshots below, in place. It reports whether that was needed.
func setHasChildren(k *ondisk.Key, has bool) bool {
	f, word := inodeFlags(k)
	if word == nil || has == (f&ondisk.InodeHasChildSnapshot != 0) {
		return false
	}
	binary.LittleEndian.PutUint32(word, binary.LittleEndian.Uint32(word)^uint32(ondisk.InodeHasChildSnapshot))
	return true
}

// parentHasChildren changes the flag of the version of an inode that stands in the nearest snapshot above pos, where the inode has come
// into being or is gone.
func (t *Triggers) parentHasChildren(tx Tx, pos ondisk.Pos, has bool) error {
	for id := t.cfg.Snapshots.Parent(pos.Snapshot); id != 0; id = t.cfg.Snapshots.Parent(id) {
		k, ok, err := tx.Get(ondisk.BtreeInodes, pos.WithSnapshot(id), ForUpdate)
		if err != nil {
			return err
		}
		if !ok || !isInode(&k) {
			continue
		}
		if !has {
			if has, err = t.hasChildInodes(tx, k.Pos); err != nil {
				return err
			}
		}
		k.Val = slices.Clone(k.Val)
		if !setHasChildren(&k, has) {
			return nil
		}
		return tx.Update(ondisk.BtreeInodes, k, 0)
	}
	return nil
}

// hasChildInodes reports whether there are versions of an inode in snapshots below pos.
func (t *Triggers) hasChildInodes(tx Tx, pos ondisk.Pos) (bool, error) {
	if !t.cfg.Snapshots.HasChildren(pos.Snapshot) || pos.Snapshot == 0 {
		return false, nil
	}
	var below []ondisk.Pos
	err := tx.Scan(ondisk.BtreeInodes, pos.WithSnapshot(0), pos.Prev(), 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
		if isInode(&k) && t.cfg.Snapshots.IsAncestor(pos.Snapshot, k.Pos.Snapshot) {
			below = append(below, k.Pos)
		}
		return len(below) < math.MaxInt16, nil
	})
	if err != nil {
		return false, err
	}
	for _, p := range below { // this transaction may have deleted some
		k, ok, err := tx.Get(ondisk.BtreeInodes, p, 0)
		if err != nil {
			return false, err
		}
		if ok && isInode(&k) {
			return true, nil
		}
	}
	return false, nil
}
