package fsck

import (
	"context"
	"iter"

	"golang.org/x/sync/errgroup"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// each calls fn with every key from … to of a level of a btree; what damage hides is passed over. The key is
// fn's until it returns. The error is fn's or the context's.
func (c *checker) each(ctx context.Context, id ondisk.BtreeID, level uint8, from, to ondisk.Pos, fn func(k *ondisk.Key) error) error {
	n := 0
	defer func() { c.looked(n) }()
	var key ondisk.Key // of which fn gets a pointer: one for all keys
	for k, err := range c.fs.Keys(ctx, id, level, from, to) {
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		key = k
		if n++; n == tick {
			c.looked(n)
			n = 0
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if err := fn(&key); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// eachParallel calls visit with every key of a level of a btree, from several goroutines. Each has a visit of its own, made by visitor
// beforehand in order of the ranges of positions they go over.
func (c *checker) eachParallel(ctx context.Context, id ondisk.BtreeID, level uint8, visitor func() func(k *ondisk.Key) error) error {
	ranges, err := c.split(ctx, id, level)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.opts.Parallel)
	for _, r := range ranges {
		visit := visitor()
		g.Go(func() error { return c.each(ctx, id, level, r.min, r.max, visit) })
	}
	return g.Wait()
}

// split divides a level of a btree into ranges that are read at about the same cost, a few for each goroutine.
func (c *checker) split(ctx context.Context, id ondisk.BtreeID, level uint8) ([]posRange, error) {
	whole := []posRange{{ondisk.PosMin, ondisk.SPosMax}}
	root, ok := c.fs.Root(id)
	if !ok || root.Leaves != nil || c.opts.Parallel == 1 {
		return whole, nil
	}
	want := 4 * c.opts.Parallel
	for at := min(root.Level, ondisk.MaxBtreeDepth-1); at > level; at-- {
		var ends []ondisk.Pos
		for k, err := range c.fs.Keys(ctx, id, at, ondisk.PosMin, ondisk.SPosMax) {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err == nil {
				ends = append(ends, k.Pos)
			}
		}
		if len(ends) >= want || at == level+1 {
			return cut(ends, want), nil
		}
	}
	return whole, nil
}

// cut makes at most n ranges that cover everything, each ending at one of ends, which are sorted.
func cut(ends []ondisk.Pos, n int) []posRange {
	var ranges []posRange
	from := ondisk.PosMin
	for i := range n - 1 {
		j := (i+1)*len(ends)/n - 1
		if j < 0 || ends[j].Less(from) || ends[j] == ondisk.SPosMax {
			continue
		}
		ranges = append(ranges, posRange{from, ends[j]})
		from = ends[j].Next()
	}
	return append(ranges, posRange{from, ondisk.SPosMax})
}

// cursor goes over keys that are held against another order of the same positions.
type cursor struct {
	next func() (*ondisk.Key, bool)
	stop func()
	key  *ondisk.Key // nil at the end; valid until advance
}

// advance moves to the next key.
func (cu *cursor) advance() {
	var ok bool
	if cu.key, ok = cu.next(); !ok {
		cu.key = nil
	}
}

// cursor returns a cursor over the keys from … to of a btree, standing on the first. It must be stopped.
func (c *checker) cursor(ctx context.Context, id ondisk.BtreeID, from, to ondisk.Pos) *cursor {
	next, stop := iter.Pull2(c.fs.Keys(ctx, id, 0, from, to))
	cu := &cursor{stop: stop}
	n := 0
	var key ondisk.Key
	cu.next = func() (*ondisk.Key, bool) {
		for {
			k, err, ok := next()
			if !ok || ctx.Err() != nil {
				c.looked(n)
				n = 0
				return nil, false
			}
			if n++; n == tick {
				c.looked(n)
				n = 0
			}
			if err == nil {
				key = k
				return &key, true
			}
		}
	}
	cu.advance()
	return cu
}
