package ondisk

import (
	"encoding/binary"
	"fmt"
	"iter"
)

// JsetEntryType says what a record of a journal entry, or of the superblock's clean section, holds (enum bch_jset_entry_type).
type JsetEntryType uint8

// Types of records. Unknown ones are skipped.
const (
	JsetBtreeKeys JsetEntryType = iota
	JsetBtreeRoot
	JsetPrioPtrs
	JsetBlacklist
	JsetBlacklistV2
	JsetUsage
	JsetDataUsage
	JsetClock
	JsetDevUsage
	JsetLog
	JsetOverwrite
	JsetWriteBufferKeys
	JsetDatetime
	JsetLogBkey
	JsetRewindLimit
	JsetRewind
	NumJsetEntryTypes
)

var jsetEntryNames = [NumJsetEntryTypes]string{"btree_keys", "btree_root", "prio_ptrs", "blacklist", "blacklist_v2",
	"usage", "data_usage", "clock", "dev_usage", "log", "overwrite", "write_buffer_keys", "datetime", "log_bkey",
	"rewind_limit", "rewind"}

func (t JsetEntryType) String() string {
	if t < NumJsetEntryTypes {
		return jsetEntryNames[t]
	}
	return fmt.Sprintf("(unknown type %d)", uint8(t))
}

// HasKeys reports whether records of type t hold keys.
func (t JsetEntryType) HasKeys() bool {
	switch t {
	case JsetBtreeKeys, JsetBtreeRoot, JsetOverwrite, JsetWriteBufferKeys, JsetLogBkey:
		return true
	}
	return false
}

const maxJsetEntryBytes = (1<<16 - 1) * 8

// JsetEntry is one record of a journal entry (struct jset_entry). Its zero value is an empty record, as unused space
// in a journal entry reads.
type JsetEntry struct {
	Type    JsetEntryType
	BtreeID BtreeID // or what the type makes of it
	Level   uint8   // or what the type makes of it; of a root: its own level
	Pad     [3]byte
	Data    []byte // whole words
}

// IsEmpty reports whether e is unused space.
func (e *JsetEntry) IsEmpty() bool { return e.Type == JsetBtreeKeys && len(e.Data) == 0 }

// DecodeJsetEntries decodes the records that fill b, of a journal entry or the clean section. Data aliases b. With an
// error, which means a record that reaches past the end, it returns those before it.
func DecodeJsetEntries(b []byte) ([]JsetEntry, error) {
	count := 0
	for at := 0; len(b)-at >= jsetEntryHdrSize; count++ {
		at += jsetEntryHdrSize + int(binary.LittleEndian.Uint16(b[at:]))*8
	}
	es := make([]JsetEntry, 0, count)
	for len(b) > 0 {
		if len(b) < jsetEntryHdrSize {
			return es, fmt.Errorf("jset_entry: %d bytes left, want %d", len(b), jsetEntryHdrSize)
		}
		n := jsetEntryHdrSize + int(binary.LittleEndian.Uint16(b))*8
		if n > len(b) {
			return es, fmt.Errorf("jset_entry: %v of %d bytes, %d left", JsetEntryType(b[4]), n, len(b))
		}
		es = append(es, JsetEntry{
			Type: JsetEntryType(b[4]), BtreeID: BtreeID(b[2]), Level: b[3],
			Pad:  [3]byte(b[5:]),
			Data: b[jsetEntryHdrSize:n:n],
		})
		b = b[n:]
	}
	return es, nil
}

// AppendJsetEntry appends a record. Its data must be whole words, at most 65535 of them.
func AppendJsetEntry(dst []byte, e JsetEntry) []byte {
	if len(e.Data)%8 != 0 || len(e.Data) > maxJsetEntryBytes {
		panic(fmt.Sprintf("jset_entry: data of %d bytes", len(e.Data)))
	}
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(e.Data)/8))
	dst = append(dst, uint8(e.BtreeID), e.Level, uint8(e.Type), e.Pad[0], e.Pad[1], e.Pad[2])
	return append(dst, e.Data...)
}

// Keys yields the keys of the record, whose values alias its data. It ends with an error if the data is not a row of
// unpacked keys; records without keys yield nothing.
func (e *JsetEntry) Keys() iter.Seq2[Key, error] {
	return func(yield func(Key, error) bool) {
		if !e.Type.HasKeys() {
			return
		}
		for b := e.Data; len(b) > 0; {
			k, n, err := DecodeKey(b)
			if err != nil {
				yield(Key{}, fmt.Errorf("%v: byte %d: %w", e.Type, len(e.Data)-len(b), err))
				return
			}
			if !yield(k, nil) {
				return
			}
			b = b[n:]
		}
	}
}

// Root returns the pointer of a record of type btree_root. ok is false if the root is marked as lost.
func (e *JsetEntry) Root() (p BtreePtr, ok bool, err error) {
	if e.Type != JsetBtreeRoot {
		return p, false, fmt.Errorf("jset_entry: %v is no btree_root", e.Type)
	}
	if len(e.Data) == 0 {
		return p, false, nil
	}
	k, n, err := DecodeKey(e.Data)
	if err != nil {
		return p, false, fmt.Errorf("btree_root of %v: %w", e.BtreeID, err)
	}
	if n != len(e.Data) {
		return p, false, fmt.Errorf("btree_root of %v: key of %d bytes in a record of %d", e.BtreeID, n, len(e.Data))
	}
	if p, err = DecodeBtreePtr(k); err != nil {
		return p, false, fmt.Errorf("btree_root of %v: %w", e.BtreeID, err)
	}
	return p, true, nil
}

// Blacklist returns the sequence numbers, both inclusive, of a record of type blacklist or blacklist_v2.
func (e *JsetEntry) Blacklist() (first, last uint64, ok bool) {
	switch {
	case e.Type == JsetBlacklist && len(e.Data) == 8:
		first = e.word(0)
		return first, first, true
	case e.Type == JsetBlacklistV2 && len(e.Data) == 16 && e.word(0) <= e.word(1):
		return e.word(0), e.word(1), true
	}
	return 0, 0, false
}

// Clock returns the I/O clock of a record of type clock: sectors read, or written, since the filesystem was made.
func (e *JsetEntry) Clock() (write bool, sectors uint64, ok bool) {
	if e.Type != JsetClock || len(e.Data) != 16 || e.Data[0] > 1 {
		return false, 0, false
	}
	return e.Data[0] == 1, e.word(1), true
}

// Usage returns kind (0 reserved, 1 inodes, 2 key version) and value of a record of type usage.
func (e *JsetEntry) Usage() (kind uint8, v uint64, ok bool) {
	if e.Type != JsetUsage || len(e.Data) < 8 {
		return 0, 0, false
	}
	return uint8(e.BtreeID), e.word(0), true
}

// Rewind returns the range of a record of type rewind.
func (e *JsetEntry) Rewind() (from, to uint64, ok bool) {
	if e.Type != JsetRewind || len(e.Data) < 16 {
		return 0, 0, false
	}
	return e.word(0), e.word(1), true
}

// RewindLimit returns the oldest sequence number that can be gone back to, of a record of type rewind_limit.
func (e *JsetEntry) RewindLimit() (seq uint64, ok bool) {
	if e.Type != JsetRewindLimit || len(e.Data) < 8 {
		return 0, false
	}
	return e.word(0), true
}

// word returns word i of the data.
func (e *JsetEntry) word(i int) uint64 { return binary.LittleEndian.Uint64(e.Data[8*i:]) }
