package data

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// maxRun bounds what is written at once: enough for a device to be quick, little enough for all cores to have something to do.
const maxRun = 1 << 20

// chunk is what becomes one extent, or several if the space for it lies in several places.
type chunk struct {
	start  uint64 // sector of the file
	plain  []byte
	stored []byte // compressed; nil: plain is stored
	comp   compress.Type
}

// part is a part of a chunk that has its place, and becomes one extent.
type part struct {
	start   uint64 // sector of the file
	plain   []byte
	stored  []byte // what is written; before it is encrypted it may be plain
	comp    compress.Type
	ptrs    []ondisk.ExtentPtr
	version ondisk.Version
	crc     ondisk.CRC
	failed  uint16 // bit n: pointer n was not written
}

// run is parts that are written with one write to each device: they follow one another there.
type run struct {
	lo, hi int // parts
	bytes  int
}

// batch is a window of a write between the file and the transaction that puts it there.
type batch struct {
	w      *Writer
	opts   *Options
	csum   checksum.Type
	chunks []chunk
	parts  []part
	ptrs   []ondisk.ExtentPtr // of parts
	keys   []ondisk.Key
	allocs []*alloc.Allocation
	spare  []*alloc.Allocation // memory of others
	bufs   [][]byte
	mu     sync.Mutex
	err    error
}

// newBatch returns a batch for a window of a file, in the memory of an earlier one. It is given back with [batch.recycle].
func (w *Writer) newBatch(o *Options) *batch {
	b, _ := w.batches.Get().(*batch)
	if b == nil {
		b = new(batch)
	}
	b.w, b.opts, b.csum = w, o, w.checksumType(o)
	return b
}

// recycle is the end of a batch of [Writer.newBatch].
func (b *batch) recycle(ctx context.Context) {
	b.release(ctx)
	w := b.w
	b.w, b.opts, b.err = nil, nil, nil
	b.chunks, b.parts, b.keys, b.ptrs = forget(b.chunks), forget(b.parts), forget(b.keys), forget(b.ptrs)
	w.batches.Put(b)
}

// forget empties a slice, and keeps its memory but not what it refers to.
func forget[T any](s []T) []T {
	clear(s)
	return s[:0]
}

// release gives up buckets and buffers. Buckets that nothing refers to become free again.
func (b *batch) release(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	for _, a := range b.allocs {
		a.Done(ctx)
	}
	for _, buf := range b.bufs {
		b.w.buffers.put(buf)
	}
	b.spare = append(b.spare, b.allocs...)
	b.allocs, b.bufs = forget(b.allocs), forget(b.bufs)
}

// allocation gets space, until [batch.release].
func (b *batch) allocation(ctx context.Context, req *alloc.Request) (*alloc.Allocation, error) {
	var al *alloc.Allocation
	if n := len(b.spare); n > 0 {
		al, b.spare = b.spare[n-1], b.spare[:n-1]
	} else {
		al = new(alloc.Allocation)
	}
	if err := b.w.cfg.Alloc.AllocSectors(ctx, req, al); err != nil {
		b.spare = append(b.spare, al)
		return nil, err
	}
	b.allocs = append(b.allocs, al)
	return al, nil
}

// pointers returns those of an allocation, some sectors further on.
func (b *batch) pointers(al *alloc.Allocation, sectors int) []ondisk.ExtentPtr {
	n := len(b.ptrs)
	b.ptrs = append(b.ptrs, al.Ptrs()...)
	ptrs := b.ptrs[n:len(b.ptrs):len(b.ptrs)]
	for i := range ptrs {
		ptrs[i].Offset += ondisk.Sector(sectors)
	}
	return ptrs
}

func (b *batch) buffer(n int) []byte {
	buf := b.w.buffers.get(n)
	b.mu.Lock()
	b.bufs = append(b.bufs, buf)
	b.mu.Unlock()
	return buf
}

// cut divides a window. Chunks that are encoded end where the file's sectors are multiples of their largest size, so that parts that are
// written later fit.
func (b *batch) cut(p []byte, start uint64) {
	unit := 0
	if b.csum != checksum.None || b.opts.Compression != 0 {
		unit = b.w.cfg.EncodedExtentMax
	}
	if b.opts.Compression != 0 { // what is compressed lies in one bucket
		for d := range b.w.cfg.Members.All() {
			unit = min(unit, int(d.BucketSize)*sectorSize)
		}
	}
	for len(p) > 0 {
		n := len(p)
		if unit > 0 {
			n = min(n, unit-int(start*sectorSize%uint64(unit)))
		}
		b.chunks = append(b.chunks, chunk{start: start, plain: p[:n]})
		p, start = p[n:], start+uint64(n)/sectorSize
	}
}

// each calls fn for 0 … n-1, several at a time.
func (b *batch) each(n int, fn func(i int)) {
	workers := min(b.w.cfg.Parallel, n)
	if workers <= 1 {
		for i := range n {
			fn(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	work := func() {
		for {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			fn(i)
		}
	}
	for range workers - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}

func (b *batch) fail(err error) {
	b.mu.Lock()
	if b.err == nil {
		b.err = err
	}
	b.mu.Unlock()
}

// compress makes chunks smaller if that is wanted and possible (spec/05 § 7.4).
func (b *batch) compress(ctx context.Context) error {
	typ, level := compression(b.opts.Compression)
	if typ == compress.None {
		return nil
	}
	if f, ok := compressionFeature(typ); ok {
		if err := b.w.setFeatures(ctx, f); err != nil {
			return err
		}
	}
	b.each(len(b.chunks), func(i int) {
		c := &b.chunks[i]
		c.comp = compress.Incompressible
		if len(c.plain) <= int(b.w.block) || ctx.Err() != nil {
			return
		}
		buf := b.buffer(len(c.plain))
		n, ok, err := compress.Compress(typ, level, buf, c.plain, int(b.w.block))
		switch {
		case err != nil:
			b.fail(err)
		case ok:
			c.stored, c.comp = buf[:n], typ
		}
	})
	return errors.Join(b.err, ctx.Err())
}

// allocate gives every chunk its place.
func (b *batch) allocate(ctx context.Context, point alloc.WritePoint) error {
	for i := 0; i < len(b.chunks); {
		c := &b.chunks[i]
		if c.comp.IsCompressed() {
			ok, err := b.allocateWhole(ctx, c, point)
			if err != nil {
				return err
			}
			if ok {
				i++
				continue
			}
			c.stored, c.comp = nil, compress.Incompressible // it may fit in pieces
		}
		n := i
		sectors := 0
		for ; n < len(b.chunks) && !b.chunks[n].comp.IsCompressed(); n++ {
			sectors += len(b.chunks[n].plain) / sectorSize
		}
		if err := b.allocatePlain(ctx, b.chunks[i:n], sectors, point); err != nil {
			return err
		}
		i = n
	}
	return nil
}

func (b *batch) request(sectors int, point alloc.WritePoint) alloc.Request {
	return alloc.Request{Sectors: uint32(sectors), DataType: ondisk.DataUser, WritePoint: point, Replicas: b.opts.Replicas,
		Required: b.opts.ReplicasRequired, Target: b.opts.ForegroundTarget}
}

// allocateWhole finds a place for a compressed chunk, which cannot be divided; ok is false if there is none, but may be for pieces.
func (b *batch) allocateWhole(ctx context.Context, c *chunk, point alloc.WritePoint) (ok bool, err error) {
	req := b.request(len(c.stored)/sectorSize, point)
	req.Min = req.Sectors
	al, err := b.allocation(ctx, &req)
	if err != nil {
		if errors.Is(err, alloc.ErrNoSpace) || errors.Is(err, alloc.ErrInsufficientDevices) {
			return false, nil
		}
		return false, err
	}
	b.parts = append(b.parts, part{start: c.start, plain: c.plain, stored: c.stored, comp: c.comp, ptrs: b.pointers(al, 0)})
	return true, nil
}

// allocatePlain finds places for chunks that may be divided anywhere.
func (b *batch) allocatePlain(ctx context.Context, chunks []chunk, sectors int, point alloc.WritePoint) error {
	into := 0 // bytes of chunks[0] that have a place
	for sectors > 0 {
		req := b.request(sectors, point)
		al, err := b.allocation(ctx, &req)
		if err != nil {
			return err
		}
		sectors -= int(al.Sectors)
		for at := 0; at < int(al.Sectors); {
			c := &chunks[0]
			n := min(len(c.plain)-into, (int(al.Sectors)-at)*sectorSize)
			plain := c.plain[into : into+n]
			b.parts = append(b.parts, part{start: c.start + uint64(into)/sectorSize, plain: plain, stored: plain, comp: c.comp,
				ptrs: b.pointers(al, at)})
			at += n / sectorSize
			if into += n; into == len(c.plain) {
				chunks, into = chunks[1:], 0
			}
		}
	}
	return nil
}

// runs gathers parts that follow one another on all their devices.
func (b *batch) runs() (all []run) {
	for i := range b.parts {
		p := &b.parts[i]
		if n := len(all); n > 0 {
			r := &all[n-1]
			if r.bytes+len(p.stored) <= maxRun && follow(&b.parts[i-1], p) {
				r.hi, r.bytes = i+1, r.bytes+len(p.stored)
				continue
			}
		}
		all = append(all, run{i, i + 1, len(p.stored)})
	}
	return all
}

func follow(a, b *part) bool {
	if len(a.ptrs) != len(b.ptrs) {
		return false
	}
	for i := range a.ptrs {
		p, q := &a.ptrs[i], &b.ptrs[i]
		if p.Dev != q.Dev || p.Offset+ondisk.Sector(len(a.stored)/sectorSize) != q.Offset {
			return false
		}
	}
	return true
}

// store encrypts, checksums and writes all parts.
func (b *batch) store(ctx context.Context) error {
	runs := b.runs()
	if b.csum.IsEncryption() { // in order, so that the same data gets the same ones
		for i := range b.parts {
			b.parts[i].version = b.w.cfg.NewKeyVersion()
		}
	}
	b.each(len(runs), func(i int) {
		if ctx.Err() == nil {
			b.storeRun(ctx, &runs[i])
		}
	})
	if b.err != nil {
		return b.err
	}
	return ctx.Err()
}

func (b *batch) storeRun(ctx context.Context, r *run) {
	parts := b.parts[r.lo:r.hi]
	buf := parts[0].stored
	if inPlace := !b.csum.IsEncryption() && oneBuffer(parts); inPlace {
		buf = buf[:r.bytes]
	} else {
		buf = b.buffer(r.bytes)
		at := 0
		for i := range parts {
			n := copy(buf[at:], parts[i].stored)
			parts[i].stored = buf[at : at+n : at+n]
			at += n
		}
	}
	for i := range parts {
		if err := b.seal(&parts[i]); err != nil {
			b.fail(err)
			return
		}
	}
	failed, err := b.w.writeAll(ctx, parts[0].ptrs, buf)
	if err != nil {
		b.fail(err)
		return
	}
	for i := range parts {
		parts[i].failed = failed
	}
}

// oneBuffer reports whether what is stored of parts lies in memory as it is to lie on the devices.
func oneBuffer(parts []part) bool {
	for i := 1; i < len(parts); i++ {
		prev := parts[i-1].stored
		if cap(prev) == len(prev) || &prev[:len(prev)+1][len(prev)] != &parts[i].stored[0] {
			return false
		}
	}
	return true
}

// seal encrypts a part in place, if it is to be, and computes its checksum.
func (b *batch) seal(p *part) (err error) {
	p.crc = ondisk.CRC{CompressedSize: uint32(len(p.stored) / sectorSize), UncompressedSize: uint32(len(p.plain) / sectorSize),
		Csum: b.csum, Compression: p.comp}
	if b.csum == checksum.None {
		return nil
	}
	if b.csum.IsEncryption() {
		b.w.cfg.Key.XOR(nonce(p.version, &p.crc), p.stored)
	}
	p.crc.Sum, err = checksum.Compute(b.csum, b.w.cfg.Key, nonce(p.version, &p.crc), p.stored)
	return err
}

// writeAll writes the same to all pointers at once. failed has a bit for each that failed; the error is of ctx only.
func (w *Writer) writeAll(ctx context.Context, ptrs []ondisk.ExtentPtr, buf []byte) (failed uint16, err error) {
	var errs [alloc.MaxOpenPerWrite]error
	if len(ptrs) == 1 { // mostly
		errs[0] = w.writeTo(ctx, &ptrs[0], buf)
	} else {
		errs = w.writeEach(ctx, ptrs, buf)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if w.cfg.Wrote != nil {
		w.cfg.Wrote(uint64(len(buf)/sectorSize) * uint64(len(ptrs)))
	}
	for i := range ptrs {
		if errs[i] == nil {
			continue
		}
		failed |= 1 << i
		if w.cfg.OnWriteError != nil {
			w.cfg.OnWriteError(ptrs[i].Dev, errs[i])
		}
	}
	return failed, nil
}

// writeEach is [Writer.writeTo] for several pointers at once.
func (w *Writer) writeEach(ctx context.Context, ptrs []ondisk.ExtentPtr, buf []byte) (errs [alloc.MaxOpenPerWrite]error) {
	var wg sync.WaitGroup
	for i := range ptrs {
		wg.Go(func() { errs[i] = w.writeTo(ctx, &ptrs[i], buf) })
	}
	wg.Wait()
	return errs
}

func (w *Writer) writeTo(ctx context.Context, p *ondisk.ExtentPtr, buf []byte) error {
	dev := w.cfg.Device(p.Dev)
	if dev == nil {
		return ErrNoDevice
	}
	return dev.WriteAt(ctx, buf, int64(p.Offset)*sectorSize)
}

// key returns the extent that a part becomes, without inode and snapshot.
func (b *batch) key(p *part) (ondisk.Key, error) {
	k := ondisk.Key{Type: ondisk.KeyExtent, Size: uint32(len(p.plain) / sectorSize), Version: p.version}
	k.Pos.Offset = p.start + uint64(k.Size)
	var val []byte
	if p.crc.Csum != checksum.None || p.crc.Compression != compress.None {
		t, ok := p.crc.EntryType()
		if !ok {
			return k, fmt.Errorf("no crc entry holds %d sectors with %v", p.crc.UncompressedSize, p.crc.Csum)
		}
		val = ondisk.AppendExtentEntry(val, &ondisk.ExtentEntry{Type: t, CRC: p.crc})
	}
	dirty := 0
	for i, ptr := range p.ptrs {
		if p.failed>>i&1 != 0 {
			continue
		}
		if !ptr.Cached {
			dirty++
		}
		val = ondisk.AppendExtentEntry(val, &ondisk.ExtentEntry{Type: ondisk.EntryPtr, Ptr: ptr})
	}
	if p.failed != 0 && dirty < b.opts.ReplicasRequired || dirty == 0 {
		return k, errno(syscall.EIO, "data could be written to %d of %d devices only", dirty, len(p.ptrs))
	}
	if e, ok := b.w.rebalance(b.opts, p); ok {
		val = ondisk.AppendExtentEntry(val, &e)
	}
	k.Val = val
	return k, nil
}

// rebalance returns the entry of an extent that is not yet as it is to become in the background, up to 1.32 (spec/05 § 16).
func (w *Writer) rebalance(o *Options, p *part) (e ondisk.ExtentEntry, ok bool) {
	e = ondisk.ExtentEntry{Type: ondisk.EntryRebalance,
		Rebalance: ondisk.Rebalance{BackgroundCompression: o.BackgroundCompression, BackgroundTarget: o.BackgroundTarget}}
	if w.cfg.InTarget == nil {
		e.Rebalance.BackgroundTarget = 0
	}
	if typ, _ := compression(o.BackgroundCompression); typ != compress.None && p.comp != compress.Incompressible && p.comp != typ {
		return e, true
	}
	if e.Rebalance.BackgroundTarget == 0 {
		return e, false
	}
	for i, ptr := range p.ptrs {
		if in, usable := w.cfg.InTarget(o.BackgroundTarget, ptr.Dev); p.failed>>i&1 == 0 && !ptr.Cached && usable && !in {
			return e, true
		}
	}
	return e, false
}
