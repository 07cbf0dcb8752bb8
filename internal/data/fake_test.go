package data

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// fakeTrees are btrees in memory, of one snapshot.
type fakeTrees struct {
	keys map[ondisk.BtreeID][]ondisk.Key
}

func (f *fakeTrees) add(id ondisk.BtreeID, k ondisk.Key) {
	f.keys[id] = append(f.keys[id], k)
	slices.SortFunc(f.keys[id], func(a, b ondisk.Key) int { return a.Pos.Compare(b.Pos) })
}

func (f *fakeTrees) KeysIn(_ context.Context, id ondisk.BtreeID, from, to ondisk.Pos, _ uint32) iter.Seq2[ondisk.Key, error] {
	return func(yield func(ondisk.Key, error) bool) {
		for _, k := range f.keys[id] {
			first, last := k.Start(), k.Pos
			if last.Inode != from.Inode || last.Offset <= from.Offset || first.Offset > to.Offset {
				continue
			}
			if !yield(k, nil) {
				return
			}
		}
	}
}

func (f *fakeTrees) Lookup(_ context.Context, id ondisk.BtreeID, pos ondisk.Pos) (ondisk.Key, bool, error) {
	for _, k := range f.keys[id] {
		if k.Pos.SameSlot(pos) {
			return k, true, nil
		}
	}
	return ondisk.Key{}, false, nil
}

// fakeDisk counts reads, and fails or damages them if told.
type fakeDisk struct {
	blockdev.Device
	reads  atomic.Int64
	bytes  atomic.Int64 // read
	broken atomic.Bool
}

var errBroken = errors.New("medium error")

func (d *fakeDisk) ReadAt(ctx context.Context, p []byte, off int64) error {
	d.reads.Add(1)
	d.bytes.Add(int64(len(p)))
	if d.broken.Load() {
		return errBroken
	}
	return d.Device.ReadAt(ctx, p, off)
}

const testInum = 4099

// world is a filesystem of one file.
type world struct {
	t        testing.TB
	trees    fakeTrees
	disks    []*fakeDisk
	gone     [8]bool
	stale    bool
	staleErr error
	key      *crypt.Key
	next     ondisk.Sector // free on all disks
	want     []byte
	rng      *rand.Rand
	r        *Reader
}

func newWorld(t testing.TB, disks int) *world {
	w := &world{t: t, trees: fakeTrees{map[ondisk.BtreeID][]ondisk.Key{}}, rng: rand.New(rand.NewPCG(3, uint64(disks)))}
	for range disks {
		w.disks = append(w.disks, &fakeDisk{Device: blockdev.NewMemory(32 << 20)})
	}
	w.next = 64
	w.reader(Config{})
	return w
}

func (w *world) reader(cfg Config) *Reader {
	cfg.Trees, cfg.Devices, cfg.Key = &w.trees, w, w.key
	w.r = NewReader(cfg)
	return w.r
}

func (w *world) Device(dev uint8) blockdev.Device {
	if int(dev) >= len(w.disks) || w.gone[dev] {
		return nil
	}
	return w.disks[dev]
}

func (w *world) DeviceName(dev uint8) string { return fmt.Sprintf("disk%d", dev) }

func (w *world) Stale(context.Context, uint8, ondisk.Sector, uint8) (bool, error) {
	return w.stale, w.staleErr
}

// bytes makes data that compresses to about half.
func (w *world) bytes(sectors int) []byte {
	b := make([]byte, sectors*sectorSize)
	for i := 0; i < len(b); i += 64 {
		for j := range 24 {
			b[i+j] = byte(w.rng.Uint32())
		}
	}
	return b
}

// layout says how a piece is stored.
type layout struct {
	csum     checksum.Type
	comp     compress.Type
	disks    []int
	front    int // sectors of the stored data before the live part
	back     int
	noCRC    bool
	version  uint64
	stripe   *ondisk.StripePtr
	cached   bool
	scramble bool // the first disk holds something else
}

// extent stores data on the disks and returns the value of a key of its live part.
func (w *world) extent(data []byte, l layout) []byte {
	w.t.Helper()
	full := slices.Concat(w.bytes(l.front), data, w.bytes(l.back))
	crc := ondisk.CRC{UncompressedSize: uint32(len(full) / sectorSize), CompressedSize: uint32(len(full) / sectorSize),
		Offset: uint32(l.front), Csum: l.csum, Compression: l.comp}
	stored := slices.Clone(full)
	if l.comp.IsCompressed() {
		out := make([]byte, len(full))
		n, ok, err := compress.Compress(l.comp, 0, out, full, sectorSize)
		if err != nil || !ok {
			w.t.Fatalf("compress: %v %v", ok, err)
		}
		stored = out[:n]
		crc.CompressedSize = uint32(n / sectorSize)
	}
	version := ondisk.Version{Lo: l.version}
	if l.csum.IsEncryption() {
		w.key.XOR(nonce(version, &crc), stored)
	}
	var err error
	if crc.Sum, err = checksum.Compute(l.csum, w.key, nonce(version, &crc), stored); err != nil {
		w.t.Fatal(err)
	}
	var val []byte
	if !l.noCRC {
		typ, ok := crc.EntryType()
		if !ok {
			w.t.Fatalf("no entry for %+v", crc)
		}
		val = ondisk.AppendExtentEntry(val, &ondisk.ExtentEntry{Type: typ, CRC: crc})
	}
	if l.disks == nil {
		l.disks = []int{0}
	}
	for i, d := range l.disks {
		if l.stripe != nil {
			val = ondisk.AppendExtentEntry(val, &ondisk.ExtentEntry{Type: ondisk.EntryStripePtr, Stripe: *l.stripe})
		}
		val = ondisk.AppendExtentEntry(val, &ondisk.ExtentEntry{Ptr: ondisk.ExtentPtr{Offset: w.next, Dev: uint8(d), Cached: l.cached && i > 0}})
		b := stored
		if i == 0 && l.scramble {
			b = w.bytes(len(stored) / sectorSize)
		}
		if err := w.disks[d].Device.WriteAt(context.Background(), b, int64(w.next)*sectorSize); err != nil {
			w.t.Fatal(err)
		}
	}
	w.next += ondisk.Sector(len(stored) / sectorSize)
	return val
}

// file appends data to the file.
func (w *world) file(sectors int, l layout) {
	w.t.Helper()
	data := w.bytes(sectors)
	w.key1(ondisk.KeyExtent, data, w.extent(data, l), l.version)
}

// key1 appends a key that reads as data.
func (w *world) key1(typ ondisk.KeyType, data, val []byte, version uint64) {
	w.want = append(w.want, data...)
	w.trees.add(ondisk.BtreeExtents, ondisk.Key{Type: typ, Size: uint32(len(data) / sectorSize), Val: val,
		Version: ondisk.Version{Lo: version}, Pos: ondisk.Pos{Inode: testInum, Offset: uint64(len(w.want)) / sectorSize, Snapshot: 1}})
}

func (w *world) hole(sectors int) { w.want = append(w.want, make([]byte, sectors*sectorSize)...) }
