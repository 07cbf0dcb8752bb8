package data

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Bounds of one read, in bytes.
const (
	maxWindow = 4 << 20   // units in progress at a time
	maxDirect = 512 << 10 // one device read into the caller's buffer
	maxStored = 256 << 10 // what one device read of stored blobs decodes to, unless a single one is larger
	// minParallel is how much must be read before it is worth to start goroutines for plain data.
	minParallel = 256 << 10
)

const sectorSize = ondisk.SectorSize

// request is the state of one window. It is reused.
type request struct {
	trees Trees               // to read instead of the reader's own; nil: those
	ptrs  []ondisk.DecodedPtr // arena of the extents' pointers
	units []unit
	tasks []task
	dev   int // device of the unit planned last, -1 if none

	mu      sync.Mutex
	failAt  int // offset in the window of what could not be read
	failure error
}

func (q *request) reset() {
	clear(q.units)
	q.ptrs, q.units, q.tasks, q.dev = q.ptrs[:0], q.units[:0], q.tasks[:0], -1
	q.failAt, q.failure = -1, nil
}

// fail notes an error; the one nearest to the start counts.
func (q *request) fail(at int, err error) {
	q.mu.Lock()
	if q.failure == nil || at < q.failAt {
		q.failAt, q.failure = at, err
	}
	q.mu.Unlock()
}

// ReadAt fills p with the bytes of a file from off, with zeros where it has no data; the caller has cut p to the file's size.
// It returns how many bytes were read before an error, which is a *ReadError unless ctx ended.
func (r *Reader) ReadAt(ctx context.Context, inum uint64, snapshot uint32, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &ReadError{Sector: -1, Inum: inum, Offset: off, Err: errors.New("negative offset")}
	}
	q := r.requests.Get().(*request)
	defer r.requests.Put(q)
	done := 0
	for done < len(p) {
		n, err := r.window(ctx, q, inum, snapshot, p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// window reads the start of p: all of it or as many pieces as make a window.
func (r *Reader) window(ctx context.Context, q *request, inum uint64, snapshot uint32, p []byte, off int64) (int, error) {
	filled, err := r.prepare(ctx, q, inum, snapshot, p, off)
	if err != nil {
		return 0, err
	}
	return r.fetch(ctx, q, inum, p[:filled], off)
}

// prepare finds out what the start of p consists of, as much of it as makes a window, and serves what needs no device.
func (r *Reader) prepare(ctx context.Context, q *request, inum uint64, snapshot uint32, p []byte, off int64) (int, error) {
	q.reset()
	first := uint64(off) / sectorSize
	end := (uint64(off) + uint64(len(p)) + sectorSize - 1) / sectorSize
	filled := 0
	err := r.gather(ctx, inum, snapshot, first, end, q, func(c *piece) bool {
		at := int64(c.start)*sectorSize - off // of the piece in p; negative if it begins before
		from := max(at, 0)
		to := min(int64(c.end)*sectorSize-off, int64(len(p)))
		r.plan(ctx, q, c, p[from:to], int(from), uint64(from-at))
		filled = int(to)
		return filled < maxWindow && q.failure == nil
	})
	return filled, err
}

// fetch reads what prepare has left to be read of p, which is at off in the file.
func (r *Reader) fetch(ctx context.Context, q *request, inum uint64, p []byte, off int64) (int, error) {
	r.run(ctx, q, p)
	if err := ctx.Err(); err != nil {
		clear(p)
		return 0, err
	}
	if q.failure != nil {
		clear(p[q.failAt:]) // what was read and did not verify may be there
		re, ok := q.failure.(*ReadError)
		if !ok {
			re = &ReadError{Sector: -1, Err: q.failure}
		}
		re.Inum, re.Offset = inum, off+int64(q.failAt)
		return q.failAt, re
	}
	return len(p), nil
}

// plan serves what needs no device and notes a unit for what does. dst is the part of the caller's buffer for it, at is its
// offset in the window, and into is how many bytes of the piece precede it.
func (r *Reader) plan(ctx context.Context, q *request, c *piece, dst []byte, at int, into uint64) {
	switch c.kind {
	case pieceZero:
		clear(dst)
	case pieceInline:
		n := 0
		if skip := c.skip*sectorSize + into; skip < uint64(len(c.inline)) {
			n = copy(dst, c.inline[skip:])
		}
		clear(dst[n:])
	case pieceFail:
		q.fail(at, c.err)
	case pieceExtent:
		r.planExtent(ctx, q, c, dst, at, into)
	}
}

func (r *Reader) planExtent(ctx context.Context, q *request, c *piece, dst []byte, at int, into uint64) {
	u := unit{ext: c.extent, at: at, n: len(dst), skip: c.skip*sectorSize + into}
	choice, err := r.choose(ctx, q, &u.ext)
	switch {
	case err != nil:
		q.fail(at, err)
		return
	case choice == choiceZero:
		clear(dst)
		return
	case choice == choiceRebuild:
		u.how = viaRetry
	default:
		u.ptr = choice
		ptr := &q.ptrs[choice]
		u.how, err = u.access(ptr)
		if err != nil {
			u.how = viaRetry
		}
		q.dev = int(ptr.Dev)
	}
	q.units = append(q.units, u)
	q.add(len(q.units) - 1)
}

// task is a run of units that are read together.
type task struct {
	lo, hi int // units
	how    access
	bytes  int // to read from the device
}

// add appends a unit to the last task if it can be read with it, else starts a new task.
func (q *request) add(i int) {
	u := &q.units[i]
	bytes := 0
	switch u.how {
	case viaRaw, viaWhole:
		bytes = u.n
	case viaBlob: // decoding takes longer than reading
		bytes = int(q.ptrs[u.ptr].CRC.UncompressedSize) * sectorSize
	}
	if len(q.tasks) > 0 && i > 0 {
		t := &q.tasks[len(q.tasks)-1]
		prev := &q.units[i-1]
		if t.hi == i && q.follows(prev, u) && t.bytes+bytes <= u.how.maxBytes() {
			t.hi, t.bytes = i+1, t.bytes+bytes
			return
		}
	}
	q.tasks = append(q.tasks, task{lo: i, hi: i + 1, how: u.how, bytes: bytes})
}

// follows reports whether b lies right behind a on the device, and for reads into the caller's buffer also there.
func (q *request) follows(a, b *unit) bool {
	direct := func(u *unit) bool { return u.how == viaRaw || u.how == viaWhole }
	switch {
	case direct(a) && direct(b):
		if a.at+a.n != b.at {
			return false
		}
	case a.how == viaBlob && b.how == viaBlob:
	default:
		return false
	}
	pa, pb := &q.ptrs[a.ptr], &q.ptrs[b.ptr]
	return pa.Dev == pb.Dev && a.deviceEnd(pa) == b.deviceStart(pb)
}

// run does the tasks of a window, several at a time if that pays.
func (r *Reader) run(ctx context.Context, q *request, p []byte) {
	workers := min(r.cfg.Parallel, len(q.tasks))
	if workers > 1 {
		work := 0
		for i := range q.tasks {
			work += q.tasks[i].bytes
			if q.tasks[i].how != viaRaw && q.tasks[i].how != viaWhole {
				work += minParallel / 2
			}
		}
		if work < minParallel {
			workers = 1
		}
	}
	if workers <= 1 {
		for i := range q.tasks {
			r.do(ctx, q, &q.tasks[i], p)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	work := func() {
		for {
			i := int(next.Add(1)) - 1
			if i >= len(q.tasks) || ctx.Err() != nil {
				return
			}
			r.do(ctx, q, &q.tasks[i], p)
		}
	}
	for range workers - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}

// do does one task; what fails is tried again unit by unit.
func (r *Reader) do(ctx context.Context, q *request, t *task, p []byte) {
	units := q.units[t.lo:t.hi]
	var err error
	switch t.how {
	case viaRaw, viaWhole:
		err = r.readDirect(ctx, q, units, p)
	case viaBlob:
		err = r.readBlobs(ctx, q, units, p)
	default: // viaCache, viaRetry
		for i := range units {
			units[i].failed = errPending
		}
	}
	for i := range units {
		u := &units[i]
		if err != nil {
			u.failed = err
		}
		if u.failed == nil {
			continue
		}
		if err := r.retry(ctx, q, u, p[u.at:u.at+u.n], len(units) == 1); err != nil {
			q.fail(u.at, err)
		}
	}
}

// readDirect reads units that follow one another into p and verifies them there.
func (r *Reader) readDirect(ctx context.Context, q *request, units []unit, p []byte) error {
	a, z := &units[0], &units[len(units)-1]
	ptr := &q.ptrs[a.ptr]
	start := a.deviceStart(ptr)
	if err := r.readBytes(ctx, ptr.Dev, start, p[a.at:z.at+z.n]); err != nil {
		return err
	}
	for i := range units {
		u := &units[i]
		if u.how == viaRaw {
			continue
		}
		ptr := &q.ptrs[u.ptr]
		u.failed = r.open(p[u.at:u.at+u.n], u.ext.version, &ptr.CRC)
		r.noteFault(ptr.Dev, u.failed)
	}
	return nil
}

// readBlobs reads stored blobs that follow one another and decodes them into p.
func (r *Reader) readBlobs(ctx context.Context, q *request, units []unit, p []byte) error {
	size := 0
	for i := range units {
		size += int(q.ptrs[units[i].ptr].CRC.CompressedSize) * sectorSize
	}
	buf := r.buffers.get(size)
	defer r.buffers.put(buf)
	ptr := &q.ptrs[units[0].ptr]
	if err := r.readDevice(ctx, ptr.Dev, ptr.Offset, buf); err != nil {
		return err
	}
	stored := buf
	for i := range units {
		u := &units[i]
		ptr := &q.ptrs[u.ptr]
		n := int(ptr.CRC.CompressedSize) * sectorSize
		u.failed = r.decode(p[u.at:u.at+u.n], stored[:n:n], u.ext.version, &ptr.CRC)
		r.noteFault(ptr.Dev, u.failed)
		stored = stored[n:]
	}
	return nil
}

// readBytes reads from a byte offset of a member.
func (r *Reader) readBytes(ctx context.Context, dev uint8, at uint64, p []byte) error {
	d := r.cfg.Devices.Device(dev)
	if d == nil {
		return ErrNoDevice
	}
	r.busy[dev].Add(int64(len(p)))
	err := d.ReadAt(ctx, p, int64(at))
	r.busy[dev].Add(-int64(len(p)))
	if err != nil && ctx.Err() == nil {
		r.noteFault(dev, err)
	}
	return err
}

func (r *Reader) noteFault(dev uint8, err error) {
	if err == nil {
		return
	}
	r.faults[dev].Add(1)
	if r.cfg.OnFault != nil {
		r.cfg.OnFault(dev, err)
	}
}
