package ondisk

// strictType reports whether keys of type t that are met in a btree that does not list it are invalid (BKEY_TYPE_strict_btree_checks).
func strictType(t KeyType) bool {
	switch t {
	case KeyDeleted, KeyWhiteout, KeyError, KeyCookie, KeySet, KeyExtentWhiteout:
		return false
	}
	return t < NumKeyTypes
}

// genericKeyCheck makes the checks that hold for keys of all types, their values aside. It returns the name of the check
// that failed (enum bch_sb_error_id), or "".
func genericKeyCheck(id BtreeID, level uint8, t KeyType, size uint32, p Pos) string {
	if level > 0 {
		switch {
		case !id.Allows(level, t):
			return "bkey_invalid_type_for_btree"
		case size != 0:
			return "bkey_size_nonzero"
		}
		return ""
	}
	if id >= NumBtrees {
		return ""
	}
	if strictType(t) && !id.Allows(0, t) {
		return "bkey_invalid_type_for_btree"
	}
	if id.Has(BtreeIsExtents) && !t.IsWhiteout() {
		if size == 0 {
			return "bkey_extent_size_zero"
		}
		if uint64(size) > p.Offset {
			return "bkey_extent_size_greater_than_offset"
		}
	} else if size != 0 {
		return "bkey_size_nonzero"
	}
	switch {
	case id.Has(BtreeHasSnapshots):
		if p.Snapshot == 0 {
			return "bkey_snapshot_zero"
		}
	case p.Snapshot != 0 && !id.Has(BtreeHasSnapshotField):
		return "bkey_snapshot_nonzero"
	}
	if p.SameSlot(PosMax) {
		return "bkey_at_pos_max"
	}
	return ""
}

// CheckKey makes the checks that hold for keys of all types, their values aside. The error is an [*InvalidKeyError].
func (id BtreeID) CheckKey(level uint8, k *Key) error {
	if c := genericKeyCheck(id, level, k.Type, k.Size, k.Pos); c != "" {
		return keyErr(k, c, "size %d, btree %v level %d", k.Size, id, level)
	}
	return nil
}
