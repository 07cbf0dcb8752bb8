package ondisk

import (
	"fmt"
)

// InvalidKeyError says what is wrong with a key: which check of the format failed, where.
type InvalidKeyError struct {
	ID   string // name of the check (enum bch_sb_error_id), for instance inode_unpack_error
	Type KeyType
	Pos  Pos
	Msg  string // what was found and what was wanted
}

func (e *InvalidKeyError) Error() string {
	return fmt.Sprintf("%s at %s: %s (%s)", e.Type, e.Pos, e.Msg, e.ID)
}

// keyErr makes a [InvalidKeyError] for k. It copies what it needs, so that k does not escape where decoders are inlined.
func keyErr(k *Key, id, format string, args ...any) error {
	return &InvalidKeyError{ID: id, Type: k.Type, Pos: k.Pos, Msg: fmt.Sprintf(format, args...)}
}

// errShort is the error for a value that is shorter than its type needs.
func errShort(k *Key, want int) error {
	return keyErr(k, "bkey_val_size_too_small", "value of %d bytes, want at least %d", len(k.Val), want)
}

// errType is the error of a decoder that was handed a key of another type.
func errType(k *Key, want string) error {
	return keyErr(k, "bkey_invalid_type_for_btree", "key is not a %s", want)
}

// minValSizes are the smallest values of each type in bytes: shorter ones cannot be decoded at all.
var minValSizes = [NumKeyTypes]uint16{
	KeyCookie:               8,
	KeyBtreePtrV2:           40,
	KeyReservation:          8,
	KeyInode:                16,
	KeyInodeGeneration:      8,
	KeyDirent:               16,
	KeyXattr:                8,
	KeyAlloc:                8,
	KeyQuota:                32,
	KeyStripe:               8,
	KeyReflinkP:             16,
	KeyReflinkV:             8,
	KeyIndirectInlineData:   8,
	KeyAllocV2:              8,
	KeySubvolume:            16,
	KeySnapshot:             24,
	KeyInodeV2:              32,
	KeyAllocV3:              16,
	KeyLRU:                  8,
	KeyAllocV4:              48,
	KeyBackpointer:          32,
	KeyInodeV3:              48,
	KeySnapshotTree:         8,
	KeyLoggedOpTruncate:     24,
	KeyLoggedOpFinsert:      24,
	KeyAccounting:           8,
	KeyInodeAllocCursor:     16,
	KeyLoggedOpStripeUpdate: 40,
	KeyDamage:               16,
}

// MinValSize returns the smallest value in bytes that a key of type t may have; 0 for unknown types.
func (t KeyType) MinValSize() int {
	if t < NumKeyTypes {
		return int(minValSizes[t])
	}
	return 0
}

// padVal pads an encoded value with zeros to whole words.
func padVal(b []byte, start int) []byte {
	for (len(b)-start)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

// trailingZeros counts the zero bytes at the end of the last word of b, as names are delimited (at most 8).
func trailingZeros(b []byte) int {
	n := 0
	for n < 8 && n < len(b) && b[len(b)-1-n] == 0 {
		n++
	}
	return n
}
