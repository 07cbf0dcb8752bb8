package data_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// failing has writes of data fail on some devices: those whose bit is set. It counts the others.
type failing struct {
	blockdev.Device
	fail func() error
}

func (f failing) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := f.fail(); err != nil {
		return err
	}
	return f.Device.WriteAt(ctx, p, off)
}

// failOn makes writes of data to devices fail, as long as the bit of a device is set.
func failOn(w *world, devices *atomic.Uint32) {
	w.config = func(c *data.WriterConfig) {
		device := c.Device
		c.OnWriteError = nil
		c.Device = func(dev uint8) blockdev.Device {
			return failing{device(dev), func() error {
				if devices.Load()>>dev&1 != 0 {
					return blockdev.ErrFault
				}
				return nil
			}}
		}
	}
	c := w.rw.DataConfig()
	w.config(&c)
	w.w = data.NewWriter(c)
}

// replicas returns how many pointers the extents of a file have.
func (w *world) replicas(f *modelFile) (least, most int) {
	w.Helper()
	least = 99
	w.must(w.rw.Store.View(w.Context(), func(tx *trans.Tx) error {
		return tx.Scan(ondisk.BtreeExtents, ondisk.Pos{Inode: f.id.Inum}, ondisk.Pos{Inode: f.id.Inum, Offset: 1 << 40}, 0,
			func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
				ptrs, _, err := ondisk.AppendExtentPtrs(nil, &k, w.rw.SB.ExtentTypeU64s())
				least, most = min(least, len(ptrs)), max(most, len(ptrs))
				return true, err
			})
	}))
	return least, most
}

// A replica that cannot be written is left out; if none can, the write fails and the file is as it was. In files that are written in place what
// could not be written everywhere is written elsewhere.
func TestReplicaFails(t *testing.T) {
	for _, nocow := range []string{"0", "1"} {
		t.Run("nocow="+nocow, func(t *testing.T) {
			w := newWorld(t, shape("mirrored", map[string]string{"data_replicas": "2", "nocow": nocow}, 40, 40))
			var devices atomic.Uint32
			failOn(w, &devices)
			r := rand.New(rand.NewPCG(1, 1))
			f := w.file("a")
			w.write(f, random(r, 300<<10), 0)
			if least, most := w.replicas(f); least != 2 || most != 2 {
				t.Fatalf("%d to %d replicas, want 2", least, most)
			}
			free := w.rw.Space.Usage()
			devices.Store(3)
			n, _, err := w.w.WriteAt(t.Context(), f.id, random(r, 200<<10), 0, nil)
			if n != 0 || !errors.Is(err, syscall.EIO) {
				t.Errorf("write with both devices failing: %d bytes, %v", n, err)
			}
			if now := w.rw.Space.Usage(); now.Promised != free.Promised || now.Totals.Data != free.Totals.Data {
				t.Errorf("usage after the failed write: %+v, before %+v", now, free)
			}
			if nocow == "0" {
				w.check(f)
			}
			devices.Store(1)
			w.write(f, random(r, 400<<10), 0)
			if least, most := w.replicas(f); least != 1 || most != 1 {
				t.Errorf("%d to %d replicas, want 1", least, most)
			}
			devices.Store(0)
			w.write(f, random(r, 100<<10), 4096)
			w.end()
		})
	}
}

// A write that is cancelled leaves nothing behind: no promise, no open bucket, no change.
func TestCancel(t *testing.T) {
	w := newWorld(t, shape("plain", nil, 48))
	r := rand.New(rand.NewPCG(1, 1))
	f := w.file("a")
	w.write(f, random(r, 100<<10), 0)
	before := w.rw.Space.Usage()
	ctx, cancel := context.WithCancel(t.Context())
	writes := 0
	c := w.rw.DataConfig()
	c.Parallel = 1
	device := c.Device
	c.Device = func(dev uint8) blockdev.Device {
		return failing{device(dev), func() error {
			if writes++; writes == 3 {
				cancel()
			}
			return nil
		}}
	}
	n, _, err := data.NewWriter(c).WriteAt(ctx, f.id, random(r, 4<<20), 0, nil)
	if n != 0 || !errors.Is(err, context.Canceled) || writes != 3 {
		t.Errorf("cancelled write: %d bytes, %d writes, %v", n, writes, err)
	}
	if now := w.rw.Space.Usage(); now.Promised != before.Promised || now.Totals.Data != before.Totals.Data {
		t.Errorf("usage after the cancelled write: %+v, before %+v", now, before)
	}
	w.check(f)
	w.end()
}

// A filesystem is filled until nothing fits, emptied, and filled again: each time as much fits, and what was promised is kept.
func TestNoSpace(t *testing.T) {
	for _, options := range []map[string]string{nil, {"compression": "lz4"}, {"data_checksum": "none"}} {
		w := newWorld(t, shape("plain", options, 32))
		r := rand.New(rand.NewPCG(1, 1))
		piece := random(rand.New(rand.NewPCG(4, 4)), 1<<20)
		for i := range piece {
			piece[i] = byte(r.Uint32())
		}
		var sizes []int
		for range 3 {
			f := w.file("full")
			reserved := w.file("reserved")
			_, err := w.w.Allocate(t.Context(), reserved.id, 0, 1<<20, 0, nil)
			w.must(err)
			reserved.grow(1 << 20)
			for unit := 1 << 20; unit >= 4096; {
				n, _, err := w.w.WriteAt(t.Context(), f.id, piece[:unit], int64(len(f.content)), nil)
				f.content = append(f.content, piece[:n]...)
				switch {
				case errors.Is(err, syscall.ENOSPC) && errors.Is(err, alloc.ErrNoSpace):
					unit /= 2
				case err != nil:
					t.Fatal(err)
				}
			}
			if u := w.rw.Space.Usage(); u.Free > 16 {
				t.Errorf("nothing fits any more, but %d sectors are free", u.Free)
			}
			w.check(f)
			w.write(reserved, piece, 0) // its space is its own
			w.check(reserved)
			if u := w.rw.Space.Usage(); u.Promised != 0 {
				t.Errorf("%d sectors are promised", u.Promised)
			}
			sizes = append(sizes, len(f.content))
			shared := w.file("shared")
			w.copyRange(f, 0, shared, 0, 1<<20)
			w.truncate(shared, 1<<20-100) // what is shared has to be copied for it
			w.check(shared)
			w.truncate(shared, 0)
			w.truncate(f, 0)
			w.truncate(reserved, 0)
			if u := w.rw.Space.Usage(); u.Totals.Data+u.Totals.Reserved != 0 {
				t.Errorf("%+v after all was deleted", u.Totals)
			}
			_, err = w.v.Unlink(t.Context(), 4096, "full")
			w.must(err)
			_, err = w.v.Unlink(t.Context(), 4096, "shared")
			w.must(err)
			_, err = w.v.Unlink(t.Context(), 4096, "reserved")
			w.must(err)
			w.files = nil
		}
		if sizes[0] < 9<<20 || sizes[1] < sizes[0]*9/10 || sizes[2] < sizes[0]*9/10 {
			t.Errorf("bytes that fit: %d", sizes)
		}
		w.end()
	}
}
