package fstest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
)

// FSX does random operations on the data of a few files and compares all that is read with arrays of bytes. What the implementation lacks is found out
// at the beginning and left out.
type FSX struct {
	FS   FS
	Dir  string // in which the files are made; it exists
	Seed uint64

	Ops      int           // operations; 0: 1000
	Duration time.Duration // after which no more are done; 0: no bound
	Files    int           // 0: 2
	MaxSize  int64         // of a file; 0: 256 KiB
	Block    int64         // to which the ranges of direct I/O, clone, insert and collapse are aligned; 0: 4096
	Without  Feature       // what to leave out

	// Remount, if set, ends the use of the filesystem and begins it anew.
	Remount func() (FS, error)
	// Snapshot, if set, takes a snapshot with the number n of what Dir is in, and returns the path at which Dir is seen in it.
	Snapshot func(fs FS, n int) (dir string, err error)
	// ShrinkFor bounds the time in which a sequence that fails is made shorter; 0: 20 s, less than 0: it is not.
	ShrinkFor time.Duration
	Logf      func(format string, args ...any)

	taken int // snapshots
}

// Feature is something that not every filesystem can do with a file.
type Feature uint32

// Features that [FSX] can leave out.
const (
	FeatureDirect Feature = 1 << iota
	FeatureMapRead
	FeatureMapWrite
	FeatureAllocate
	FeatureKeepSize
	FeaturePunch
	FeatureZero
	FeatureInsert
	FeatureCollapse
	FeatureCopy
	FeatureClone
	FeatureSeek
)

var featureNames = []string{"direct", "mapread", "mapwrite", "allocate", "keep size", "punch", "zero", "insert", "collapse", "copy", "clone", "seek"}

// String lists the features.
func (f Feature) String() string {
	var s []string
	for i, name := range featureNames {
		if f&(1<<i) != 0 {
			s = append(s, name)
		}
	}
	return strings.Join(s, ", ")
}

// fsxKind says what an operation does.
type fsxKind uint8

const (
	fsxRead fsxKind = iota
	fsxWrite
	fsxAppend
	fsxTruncate
	fsxMapRead
	fsxMapWrite
	fsxAllocate
	fsxKeepSize
	fsxPunch
	fsxZero
	fsxZeroKeep
	fsxInsert
	fsxCollapse
	fsxCopy
	fsxClone
	fsxSeek
	fsxSync
	fsxReopen
	fsxCompare
	fsxRemount
	fsxSnapshot
)

// fsxKinds says of each kind its name, how often it is chosen, what it needs, and whether it changes everything behind its offset.
var fsxKinds = [...]struct {
	name    string
	weight  int
	needs   Feature
	changes bool
	shifts  bool
}{
	fsxRead: {"read", 12, 0, false, false}, fsxWrite: {"write", 14, 0, true, false}, fsxAppend: {"append", 4, 0, true, false},
	fsxTruncate: {"truncate", 6, 0, true, true}, fsxMapRead: {"mapread", 6, FeatureMapRead, false, false},
	fsxMapWrite: {"mapwrite", 6, FeatureMapWrite, true, false}, fsxAllocate: {"allocate", 4, FeatureAllocate, true, false},
	fsxKeepSize: {"allocate-keep-size", 3, FeatureKeepSize, true, false}, fsxPunch: {"punch", 6, FeaturePunch, true, false},
	fsxZero: {"zero", 4, FeatureZero, true, false}, fsxZeroKeep: {"zero-keep-size", 2, FeatureZero, true, false},
	fsxInsert: {"insert", 3, FeatureInsert, true, true}, fsxCollapse: {"collapse", 4, FeatureCollapse, true, true},
	fsxCopy: {"copy", 4, FeatureCopy, true, false}, fsxClone: {"clone", 6, FeatureClone, true, false}, fsxSeek: {"seek", 4, FeatureSeek, false, false},
	fsxSync: {"fsync", 3, 0, false, false}, fsxReopen: {"reopen", 2, 0, false, false}, fsxCompare: {"compare", 1, 0, false, false},
	fsxRemount: {"remount", 1, 0, false, false}, fsxSnapshot: {"snapshot", 1, 0, false, false},
}

// fsxOp is one operation.
type fsxOp struct {
	kind       fsxKind
	file, from int
	off, n     int64
	fromOff    int64
	tag        uint64 // of the data
	direct     bool
}

// String returns the operation as a line.
func (o fsxOp) String() string {
	s := fmt.Sprintf("#%d %s file %d", o.tag, fsxKinds[o.kind].name, o.file)
	switch o.kind {
	case fsxSync, fsxReopen, fsxCompare, fsxRemount, fsxSnapshot:
		return s
	case fsxTruncate:
		s += fmt.Sprintf(" to %#x", o.off)
	default:
		s += fmt.Sprintf(" [%#x, %#x)", o.off, o.off+o.n)
	}
	if o.kind == fsxCopy || o.kind == fsxClone {
		s += fmt.Sprintf(" from file %d at %#x", o.from, o.fromOff)
	}
	if o.direct {
		s += " direct"
	}
	return s
}

// touches reports whether the operation may have changed a part of a file.
func (o fsxOp) touches(file int, off, n int64) bool {
	k := fsxKinds[o.kind]
	return k.changes && o.file == file && o.off < off+n && (k.shifts || off < o.off+o.n)
}

// fsxRun is one execution of a sequence.
type fsxRun struct {
	*FSX
	fs     FS
	rng    *rand.Rand
	avail  Feature
	prefix string // of the names of this run
	slots  []fsxSlot
	snaps  []fsxSnap
	done   []fsxOp
}

// fsxSlot is a file and what must be in it.
type fsxSlot struct {
	path             string
	buffered, direct File // direct is nil without that feature
	want             []byte
}

// fsxSnap is what must be in a snapshot.
type fsxSnap struct {
	dir  string
	want [][]byte
}

func (x *FSX) defaults() FSX {
	c := *x
	set(&c.Ops, 1000)
	set(&c.Files, 2)
	set(&c.MaxSize, 256<<10)
	set(&c.Block, 4096)
	set(&c.ShrinkFor, 20*time.Second)
	if c.Logf == nil {
		c.Logf = func(string, ...any) {}
	}
	return c
}

// set gives a number that is zero another value.
func set[T int | int64 | time.Duration](p *T, v T) {
	if *p == 0 {
		*p = v
	}
}

// Run does what the configuration says. An error tells what differs, the operations that touched the place, and the shortest sequence that was found to
// lead there.
func (x *FSX) Run() error {
	c := x.defaults()
	r := &fsxRun{FSX: &c, fs: c.FS, prefix: fmt.Sprintf("fsx-%d", c.Seed), rng: newRand(c.Seed, 1)}
	if err := r.probe(); err != nil {
		return fmt.Errorf("fsx, seed %d: finding out what there is: %w", c.Seed, err)
	}
	err := r.random()
	if err == nil {
		return nil
	}
	ops := r.done
	err = fmt.Errorf("fsx, seed %d, operation %d of at most %d: %w%s", c.Seed, len(ops), c.Ops, err, lines(ops, 20))
	if c.ShrinkFor < 0 {
		return err
	}
	n := 0
	shortErr := errors.New("it did not fail again")
	short := shrink(ops, c.ShrinkFor, func(ops []fsxOp) bool {
		n++
		again := &fsxRun{FSX: &c, fs: r.fs, avail: r.avail, prefix: fmt.Sprintf("fsx-%d-%d", c.Seed, n), rng: newRand(c.Seed, 1)}
		err := again.repeat(ops)
		r.fs = again.fs
		if err != nil {
			shortErr = err
		}
		return err != nil
	})
	return fmt.Errorf("%w\nshorter, %d operations:%s\nwith which %w", err, len(short), lines(short, 100), shortErr)
}

// probe finds out which features there are.
func (r *fsxRun) probe() error {
	probe := path.Join(r.Dir, r.prefix+"-probe")
	f, err := r.fs.Open(probe, OpenCreate|OpenTruncate, 0o600)
	if err != nil {
		return err
	}
	defer r.fs.Unlink(probe)
	defer f.Close()
	b := r.Block
	buf := pattern(1, 0, 8*b)
	if err := writeFull(f, buf, 0); err != nil {
		return err
	}
	direct := func() error {
		d, err := r.fs.Open(probe, OpenDirect, 0)
		if err == nil {
			d.Close()
		}
		return err
	}
	alloc := func(mode AllocMode) func() error { return func() error { return f.Allocate(mode, b, b) } }
	for i, try := range []func() error{direct, func() error { return f.MapRead(buf[:b], 0) }, func() error { return f.MapWrite(buf[:b], 0) },
		alloc(AllocExtend), alloc(AllocKeepSize), alloc(AllocPunch), alloc(AllocZero), alloc(AllocInsert), alloc(AllocCollapse),
		func() error { _, err := f.CopyRange(f, 0, 4*b, b); return err }, func() error { return f.Clone(f, 0, 5*b, b) },
		func() error { _, err := f.SeekHole(0); return err }} {
		err := try()
		// open(2) says EINVAL of what cannot be direct, and ioctl of what cannot be cloned.
		if err != nil && !lacking(err) && ErrnoOf(err) != EINVAL {
			return fmt.Errorf("%s: %w", featureNames[i], err)
		}
		if err == nil && r.Without&(1<<i) == 0 {
			r.avail |= 1 << i
		}
	}
	if not := (1<<len(featureNames) - 1) &^ r.avail; not != 0 {
		r.Logf("fsx: without %v", not)
	}
	return nil
}

func (r *fsxRun) open() error {
	for i := range r.Files {
		s := fsxSlot{path: path.Join(r.Dir, fmt.Sprintf("%s-%d", r.prefix, i))}
		if err := r.openSlot(&s, OpenCreate|OpenTruncate); err != nil {
			return err
		}
		r.slots = append(r.slots, s)
	}
	return nil
}

func (r *fsxRun) openSlot(s *fsxSlot, flags OpenFlags) (err error) {
	if s.buffered, err = r.fs.Open(s.path, flags, 0o600); err == nil && r.avail&FeatureDirect != 0 {
		s.direct, err = r.fs.Open(s.path, OpenDirect, 0)
	}
	return err
}

func (s *fsxSlot) close() error {
	var errs []error
	for _, f := range []*File{&s.buffered, &s.direct} {
		if *f != nil {
			errs = append(errs, (*f).Close())
			*f = nil
		}
	}
	return errors.Join(errs...)
}

// end closes and removes what the run made.
func (r *fsxRun) end() error {
	var errs []error
	for i := range r.slots {
		errs = append(errs, r.slots[i].close(), r.fs.Unlink(r.slots[i].path))
	}
	return errors.Join(errs...)
}

// random chooses operations and does them.
func (r *fsxRun) random() error {
	if err := r.open(); err != nil {
		return err
	}
	start := time.Now()
	for i := 0; i < r.Ops && (r.Duration == 0 || time.Since(start) < r.Duration); {
		op := r.choose()
		if !r.legal(&op) {
			continue
		}
		i++
		op.tag = uint64(i)
		if err := r.step(op); err != nil {
			for i := range r.slots {
				r.slots[i].close()
			}
			return err
		}
	}
	for i := range r.slots {
		if err := r.compare(i); err != nil {
			return err
		}
	}
	if err := r.compareSnaps(); err != nil {
		return err
	}
	return r.end()
}

// repeat does given operations, but for those that are impossible now.
func (r *fsxRun) repeat(ops []fsxOp) error {
	defer r.end()
	if err := r.open(); err != nil {
		return nil // nothing that would tell of the operations
	}
	for _, op := range ops {
		if !r.legal(&op) {
			continue
		}
		if err := r.step(op); err != nil {
			return err
		}
	}
	for i := range r.slots {
		if err := r.compare(i); err != nil {
			return err
		}
	}
	return r.compareSnaps()
}

// choose returns a random operation that may not be possible.
func (r *fsxRun) choose() fsxOp {
	total := 0
	for _, k := range fsxKinds {
		total += k.weight
	}
	n := r.rng.IntN(total)
	op := fsxOp{}
	for k := range fsxKinds {
		if n -= fsxKinds[k].weight; n < 0 {
			op.kind = fsxKind(k)
			break
		}
	}
	op.file, op.from = r.rng.IntN(r.Files), r.rng.IntN(r.Files)
	most := r.MaxSize >> r.rng.IntN(7) // mostly small
	op.off, op.fromOff, op.n = r.rng.Int64N(r.MaxSize), r.rng.Int64N(r.MaxSize), 1+r.rng.Int64N(most)
	size := int64(len(r.slots[op.file].want))
	if size > 0 && r.rng.IntN(3) > 0 { // mostly where there is something
		op.off = r.rng.Int64N(size)
	}
	if from := int64(len(r.slots[op.from].want)); from > 0 {
		op.fromOff = r.rng.Int64N(from)
	}
	op.direct = r.rng.IntN(3) == 0
	toBlock := r.rng.IntN(3) == 0
	switch op.kind {
	case fsxClone, fsxInsert, fsxCollapse:
		toBlock = true
	case fsxRead, fsxWrite:
		toBlock = toBlock || op.direct
	}
	if toBlock {
		op.align(r.Block)
	}
	return op
}

func (o *fsxOp) align(b int64) {
	o.off, o.fromOff, o.n = o.off/b*b, o.fromOff/b*b, (o.n+b-1)/b*b
}

// legal makes an operation fit the files as they are, and reports whether it can be done.
func (r *fsxRun) legal(op *fsxOp) bool {
	if r.avail&fsxKinds[op.kind].needs != fsxKinds[op.kind].needs {
		return false
	}
	op.direct = op.direct && r.avail&FeatureDirect != 0 && (op.kind == fsxRead || op.kind == fsxWrite)
	size, from := int64(len(r.slots[op.file].want)), int64(len(r.slots[op.from].want))
	switch op.kind {
	case fsxAppend:
		op.off = size
	case fsxMapRead, fsxMapWrite:
		op.n = min(op.n, size-op.off)
	case fsxInsert:
		return op.off < size && size+op.n <= r.MaxSize
	case fsxCollapse:
		return op.off+op.n < size
	case fsxCopy:
		op.n = min(op.n, from-op.fromOff)
		return op.n > 0 && op.off+op.n <= r.MaxSize && op.apart()
	case fsxClone:
		if end := from - op.fromOff; op.n > end { // up to the end, which need not be aligned if it becomes an end
			if op.n = end; op.n%r.Block != 0 && op.off+op.n < size {
				op.n -= op.n % r.Block
			}
		}
		return op.n > 0 && op.off+op.n <= r.MaxSize && op.apart()
	case fsxSeek:
		return size > 0
	case fsxRemount:
		return r.Remount != nil
	case fsxSnapshot:
		return r.Snapshot != nil && len(r.snaps) < 8
	case fsxTruncate:
		return op.off <= r.MaxSize
	}
	return op.n > 0 && op.off+op.n <= r.MaxSize
}

// apart reports whether source and destination of a copy do not overlap.
func (o *fsxOp) apart() bool {
	return o.file != o.from || o.off+o.n <= o.fromOff || o.fromOff+o.n <= o.off
}

// step does an operation and checks what it returns.
func (r *fsxRun) step(op fsxOp) error {
	r.done = append(r.done, op)
	if err := r.do(op); err != nil {
		return fmt.Errorf("%v: %w", op, err)
	}
	s := &r.slots[op.file]
	st, err := s.buffered.Stat()
	if err == nil && st.Size != int64(len(s.want)) {
		err = fmt.Errorf("the size is %#x, not %#x", st.Size, len(s.want))
	}
	if err != nil {
		return fmt.Errorf("%v: %w", op, err)
	}
	return nil
}

func (r *fsxRun) do(op fsxOp) error {
	s, from := &r.slots[op.file], &r.slots[op.from]
	f := s.buffered
	if op.direct {
		f = s.direct
	}
	switch op.kind {
	case fsxRead, fsxMapRead:
		return r.read(op, f)
	case fsxWrite, fsxAppend:
		p := blockdev.AlignedBuffer(int(op.n))
		fill(p, op.tag, op.off)
		s.put(p, op.off)
		return writeFull(f, p, op.off)
	case fsxMapWrite:
		p := pattern(op.tag, op.off, op.n)
		s.put(p, op.off)
		return f.MapWrite(p, op.off)
	case fsxTruncate:
		s.resize(op.off)
		return f.Truncate(op.off)
	case fsxAllocate:
		s.grow(op.off + op.n)
		return f.Allocate(AllocExtend, op.off, op.n)
	case fsxKeepSize:
		return f.Allocate(AllocKeepSize, op.off, op.n)
	case fsxPunch:
		s.zero(op.off, op.n)
		return f.Allocate(AllocPunch, op.off, op.n)
	case fsxZero:
		s.grow(op.off + op.n)
		s.zero(op.off, op.n)
		return f.Allocate(AllocZero, op.off, op.n)
	case fsxZeroKeep:
		s.zero(op.off, op.n)
		return f.Allocate(AllocZero|AllocKeepSize, op.off, op.n)
	case fsxInsert:
		s.want = slices.Insert(s.want, int(op.off), make([]byte, op.n)...)
		return f.Allocate(AllocInsert, op.off, op.n)
	case fsxCollapse:
		s.want = slices.Delete(s.want, int(op.off), int(op.off+op.n))
		return f.Allocate(AllocCollapse, op.off, op.n)
	case fsxCopy:
		s.put(bytes.Clone(from.want[op.fromOff:op.fromOff+op.n]), op.off)
		return copyAll(f, from.buffered, op.fromOff, op.off, op.n)
	case fsxClone:
		s.put(bytes.Clone(from.want[op.fromOff:op.fromOff+op.n]), op.off)
		return f.Clone(from.buffered, op.fromOff, op.off, op.n)
	case fsxSeek:
		return s.seek(op.off)
	case fsxSync:
		return f.Sync()
	case fsxCompare:
		return r.compare(op.file)
	}
	return r.disturb(op, s)
}

// disturb does what must not change anything.
func (r *fsxRun) disturb(op fsxOp, s *fsxSlot) error {
	switch op.kind {
	case fsxReopen:
		if err := s.close(); err != nil {
			return err
		}
		return r.openSlot(s, 0)
	case fsxSnapshot:
		if err := r.fs.Sync(); err != nil {
			return err
		}
		r.taken++
		dir, err := r.Snapshot(r.fs, r.taken)
		if err != nil {
			return err
		}
		snap := fsxSnap{dir: dir}
		for i := range r.slots {
			snap.want = append(snap.want, bytes.Clone(r.slots[i].want))
		}
		r.snaps = append(r.snaps, snap)
		return r.compareSnaps()
	}
	for i := range r.slots {
		if err := r.slots[i].close(); err != nil {
			return err
		}
	}
	fs, err := r.Remount()
	if err != nil {
		return err
	}
	r.fs = fs
	for i := range r.slots {
		if err := r.openSlot(&r.slots[i], 0); err != nil {
			return err
		}
	}
	for i := range r.slots {
		if err := r.compare(i); err != nil {
			return err
		}
	}
	return r.compareSnaps()
}

// copyAll copies with as many calls as it takes.
func copyAll(f, from File, fromOff, off, size int64) error {
	for done := int64(0); done < size; {
		n, err := f.CopyRange(from, fromOff+done, off+done, size-done)
		if err != nil {
			return err
		}
		if n <= 0 {
			return fmt.Errorf("copied %d of %d bytes, then nothing", done, size)
		}
		done += n
	}
	return nil
}

// read compares a part of a file.
func (r *fsxRun) read(op fsxOp, f File) error {
	want := r.slots[op.file].want
	want = want[min(op.off, int64(len(want))):min(op.off+op.n, int64(len(want)))]
	p := blockdev.AlignedBuffer(int(op.n))
	n := len(p)
	var err error
	if op.kind == fsxMapRead {
		err = f.MapRead(p, op.off)
	} else {
		n, err = readFull(f, p, op.off)
	}
	if err == nil {
		err = r.mismatch(op.file, want, p[:n], op.off)
	}
	return err
}

// compare reads a whole file.
func (r *fsxRun) compare(file int) error {
	s := &r.slots[file]
	got, err := content(s.buffered)
	if err == nil {
		err = r.mismatch(file, s.want, got, 0)
	}
	if err == nil && r.avail&FeatureSeek != 0 {
		err = s.seek(0)
	}
	return err
}

// compareSnaps reads what is in the snapshots.
func (r *fsxRun) compareSnaps() error {
	for _, snap := range r.snaps {
		for i, want := range snap.want {
			f, err := r.fs.Open(path.Join(snap.dir, fmt.Sprintf("%s-%d", r.prefix, i)), OpenReadOnly, 0)
			if err != nil {
				return fmt.Errorf("in snapshot %s: %w", snap.dir, err)
			}
			got, err := content(f)
			f.Close()
			if err == nil {
				err = r.mismatch(i, want, got, 0)
			}
			if err != nil {
				return fmt.Errorf("in snapshot %s: %w", snap.dir, err)
			}
		}
	}
	return nil
}

// mismatch says how what was read at an offset differs from what should be there, and who touched that.
func (r *fsxRun) mismatch(file int, want, got []byte, off int64) error {
	at, n := firstDifference(want, got)
	if at < 0 {
		return nil
	}
	if at == min(len(want), len(got)) {
		return fmt.Errorf("file %d: read %#x bytes at %#x, not %#x", file, len(got), off, len(want))
	}
	place := off + int64(at)
	var touched []fsxOp
	for _, op := range r.done {
		if op.touches(file, place, 1) {
			touched = append(touched, op)
		}
	}
	return fmt.Errorf("file %d: from %#x on %d bytes are wrong: want % x, got % x\ntouched by:%s\nof", file, place, n,
		want[at:min(at+16, len(want))], got[at:min(at+16, len(got))], lines(touched, 10))
}

func (s *fsxSlot) grow(size int64) {
	if n := size - int64(len(s.want)); n > 0 {
		s.want = append(s.want, make([]byte, n)...)
	}
}

func (s *fsxSlot) resize(size int64) {
	s.grow(size)
	s.want = s.want[:size:size]
}

func (s *fsxSlot) put(p []byte, off int64) {
	s.grow(off + int64(len(p)))
	copy(s.want[off:], p)
}

// zero makes zeros of what is in the file.
func (s *fsxSlot) zero(off, n int64) {
	size := int64(len(s.want))
	clear(s.want[min(off, size):min(off+n, size)])
}

// seek goes over data and holes from an offset on: they alternate, and holes are zeros.
func (s *fsxSlot) seek(off int64) error {
	size := int64(len(s.want))
	for off < size {
		data, err := s.buffered.SeekData(off)
		switch {
		case lacking(err) || ErrnoOf(err) == EINVAL:
			return nil // where there is no such thing
		case ErrnoOf(err) == ENXIO:
			data = size
		case err != nil:
			return fmt.Errorf("seeking data at %#x: %w", off, err)
		}
		if data < off || data > size {
			return fmt.Errorf("data at %#x or behind begins at %#x, the size is %#x", off, data, size)
		}
		if i := slices.IndexFunc(s.want[off:data], func(b byte) bool { return b != 0 }); i >= 0 {
			return fmt.Errorf("there should be data at %#x, seeking finds some only from %#x on", off+int64(i), data)
		}
		if data == size {
			return nil
		}
		if off, err = s.buffered.SeekHole(data); err != nil {
			return fmt.Errorf("seeking a hole at %#x: %w", data, err)
		}
		if off <= data || off > size {
			return fmt.Errorf("the hole behind data at %#x begins at %#x, the size is %#x", data, off, size)
		}
	}
	return nil
}
