package data

import (
	"context"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

type pieceKind uint8

const (
	pieceZero   pieceKind = iota // reads as zeros
	pieceInline                  // bytes of a key, then zeros
	pieceExtent                  // on devices
	pieceFail                    // cannot be read
)

// piece is what a range of a file consists of.
type piece struct {
	kind       pieceKind
	hole       bool   // zero, and no space is taken or only reserved
	start, end uint64 // sectors of the file
	skip       uint64 // sectors of the key's live data before start
	inline     []byte // of the key, from its start
	extent     extent
	err        error
}

// extent is a key with pointers. ptrs are in the arena of the request.
type extent struct {
	firstPtr, numPtrs int
	size              uint32 // live sectors
	version           ondisk.Version
	pos               ondisk.Pos // of the key
	shared            bool       // it is an indirect one
}

// treesOf returns the trees that a request reads.
func (r *Reader) treesOf(q *request) Trees {
	if q.trees != nil {
		return q.trees
	}
	return r.cfg.Trees
}

// gather calls add for each piece between two sectors of a file, in order and without gaps. Pieces reach beyond the range only
// in that skip is not 0. add returns false to stop.
func (r *Reader) gather(ctx context.Context, inum uint64, snapshot uint32, first, end uint64, q *request, add func(*piece) bool) error {
	next := first // everything before it was reported
	hole := func(to uint64) bool {
		if to <= next {
			return true
		}
		p := piece{kind: pieceZero, hole: true, start: next, end: to}
		next = to
		return add(&p)
	}
	from, to := ondisk.Pos{Inode: inum, Offset: first}, ondisk.Pos{Inode: inum, Offset: end - 1}
	for k, err := range r.treesOf(q).KeysIn(ctx, ondisk.BtreeExtents, from, to, snapshot) {
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// What the unreadable node says of the range is unknown: nothing behind what was reported can be trusted.
			p := piece{kind: pieceFail, start: next, end: end, err: err}
			if next < end {
				add(&p)
			}
			return nil
		}
		start := k.Start().Offset
		if start >= end {
			break
		}
		p := piece{start: max(start, next), end: min(k.Pos.Offset, end)}
		if p.start >= p.end {
			continue
		}
		p.skip = p.start - start
		if !hole(p.start) {
			return nil
		}
		next = p.end
		if k.Type == ondisk.KeyReflinkP {
			if ok, err := r.gatherShared(ctx, &k, p, q, add); !ok || err != nil {
				return err
			}
			continue
		}
		r.classify(&k, k.Val, &p, q)
		if !add(&p) {
			return nil
		}
	}
	hole(end)
	return nil
}

// classify fills in what a key that is not a reflink pointer holds; val is its value without the reference count.
func (r *Reader) classify(k *ondisk.Key, val []byte, p *piece, q *request) {
	switch k.Type {
	case ondisk.KeyReservation:
		p.kind, p.hole = pieceZero, true
	case ondisk.KeyInlineData, ondisk.KeyIndirectInlineData:
		p.kind, p.inline = pieceInline, val
	case ondisk.KeyExtent, ondisk.KeyReflinkV:
		r.classifyExtent(k, p, q)
	case ondisk.KeyError:
		p.kind, p.err = pieceFail, ErrLost
	case ondisk.KeyCookie:
		p.kind, p.hole = pieceZero, true
	default:
		p.kind, p.err = pieceFail, ErrBadExtent
	}
}

func (r *Reader) classifyExtent(k *ondisk.Key, p *piece, q *request) {
	firstPtr := len(q.ptrs)
	ptrs, flags, err := ondisk.AppendExtentPtrs(q.ptrs, k, r.cfg.ExtentTypes)
	if err != nil {
		p.kind, p.err = pieceFail, err
		return
	}
	q.ptrs = ptrs
	if flags.Poisoned {
		p.kind, p.err = pieceFail, ErrPoisoned
		return
	}
	for _, ptr := range ptrs[firstPtr:] {
		if ptr.Unwritten {
			p.kind, p.hole = pieceZero, true
			return
		}
	}
	p.kind = pieceExtent
	p.extent = extent{firstPtr: firstPtr, numPtrs: len(ptrs) - firstPtr, size: k.Size, version: k.Version,
		pos: k.Pos, shared: k.Type == ondisk.KeyReflinkV}
}

// gatherShared reports the pieces that a reflink pointer leads to. p is the part of it that is wanted.
func (r *Reader) gatherShared(ctx context.Context, k *ondisk.Key, p piece, q *request, add func(*piece) bool) (bool, error) {
	fail := func(start uint64, err error) bool {
		return add(&piece{kind: pieceFail, start: start, end: p.end, err: err})
	}
	link, err := ondisk.DecodeReflinkP(*k)
	switch {
	case err != nil:
		return fail(p.start, err), nil
	case link.Error:
		return fail(p.start, ErrReflink), nil
	case link.Idx > math.MaxUint64/2:
		return fail(p.start, ErrReflink), nil
	}
	first := link.Idx + p.skip
	shift := p.start - first // of the file against the shared space, modulo 2^64
	next := first
	end := first + (p.end - p.start)
	from, to := ondisk.Pos{Offset: first}, ondisk.Pos{Offset: end - 1}
	for v, err := range r.treesOf(q).KeysIn(ctx, ondisk.BtreeReflink, from, to, 0) {
		if err != nil {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			return fail(next+shift, err), nil
		}
		start := v.Start().Offset
		if start > next {
			break
		}
		vend := min(v.Pos.Offset, end)
		if vend <= next {
			continue
		}
		s := piece{start: next + shift, end: vend + shift, skip: next - start}
		next = vend
		var val []byte
		if len(v.Val) >= 8 {
			val = v.Val[8:] // behind the reference count
		}
		r.classify(&v, val, &s, q)
		if !add(&s) {
			return false, nil
		}
		if next == end {
			return true, nil
		}
	}
	return fail(next+shift, ErrReflink), nil
}
