package data

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// read reads the live part of what is moved, in the form in which it is going to be written, from one of its replicas: first those that are to be
// replaced, as the others may have been written in place.
func (m *mover) read(ctx context.Context, mv *moving) error {
	if mv.unwritten {
		return nil
	}
	r := m.w.reader
	last := fmt.Errorf("%v: %w", mv.Key.Pos, ErrNoReplica)
	for pass := range 3 {
		for i := range mv.ptrs {
			p := &mv.ptrs[i]
			own := mv.rewrite>>i&1 != 0
			if mv.Bad>>i&1 != 0 || p.Dev == ondisk.DevInvalid || p.Cached != (pass == 2) || pass < 2 && own != (pass == 0) {
				continue
			}
			if p.Cached {
				if usable, err := r.cachedUsable(ctx, p); err != nil || !usable {
					continue
				}
			}
			err := m.readFrom(ctx, mv, p)
			if err == nil || ctx.Err() != nil {
				return err
			}
			last = fmt.Errorf("%v: %w", mv.Key.Pos, r.errorOf(p, err))
		}
	}
	return last
}

// readFrom reads through one pointer.
func (m *mover) readFrom(ctx context.Context, mv *moving, p *ondisk.DecodedPtr) error {
	w, crc, size := m.w, &p.CRC, mv.Key.Size
	if err := checkCRC(crc, size); err != nil {
		return err
	}
	if !crc.IsEncoded() {
		buf := m.buffer(int(size) * sectorSize)
		if err := w.reader.readDevice(ctx, p.Dev, p.Offset+ondisk.Sector(crc.Offset), buf); err != nil {
			return err
		}
		mv.stored = buf
		mv.crc = ondisk.CRC{CompressedSize: size, UncompressedSize: size, Compression: crc.Compression}
		return m.encode(ctx, mv, buf)
	}
	stored := m.buffer(int(crc.CompressedSize) * sectorSize)
	if err := w.reader.readDevice(ctx, p.Dev, p.Offset, stored); err != nil {
		return err
	}
	if m.o.Encode != nil || crc.Compression.IsCompressed() && size != crc.UncompressedSize {
		plain := m.buffer(int(crc.UncompressedSize) * sectorSize)
		if err := w.reader.decode(plain, stored, mv.Key.Version, crc); err != nil {
			w.reader.noteFault(p.Dev, err)
			return err
		}
		mv.crc = *crc
		return m.encode(ctx, mv, plain[crc.Offset*sectorSize:][:int(size)*sectorSize])
	}
	if crc.Csum != checksum.None {
		if crc.Csum.IsEncryption() && w.cfg.Key == nil {
			return ErrNoKey
		}
		sum, err := checksum.Compute(crc.Csum, w.cfg.Key, nonce(mv.Key.Version, crc), stored)
		if err == nil && sum != crc.Sum {
			err = fmt.Errorf("%w: %v, want %v (%v)", ErrChecksum, sum, crc.Sum, crc.Csum)
		}
		if err != nil {
			w.reader.noteFault(p.Dev, err)
			return err
		}
	}
	if crc.Compression.IsCompressed() {
		mv.crc, mv.stored = *crc, stored
		return nil
	}
	var err error
	mv.crc, mv.stored, err = w.cutStored(mv.Key.Version, crc, stored, crc.Offset, size)
	return err
}

// cutStored returns n sectors of data that is not compressed, from off on, with what describes them: the same bytes, also if they are encrypted, under a
// checksum of their own (spec/05 § 6.4).
func (w *Writer) cutStored(v ondisk.Version, crc *ondisk.CRC, stored []byte, off, n uint32) (ondisk.CRC, []byte, error) {
	if off == 0 && n == crc.UncompressedSize {
		return *crc, stored, nil
	}
	c := *crc
	c.CompressedSize, c.UncompressedSize, c.Offset = n, n, 0
	part := stored[off*sectorSize:][:n*sectorSize]
	if c.Csum == checksum.None {
		return c, part, nil
	}
	if c.Csum.IsEncryption() {
		c.Nonce += off
	}
	var err error
	c.Sum, err = checksum.Compute(c.Csum, w.cfg.Key, nonce(v, &c), part)
	return c, part, err
}

// encode makes plain data what is to be written of it: as the options for that say, or as it was before if there are none. mv.crc says how that was.
func (m *mover) encode(ctx context.Context, mv *moving, plain []byte) error {
	w, o := m.w, m.o.Encode
	typ, level, csum := mv.crc.Compression, 0, mv.crc.Csum
	switch {
	case o != nil:
		typ, level = compression(o.Compression)
		csum = w.checksumType(o)
	case !typ.IsCompressed():
		return nil // read as it is to be written
	case typ == compress.LZ4Old:
		typ = compress.LZ4
	}
	if t, l := compression(w.cfg.Options.Compression); o == nil && t == typ {
		level = l
	}
	mv.stored = plain
	crc := ondisk.CRC{CompressedSize: mv.Key.Size, UncompressedSize: mv.Key.Size, Csum: csum}
	if typ != compress.None {
		crc.Compression = compress.Incompressible
	}
	if f, ok := compressionFeature(typ); ok && len(plain) > int(w.block) {
		if err := w.setFeatures(ctx, f); err != nil {
			return err
		}
		buf := m.buffer(len(plain))
		n, ok, err := compress.Compress(typ, level, buf, plain, int(w.block))
		if err != nil {
			return err
		}
		if ok {
			mv.stored, crc.Compression, crc.CompressedSize = buf[:n], typ, uint32(n/sectorSize)
		}
	}
	mv.version = ondisk.Version{}
	if csum.IsEncryption() {
		if !mv.fresh { // another pointer stays, with the key's version
			return fmt.Errorf("%w: another copy is encrypted in another form", errors.ErrUnsupported)
		}
		if w.cfg.Key == nil || w.cfg.NewKeyVersion == nil {
			return ErrNoKey
		}
		mv.version = w.cfg.NewKeyVersion()
		w.cfg.Key.XOR(nonce(mv.version, &crc), mv.stored)
	}
	if csum != checksum.None {
		sum, err := checksum.Compute(csum, w.cfg.Key, nonce(mv.version, &crc), mv.stored)
		if err != nil {
			return err
		}
		crc.Sum = sum
	}
	mv.crc = crc
	return nil
}
