package journal

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Layout of struct jset, beside what [Scan] needs.
const (
	jsetVersionAt = 32
	jsetFlagsAt   = 36
	jsetCryptAt   = 44
	jsetLastSeqAt = 48

	jsetNoFlush = 1 << 5
)

// rootTable holds the root records of all btrees, which each entry must have.
type rootTable struct {
	known [ondisk.MaxBtrees]bool
	level [ondisk.MaxBtrees]uint8
	key   [ondisk.MaxBtrees][]byte // empty: the root is lost
}

func (t *rootTable) init(roots []ondisk.JsetEntry) error {
	for i := range roots {
		if err := t.set(&roots[i]); err != nil {
			return err
		}
	}
	return nil
}

func (t *rootTable) set(e *ondisk.JsetEntry) error {
	if e.Type != ondisk.JsetBtreeRoot || e.BtreeID >= ondisk.MaxBtrees || len(e.Data) > 8*maxRootU64s {
		return fmt.Errorf("journal: no root of a btree: %v of %v, %d bytes", e.Type, e.BtreeID, len(e.Data))
	}
	t.known[e.BtreeID] = true
	t.level[e.BtreeID] = e.Level
	t.key[e.BtreeID] = append(t.key[e.BtreeID][:0], e.Data...)
	return nil
}

// reserve is how many u64s the records take at most: all btrees that are known may get a root.
func (t *rootTable) reserve() int {
	n := int(ondisk.NumBtrees)
	for id := range t.known {
		if t.known[id] {
			n = max(n, id+1)
		}
	}
	return n * (1 + maxRootU64s)
}

func (t *rootTable) entries() []ondisk.JsetEntry {
	var out []ondisk.JsetEntry
	for id := range t.known {
		if t.known[id] {
			out = append(out, ondisk.JsetEntry{Type: ondisk.JsetBtreeRoot, BtreeID: ondisk.BtreeID(id), Level: t.level[id],
				Data: slices.Clone(t.key[id])})
		}
	}
	return out
}

// append adds the roots of those btrees that an entry has none of.
func (t *rootTable) append(b []byte, have uint64) []byte {
	for id := range t.known {
		if t.known[id] && have>>id&1 == 0 {
			b = ondisk.AppendJsetEntry(b, ondisk.JsetEntry{Type: ondisk.JsetBtreeRoot, BtreeID: ondisk.BtreeID(id),
				Level: t.level[id], Data: t.key[id]})
		}
	}
	return b
}

// prepare makes an entry ready to be written: decides of what kind it is and completes its content.
func (w *Writer) prepare(b *entryBuf) error {
	w.mu.Lock()
	w.decideFlush(b)
	w.mu.Unlock()
	if err := w.compose(b); err != nil {
		return fmt.Errorf("entry %d: %w", b.seq, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	b.prepared = true
	w.wake()
	return nil
}

// decideFlush decides whether it is a flush entry. The caller holds mu.
//
// The first entry must be one: it may overwrite the only one that there was. An entry must be one if space gets short, which only
// its last_seq frees; and if it and those behind it would be so far ahead of what is durable that a recovery may use their sequence
// numbers again.
func (w *Writer) decideFlush(b *entryBuf) {
	now := time.Now()
	b.noFlush = w.started && !b.mustFlush && w.maySkip && now.Sub(w.lastFlush) < w.cfg.FlushDelay &&
		b.seq-w.flushed.Load() < uint64(w.cfg.MaxAhead)
	if !b.noFlush {
		w.started = true
		w.lastFlush = now
	}
}

// compose completes the content of an entry: it passes on what goes through the write buffer, adds the records that each entry
// must hold, and seals it.
func (w *Writer) compose(b *entryBuf) error {
	end := ondisk.JsetHeaderSize + 8*b.used
	have, err := w.takeRecords(b.seq, b.data[ondisk.JsetHeaderSize:end])
	if err != nil {
		return err
	}
	out := w.roots.append(b.data[:end], have)
	out = ondisk.AppendJsetEntry(out, ondisk.JsetEntry{Type: ondisk.JsetDatetime,
		Data: binary.LittleEndian.AppendUint64(nil, uint64(w.cfg.Now().Unix()))})
	out = ondisk.AppendJsetEntry(out, w.usageEntry())
	for _, e := range w.clockEntries() {
		out = ondisk.AppendJsetEntry(out, e)
	}
	if &out[0] != &b.data[0] {
		return fmt.Errorf("no space for its roots: %d bytes of %d", len(out), len(b.data))
	}
	return w.seal(b, len(out))
}

// takeRecords looks at what was reserved: roots become those of later entries, records for the write buffer become records of keys.
// It returns the set of btrees that the entry holds roots of.
func (w *Writer) takeRecords(seq uint64, records []byte) (have uint64, err error) {
	w.buffered = w.buffered[:0]
	for rest := records; len(rest) > 0; {
		n := 8 + 8*int(binary.LittleEndian.Uint16(rest))
		if n > len(rest) {
			return 0, fmt.Errorf("byte %d: record of %d bytes, %d left", len(records)-len(rest), n, len(rest))
		}
		e := ondisk.JsetEntry{Type: ondisk.JsetEntryType(rest[4]), BtreeID: ondisk.BtreeID(rest[2]), Level: rest[3], Data: rest[8:n:n]}
		if err := w.checkRecord(&e); err != nil {
			return 0, fmt.Errorf("byte %d: %w", len(records)-len(rest), err)
		}
		switch e.Type {
		case ondisk.JsetBtreeRoot:
			if err := w.roots.set(&e); err != nil {
				return 0, err
			}
			if int(e.BtreeID) >= w.rootU64s/(1+maxRootU64s) {
				return 0, fmt.Errorf("root of unknown btree %v", e.BtreeID)
			}
			have |= 1 << e.BtreeID
		case ondisk.JsetWriteBufferKeys:
			rest[4] = byte(ondisk.JsetBtreeKeys)
			w.buffered = append(w.buffered, e)
		}
		rest = rest[n:]
	}
	if len(w.buffered) > 0 && w.cfg.Buffered != nil {
		w.cfg.Buffered(seq, w.buffered)
	}
	return have, nil
}

func (w *Writer) checkRecord(e *ondisk.JsetEntry) error {
	if w.cfg.Check == nil {
		return nil
	}
	switch e.Type {
	case ondisk.JsetBtreeKeys, ondisk.JsetWriteBufferKeys, ondisk.JsetBtreeRoot:
	default:
		return nil
	}
	for k, err := range e.Keys() {
		if err == nil && k.Type != ondisk.KeyDeleted {
			err = w.cfg.Check(e.BtreeID, e.Level, &k)
		}
		if err != nil {
			return fmt.Errorf("btree %v level %d: %w", e.BtreeID, e.Level, err)
		}
	}
	return nil
}

func (w *Writer) usageEntry() ondisk.JsetEntry {
	const keyVersion = 2 // kind of usage, in the place of the btree id
	return ondisk.JsetEntry{Type: ondisk.JsetUsage, BtreeID: keyVersion,
		Data: binary.LittleEndian.AppendUint64(nil, w.cfg.KeyVersion())}
}

func (w *Writer) clockEntries() []ondisk.JsetEntry {
	read, write := w.cfg.Clocks()
	entries := make([]ondisk.JsetEntry, 2)
	for rw, sectors := range []uint64{read, write} {
		entries[rw] = ondisk.JsetEntry{Type: ondisk.JsetClock,
			Data: binary.LittleEndian.AppendUint64([]byte{byte(rw), 0, 0, 0, 0, 0, 0, 0}, sectors)}
	}
	return entries
}

// seal writes the header of an entry of n bytes, encrypts it, computes its checksum, and pads it.
func (w *Writer) seal(b *entryBuf, n int) error {
	flags, lastSeq := uint32(w.cfg.Csum), b.lastSeq
	if b.noFlush {
		flags |= jsetNoFlush
		lastSeq = 0
	}
	le, data := binary.LittleEndian, b.data
	clear(data[:ondisk.JsetHeaderSize])
	le.PutUint64(data[jsetMagicAt:], w.cfg.Params.Magic)
	le.PutUint64(data[jsetSeqAt:], b.seq)
	le.PutUint32(data[jsetVersionAt:], uint32(w.cfg.Version))
	le.PutUint32(data[jsetFlagsAt:], flags)
	le.PutUint32(data[jsetU64sAt:], uint32(n-ondisk.JsetHeaderSize)/8)
	le.PutUint64(data[jsetLastSeqAt:], lastSeq)
	nonce := crypt.JournalNonceOf(b.seq)
	if w.cfg.Csum.IsEncryption() {
		w.cfg.Params.Key.XOR(nonce, data[jsetCryptAt:n])
	}
	sum, err := checksum.Compute(w.cfg.Csum, w.cfg.Params.Key, nonce, data[jsetMagicAt:n])
	if err != nil {
		return err
	}
	le.PutUint64(data, sum.Lo)
	le.PutUint64(data[8:], sum.Hi)
	b.bytes = w.roundUp(n)
	clear(data[n:b.bytes])
	return nil
}
