package crashtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/strhash"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

const (
	firstInum = ondisk.RootInum + 100
	snapshot  = ^uint32(0)
	forever   = 1 << 20 // more sectors than files have
	xattrName = "tag"
)

// Files is a workload on the files of the root directory: each transaction changes one or several of them, and what it changes bears its
// tag, in inode, attribute and each sector of data. It is also what the reference's fsck is content with.
type Files struct {
	Count      int // of files
	MaxSectors int // of a file
	MaxTouched int // files in a transaction; 0: 3
	// FlushEvery has on average each n-th transaction be followed by a flush of the journal; 0: none is.
	FlushEvery int
	// Log tells the time of promises; nil: there are none.
	Log     *blockdev.Log
	Workers int // goroutines that write at once; 0: 1
	// GoOn says of an error of a transaction whether the run goes on all the same; nil: it never does.
	GoOn func(error) bool

	tag  atomic.Uint64
	full atomic.Int64
}

// Full is how often there was no space.
func (f *Files) Full() int64 { return f.full.Load() }

// Run makes transactions on a filesystem until n were made, and notes them. It returns the first error that is not for lack of
// space.
func (f *Files) Run(ctx context.Context, rw *engine.RW, h *History, seed uint64, n int) error {
	root, err := rootInode(ctx, rw)
	if err != nil {
		return err
	}
	f.tag.CompareAndSwap(0, mix(seed)>>20)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for i := range max(f.Workers, 1) {
		wg.Go(func() {
			w := fileWorker{Files: f, rw: rw, h: h, root: root, rng: newRand(seed, uint64(i), 1), point: alloc.WritePoint(i + 1)}
			for left.Add(-1) >= 0 && ctx.Err() == nil {
				if err := w.step(ctx); err != nil && ctx.Err() == nil && (f.GoOn == nil || !f.GoOn(err)) {
					stop(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func rootInode(ctx context.Context, rw *engine.RW) (root ondisk.Inode, err error) {
	err = rw.Store.View(ctx, func(tx *trans.Tx) error {
		k, _, err := tx.Get(ondisk.BtreeInodes, inodePos(ondisk.RootInum), 0)
		if err == nil {
			root, err = ondisk.DecodeInode(k)
		}
		return err
	})
	return root, err
}

// fileWorker is one goroutine of a run.
type fileWorker struct {
	*Files
	rw    *engine.RW
	h     *History
	root  ondisk.Inode
	rng   *rand.Rand
	point alloc.WritePoint
}

// fileOp is what a transaction does to one file.
type fileOp struct {
	inum   uint64
	remove bool
	punch  bool // else: if sectors is not 0 data is written
	at     uint64
	space  alloc.Allocation
}

// step makes one transaction.
func (w *fileWorker) step(ctx context.Context) error {
	tag := w.tag.Add(1)
	ops, err := w.plan(ctx, tag)
	defer func() {
		for i := range ops {
			ops[i].space.Done(ctx)
		}
	}()
	if err != nil {
		return err
	}
	var promise alloc.Reservation
	sectors := uint64(0)
	for i := range ops {
		sectors += uint64(ops[i].space.Sectors)
	}
	switch promise, err = w.rw.Space.Reserve(sectors, 1, 0); {
	case isFull(err):
		w.full.Add(1)
		return nil
	case err != nil:
		return err
	}
	defer promise.Put()
	var changes []Change
	seq := uint64(0)
	err = w.rw.Store.Update(ctx, func(tx *trans.Tx) error {
		changes = nil
		tx.Attach(&promise)
		for i := range ops {
			c, err := w.apply(tx, &ops[i], tag)
			if err != nil {
				return err
			}
			changes = append(changes, c...)
		}
		tx.OnCommit(func(s uint64) {
			seq = s
			w.h.Committed(s, changes)
		})
		return nil
	})
	if err != nil {
		if isFull(err) {
			w.full.Add(1)
			return nil
		}
		return err
	}
	if w.FlushEvery == 0 || seq == 0 || w.rng.IntN(w.FlushEvery) != 0 {
		return nil
	}
	if err := w.rw.Journal.FlushSeq(ctx, seq); err != nil {
		return err
	}
	tick := 0
	if w.Log != nil {
		tick = w.Log.Ticks()
	}
	w.h.Acknowledged(tick, seq)
	return nil
}

func isFull(err error) bool { return errors.Is(err, alloc.ErrNoSpace) }

// plan chooses what the transaction does, and writes the data.
func (w *fileWorker) plan(ctx context.Context, tag uint64) ([]fileOp, error) {
	most := w.MaxTouched
	if most == 0 {
		most = 3
	}
	ops := make([]fileOp, 0, most)
	for range 1 + w.rng.IntN(most) {
		op := fileOp{inum: firstInum + uint64(w.rng.IntN(w.Count))}
		for i := range ops {
			if ops[i].inum == op.inum {
				op.inum = 0
			}
		}
		if op.inum == 0 {
			continue
		}
		op.at = uint64(w.rng.IntN(w.MaxSectors))
		switch w.rng.IntN(8) {
		case 0:
			op.remove = true
		case 1:
			op.punch = true
		case 2:
		default:
			if err := w.write(ctx, &op, tag); err != nil {
				return append(ops, op), err // it may have space
			}
		}
		ops = append(ops, op)
	}
	return ops, nil
}

// write allocates space for data and writes it. If there is none, the operation makes space.
func (w *fileWorker) write(ctx context.Context, op *fileOp, tag uint64) error {
	want := 1 + w.rng.IntN(min(w.MaxSectors-int(op.at), 16))
	req := alloc.Request{Sectors: uint32(want), DataType: ondisk.DataUser, WritePoint: w.point, Replicas: 1, Watermark: alloc.WatermarkNormal}
	err := w.rw.Alloc.AllocSectors(ctx, &req, &op.space)
	if isFull(err) {
		w.full.Add(1)
		op.remove = true
		return nil
	}
	if err != nil {
		return err
	}
	buf := blockdev.AlignedBuffer(int(op.space.Sectors) * ondisk.SectorSize)
	for i := range int(op.space.Sectors) {
		fillSector(buf[i*ondisk.SectorSize:][:ondisk.SectorSize], tag, op.inum, op.at+uint64(i))
	}
	for _, p := range op.space.Ptrs() {
		if err := w.rw.Device(p.Dev).WriteAt(ctx, buf, int64(p.Offset)*ondisk.SectorSize); err != nil {
			return err
		}
	}
	return nil
}

// fillSector makes the data of a sector: its tag, and what depends on tag, file and place.
func fillSector(b []byte, tag, inum, sector uint64) {
	x := mix(tag ^ mix(inum^mix(sector)))
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], x+uint64(i))
	}
	binary.LittleEndian.PutUint64(b, tag)
}

// readSector returns the tag of a sector, or a number that is none if what is there was not written for this place.
func readSector(b []byte, inum, sector uint64) uint64 {
	tag := binary.LittleEndian.Uint64(b)
	x := mix(tag ^ mix(inum^mix(sector)))
	for i := 8; i < len(b); i += 8 {
		if binary.LittleEndian.Uint64(b[i:]) != x+uint64(i) {
			return ^uint64(0)
		}
	}
	return tag
}

func inodePos(inum uint64) ondisk.Pos { return ondisk.Pos{Offset: inum, Snapshot: snapshot} }

func fileName(inum uint64) []byte { return fmt.Appendf(nil, "file-%d", inum-firstInum) }

// apply adds an operation to a transaction and returns what it changes.
func (w *fileWorker) apply(tx *trans.Tx, op *fileOp, tag uint64) ([]Change, error) {
	hash := strhash.Type(w.root.HashType)
	dirent := ondisk.Pos{Inode: ondisk.RootInum, Offset: strhash.Dirent(hash, w.root.HashSeed, fileName(op.inum), false), Snapshot: snapshot}
	xattr := ondisk.Pos{Inode: op.inum, Offset: strhash.Xattr(hash, [8]byte{}, uint8(ondisk.XattrUser), []byte(xattrName)), Snapshot: snapshot}
	_, exists, err := tx.Get(ondisk.BtreeInodes, inodePos(op.inum), trans.ForUpdate)
	if err != nil || op.remove && !exists {
		return nil, err
	}
	changes, err := w.applyData(tx, op, tag)
	if err != nil {
		return nil, err
	}
	in := ondisk.Inode{HashType: w.root.HashType, Mode: ondisk.DTReg<<12 | 0o644, Dir: ondisk.RootInum, DirOffset: dirent.Offset,
		Mtime: int64(tag)}
	if in.Sectors, in.Size, err = measure(tx, op.inum); err != nil {
		return nil, err
	}
	x := ondisk.Xattr{Type: ondisk.XattrUser, Name: []byte(xattrName), Value: binary.LittleEndian.AppendUint64(nil, tag)}
	x.Value = append(x.Value, make([]byte, mix(tag)%400)...)
	d := ondisk.Dirent{Type: ondisk.DTReg, Inum: op.inum, Name: fileName(op.inum)}
	keys := []struct {
		id    ondisk.BtreeID
		key   ondisk.Key
		item  Item
		value uint64
	}{
		{ondisk.BtreeInodes, ondisk.Key{Type: ondisk.KeyInodeV3, Pos: inodePos(op.inum), Val: ondisk.EncodeInodeV3(&in)},
			Item{ItemInode, op.inum, 0}, inodeValue(&in)},
		{ondisk.BtreeXattrs, ondisk.Key{Type: ondisk.KeyXattr, Pos: xattr, Val: x.Encode()}, Item{ItemXattr, op.inum, 0}, xattrValue(&x)},
		{ondisk.BtreeDirents, ondisk.Key{Type: ondisk.KeyDirent, Pos: dirent, Val: d.Encode()}, Item{ItemDirent, op.inum, 0}, op.inum},
	}
	for _, k := range keys {
		if op.remove {
			k.key, k.value = ondisk.Key{Pos: k.key.Pos}, 0
		} else if k.id == ondisk.BtreeDirents && exists {
			continue
		}
		if err := tx.Update(k.id, k.key, 0); err != nil {
			return nil, err
		}
		changes = append(changes, Change{k.item, k.value})
	}
	return changes, nil
}

// applyData changes the extents of a file.
func (w *fileWorker) applyData(tx *trans.Tx, op *fileOp, tag uint64) (changes []Change, err error) {
	n := uint64(op.space.Sectors)
	k := ondisk.Key{Type: ondisk.KeyExtent, Size: uint32(n), Pos: ondisk.Pos{Inode: op.inum, Offset: op.at + n, Snapshot: snapshot}}
	first, value := op.at, tag
	switch {
	case op.remove:
		first, n = 0, forever
	case op.punch:
		n = uint64(w.MaxSectors)
	case n == 0:
		return nil, nil
	default:
		for _, p := range op.space.Ptrs() {
			k.Val = ondisk.AppendExtentEntry(k.Val, &ondisk.ExtentEntry{Type: ondisk.EntryPtr, Ptr: p})
		}
	}
	if len(k.Val) == 0 {
		k.Type, k.Size, k.Pos.Offset = ondisk.KeyDeleted, uint32(n), first+n
		value = 0
		n = uint64(w.MaxSectors) // none is behind
	}
	for i := range n {
		if first+i < uint64(2*w.MaxSectors) {
			changes = append(changes, Change{Item{ItemSector, op.inum, first + i}, value})
		}
	}
	return changes, tx.Update(ondisk.BtreeExtents, k, 0)
}

// measure returns how many sectors a file has, and its size.
func measure(tx *trans.Tx, inum uint64) (sectors, size uint64, err error) {
	it := tx.Iter(ondisk.BtreeExtents, ondisk.Pos{Inode: inum, Snapshot: snapshot}, 0)
	for {
		k, ok, err := it.PeekMax(ondisk.Pos{Inode: inum, Offset: forever, Snapshot: snapshot})
		if err != nil || !ok {
			return sectors, size, err
		}
		sectors += uint64(k.Size)
		size = k.Pos.Offset * ondisk.SectorSize
		it.Advance()
	}
}

func inodeValue(in *ondisk.Inode) uint64 {
	return mix(uint64(in.Mtime)) ^ mix(in.Size+1)<<1 ^ mix(in.Sectors+2)
}

func xattrValue(x *ondisk.Xattr) uint64 {
	v := mix(uint64(len(x.Value)))
	if len(x.Value) >= 8 {
		v ^= binary.LittleEndian.Uint64(x.Value)
	}
	return v
}

// Read returns what a filesystem that is open for reading has of the files. Its root directory must be there in any case.
func Read(ctx context.Context, fs *engine.FS) (Content, error) {
	if _, ok, err := fs.Reader.Get(ctx, ondisk.BtreeInodes, inodePos(ondisk.RootInum)); err != nil || !ok {
		return nil, fmt.Errorf("root directory: there: %v, %w", ok, err)
	}
	c := Content{}
	from := ondisk.Pos{Inode: firstInum}
	for k, err := range fs.Reader.Keys(ctx, ondisk.BtreeInodes, ondisk.Pos{Offset: firstInum}, ondisk.SPosMax) {
		if err != nil {
			return nil, err
		}
		in, err := ondisk.DecodeInode(k)
		if err != nil {
			return nil, err
		}
		c[Item{ItemInode, k.Pos.Offset, 0}] = inodeValue(&in)
	}
	for k, err := range fs.Reader.Keys(ctx, ondisk.BtreeDirents, ondisk.Pos{Inode: ondisk.RootInum}, ondisk.SPosMax) {
		if err != nil {
			return nil, err
		}
		d, err := ondisk.DecodeDirent(k)
		if err != nil {
			return nil, err
		}
		if d.Inum >= firstInum {
			c[Item{ItemDirent, d.Inum, 0}] = d.Inum
		}
	}
	for k, err := range fs.Reader.Keys(ctx, ondisk.BtreeXattrs, from, ondisk.SPosMax) {
		if err != nil {
			return nil, err
		}
		x, err := ondisk.DecodeXattr(k)
		if err != nil {
			return nil, err
		}
		c[Item{ItemXattr, k.Pos.Inode, 0}] = xattrValue(&x)
	}
	for k, err := range fs.Reader.Keys(ctx, ondisk.BtreeExtents, from, ondisk.SPosMax) {
		if err != nil {
			return nil, err
		}
		if err := c.readExtent(ctx, fs, &k); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// readExtent reads the data of an extent, of all its replicas.
func (c Content) readExtent(ctx context.Context, fs *engine.FS, k *ondisk.Key) error {
	ptrs, _, err := ondisk.AppendExtentPtrs(nil, k, nil)
	if err != nil {
		return err
	}
	buf := blockdev.AlignedBuffer(int(k.Size) * ondisk.SectorSize)
	for _, p := range ptrs {
		if err := fs.Device(p.Dev).ReadAt(ctx, buf, int64(p.Offset)*ondisk.SectorSize); err != nil {
			return err
		}
		for i := range uint64(k.Size) {
			at := Item{ItemSector, k.Pos.Inode, k.Start().Offset + i}
			tag := readSector(buf[i*ondisk.SectorSize:][:ondisk.SectorSize], k.Pos.Inode, at.Offset)
			if old, ok := c[at]; ok && old != tag {
				tag = ^uint64(1) // replicas differ
			}
			c[at] = tag
		}
	}
	return nil
}
