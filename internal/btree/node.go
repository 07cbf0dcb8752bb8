package btree

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// child is the pointer to a node, as found in its parent or the overlay.
type child struct {
	btree ondisk.BtreeID
	level uint8 // of the node pointed to
	key   ondisk.Key
	ptr   ondisk.BtreePtr
}

func makeChild(btree ondisk.BtreeID, level uint8, k ondisk.Key) (child, error) {
	ptr, err := ondisk.DecodeBtreePtr(k)
	if err != nil {
		return child{}, &NodeError{Btree: btree, Level: level, Max: k.Pos, Err: fmt.Errorf("%w: %w", ErrBadPointer, err)}
	}
	return child{btree: btree, level: level, key: k, ptr: ptr}, nil
}

func (c *child) id() nodeID {
	var id nodeID
	switch {
	case c.ptr.V2 && c.ptr.RangeUpdated():
		// What is left of an old node may be two pieces, around what replaced its middle.
		return nodeID{seq: c.ptr.Seq, word: c.ptr.Min.Inode ^ c.ptr.Min.Offset<<1 ^ uint64(c.ptr.Min.Snapshot)<<32 | 1}
	case c.ptr.V2:
		return nodeID{seq: c.ptr.Seq}
	}
	if len(c.ptr.Ptrs) >= 8 {
		id.word = binary.LittleEndian.Uint64(c.ptr.Ptrs)
	}
	return id
}

// damaged returns the error for c's node, of which nothing is known from position from on. A remembered error may have come
// from another pointer to the same node, so the range is always c's: iteration must get ahead.
func (c *child) damaged(from ondisk.Pos, err error) error {
	e := &NodeError{Err: err}
	var known *NodeError
	if errors.As(err, &known) {
		*e = *known
	}
	e.Btree, e.Level, e.Min, e.Max = c.btree, c.level, from, c.key.Pos
	return e
}

// node returns the node that c points to, from the cache or its devices. Errors other than those of ctx are *NodeError.
func (r *Reader) node(ctx context.Context, c *child) (*entry, error) {
	id := c.id()
	e := r.cache.find(id)
	if e == nil {
		var err error
		if e, err = r.nodeSlow(ctx, id, *c); err != nil {
			return nil, err
		}
	}
	if e.err != nil {
		return nil, e.err
	}
	if e.node.Btree == c.btree && e.node.Level == c.level && e.node.Max == c.key.Pos {
		return e, nil
	}
	return nil, r.impostor(c, e)
}

// impostor is the error for a pointer whose node has the identity of another one.
func (r *Reader) impostor(c *child, e *entry) error {
	return &NodeError{Btree: c.btree, Level: c.level, Min: c.ptr.Min, Max: c.key.Pos, Err: fmt.Errorf(
		"%w: node %016x is the one of btree %v level %d up to %v", ErrBadPointer, c.id().seq|c.id().word, e.node.Btree,
		e.node.Level, e.node.Max)}
}

// nodeSlow is apart so that the fast path's child need not live on the heap.
func (r *Reader) nodeSlow(ctx context.Context, id nodeID, c child) (*entry, error) {
	return r.cache.get(ctx, id, func(ctx context.Context) (*ondisk.Node, error) { return r.readNode(ctx, &c) })
}

// ReadNode reads the node of a level that a pointer leads to, whatever the cache has of it, for who keeps nodes of their own.
func (r *Reader) ReadNode(ctx context.Context, btree ondisk.BtreeID, level uint8, ptr ondisk.Key) (*ondisk.Node, error) {
	c, err := makeChild(btree, level, ptr)
	if err != nil {
		return nil, err
	}
	n, err := r.readNode(ctx, &c)
	if err != nil && ctx.Err() == nil {
		return nil, c.damaged(c.ptr.Min, err)
	}
	return n, err
}

// readNode reads a node from the first replica that is faultless, else from the usable one with the fewest problems. If none
// is usable and the configuration asks for it, the intact parts of one are used.
func (r *Reader) readNode(ctx context.Context, c *child) (*ondisk.Node, error) {
	buf, err := r.acquireBuffer(ctx)
	if err != nil {
		return nil, err
	}
	defer r.releaseBuffer(buf)

	rd := nodeRead{r: r, c: c, buf: *buf, failed: NodeError{Btree: c.btree, Level: c.level, Min: c.ptr.Min, Max: c.key.Pos,
		Err: ErrUnreachable}}
	if n := int(c.ptr.SectorsWritten) * ondisk.SectorSize; n > 0 && n < len(rd.buf) {
		rd.buf = rd.buf[:n]
	}
	rd.want = r.cfg.Want
	rd.want.Btree, rd.want.Level, rd.want.Ptr, rd.want.Salvage = c.btree, c.level, c.ptr, false
	if check := r.cfg.CheckKey; check != nil {
		rd.want.CheckKey = func(k *ondisk.Key) error { return check(c.btree, c.level, k) }
	}
	if err := rd.tryAll(ctx); err != nil {
		return nil, err
	}
	if rd.best == nil && rd.salvageable && r.cfg.Want.Salvage && !holdsContents(c.btree, c.level) {
		rd.want.Salvage = true
		if err := rd.tryAll(ctx); err != nil {
			return nil, err
		}
	}
	switch {
	case rd.best != nil:
		if r.cfg.OnProblem != nil {
			for _, p := range rd.best.Problems {
				r.cfg.OnProblem(c.btree, rd.best, p)
			}
		}
		return rd.best, nil
	case rd.transient:
		return nil, &rd.failed
	}
	return nil, &permanentError{&rd.failed}
}

// holdsContents reports whether the keys of a node are, or lead to, what users stored: part of such a node, or one whose checksum is
// wrong, could show other bytes than were written, or zeros in their place, and so is worse than none.
func holdsContents(id ondisk.BtreeID, level uint8) bool {
	return level == 0 && (id == ondisk.BtreeExtents || id == ondisk.BtreeReflink || id == ondisk.BtreeXattrs)
}

// nodeRead is the state of reading one node.
type nodeRead struct {
	r    *Reader
	c    *child
	buf  []byte
	want ondisk.NodeWant

	best        *ondisk.Node
	failed      NodeError // why the last replica tried failed
	transient   bool      // a device failed: it may not, next time
	salvageable bool
}

// tryAll goes through the replicas until one is faultless. The error is ctx's.
func (rd *nodeRead) tryAll(ctx context.Context) error {
	for a := range rd.c.ptr.Addrs() {
		dev := rd.r.cfg.Device(a.Dev)
		if dev == nil {
			if rd.failed.Device == "" {
				rd.failed.Err = fmt.Errorf("device %d: %w", a.Dev, ErrNoDevice)
			}
			continue
		}
		n, err := rd.try(ctx, dev, a)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			rd.failed.Device, rd.failed.Sector, rd.failed.Err = dev.Name(), a.Sector, err
		case rd.best == nil || len(n.Problems) < len(rd.best.Problems):
			rd.best = n
			if len(n.Problems) == 0 {
				return nil
			}
		}
	}
	return nil
}

func (rd *nodeRead) try(ctx context.Context, dev blockdev.Device, a ondisk.NodeAddr) (*ondisk.Node, error) {
	if err := dev.ReadAt(ctx, rd.buf, int64(a.Sector)*ondisk.SectorSize); err != nil {
		rd.transient = true
		return nil, err
	}
	n, err := ondisk.DecodeNode(rd.buf, &rd.want)
	var ne *ondisk.NodeError
	if errors.As(err, &ne) && ne.Salvageable {
		rd.salvageable = true
	}
	return n, err
}
