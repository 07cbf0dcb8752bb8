package blockdev

import (
	"io"
	"os"
	"sync"
	"unsafe"
)

// bounceSize bounds the memory of one unaligned transfer.
const bounceSize = 1 << 20

// bouncePool keeps aligned buffers for descriptors that insist on them.
type bouncePool struct{ pool sync.Pool }

// memAlign is enough for the memory of any direct transfer: one page, which
// is also the largest logical block size that disks have.
const memAlign = 4096

func (b *bouncePool) get() *[]byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return p
	}
	p := AlignedBuffer(bounceSize)
	return &p
}

func (b *bouncePool) put(p *[]byte) { b.pool.Put(p) }

// AlignedBuffer returns a buffer of n bytes that begins at a page boundary, so
// that a direct read into it needs no copy.
func AlignedBuffer(n int) []byte {
	raw := make([]byte, n+memAlign)
	skip := 0
	if rest := int(uintptr(unsafe.Pointer(unsafe.SliceData(raw))) % memAlign); rest != 0 {
		skip = memAlign - rest
	}
	return raw[skip : skip+n : skip+n]
}

func aligned(off, n, align int64) bool {
	return off%align == 0 && n%align == 0
}

func memAligned(p []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%memAlign == 0
}

// bounceRead reads any range through a descriptor that only takes multiples
// of align, copying only if it must.
func (d *File) bounceRead(f *os.File, p []byte, off, align int64) error {
	if aligned(off, int64(len(p)), align) && memAligned(p) {
		_, err := f.ReadAt(p, off)
		return err
	}
	bp := d.bounce.get()
	defer d.bounce.put(bp)
	for len(p) > 0 {
		start := off - off%align
		skip := int(off - start)
		want := min(len(p), bounceSize-skip)
		length := min((int64(skip+want)+align-1)/align*align, bounceSize)
		n, err := f.ReadAt((*bp)[:length], start)
		if n < skip+want { // more than asked for may well lie behind the end
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		copy(p[:want], (*bp)[skip:])
		p = p[want:]
		off += int64(want)
	}
	return nil
}

// bounceWrite writes an aligned range through a descriptor that also wants
// aligned memory.
func (d *File) bounceWrite(f *os.File, p []byte, off int64) error {
	if memAligned(p) {
		_, err := f.WriteAt(p, off)
		return err
	}
	bp := d.bounce.get()
	defer d.bounce.put(bp)
	for len(p) > 0 {
		n := copy(*bp, p)
		if _, err := f.WriteAt((*bp)[:n], off); err != nil {
			return err
		}
		p = p[n:]
		off += int64(n)
	}
	return nil
}
