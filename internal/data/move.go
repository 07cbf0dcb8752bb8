package data

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Moving data (a data update, spec/04 § 15): what some pointers of a key lead to is read as it is stored, verified, and written elsewhere; then
// one transaction puts pointers to that in place of them.
//
// Nothing is locked in between. The transaction looks for what the key has become: whatever of it still points to what was read, in the key's own
// snapshot, gets the new pointers, as far as it reaches; what was overwritten or deleted meanwhile stays so. Keys that several snapshots see
// stay what they are to all of them, see [trans.Tx.ReplaceExtent]. Space that nothing came to refer to is given back.
//
// Buckets that may be written to in place are locked ([NocowLocks]); if somebody does so at the moment the data stays where it is.

// Move says what is to be moved.
type Move struct {
	Btree ondisk.BtreeID // extents or reflink
	Key   ondisk.Key     // as it was seen, a clone
	Ptrs  uint32         // bit n: the n-th pointer is to be replaced. Cached ones and those that are part of stripes never are.
	Bad   uint32         // bit n: what the n-th pointer leads to is known to be damaged
}

// MoveOptions say how data is moved.
type MoveOptions struct {
	Point     alloc.WritePoint
	Watermark alloc.Watermark
	Target    uint16 // where to preferably; 0: anywhere
	// Encode has the data compressed and checksummed anew, as the options say, and replaces all pointers of each key; nil: it stays as it is stored.
	Encode *Options
}

// MoveResult tells what became of moves.
type MoveResult struct {
	Keys    int    // that have new pointers; what is encoded anew counts piece by piece
	Sectors uint64 // that these were written for
	Raced   int    // keys that had changed
	Failed  int    // keys whose data could not be read or written
	Err     error  // why, of one of them
	// Opened are the buckets whose first sector was written.
	Opened int
}

func (r *MoveResult) add(o *MoveResult) {
	r.Keys += o.Keys
	r.Sectors += o.Sectors
	r.Raced += o.Raced
	r.Failed += o.Failed
	r.Opened += o.Opened
	if r.Err == nil {
		r.Err = o.Err
	}
}

// maxMoveBytes is how much stored data should be moved with one call, to bound the memory it takes.
const maxMoveBytes = 1 << 20

// moveKeysPerTx bounds the keys that one transaction changes.
const moveKeysPerTx = 8

// errRaced means that a key is not there any more as it was.
var errRaced = errors.New("the key has changed")

// moving is a move in progress.
type moving struct {
	*Move
	ptrs    []ondisk.DecodedPtr
	rewrite uint32 // pointers to be replaced
	kept    alloc.DevSet
	// fresh: the data is encrypted anew, so that no pointer to what it was can stay.
	fresh     bool
	unwritten bool
	err       error

	version ondisk.Version
	crc     ondisk.CRC
	stored  []byte // of what is live
	parts   []int  // of batch.parts
}

// mover makes moves.
type mover struct {
	batch
	o      *MoveOptions
	moves  []moving
	locked []uint64
	res    MoveResult
}

// Move moves data. What cannot be moved is told by the result; the error is one that ends everything: of the context, of the filesystem, or
// [alloc.ErrNoSpace]. What was moved before it stays so.
func (w *Writer) Move(ctx context.Context, moves []Move, o *MoveOptions) (MoveResult, error) {
	if o.Encode != nil {
		moves = w.cutMoves(moves)
	}
	m := &mover{batch: batch{w: w}, o: o, moves: make([]moving, len(moves))}
	defer m.end(ctx)
	for i := range moves {
		m.moves[i].Move = &moves[i]
		m.moves[i].err = m.plan(ctx, &m.moves[i])
	}
	m.each(len(m.moves), func(i int) {
		if mv := &m.moves[i]; mv.err == nil {
			mv.err = m.read(ctx, mv)
		}
	})
	if err := ctx.Err(); err != nil {
		return m.res, err
	}
	full := m.place(ctx)
	if full != nil && !errors.Is(full, alloc.ErrNoSpace) {
		return m.res, full
	}
	if err := m.write(ctx); err != nil {
		return m.res, err
	}
	if err := m.commitAll(ctx); err != nil {
		return m.res, err
	}
	for i := range m.moves {
		switch err := m.moves[i].err; {
		case err == nil:
		case errors.Is(err, errRaced):
			m.res.Raced++
		case !errors.Is(err, alloc.ErrNoSpace):
			m.res.Failed++
			if m.res.Err == nil {
				m.res.Err = err
			}
		}
	}
	return m.res, full
}

// cutMoves divides moves whose data is longer than what may be encoded in one piece.
func (w *Writer) cutMoves(moves []Move) (all []Move) {
	most := uint32(w.cfg.EncodedExtentMax / sectorSize)
	for _, mv := range moves {
		for mv.Key.Size > most {
			part := mv
			part.Key = ondisk.CutBack(&mv.Key, most)
			all = append(all, part)
			mv.Key = ondisk.CutFront(&mv.Key, most, w.cfg.ExtentTypes)
		}
		all = append(all, mv)
	}
	return all
}

func (m *mover) end(ctx context.Context) {
	m.release(ctx)
	m.w.cfg.Nocow.unlock(nocowMove, m.locked)
}

// plan decides which pointers of a key are replaced.
func (m *mover) plan(ctx context.Context, mv *moving) error {
	w, k := m.w, &mv.Key
	if k.Type != ondisk.KeyExtent && k.Type != ondisk.KeyReflinkV {
		return errRaced
	}
	ptrs, flags, err := ondisk.AppendExtentPtrs(nil, k, w.cfg.ExtentTypes)
	switch {
	case err != nil:
		return err
	case flags.Poisoned:
		return fmt.Errorf("%v: %w", k.Pos, ErrPoisoned)
	}
	mv.ptrs, mv.version = ptrs, k.Version
	mv.choose(mv.Ptrs)
	if m.o.Encode != nil || mv.cutsCompressed() && k.Version != (ondisk.Version{}) {
		mv.fresh = k.Version != (ondisk.Version{}) || w.cfg.Encrypted
		mv.choose(^uint32(0))
		for i := range ptrs {
			if ptrs[i].HasStripe {
				return fmt.Errorf("%v: %w: data that is part of a stripe is not encoded anew", k.Pos, errors.ErrUnsupported)
			}
		}
	}
	if mv.rewrite == 0 {
		return errRaced
	}
	return m.lock(mv)
}

// choose takes the pointers of a set that can be replaced.
func (mv *moving) choose(set uint32) {
	mv.rewrite, mv.kept, mv.unwritten = 0, alloc.DevSet{}, false
	for i := range mv.ptrs {
		p := &mv.ptrs[i]
		mv.unwritten = mv.unwritten || p.Unwritten
		switch {
		case p.Cached || p.Dev == ondisk.DevInvalid:
		case set>>i&1 != 0 && !p.HasStripe:
			mv.rewrite |= 1 << i
		case int(p.Dev) < alloc.MaxDevices:
			mv.kept.Add(p.Dev)
		}
	}
}

// cutsCompressed reports whether a pointer that is replaced leads to compressed data of which only a part is live.
func (mv *moving) cutsCompressed() bool {
	for i := range mv.ptrs {
		if p := &mv.ptrs[i]; mv.rewrite>>i&1 != 0 && p.CRC.Compression.IsCompressed() && mv.Key.Size != p.CRC.UncompressedSize {
			return true
		}
	}
	return false
}

// expands reports whether a pointer that is replaced leads to compressed data: what takes its place may be as it was read from another pointer, or a part
// of it.
func (mv *moving) expands() bool {
	for i := range mv.ptrs {
		if mv.rewrite>>i&1 != 0 && mv.ptrs[i].CRC.Compression.IsCompressed() {
			return true
		}
	}
	return false
}

// lock locks the buckets that somebody may write to in place.
func (m *mover) lock(mv *moving) error {
	var ids []uint64
	for i := range mv.ptrs {
		if p := &mv.ptrs[i]; mv.rewrite>>i&1 != 0 && !p.CRC.IsEncoded() {
			ids = appendBuckets(ids, m.w.cfg.Members, p.ExtentPtr)
		}
	}
	if !m.w.cfg.Nocow.tryLock(nocowMove, ids) {
		return errRaced
	}
	m.locked = append(m.locked, ids...)
	return nil
}

// place finds places for everything that was read, until there is no space any more.
func (m *mover) place(ctx context.Context) error {
	for i := range m.moves {
		mv := &m.moves[i]
		if mv.err != nil {
			continue
		}
		if err := m.placeOne(ctx, mv); err != nil {
			for j := i; j < len(m.moves); j++ {
				if m.moves[j].err == nil {
					m.moves[j].err, m.moves[j].parts = err, nil
				}
			}
			return err
		}
	}
	return nil
}

func (m *mover) placeOne(ctx context.Context, mv *moving) error {
	w := m.w
	durability := 0
	for i := range mv.ptrs {
		if mv.rewrite>>i&1 != 0 {
			n := 1
			if d := w.cfg.Alloc.DevSpace(mv.ptrs[i].Dev); d != nil {
				n = d.Durability()
			}
			durability += n
		}
	}
	durability = min(max(durability, 1), maxReplicas)
	left, whole := mv.Key.Size, mv.crc.Compression.IsCompressed()
	if whole {
		left = uint32(len(mv.stored) / sectorSize)
	}
	for at := uint32(0); left > 0; {
		req := alloc.Request{Sectors: left, DataType: ondisk.DataUser, WritePoint: m.o.Point, Replicas: durability, Required: durability,
			Target: m.o.Target, Have: mv.kept, Watermark: m.o.Watermark}
		if whole {
			req.Min = left
		}
		al, err := m.allocation(ctx, &req)
		if err != nil {
			return err
		}
		m.note(al)
		p := part{start: uint64(at), ptrs: m.pointers(al, 0), version: mv.version, crc: mv.crc}
		n := al.Sectors
		if !whole && !mv.unwritten {
			if p.crc, p.stored, err = w.cutStored(mv.version, &mv.crc, mv.stored, at, n); err != nil {
				return err
			}
		} else if whole {
			p.stored = mv.stored
		}
		for i := range p.ptrs {
			p.ptrs[i].Unwritten = mv.unwritten
		}
		mv.parts = append(mv.parts, len(m.parts))
		m.parts = append(m.parts, p)
		at, left = at+n, left-n
	}
	return nil
}

// note counts the buckets that an allocation begins.
func (m *mover) note(al *alloc.Allocation) {
	for _, p := range al.Ptrs() {
		if d := m.w.cfg.Members.Get(p.Dev); d != nil {
			if _, off := d.Bucket(p.Offset); off == 0 {
				m.res.Opened++
			}
		}
	}
}

// write writes all parts, long runs of them at once.
func (m *mover) write(ctx context.Context) error {
	runs := m.runs()
	m.each(len(runs), func(i int) {
		parts := m.parts[runs[i].lo:runs[i].hi]
		if runs[i].bytes == 0 || ctx.Err() != nil { // unwritten ones
			return
		}
		buf := parts[0].stored
		if len(parts) > 1 {
			buf = m.buffer(runs[i].bytes)
			at := 0
			for j := range parts {
				at += copy(buf[at:], parts[j].stored)
			}
		}
		failed, err := m.w.writeAll(ctx, parts[0].ptrs, buf)
		if err != nil {
			return // of the context
		}
		for j := range parts {
			parts[j].failed = failed
		}
	})
	return ctx.Err()
}

// commitAll puts the new pointers in place, of some keys at a time.
func (m *mover) commitAll(ctx context.Context) error {
	for lo := 0; lo < len(m.moves); lo += moveKeysPerTx {
		group := m.moves[lo:min(lo+moveKeysPerTx, len(m.moves))]
		growth, any := uint64(0), false
		for i := range group {
			mv := &group[i]
			if mv.err != nil {
				continue
			}
			if mv.err = m.complete(mv); mv.err != nil {
				continue
			}
			any = true
			growth += 4 * maxReplicas // parts of what is compressed are rounded up
			if m.o.Encode != nil || mv.expands() {
				growth += uint64(len(mv.stored)/sectorSize) * maxReplicas
			}
		}
		if !any {
			continue
		}
		if err := m.commit(ctx, group, growth); err != nil {
			return err
		}
	}
	return nil
}

// complete reports an error if not all that was to be written of a key was.
func (m *mover) complete(mv *moving) error {
	for _, i := range mv.parts {
		if m.parts[i].failed != 0 {
			return fmt.Errorf("%v: what was to be moved could not be written", mv.Key.Pos)
		}
	}
	return nil
}

// commit changes the keys of some moves with one transaction.
func (m *mover) commit(ctx context.Context, group []moving, growth uint64) error {
	promise, err := m.w.cfg.Space.Reserve(growth, 1, alloc.ReserveNoFail)
	if err != nil {
		return err
	}
	defer promise.Put()
	raced := make([]bool, len(group))
	err = m.w.cfg.Store.UpdateAt(ctx, m.o.Watermark, func(tx *trans.Tx) error {
		tx.Attach(&promise)
		for i := range group {
			if group[i].err != nil {
				continue
			}
			n, err := m.update(tx, &group[i])
			if err != nil {
				return err
			}
			raced[i] = n == 0
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range group {
		switch mv := &group[i]; {
		case mv.err != nil:
		case raced[i]:
			mv.err = errRaced
		default:
			m.res.Keys++
			m.res.Sectors += uint64(mv.Key.Size)
		}
	}
	return nil
}
