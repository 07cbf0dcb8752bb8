package ondisk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

const (
	devUsageHdrSize  = 24 // dev, pad and two unused words
	devUsageTypeSize = 24
)

// usageKinds are the kinds of [JsetEntry.Usage] (enum bch_fs_usage_type).
var usageKinds = [...]string{"reserved", "inodes", "key_version"}

// JsetReplicas says on which devices data of a type is (struct bch_replicas_entry).
type JsetReplicas struct {
	DataType DataType
	Required uint8
	Devs     []byte // aliases the record
}

// DataUsage returns a record of type data_usage: how many sectors there are with such replicas.
func (e *JsetEntry) DataUsage() (r JsetReplicas, sectors uint64, ok bool) {
	if e.Type != JsetDataUsage || len(e.Data) < 16 || int(e.Data[9]) > len(e.Data)-11 || e.Data[9] == 0 {
		return r, 0, false
	}
	b := e.Data[8:]
	r = JsetReplicas{DataType: DataType(b[0]), Required: b[2], Devs: b[3 : 3+int(b[1])]}
	if r.Required > 1 && int(r.Required) >= len(r.Devs) {
		return r, 0, false
	}
	return r, e.word(0), true
}

// JsetDevUsageType counts what a device holds of one type of data.
type JsetDevUsageType struct{ Buckets, Sectors, Fragmented uint64 }

// DevUsage returns device and contents, by [DataType], of a record of type dev_usage.
func (e *JsetEntry) DevUsage() (dev uint32, types []JsetDevUsageType, ok bool) {
	if e.Type != JsetDevUsage || len(e.Data) < devUsageHdrSize {
		return 0, nil, false
	}
	for b := e.Data[devUsageHdrSize:]; len(b) >= devUsageTypeSize; b = b[devUsageTypeSize:] {
		types = append(types, JsetDevUsageType{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]),
			binary.LittleEndian.Uint64(b[16:])})
	}
	return binary.LittleEndian.Uint32(e.Data), types, true
}

// Log returns the text of a record of type log. If level is 1 it is a message, if 0 the name of the transaction whose keys
// follow.
func (e *JsetEntry) Log() (text string, ok bool) {
	if e.Type != JsetLog {
		return "", false
	}
	b := e.Data
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b), true
}

// Datetime returns when the journal entry was written, of a record of type datetime.
func (e *JsetEntry) Datetime() (t time.Time, ok bool) {
	if e.Type != JsetDatetime || len(e.Data) < 8 {
		return t, false
	}
	return time.Unix(int64(e.word(0)), 0).UTC(), true
}

// AppendText appends the record as the reference's list_journal prints it, without a newline at the end; records of
// several lines hold newlines. keyText prints keys.
func (e *JsetEntry) AppendText(dst []byte, keyText func(dst []byte, id BtreeID, level uint8, k *Key) []byte) []byte {
	dst = append(dst, e.Type.String()...)
	if e.Type >= NumJsetEntryTypes {
		return dst
	}
	dst = append(dst, ": "...)
	if e.Type.HasKeys() {
		return e.appendKeys(dst, keyText)
	}
	if text, ok := e.text(); ok {
		return append(dst, text...)
	}
	return fmt.Appendf(dst, "(invalid, %d bytes)", len(e.Data))
}

func (e *JsetEntry) appendKeys(dst []byte, keyText func(dst []byte, id BtreeID, level uint8, k *Key) []byte) []byte {
	first := true
	for k, err := range e.Keys() {
		if !first {
			dst = append(dst, '\n')
			dst = append(dst, e.Type.String()...)
			dst = append(dst, ": "...)
		}
		first = false
		if err != nil {
			return fmt.Appendf(dst, "(%v)", err)
		}
		dst = fmt.Appendf(dst, "btree=%v l=%d ", e.BtreeID, e.Level)
		dst = keyText(dst, e.BtreeID, e.Level, &k)
	}
	return dst
}

// text prints a record without keys; false if it is not valid.
func (e *JsetEntry) text() (string, bool) {
	if e.badRecord() != "" {
		return "", false
	}
	switch e.Type {
	case JsetPrioPtrs:
		return "", true
	case JsetBlacklist:
		return fmt.Sprintf("seq=%d", e.word(0)), true
	case JsetBlacklistV2:
		return fmt.Sprintf("start=%d end=%d", e.word(0), e.word(1)), true
	case JsetUsage:
		kind, v, _ := e.Usage()
		name := fmt.Sprintf("(unknown usage %d)", kind)
		if int(kind) < len(usageKinds) {
			name = usageKinds[kind]
		}
		return fmt.Sprintf("type=%s v=%d", name, v), true
	case JsetDataUsage:
		r, v, _ := e.DataUsage()
		return fmt.Sprintf("%v=%d", r, v), true
	case JsetClock:
		write, v, _ := e.Clock()
		return fmt.Sprintf("%s=%d", map[bool]string{false: "read", true: "write"}[write], v), true
	case JsetDevUsage:
		var b strings.Builder
		dev, types, _ := e.DevUsage()
		fmt.Fprintf(&b, "dev=%d", dev)
		for t, u := range types {
			fmt.Fprintf(&b, "\n  %v: buckets=%d sectors=%d fragmented=%d", DataType(t), u.Buckets, u.Sectors, u.Fragmented)
		}
		return b.String(), true
	case JsetLog:
		return e.Log()
	case JsetDatetime:
		t, _ := e.Datetime()
		return t.Format("Mon Jan _2 15:04:05 2006"), true
	case JsetRewindLimit:
		return fmt.Sprintf("seq %d", e.word(0)), true
	case JsetRewind:
		return fmt.Sprintf("from %d to %d", e.word(0), e.word(1)), true
	}
	return "", false
}

// String prints r as the reference does: type: required/devices [device …].
func (r JsetReplicas) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: %d/%d [", r.DataType, r.Required, len(r.Devs))
	for i, d := range r.Devs {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprint(&b, d)
	}
	return b.String() + "]"
}
