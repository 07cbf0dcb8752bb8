package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// snapshotOf returns a copy of what the model knows of an inode; nil if it is not linked.
func (h *History) snapshotOf(inum uint64) *inode {
	h.mu.Lock()
	defer h.mu.Unlock()
	in := h.live.inodes[inum]
	if in == nil {
		return nil
	}
	c := *in
	c.blocks = maps.Clone(in.blocks)
	return &c
}

// verify reads a file with one transaction and compares it with the model, if that did not change meanwhile.
func (p *worker) verify(ctx context.Context) (seq uint64, err error) {
	t, ok := p.pick(false)
	if !ok {
		return 0, ErrGone
	}
	before := p.v.History.snapshotOf(t.inum)
	if before == nil {
		return 0, ErrGone
	}
	var in ondisk.Inode
	var got map[uint64][]byte
	err = p.v.RW.Store.View(ctx, func(tx *trans.Tx) (err error) {
		if in, err = p.v.anyInode(tx, t.inum, 0); err != nil {
			return err
		}
		got, err = p.v.read(ctx, tx, t.inum)
		return err
	})
	after := p.v.History.snapshotOf(t.inum)
	if after == nil || after.version != before.version {
		return 0, ErrGone // whatever it was, it was not wrong
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("inode %d: %w", t.inum, err)
	case in.Size != before.size:
		return 0, fmt.Errorf("inode %d: %d bytes, the model has %d", t.inum, in.Size, before.size)
	case int(in.Nlink()) != before.links:
		return 0, fmt.Errorf("inode %d: %d links, the model has %d", t.inum, in.Nlink(), before.links)
	case len(got) != len(before.blocks) || in.Sectors != uint64(len(got))*p.v.blockS:
		return 0, fmt.Errorf("inode %d: %d blocks, %d sectors, the model has %d blocks", t.inum, len(got), in.Sectors, len(before.blocks))
	}
	want := make([]byte, p.v.blockB)
	for b, content := range before.blocks {
		if fill(want, content); !bytes.Equal(got[b], want) {
			return 0, fmt.Errorf("inode %d: block %d is not what was written last", t.inum, b)
		}
	}
	return 0, nil
}

// read returns the blocks of a file. The transaction keeps the extents as they are.
func (v *Volume) read(ctx context.Context, tx *trans.Tx, inum uint64) (map[uint64][]byte, error) {
	blocks := map[uint64][]byte{}
	it := tx.Iter(ondisk.BtreeExtents, v.pos(inum, 0), 0)
	for {
		k, ok, err := it.PeekMax(v.pos(inum, 1<<40))
		if err != nil || !ok {
			return blocks, err
		}
		ptrs, _, err := ondisk.AppendExtentPtrs(nil, &k, v.RW.SB.ExtentTypeU64s())
		if err != nil {
			return nil, err
		}
		for i := range ptrs {
			stored := make([]byte, ptrs[i].CRC.CompressedSize*ondisk.SectorSize)
			if err := v.RW.Device(ptrs[i].Dev).ReadAt(ctx, stored, int64(ptrs[i].Offset)*ondisk.SectorSize); err != nil {
				return nil, err
			}
			if ptrs[i].HasCRC {
				sum, err := checksum.Compute(ptrs[i].CRC.Csum, v.RW.Key, nonceOf(k.Version, ptrs[i].CRC.Nonce), stored)
				if err != nil {
					return nil, err
				}
				if sum != ptrs[i].CRC.Sum {
					return nil, fmt.Errorf("extent that ends at %v: checksum of what is at %d:%d is %v, want %v", k.Pos, ptrs[i].Dev, ptrs[i].Offset, sum, ptrs[i].CRC.Sum)
				}
			}
			if ptrs[i].CRC.Csum.IsEncryption() {
				v.RW.Key.XOR(nonceOf(k.Version, ptrs[i].CRC.Nonce), stored)
			}
			data := stored[ptrs[i].CRC.Offset*ondisk.SectorSize:]
			for n := range uint64(k.Size) / v.blockS {
				b, d := k.Start().Offset/v.blockS+n, data[n*v.blockB:(n+1)*v.blockB]
				if i > 0 && !bytes.Equal(blocks[b], d) {
					return nil, fmt.Errorf("extent that ends at %v: its copies differ", k.Pos)
				}
				blocks[b] = d
			}
		}
		it.Advance()
	}
}
