package ondisk

import (
	"encoding/binary"
	"fmt"
)

// DecodeCookie decodes a key of type cookie: a counter.
func DecodeCookie(k Key) (uint64, error) {
	switch {
	case k.Type != KeyCookie:
		return 0, errType(&k, "cookie")
	case len(k.Val) < 8:
		return 0, errShort(&k, 8)
	}
	return binary.LittleEndian.Uint64(k.Val), nil
}

// EncodeCookie returns the value of a key of type cookie.
func EncodeCookie(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// Positions of cookies that ask for a scan: of the btree rebalance_work up to 1.32, of reconcile_scan since.
const (
	RebalanceCookieOffset = 1<<64 - 2 // offset; the inode is that to scan, 0 for all
	ReconcileScanFS       = 0         // offsets in inode 0; inodes stand for themselves
	ReconcileScanMetadata = 1
	ReconcileScanPending  = 2
	ReconcileScanStripes  = 3
	ReconcileScanDevice   = 32 // plus the index of the device
)

// KeyErrorReason says why data was given up and its key made one of type error (enum bch_key_type_errors), since 1.34.
type KeyErrorReason uint8

var keyErrorReasons = [...]string{"unknown", "device_removed", "double_allocation", "no_valid_pointers_repair",
	"decompress_exceeded_max_encoded_extent", "decompress_lz4_old", "decompress_lz4", "decompress_gzip",
	"decompress_gzip_size_mismatch", "decompress_zstd_src_len_bad", "decompress_zstd_size_mismatch",
	"decompress_zstd_corruption_detected", "decompress_zstd_checksum_wrong", "decompress_zstd_prefix_unknown",
	"decompress_zstd_src_size_wrong", "decompress_zstd_dst_size_too_small", "decompress_zstd_memory_allocation",
	"decompress_zstd_unknown", "decompress_unknown"}

func (r KeyErrorReason) String() string {
	if int(r) < len(keyErrorReasons) {
		return keyErrorReasons[r]
	}
	return fmt.Sprintf("(unknown reason %d)", uint8(r))
}

// DecodeError decodes a key of type error; without a value the reason is unknown.
func DecodeError(k Key) (KeyErrorReason, error) {
	switch {
	case k.Type != KeyError:
		return 0, errType(&k, "error")
	case len(k.Val) == 0:
		return 0, nil
	}
	return KeyErrorReason(k.Val[0]), nil
}

// Reservation is allocated but unwritten space (struct bch_reservation): it reads as zeros.
type Reservation struct {
	Generation uint32
	NrReplicas uint8
	Pad        [3]byte
}

// DecodeReservation decodes a key of type reservation.
func DecodeReservation(k Key) (Reservation, error) {
	v := k.Val
	switch {
	case k.Type != KeyReservation:
		return Reservation{}, errType(&k, "reservation")
	case len(v) < KeyReservation.MinValSize():
		return Reservation{}, errShort(&k, KeyReservation.MinValSize())
	}
	return Reservation{binary.LittleEndian.Uint32(v), v[4], [3]byte(v[5:8])}, nil
}

// Encode returns the value of the key.
func (r *Reservation) Encode() []byte {
	v := binary.LittleEndian.AppendUint32(make([]byte, 0, 8), r.Generation)
	return append(v, r.NrReplicas, r.Pad[0], r.Pad[1], r.Pad[2])
}

// DamageEntry counts the occurrences of one error in what an inode holds.
type DamageEntry struct {
	ID          uint16 // of the error (enum bch_sb_error_id)
	Nr          uint32
	First, Last uint64 // seconds since 1970; 40 bits
}

const damageEntrySize = 16

// Damage is what is known to be wrong with an inode (struct bch_damage, since 1.39); the key is at (0, inum, snapshot).
type Damage struct {
	Entries []DamageEntry // by ascending id
}

// DecodeDamage decodes a key of type damage.
func DecodeDamage(k Key) (Damage, error) {
	switch {
	case k.Type != KeyDamage:
		return Damage{}, errType(&k, "damage")
	case len(k.Val) < KeyDamage.MinValSize():
		return Damage{}, errShort(&k, KeyDamage.MinValSize())
	case len(k.Val)%damageEntrySize != 0:
		return Damage{}, keyErr(&k, "damage_entries_bad", "value of %d bytes, want a multiple of %d", len(k.Val), damageEntrySize)
	}
	d := Damage{Entries: make([]DamageEntry, len(k.Val)/damageEntrySize)}
	for i := range d.Entries {
		w0, w1 := binary.LittleEndian.Uint64(k.Val[damageEntrySize*i:]), binary.LittleEndian.Uint64(k.Val[damageEntrySize*i+8:])
		d.Entries[i] = DamageEntry{ID: uint16(w0), Nr: uint32(w0 >> 16), Last: w0>>48 | w1&(1<<24-1)<<16, First: w1 >> 24}
	}
	return d, nil
}

// Encode returns the value of the key.
func (d *Damage) Encode() []byte {
	v := make([]byte, 0, damageEntrySize*len(d.Entries))
	for _, e := range d.Entries {
		v = binary.LittleEndian.AppendUint64(v, uint64(e.ID)|uint64(e.Nr)<<16|e.Last<<48)
		v = binary.LittleEndian.AppendUint64(v, e.Last>>16&(1<<24-1)|e.First<<24)
	}
	return v
}

// Validate reports what is wrong with entries that were decoded from k.
func (d *Damage) Validate(k *Key) error {
	prev := uint16(0)
	for i, e := range d.Entries {
		switch {
		case e.ID <= prev:
			return keyErr(k, "damage_entries_bad", "entry %d: id %d after %d", i, e.ID, prev)
		case e.First > e.Last:
			return keyErr(k, "damage_entries_bad", "entry %d: first seen after last", i)
		}
		prev = e.ID
	}
	return nil
}

// LRUIdx decodes a key of the obsolete type lru.
func LRUIdx(k Key) (uint64, error) {
	switch {
	case k.Type != KeyLRU:
		return 0, errType(&k, "lru")
	case len(k.Val) < 8:
		return 0, errShort(&k, 8)
	}
	return binary.LittleEndian.Uint64(k.Val), nil
}
