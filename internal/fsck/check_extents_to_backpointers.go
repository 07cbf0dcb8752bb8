package fsck

import (
	"context"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkExtentsToBackpointers checks that every pointer of every key, roots included, has its backpointer. Where it is another key's, two
// keys own one place on a device: the bucket was given out twice.
func (c *checker) checkExtentsToBackpointers(ctx context.Context) error {
	if !c.initialized() {
		return nil
	}
	for id := range ondisk.BtreeID(ondisk.MaxBtrees) {
		root, ok := c.fs.Root(id)
		top := 0
		if ok && root.Leaves == nil {
			top = int(min(root.Level, ondisk.MaxBtreeDepth-1))
		}
		for level := top; level >= 0; level-- {
			if level == 0 && !holdsPointers(id) && id != ondisk.BtreeStripes {
				continue
			}
			if err := c.checkLevelBackpointers(ctx, id, uint8(level)); err != nil {
				return err
			}
		}
		if ok && root.Leaves == nil && !root.Lost {
			w := c.placeWindow(ctx)
			if err := c.collect(ctx, w, id, uint8(top)+1, &root.Key); err != nil {
				return err
			}
			if err := w.end(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) placeWindow(ctx context.Context) *bpWindow {
	return &bpWindow{flush: func(all []backpointer) error { return c.checkPlaces(ctx, all) }}
}

func (c *checker) checkLevelBackpointers(ctx context.Context, id ondisk.BtreeID, level uint8) error {
	var windows []*bpWindow
	err := c.eachParallel(ctx, id, level, func() func(k *ondisk.Key) error {
		w := c.placeWindow(ctx)
		windows = append(windows, w)
		return func(k *ondisk.Key) error { return c.collect(ctx, w, id, level, k) }
	})
	if err != nil {
		return err
	}
	return c.flushAll(windows)
}

// collect adds the backpointers that a key is to have to a window.
func (c *checker) collect(ctx context.Context, w *bpWindow, id ondisk.BtreeID, level uint8, k *ondisk.Key) error {
	var full error
	err := c.forBackpointers(ctx, id, level, k, func(b *backpointer) {
		if err := w.add(b); err != nil {
			full = err
		}
	})
	if err == nil {
		err = full
	}
	return err
}

// checkPlaces looks whether backpointers are where they are to be.
func (c *checker) checkPlaces(ctx context.Context, all []backpointer) error {
	slices.SortFunc(all, func(a, b backpointer) int { return a.pos.Compare(b.pos) })
	for i := range all {
		if i%tick == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		want := &all[i]
		k, ok, err := c.get(ctx, ondisk.BtreeBackpointers, want.pos)
		if err != nil {
			return err
		}
		if !ok {
			if !c.lost.has(ondisk.BtreeBackpointers, want.pos) {
				c.missingBackpointer(want, "there is none")
			}
			continue
		}
		got, err := ondisk.DecodeBackpointer(k)
		if err == nil && c.sameBackpointer(&got, &want.Backpointer) {
			continue
		}
		if err := c.otherBackpointer(ctx, want, &backpointer{k.Pos, got}); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) missingBackpointer(want *backpointer, instead string) {
	c.at(idPtrToMissingBackpointer, want.Btree, want.Level, want.Pos, "insert it", "missing backpointer at %v for data_type=%v len=%d: %s", want.pos,
		want.DataType, want.BucketLen, instead)
}

// otherBackpointer tells of a place that has another backpointer than it should.
func (c *checker) otherBackpointer(ctx context.Context, want, got *backpointer) error {
	owns, err := c.leads(ctx, got)
	if err != nil {
		return err
	}
	if !owns || got.Btree == want.Btree && got.Level == want.Level && got.Pos == want.Pos {
		c.missingBackpointer(want, "there is that of "+got.owner())
		return nil
	}
	c.at(idPtrToMissingBackpointer, want.Btree, want.Level, want.Pos, "find out by the checksums whose data it is", "allocated twice: "+
		"device %d sector %d belongs to this key and to %s as well", want.pos.Inode, want.pos.Offset>>c.bpShift, got.owner())
	return nil
}

// owner names the key that a backpointer says to belong to.
func (b *backpointer) owner() string {
	return b.Btree.String() + " level " + string('0'+rune(b.Level%10)) + " " + b.Pos.String()
}
