package ondisk

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Validate checks all records and repairs the entry in memory as a reader does: records that make no sense become empty,
// bad keys are left out, a root that is none counts as lost. Data of repaired records is replaced, never changed in
// place. What was found is appended to j.Problems.
//
// checkKey judges keys beyond the checks that hold for all types; it may be nil.
func (j *Jset) Validate(checkKey func(id BtreeID, level uint8, k *Key) error) {
	if !j.NoFlush() && j.LastSeq > j.Seq {
		j.problem("jset_last_seq_newer_than_seq", -1, "last_seq %d of entry %d", j.LastSeq, j.Seq)
		j.LastSeq = j.Seq
	}
	for i := range j.Entries {
		j.validateRecord(i, checkKey)
	}
}

func (j *Jset) problem(id string, record int, format string, args ...any) {
	if len(j.Problems) < maxNodeProblems {
		j.Problems = append(j.Problems, JsetProblem{id, record, fmt.Sprintf(format, args...)})
	}
}

func (j *Jset) validateRecord(i int, checkKey func(id BtreeID, level uint8, k *Key) error) {
	e := &j.Entries[i]
	switch e.Type {
	case JsetBtreeRoot:
		if len(e.Data) == 0 || int(e.Data[0])*8 != len(e.Data) {
			j.problem("journal_entry_btree_root_bad_size", i, "root of %v of %d bytes", e.BtreeID, len(e.Data))
			e.Data = nil
			return
		}
		j.validateKeys(i, 1, checkKey)
	case JsetOverwrite:
		j.validateKeys(i, e.Level, nil) // of no consequence: values are not looked at
	case JsetBtreeKeys, JsetWriteBufferKeys, JsetLogBkey:
		j.validateKeys(i, e.Level, checkKey)
	default:
		if id := e.badRecord(); id != "" {
			j.problem(id, i, "%v of %d bytes", e.Type, len(e.Data))
			*e = JsetEntry{}
		}
	}
}

// badRecord returns the name of the check that a record without keys fails, or "".
func (e *JsetEntry) badRecord() string {
	n := len(e.Data)
	switch e.Type {
	case JsetBlacklist:
		if n != 8 {
			return "journal_entry_blacklist_bad_size"
		}
	case JsetBlacklistV2:
		if n != 16 {
			return "journal_entry_blacklist_v2_bad_size"
		}
		if e.word(0) > e.word(1) {
			return "journal_entry_blacklist_v2_start_past_end"
		}
	case JsetUsage:
		if n < 8 {
			return "journal_entry_usage_bad_size"
		}
	case JsetDataUsage:
		if _, _, ok := e.DataUsage(); !ok {
			return "journal_entry_data_usage_bad_size"
		}
	case JsetClock:
		if n != 16 {
			return "journal_entry_clock_bad_size"
		}
		if e.Data[0] > 1 {
			return "journal_entry_clock_bad_rw"
		}
	case JsetDevUsage:
		if n < devUsageHdrSize {
			return "journal_entry_dev_usage_bad_size"
		}
		if binary.LittleEndian.Uint32(e.Data[4:]) != 0 {
			return "journal_entry_dev_usage_bad_pad"
		}
	case JsetDatetime:
		if n < 8 {
			return "journal_entry_dev_usage_bad_size"
		}
	case JsetRewindLimit:
		if n < 8 {
			return "journal_entry_rewind_limit_bad_size"
		}
	case JsetRewind:
		if n < 16 {
			return "journal_entry_rewind_bad_size"
		}
	}
	return ""
}

// validateKeys checks the keys of record i and leaves out bad ones.
func (j *Jset) validateKeys(i int, level uint8, checkKey func(id BtreeID, level uint8, k *Key) error) {
	e := &j.Entries[i]
	var kept []byte // once a key was left out
	repaired := false
	drop := func(at int) {
		if !repaired {
			repaired, kept = true, append([]byte(nil), e.Data[:at]...)
		}
	}
	for at := 0; at < len(e.Data); {
		b := e.Data[at:]
		size := int(b[0]) * 8
		if size < KeySize || size > len(b) {
			id := "journal_entry_bkey_past_end"
			if size < KeySize {
				id = "journal_entry_bkey_u64s_0"
			}
			j.problem(id, i, "key of %d bytes, %d left", size, len(b))
			drop(at)
			break
		}
		if f := b[1] & headerMask; f != formatPlain || size > KeySize+MaxValSize {
			j.problem("journal_entry_bkey_bad_format", i, "key format %d, %d bytes", f, size)
			drop(at)
			at += size
			continue
		}
		k := decodePlain(b[:size:size])
		if err := e.checkKey(level, &k, checkKey); err != nil {
			id := "journal_entry_bkey_invalid"
			if ke, ok := errors.AsType[*InvalidKeyError](err); ok {
				id = ke.ID
			}
			j.problem(id, i, "%v", err)
			drop(at)
		} else if repaired {
			kept = append(kept, b[:size]...)
		}
		at += size
	}
	if repaired {
		e.Data = kept
	}
}

func (e *JsetEntry) checkKey(level uint8, k *Key, check func(id BtreeID, level uint8, k *Key) error) error {
	if e.Type == JsetOverwrite && k.Type == KeyDeleted {
		return nil // there was no key
	}
	if err := e.BtreeID.CheckKey(level, k); err != nil {
		return err
	}
	if check == nil || k.Type == KeyDeleted {
		return nil
	}
	return check(e.BtreeID, level, k)
}
