package data

import (
	"context"
)

// SeekData returns the offset of the first data at or behind off in a file of the given size, and ErrNoData if there is none.
// Holes, reservations and unwritten extents are no data; what cannot be read is.
func (r *Reader) SeekData(ctx context.Context, inum uint64, snapshot uint32, size, off int64) (int64, error) {
	return r.seek(ctx, inum, snapshot, size, off, false)
}

// SeekHole returns the offset of the first hole at or behind off; the end of the file is one.
func (r *Reader) SeekHole(ctx context.Context, inum uint64, snapshot uint32, size, off int64) (int64, error) {
	return r.seek(ctx, inum, snapshot, size, off, true)
}

func (r *Reader) seek(ctx context.Context, inum uint64, snapshot uint32, size, off int64, hole bool) (int64, error) {
	if off < 0 || off >= size {
		return 0, ErrNoData
	}
	q := r.requests.Get().(*request)
	defer r.requests.Put(q)
	return r.seekWith(ctx, q, inum, snapshot, size, off, hole)
}

func (r *Reader) seekWith(ctx context.Context, q *request, inum uint64, snapshot uint32, size, off int64, hole bool) (int64, error) {
	q.reset()
	found := int64(-1)
	end := (uint64(size) + sectorSize - 1) / sectorSize
	err := r.gather(ctx, inum, snapshot, uint64(off)/sectorSize, end, q, func(p *piece) bool {
		q.ptrs = q.ptrs[:0]
		if p.hole != hole {
			return true
		}
		found = max(off, int64(p.start)*sectorSize)
		return false
	})
	switch {
	case err != nil:
		return 0, err
	case found >= 0 && found < size:
		return found, nil
	case hole:
		return size, nil
	}
	return 0, ErrNoData
}
