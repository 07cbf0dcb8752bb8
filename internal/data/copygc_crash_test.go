package data_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// written is what a block was written with, between two moments of a log.
type written struct {
	gen            uint64
	begun, durable int // durable: 0 if it was not by the end
}

// Whenever the power goes while copygc works, what was flushed is there, nothing is torn, and the filesystem is sound.
func TestChurnPowerCut(t *testing.T) {
	cuts := 8
	if testing.Short() || golden.Race {
		cuts = 2
	}
	shapes := churnShapes()
	for n, s := range []churnShape{shapes[0], shapes[1], shapes[3]} {
		t.Run(s.Name, func(t *testing.T) {
			s.times = 1
			w := churned(t, s, uint64(n)+100)
			w.must(w.rw.Close(t.Context()))
			log := blockdev.NewLog()
			plain := w.disks.Devices
			recorded := &enginetest.Disks{}
			for _, d := range plain {
				recorded.Devices = append(recorded.Devices, log.Record(d.(*blockdev.Memory)))
			}
			w.disks = recorded
			w.open()
			before := w.rw.CopyGC()
			f := w.files[0]
			r := rand.New(rand.NewPCG(uint64(n), 11))
			blocks, full := w.record(f, r, log)
			if gc := w.rw.CopyGC(); !full && gc.Buckets-before.Buckets < 5 {
				t.Errorf("copygc did not do much: %+v", gc)
			}
			w.rw.Abandon()
			end := log.Ticks()
			for range cuts {
				at := 1 + r.IntN(end)
				d := &enginetest.Disks{}
				for _, m := range log.Crash(at, blockdev.KeepRandom(r)) {
					d.Devices = append(d.Devices, m)
				}
				checkCut(t, d, f, blocks, at)
			}
		})
	}
}

// record overwrites random pieces of a file, and notes what and when. full: there was no space at some time, as copygc may lack buckets to begin with after
// a filesystem was opened that is this small and this full (docs/writing.md). What was written until then is as good as any.
func (w *world) record(f *modelFile, r *rand.Rand, log *blockdev.Log) (blocks [][]written, full bool) {
	w.Helper()
	blocks = make([][]written, len(f.content)/churnBlock)
	for b := range blocks { // what it has is durable
		blocks[b] = []written{{gen: ^uint64(0)}}
	}
	var pending []int
	buf := make([]byte, 64<<10)
	for gen := uint64(1 << 20); gen < 1<<20+600; gen++ {
		p := buf[:churnBlock]
		if r.IntN(8) == 0 {
			p = buf
		}
		first := r.IntN(len(blocks) - len(p)/churnBlock + 1)
		begun := log.Ticks()
		for i := range len(p) / churnBlock {
			churnFill(p[i*churnBlock:][:churnBlock], uint64(first+i), gen)
			blocks[first+i] = append(blocks[first+i], written{gen: gen, begun: begun})
			pending = append(pending, first+i)
		}
		_, _, err := w.w.WriteAt(w.Context(), f.id, p, int64(first)*churnBlock, nil)
		if errors.Is(err, alloc.ErrNoSpace) {
			w.Logf("generation %#x: %v", gen, err)
			return blocks, true
		}
		w.must(err)
		if r.IntN(40) == 0 {
			w.must(w.rw.Journal.Flush(w.Context()))
			now := log.Ticks()
			for _, b := range pending {
				for i := range blocks[b] {
					if x := &blocks[b][i]; x.durable == 0 {
						x.durable = now
					}
				}
			}
			pending = pending[:0]
		}
	}
	return blocks, false
}

// checkCut opens what a power cut has left and looks at each block of a file.
func checkCut(t *testing.T, d *enginetest.Disks, f *modelFile, blocks [][]written, at int) {
	t.Helper()
	rw, err := d.Open(t.Context(), engine.Options{}, engine.WriteOptions{})
	if err != nil {
		t.Fatalf("cut at %d: %v", at, err)
	}
	defer rw.Abandon()
	got := make([]byte, len(f.content))
	if _, err := data.NewWriter(rw.DataConfig()).ReadAt(t.Context(), f.id, got, 0); err != nil {
		t.Fatalf("cut at %d: %v", at, err)
	}
	want := make([]byte, churnBlock)
	for b, all := range blocks {
		block, ok := got[b*churnBlock:][:churnBlock], false
		for i := len(all) - 1; i >= 0 && !ok; i-- {
			x := all[i]
			if x.begun > at {
				continue
			}
			copy(want, f.content[b*churnBlock:])
			if x.gen != ^uint64(0) {
				churnFill(want, uint64(b), x.gen)
			}
			ok = bytes.Equal(block, want)
			if x.durable != 0 && x.durable <= at {
				break
			}
		}
		if !ok {
			t.Fatalf("cut at %d: block %d is nothing that was written since it was durable: %s", at, b, fmt.Sprint(all))
		}
	}
	if err := rw.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	fscktest.MustBeCleanMemory(t, d.Devices...)
}
