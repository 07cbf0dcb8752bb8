package enginetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Fill writes what a block holds that is known by a number.
func Fill(block []byte, content uint64) { fill(block, content) }

func fill(block []byte, content uint64) {
	x := content*0x9e3779b97f4a7c15 + 1
	for i := 0; i+8 <= len(block); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(block[i:], x)
	}
}

// sectorsIn returns how many sectors of a range of a file are allocated.
func (v *Volume) sectorsIn(tx *trans.Tx, inum, start, end uint64) (n uint64, err error) {
	it := tx.Iter(ondisk.BtreeExtents, v.pos(inum, start), trans.Intent)
	for {
		k, ok, err := it.PeekMax(v.pos(inum, end))
		if err != nil || !ok {
			return n, err
		}
		if k.Type == ondisk.KeyExtent {
			n += min(k.Pos.Offset, end) - max(k.Start().Offset, start)
		}
		it.Advance()
	}
}

// WriteOptions say how data is written.
type WriteOptions struct {
	Checksum   checksum.Type // None: without; else data is encrypted if the filesystem is
	Replicas   int           // 0: as the filesystem has it
	WritePoint alloc.WritePoint
	Tail       uint64 // how many bytes at the end of the last block are not part of the file if it ends there
}

// Write writes blocks of a file with one transaction for each piece of space that it gets. It returns the sequence number of the last.
func (v *Volume) Write(ctx context.Context, inum, block, blocks uint64, o WriteOptions) (seq uint64, err error) {
	for blocks > 0 {
		n, s, err := v.writePiece(ctx, inum, block, blocks, &o)
		if err != nil {
			return seq, err
		}
		seq = max(seq, s)
		block += n
		blocks -= n
	}
	return seq, nil
}

func (v *Volume) writePiece(ctx context.Context, inum, block, blocks uint64, o *WriteOptions) (n, seq uint64, err error) {
	replicas := o.Replicas
	if replicas == 0 {
		replicas = v.replicas
	}
	maxBlocks := max(1, 128/v.blockS) // so that it fits a crc32 entry
	want := min(blocks, maxBlocks)
	promise, err := v.RW.Space.Reserve(want*v.blockS, replicas, 0)
	if err != nil {
		return 0, 0, err
	}
	defer promise.Put()
	var al alloc.Allocation
	req := alloc.Request{Sectors: uint32(want * v.blockS), DataType: ondisk.DataUser, WritePoint: o.WritePoint, Replicas: replicas}
	if err := v.RW.Alloc.AllocSectors(ctx, &req, &al); err != nil {
		return 0, 0, err
	}
	defer al.Done(ctx)
	n = uint64(al.Sectors) / v.blockS
	content := v.contents.Add(n) - n
	var version ondisk.Version
	if v.RW.Key != nil && o.Checksum != checksum.None {
		version = v.RW.NewKeyVersion()
		o.Checksum = checksum.ChaCha20Poly1305_80
	}
	val, err := v.put(ctx, &al, content, o.Checksum, version)
	if err != nil {
		return 0, 0, err
	}
	c := change{kind: kindWrite, inum: inum, block: block, end: block + n, content: content, size: (block + n) * v.blockB}
	if n == blocks {
		c.size -= o.Tail
	}
	start, end := block*v.blockS, (block+n)*v.blockS
	k := ondisk.Key{Type: ondisk.KeyExtent, Pos: v.pos(inum, end), Size: uint32(end - start), Version: version, Val: val}
	seq, err = v.update(ctx, &c, func(tx *trans.Tx) error {
		tx.Attach(&promise)
		in, err := v.inode(tx, inum)
		if err != nil {
			return err
		}
		had, err := v.sectorsIn(tx, inum, start, end)
		if err != nil {
			return err
		}
		in.Sectors += end - start - had
		in.Size = max(in.Size, c.size)
		in.Mtime = v.now()
		return errors.Join(v.putInode(tx, inum, &in), tx.Update(ondisk.BtreeExtents, k, 0))
	})
	return n, seq, err
}

// nonceOf is the nonce of an extent's data that is not compressed; crc is not 0 if it was a part of other data.
func nonceOf(v ondisk.Version, crc uint32) crypt.Nonce {
	return crypt.ExtentNonceOf(v.Hi, v.Lo, crc, 0, 0)
}

// put writes data to all places of an allocation, encrypted if that is part of its checksum, and returns the value of the extent.
func (v *Volume) put(ctx context.Context, al *alloc.Allocation, content uint64, csum checksum.Type, version ondisk.Version) (val []byte, err error) {
	buf := make([]byte, uint64(al.Sectors)*ondisk.SectorSize)
	for off := uint64(0); off < uint64(len(buf)); off += v.blockB {
		fill(buf[off:off+v.blockB], content)
		content++
	}
	if csum.IsEncryption() {
		v.RW.Key.XOR(nonceOf(version, 0), buf)
	}
	if csum != checksum.None {
		crc := ondisk.CRC{CompressedSize: al.Sectors, UncompressedSize: al.Sectors, Csum: csum}
		if crc.Sum, err = checksum.Compute(csum, v.RW.Key, nonceOf(version, 0), buf); err != nil {
			return nil, err
		}
		typ, ok := crc.EntryType()
		if !ok {
			return nil, fmt.Errorf("no crc entry holds %d sectors and %v", al.Sectors, csum)
		}
		val = ondisk.AppendExtentEntry(val, &ondisk.ExtentEntry{Type: typ, CRC: crc})
	}
	for _, p := range al.Ptrs() {
		if err := v.RW.Device(p.Dev).WriteAt(ctx, buf, int64(p.Offset)*ondisk.SectorSize); err != nil {
			return nil, err
		}
		val = ondisk.AppendExtentEntry(val, &ondisk.ExtentEntry{Type: ondisk.EntryPtr, Ptr: p})
	}
	return val, nil
}

// Punch makes a hole. Blocks beyond the last extent may be part of it.
func (v *Volume) Punch(ctx context.Context, inum, block, blocks uint64) (seq uint64, err error) {
	return v.cut(ctx, &change{kind: kindPunch, inum: inum, block: block, end: block + blocks})
}

// Truncate makes a file of a size shorter, or longer.
func (v *Volume) Truncate(ctx context.Context, inum, size uint64) (seq uint64, err error) {
	return v.cut(ctx, &change{kind: kindTruncate, inum: inum, block: (size + v.blockB - 1) / v.blockB, end: 1 << 30, size: size})
}

// cut deletes what a file has in a range. There must not be too many extents for one transaction.
func (v *Volume) cut(ctx context.Context, c *change) (seq uint64, err error) {
	start, end := c.block*v.blockS, c.end*v.blockS
	return v.update(ctx, c, func(tx *trans.Tx) error {
		in, err := v.inode(tx, c.inum)
		if err != nil {
			return err
		}
		had, err := v.sectorsIn(tx, c.inum, start, end)
		if err != nil {
			return err
		}
		in.Sectors -= had
		if c.kind == kindTruncate {
			in.Size = c.size
		}
		if err := v.putInode(tx, c.inum, &in); err != nil {
			return err
		}
		for start := start; start < end; {
			size := min(end-start, 1<<31)
			start += size
			if err := tx.Update(ondisk.BtreeExtents, ondisk.Key{Pos: v.pos(c.inum, start), Size: uint32(size)}, 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// SetXattr sets an attribute in the namespace of users.
func (v *Volume) SetXattr(ctx context.Context, inum uint64, name, value string) (seq uint64, err error) {
	c := change{kind: kindSetXattr, inum: inum, name: "user." + name, value: value}
	return v.update(ctx, &c, func(tx *trans.Tx) error {
		in, err := v.inode(tx, inum)
		if err != nil {
			return err
		}
		_, _, off, err := v.probe(tx, ondisk.BtreeXattrs, inum, xattrStart(&in, name), isXattr(name))
		if err != nil {
			return err
		}
		x := ondisk.Xattr{Type: ondisk.XattrUser, Name: []byte(name), Value: []byte(value)}
		return errors.Join(v.putInode(tx, inum, &in),
			tx.Update(ondisk.BtreeXattrs, ondisk.Key{Type: ondisk.KeyXattr, Pos: v.pos(inum, off), Val: x.Encode()}, 0))
	})
}

// RemoveXattr removes an attribute in the namespace of users.
func (v *Volume) RemoveXattr(ctx context.Context, inum uint64, name string) (seq uint64, err error) {
	c := change{kind: kindRemoveXattr, inum: inum, name: "user." + name}
	return v.update(ctx, &c, func(tx *trans.Tx) error {
		in, err := v.inode(tx, inum)
		if err != nil {
			return err
		}
		_, found, off, err := v.probe(tx, ondisk.BtreeXattrs, inum, xattrStart(&in, name), isXattr(name))
		if err != nil {
			return err
		}
		if !found {
			return ErrGone
		}
		return errors.Join(v.putInode(tx, inum, &in), v.unhash(tx, ondisk.BtreeXattrs, inum, off, func(k *ondisk.Key) (uint64, error) {
			x, err := ondisk.DecodeXattr(*k)
			return xattrStart(&in, string(x.Name)), err
		}))
	})
}

func isXattr(name string) func(k *ondisk.Key) (bool, error) {
	return func(k *ondisk.Key) (bool, error) {
		x, err := ondisk.DecodeXattr(*k)
		return x.Type == ondisk.XattrUser && strings.Compare(string(x.Name), name) == 0, err
	}
}
