package ondisk

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
)

// A journal entry on disk, padded with zeros to whole blocks (struct jset):
//
//	0 csum  16 magic  24 seq  32 version  36 flags  40 u64s  44 _read_clock  46 _write_clock  48 last_seq  56 entries
//
// The checksum covers bytes 16 up to the end of the entries, as they are on disk; bytes from 44 on are encrypted.
const (
	JsetHeaderSize = 56
	jsetCryptAt    = 44

	// MaxJsetBytes is the size of the largest journal entry.
	MaxJsetBytes = 4 << 20

	jsetEntryHdrSize = 8
	jsetMagicBase    = 0x245235c1a3625032
)

// Flags of a jset, beside the checksum type in the lowest four bits.
const (
	jsetBigEndian     = 1 << 4
	jsetNoFlush       = 1 << 5
	jsetHasOverwrites = 1 << 6
)

// What [DecodeJset] found instead of a journal entry.
var (
	// ErrJsetMagic: there is no journal entry of this filesystem here.
	ErrJsetMagic = errors.New("no journal entry here")
	// ErrJsetShort: the entry is longer than the bytes given; n says how many it takes.
	ErrJsetShort = errors.New("journal entry is longer than what was read")
	// ErrJsetTooLong: the entry is longer than its bucket or than any entry may be.
	ErrJsetTooLong = errors.New("journal entry is longer than its bucket")
)

// JsetMagic is the magic of the journal of the filesystem with the given internal uuid (bch_sb.uuid).
func JsetMagic(uuid [16]byte) uint64 { return binary.LittleEndian.Uint64(uuid[:]) ^ jsetMagicBase }

// Jset is one entry of the journal.
type Jset struct {
	Csum       checksum.Sum
	Magic      uint64
	Seq        uint64
	Version    uint32 // metadata version that the keys are encoded in
	Flags      uint32
	ReadClock  uint16 // unused
	WriteClock uint16 // unused
	LastSeq    uint64 // oldest entry that a replay starting from this one needs; without meaning if NoFlush
	Entries    []JsetEntry

	// Problems found in the structure of the entries; see also [Jset.Validate].
	Problems []JsetProblem
}

// CsumType is the type of the entry's checksum.
func (j *Jset) CsumType() checksum.Type { return checksum.Type(j.Flags & 0xf) }

// NoFlush reports that the entry was written without a flush: after a crash newer entries do not prove that it is complete.
func (j *Jset) NoFlush() bool { return j.Flags&jsetNoFlush != 0 }

// HasOverwrites reports that each key is preceded by the value that it replaced.
func (j *Jset) HasOverwrites() bool { return j.Flags&jsetHasOverwrites != 0 }

// JsetProblem is something wrong with a journal entry that was repaired in memory.
type JsetProblem struct {
	ID     string // name of the check that failed (enum bch_sb_error_id)
	Record int    // index of the record in the entry
	Msg    string
}

func (p JsetProblem) String() string { return fmt.Sprintf("record %d: %s (%s)", p.Record, p.Msg, p.ID) }

// JsetParams says how to read journal entries.
type JsetParams struct {
	Magic      uint64     // [JsetMagic]
	Key        *crypt.Key // nil if the filesystem is not encrypted
	BlockBytes int        // block size of the filesystem in bytes
	// BucketLeft is the number of bytes from the start of the entry to the end of its bucket; 0: as many as are given.
	BucketLeft int
}

// DecodeJset decodes the journal entry at the start of b, which it does not change; the entries alias b unless they had
// to be decrypted. It returns how many bytes the entry takes on disk, padding included.
//
// Errors wrap [ErrJsetMagic]; [ErrJsetShort] (n is how many bytes are needed); [ErrJsetTooLong] or [ErrChecksum] (a torn
// or damaged entry: n is not to be trusted, look at the next block); [ErrIncompatible] (an intact entry that cannot be
// read: the filesystem must not be used). But for the first, the clear part of the header is returned, without entries.
func DecodeJset(b []byte, p JsetParams) (j *Jset, n int, err error) {
	if len(b) < JsetHeaderSize {
		return nil, JsetHeaderSize, fmt.Errorf("jset: %w: %d bytes, header alone %d", ErrJsetShort, len(b), JsetHeaderSize)
	}
	if m := binary.LittleEndian.Uint64(b[16:]); m != p.Magic {
		return nil, 0, fmt.Errorf("jset: %w: magic %#x, want %#x", ErrJsetMagic, m, p.Magic)
	}
	j = &Jset{
		Csum:    decodeSum(b),
		Magic:   p.Magic,
		Seq:     binary.LittleEndian.Uint64(b[24:]),
		Version: binary.LittleEndian.Uint32(b[32:]),
		Flags:   binary.LittleEndian.Uint32(b[36:]),
	}
	left := p.BucketLeft
	if left <= 0 {
		left = len(b)
	}
	size := JsetHeaderSize + uint64(binary.LittleEndian.Uint32(b[40:]))*8
	switch {
	case size > uint64(left) || size > MaxJsetBytes:
		return j, 0, fmt.Errorf("jset %d: %w: %d bytes, %d left in the bucket", j.Seq, ErrJsetTooLong, size, left)
	case size > uint64(len(b)):
		return j, int(size), fmt.Errorf("jset %d: %w: %d bytes, have %d", j.Seq, ErrJsetShort, size, len(b))
	}
	n = int(size)
	t, nonce := j.CsumType(), crypt.JournalNonceOf(j.Seq)
	sum, err := checksum.Compute(t, p.Key, nonce, b[csumSize:n])
	switch {
	case err != nil:
		return j, n, fmt.Errorf("jset %d: %w: %w", j.Seq, ErrChecksum, err)
	case sum != j.Csum:
		return j, n, fmt.Errorf("jset %d: %w: %v: have %v, want %v", j.Seq, ErrChecksum, t, sum, j.Csum)
	case j.Version>>10 > uint32(VersionMax.Major()) || j.Version < uint32(VersionMin):
		return j, n, fmt.Errorf("jset %d: %w: version %d.%d", j.Seq, ErrIncompatible, j.Version>>10, j.Version&(1<<10-1))
	case j.Flags&jsetBigEndian != 0:
		return j, n, fmt.Errorf("jset %d: %w: written by a big-endian host", j.Seq, ErrIncompatible)
	}
	body := b[jsetCryptAt:n:n]
	if t.IsEncryption() {
		body = append([]byte(nil), body...)
		p.Key.XOR(nonce, body)
	}
	j.ReadClock = binary.LittleEndian.Uint16(body)
	j.WriteClock = binary.LittleEndian.Uint16(body[2:])
	j.LastSeq = binary.LittleEndian.Uint64(body[4:])
	j.decodeEntries(body[JsetHeaderSize-jsetCryptAt:])
	if p.BlockBytes > 0 {
		n = roundUp(n, p.BlockBytes)
	}
	return j, n, nil
}

func (j *Jset) decodeEntries(b []byte) {
	es, err := DecodeJsetEntries(b)
	j.Entries = es
	if err != nil {
		j.Problems = append(j.Problems, JsetProblem{"journal_entry_past_jset_end", len(es), err.Error()})
	}
}

// Bytes is the size of the entry without padding, in bytes.
func (j *Jset) Bytes() int {
	n := JsetHeaderSize
	for i := range j.Entries {
		n += jsetEntryHdrSize + len(j.Entries[i].Data)
	}
	return n
}

// Encode returns the entry as it is written, encrypted if the checksum type says so, and padded to whole blocks. It sets
// j.Csum.
func (j *Jset) Encode(p JsetParams) ([]byte, error) {
	n := j.Bytes()
	if n > MaxJsetBytes {
		return nil, fmt.Errorf("jset %d: %w: %d bytes", j.Seq, ErrJsetTooLong, n)
	}
	b := make([]byte, JsetHeaderSize, roundUp(n, max(p.BlockBytes, 1)))
	binary.LittleEndian.PutUint64(b[16:], p.Magic)
	binary.LittleEndian.PutUint64(b[24:], j.Seq)
	binary.LittleEndian.PutUint32(b[32:], j.Version)
	binary.LittleEndian.PutUint32(b[36:], j.Flags)
	binary.LittleEndian.PutUint32(b[40:], uint32(n-JsetHeaderSize)/8)
	binary.LittleEndian.PutUint16(b[44:], j.ReadClock)
	binary.LittleEndian.PutUint16(b[46:], j.WriteClock)
	binary.LittleEndian.PutUint64(b[48:], j.LastSeq)
	for i := range j.Entries {
		e := &j.Entries[i]
		if len(e.Data)%8 != 0 || len(e.Data) > maxJsetEntryBytes {
			return nil, fmt.Errorf("jset %d: record %d of %d bytes", j.Seq, i, len(e.Data))
		}
		b = AppendJsetEntry(b, *e)
	}
	t, nonce := j.CsumType(), crypt.JournalNonceOf(j.Seq)
	if t.IsEncryption() {
		if p.Key == nil {
			return nil, checksum.ErrNoKey
		}
		p.Key.XOR(nonce, b[jsetCryptAt:])
	}
	sum, err := checksum.Compute(t, p.Key, nonce, b[csumSize:])
	if err != nil {
		return nil, err
	}
	j.Csum = sum
	putSum(b, sum)
	return b[:cap(b)], nil
}
