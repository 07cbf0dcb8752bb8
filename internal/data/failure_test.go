package data

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// flip changes one bit of what a disk holds.
func (w *world) flip(disk int, off int64) {
	w.t.Helper()
	b := make([]byte, 1)
	ctx := context.Background()
	if err := w.disks[disk].Device.ReadAt(ctx, b, off); err != nil {
		w.t.Fatal(err)
	}
	b[0] ^= 1 << (off % 8)
	if err := w.disks[disk].Device.WriteAt(ctx, b, off); err != nil {
		w.t.Fatal(err)
	}
}

// Whatever bit flips in what is stored under a checksum: the read fails, with the place, and the caller's buffer holds nothing of it.
func TestFlippedBits(t *testing.T) {
	for _, csum := range []checksum.Type{checksum.CRC32C, checksum.CRC64, checksum.XXHash, checksum.ChaCha20Poly1305_80,
		checksum.ChaCha20Poly1305_128} {
		for _, comp := range []compress.Type{compress.None, compress.LZ4, compress.Gzip, compress.Zstd, compress.Incompressible} {
			t.Run(fmt.Sprintf("%v-%v", csum, comp), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(csum), uint64(comp)))
				for round := range 24 {
					w := newWorld(t, 1)
					w.key = testKey()
					front, back := round%3, round%2
					w.file(16, layout{csum: csum, comp: comp, version: 1})
					at := int64(w.next) * sectorSize
					w.file(32, layout{csum: csum, comp: comp, version: 2, front: front, back: back})
					length := int64(w.next)*sectorSize - at
					w.file(16, layout{csum: csum, comp: comp, version: 3})
					off := []int64{0, length - 1, rng.Int64N(length)}[min(round, 2)]
					w.flip(0, at+off)
					w.reader(Config{})
					w.checkFails(16*sectorSize, 48*sectorSize, uint64(at/sectorSize))
				}
			})
		}
	}
}

// checkFails reads everything, in pieces of several sizes. What lies in bad … end must fail, all else be as it was.
func (w *world) checkFails(bad, end int, sector uint64) {
	w.t.Helper()
	for _, size := range []int{len(w.want), 8192, 1000} {
		for off := 0; off < len(w.want); off += size {
			p := bytes.Repeat([]byte{0xaa}, min(size, len(w.want)-off))
			n, err := w.r.ReadAt(context.Background(), testInum, 1, p, int64(off))
			if !bytes.Equal(p[:n], w.want[off:off+n]) {
				w.t.Fatalf("read of %d at %d: wrong bytes", len(p), off)
			}
			first := max(bad, off)
			if first >= min(end, off+len(p)) {
				if err != nil || n != len(p) {
					w.t.Fatalf("read of %d at %d: %d, %v", len(p), off, n, err)
				}
				continue
			}
			var re *ReadError
			if !errors.As(err, &re) || !errors.Is(err, ErrChecksum) || n != first-off {
				w.t.Fatalf("read of %d at %d: %d, %v, want %d and a wrong checksum", len(p), off, n, err, first-off)
			}
			if re.Device != "disk0" || uint64(re.Sector) != sector || re.Inum != testInum || re.Offset != int64(first) {
				w.t.Fatalf("error is about %+v, want disk0 sector %d inode %d offset %d", re, sector, testInum, first)
			}
			for i, b := range p[n:] {
				if b != 0 && b != 0xaa {
					w.t.Fatalf("read of %d at %d: the buffer holds %#x behind what was read, at %d", len(p), off, b, n+i)
				}
			}
		}
	}
}

// hold is a disk whose reads wait, once it is shut, until it opens or their context ends.
type hold struct {
	blockdev.Device
	shut    atomic.Bool
	open    chan struct{}
	waiting atomic.Int32
}

func (h *hold) ReadAt(ctx context.Context, p []byte, off int64) error {
	if h.shut.Load() {
		h.waiting.Add(1)
		defer h.waiting.Add(-1)
		select {
		case <-h.open:
		case <-ctx.Done():
			return &blockdev.IOError{Op: blockdev.OpRead, Device: h.Name(), Offset: off, Err: ctx.Err()}
		}
	}
	return h.Device.ReadAt(ctx, p, off)
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 5000 {
		if done() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("%s: does not happen", what)
}

// A read whose context ends returns at once, without having handed out anything unverified and without goroutines left.
func TestGivingUp(t *testing.T) {
	for _, l := range []layout{{csum: checksum.CRC32C}, {csum: checksum.CRC32C, comp: compress.LZ4}, {csum: checksum.XXHash, front: 3}, {}} {
		for _, disks := range [][]int{{0}, {0, 1}} {
			w := newWorld(t, 2)
			for range 16 {
				l.disks = disks
				w.file(64, l)
				w.next += 8 // each extent is a read of its own
			}
			h := &hold{Device: w.disks[0].Device, open: make(chan struct{})}
			h.shut.Store(true)
			w.disks[0].Device = h
			w.reader(Config{Parallel: 4})
			before := runtime.NumGoroutine()
			ctx, cancel := context.WithCancel(context.Background())
			p := bytes.Repeat([]byte{0xaa}, len(w.want))
			done := make(chan error)
			go func() {
				n, err := w.r.ReadAt(ctx, testInum, 1, p, 0)
				if n != 0 {
					err = fmt.Errorf("%d bytes, %w", n, err)
				}
				done <- err
			}()
			eventually(t, "the disk is read", func() bool { return h.waiting.Load() > 0 })
			cancel()
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%+v: %v", l, err)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%+v: hangs", l)
			}
			eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before })
			if w.r.Faults(0) != 0 {
				t.Errorf("%+v: giving up counts as %d faults of the disk", l, w.r.Faults(0))
			}
			h.shut.Store(false)
			w.check()
			w.checkCache()
		}
	}
}

// Who waits for an extent that another reads is not concerned if that one gives up, nor the other way round.
func TestGivingUpOnAnExtent(t *testing.T) {
	for _, leader := range []bool{true, false} {
		w := newWorld(t, 1)
		w.file(64, layout{csum: checksum.CRC32C, comp: compress.Zstd})
		h := &hold{Device: w.disks[0].Device, open: make(chan struct{})}
		h.shut.Store(true)
		w.disks[0].Device = h
		w.reader(Config{})
		read := func(ctx context.Context) chan error {
			done := make(chan error, 1)
			go func() {
				p := make([]byte, 1000)
				_, err := w.r.ReadAt(ctx, testInum, 1, p, 700)
				if err == nil && !bytes.Equal(p, w.want[700:1700]) {
					err = errors.New("wrong bytes")
				}
				done <- err
			}()
			return done
		}
		giveUp, cancel := context.WithCancel(context.Background())
		ctxs := []context.Context{giveUp, context.Background()}
		if !leader {
			slices.Reverse(ctxs)
		}
		first := read(ctxs[0])
		eventually(t, "the first reads", func() bool { return h.waiting.Load() == 1 })
		second := read(ctxs[1])
		eventually(t, "the second waits", func() bool { return w.pins() == 2 })
		cancel()
		quitter, stayer := first, second
		if !leader {
			quitter, stayer = second, first
		}
		if err := <-quitter; !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up: %v", err)
		}
		eventually(t, "the other one reads", func() bool { return h.waiting.Load() == 1 })
		close(h.open)
		if err := <-stayer; err != nil {
			t.Errorf("the other one: %v", err)
		}
		w.checkCache()
	}
}

// pins counts who uses or waits for entries of the cache.
func (w *world) pins() (n int) {
	for i := range w.r.cache.shards {
		s := &w.r.cache.shards[i]
		s.mu.Lock()
		for _, e := range s.entries {
			n += e.pins
		}
		s.mu.Unlock()
	}
	return n
}

// checkCache checks the accounts of a cache that nobody uses.
func (w *world) checkCache() {
	w.t.Helper()
	for i := range w.r.cache.shards {
		s := &w.r.cache.shards[i]
		var bytes int64
		ring := 0
		for e := s.head.next; e != &s.head; e = e.next {
			ring++
			bytes += int64(cap(e.buf))
			if e.pins != 0 || e.buf == nil || e.err != nil || s.entries[e.id] != e {
				w.t.Errorf("entry %+v: %d pins, %d bytes, %v", e.id, e.pins, len(e.buf), e.err)
			}
		}
		if bytes != s.bytes || bytes > s.budget || ring != len(s.entries) {
			w.t.Errorf("shard %d: %d entries, %d in the ring, %d bytes, %d counted, budget %d", i, len(s.entries), ring, bytes, s.bytes, s.budget)
		}
	}
}

// The cache's accounts stay right, and its buffers are not mixed up, whatever fails while many read.
func TestCacheUnderFaults(t *testing.T) {
	w := newWorld(t, 1)
	for i := range 48 {
		w.file(32, layout{csum: checksum.CRC32C, comp: compress.LZ4, version: uint64(i)})
	}
	f := blockdev.NewFaulter(w.disks[0].Device)
	w.disks[0].Device = f
	w.reader(Config{CacheBytes: 16 * 24 << 10})
	var wg sync.WaitGroup
	var good, bad atomic.Int64
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 9))
			p := make([]byte, 3000)
			for range 400 {
				ctx, cancel := context.WithCancel(context.Background())
				switch rng.IntN(4) {
				case 0:
					f.SetRules(blockdev.Rule{Ops: blockdev.OpRead, Skip: rng.IntN(3), Count: 1})
				case 1:
					f.SetRules(blockdev.Rule{Ops: blockdev.OpRead, Skip: rng.IntN(3), Count: 1, Corrupt: func(p []byte, _ int64) { p[len(p)/2] ^= 1 }})
				case 2:
					time.AfterFunc(time.Duration(rng.IntN(50))*time.Microsecond, cancel)
				}
				off := rng.IntN(len(w.want) - len(p))
				n, err := w.r.ReadAt(ctx, testInum, 1, p, int64(off))
				cancel()
				if !bytes.Equal(p[:n], w.want[off:off+n]) || err == nil && n < len(p) {
					t.Errorf("read at %d: %d, %v: wrong bytes", off, n, err)
				}
				if err == nil {
					good.Add(1)
				} else {
					bad.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if good.Load() == 0 || bad.Load() == 0 {
		t.Errorf("%d reads succeeded, %d failed", good.Load(), bad.Load())
	}
	f.SetRules()
	w.check()
	w.checkCache()
}

// hostileKey makes a key that no writer would.
func hostileKey(rng *rand.Rand, end uint64) ondisk.Key {
	word := func(bits int) uint64 {
		switch rng.IntN(4) {
		case 0:
			return 0
		case 1:
			return 1<<bits - 1
		case 2:
			return rng.Uint64() & (1<<bits - 1) & rng.Uint64() & rng.Uint64()
		}
		return rng.Uint64() & (1<<bits - 1)
	}
	k := ondisk.Key{Type: ondisk.KeyExtent, Size: uint32(1 + word(14)), Version: ondisk.Version{Lo: rng.Uint64()},
		Pos: ondisk.Pos{Inode: testInum, Offset: end, Snapshot: 1}}
	if uint64(k.Size) > end {
		k.Size = uint32(end)
	}
	for range 1 + rng.IntN(6) {
		e := ondisk.ExtentEntry{Type: ondisk.ExtentEntryType(rng.IntN(7))}
		switch e.Type {
		case ondisk.EntryPtr:
			e.Ptr = ondisk.ExtentPtr{Offset: ondisk.Sector(word(44)), Dev: uint8(rng.IntN(4)), Gen: uint8(word(8)), Cached: rng.IntN(4) == 0}
		case ondisk.EntryCRC32, ondisk.EntryCRC64, ondisk.EntryCRC128:
			bits := map[ondisk.ExtentEntryType]int{ondisk.EntryCRC32: 7, ondisk.EntryCRC64: 9, ondisk.EntryCRC128: 13}[e.Type]
			e.CRC = ondisk.CRC{CompressedSize: uint32(1 + word(bits)), UncompressedSize: uint32(1 + word(bits)), Offset: uint32(word(bits)),
				Csum: checksum.Type(rng.IntN(8)), Compression: compress.Type(rng.IntN(7)), Nonce: uint32(word(10))}
		case ondisk.EntryStripePtr:
			e.Stripe = ondisk.StripePtr{Block: uint8(word(3)), Redundancy: uint8(word(2)), Idx: uint64(rng.IntN(3))}
		default:
			e.Type = ondisk.EntryPtr
			e.Ptr = ondisk.ExtentPtr{Offset: ondisk.Sector(word(14)), Dev: uint8(rng.IntN(3))}
		}
		k.Val = ondisk.AppendExtentEntry(k.Val, &e)
	}
	switch rng.IntN(8) {
	case 0:
		k.Type, k.Val = ondisk.KeyReflinkP, (&ondisk.ReflinkP{Idx: word(56)}).Encode()
	case 1:
		k.Type = ondisk.KeyInlineData
	case 2:
		k.Type = ondisk.KeyType(rng.IntN(40))
	case 3:
		k.Val = k.Val[:rng.IntN(len(k.Val)+1)]
	}
	return k
}

func hostileStripe(rng *rand.Rand) []byte {
	s := ondisk.Stripe{Sectors: uint16(rng.IntN(300)), NrBlocks: uint8(1 + rng.IntN(5)), CsumGranularityBits: uint8(rng.IntN(15)),
		CsumType: checksum.Type(rng.IntN(8))}
	s.NrRedundant = uint8(rng.IntN(int(s.NrBlocks) + 1))
	for i := range s.NrBlocks {
		s.Ptrs = append(s.Ptrs, ondisk.ExtentPtr{Dev: uint8(rng.IntN(4)), Offset: ondisk.Sector(rng.IntN(100) * int(i))})
	}
	s.Csums = make([]byte, rng.IntN(2000))
	s.Counts = make([]byte, 2*int(s.NrBlocks))
	return s.Encode()
}

// No key makes a read panic, hang, ask for memory without bounds, or return more than was asked for.
func TestHostileKeys(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 5))
		w := newWorld(t, 3)
		for i := range w.disks {
			w.disks[i].Device = blockdev.NewMemory(1 << 20)
		}
		if seed%2 == 0 {
			w.key = (*crypt.Key)(testKey())
		}
		end := uint64(0)
		for range 1 + rng.IntN(5) {
			end += uint64(1 + rng.IntN(100))
			w.trees.add(ondisk.BtreeExtents, hostileKey(rng, end))
			v := hostileKey(rng, end)
			v.Pos = ondisk.Pos{Offset: end}
			v.Type, v.Val = ondisk.KeyReflinkV, append(make([]byte, 8), v.Val...)
			w.trees.add(ondisk.BtreeReflink, v)
		}
		for i := range uint64(3) {
			w.trees.add(ondisk.BtreeStripes, ondisk.Key{Type: ondisk.KeyStripe, Pos: ondisk.Pos{Offset: i}, Val: hostileStripe(rng)})
		}
		w.reader(Config{CacheBytes: 1 << 20})
		for range 8 {
			off := rng.Int64N(int64(end) * sectorSize)
			if rng.IntN(10) == 0 {
				off = 1<<63 - 1 - rng.Int64N(100000)
			}
			p := make([]byte, rng.IntN(100000))
			n, err := w.r.ReadAt(context.Background(), testInum, 1, p[:len(p):len(p)], off)
			if n > len(p) || n < 0 || err == nil && n != len(p) {
				t.Fatalf("seed %d: read of %d at %d: %d, %v", seed, len(p), off, n, err)
			}
			w.r.SeekData(context.Background(), testInum, 1, int64(end)*sectorSize, off)
			w.r.SeekHole(context.Background(), testInum, 1, int64(end)*sectorSize, off)
		}
		w.checkCache()
	}
}
