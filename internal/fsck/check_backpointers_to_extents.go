package fsck

import (
	"cmp"
	"context"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// window is how many backpointers a goroutine collects before it looks for what they belong to, in order: what is looked for lies all over
// other btrees, and so each node of theirs is read once a window at most.
const window = 1 << 16

// checkBackpointersToExtents checks that every backpointer leads to a key with the pointer that it belongs to.
func (c *checker) checkBackpointersToExtents(ctx context.Context) error {
	if !c.initialized() {
		return nil
	}
	var windows []*bpWindow
	err := c.eachParallel(ctx, ondisk.BtreeBackpointers, 0, func() func(k *ondisk.Key) error {
		w := &bpWindow{flush: func(all []backpointer) error { return c.checkTargets(ctx, all) }}
		windows = append(windows, w)
		return func(k *ondisk.Key) error {
			b, err := ondisk.DecodeBackpointer(*k)
			if err != nil {
				return nil
			}
			return w.add(&backpointer{k.Pos, b})
		}
	})
	if err != nil {
		return err
	}
	return c.flushAll(windows)
}

// bpWindow collects backpointers.
type bpWindow struct {
	all   []backpointer
	flush func([]backpointer) error
}

func (w *bpWindow) add(b *backpointer) error {
	w.all = append(w.all, *b)
	if len(w.all) < window {
		return nil
	}
	return w.end()
}

func (w *bpWindow) end() error {
	err := w.flush(w.all)
	w.all = w.all[:0]
	return err
}

// flushAll ends windows whose walk is over.
func (c *checker) flushAll(windows []*bpWindow) error {
	for _, w := range windows {
		if err := w.end(); err != nil {
			return err
		}
	}
	return nil
}

// checkTargets looks for the keys that backpointers lead to.
func (c *checker) checkTargets(ctx context.Context, all []backpointer) error {
	slices.SortFunc(all, func(a, b backpointer) int {
		return cmp.Or(cmp.Compare(a.Btree, b.Btree), cmp.Compare(a.Level, b.Level), a.Pos.Compare(b.Pos), a.pos.Compare(b.pos))
	})
	for i := range all {
		if i%tick == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		b := &all[i]
		if d := c.byIndex[uint8(b.pos.Inode)]; b.pos.Inode >= ondisk.DevInvalid || d == nil {
			continue // check_btree_backpointers told
		}
		ok, err := c.leads(ctx, b)
		if err != nil {
			return err
		}
		if !ok {
			c.at(idBackpointerToMissingPtr, ondisk.BtreeBackpointers, 0, b.pos, "delete it", "backpointer for missing pointer: btree=%v l=%d "+
				"data_type=%v len=%d pos=%v", b.Btree, b.Level, b.DataType, b.BucketLen, b.Pos)
		}
	}
	return nil
}

// leads reports whether a backpointer leads to a key with its pointer. If nothing is known of the key, it does.
func (c *checker) leads(ctx context.Context, b *backpointer) (bool, error) {
	switch {
	case b.Btree >= ondisk.MaxBtrees:
		return false, nil
	case b.Level > 0 && c.lost.above[b.Btree]:
		return true, nil
	}
	k, ok, err := c.target(ctx, b)
	if err != nil || !ok {
		return c.lost.has(b.Btree, b.Pos), err
	}
	found := false
	err = c.forBackpointers(ctx, b.Btree, b.Level, &k, func(want *backpointer) {
		found = found || want.pos == b.pos && c.sameBackpointer(&want.Backpointer, &b.Backpointer)
	})
	return found, err
}

// target returns the key that a backpointer leads to.
func (c *checker) target(ctx context.Context, b *backpointer) (ondisk.Key, bool, error) {
	root, ok := c.fs.Root(b.Btree)
	switch {
	case b.Level == 0:
		return c.get(ctx, b.Btree, b.Pos)
	case !ok || root.Leaves != nil:
		return ondisk.Key{}, false, nil
	case b.Level == root.Level+1:
		return root.Key, root.Key.Pos == b.Pos, nil
	}
	for k, err := range c.fs.Keys(ctx, b.Btree, b.Level, b.Pos, b.Pos) {
		return k, err == nil, ctx.Err()
	}
	return ondisk.Key{}, false, ctx.Err()
}
