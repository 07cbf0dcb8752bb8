// Package foreign recognizes what a device holds that is not to be overwritten, or mistaken for a bcachefs filesystem: other
// filesystems, containers of them, partition tables and compressed images. It also wipes what gives them away, so that after
// formatting nothing takes the device for what it was.
//
// The places and magic numbers are those that libblkid looks at.
package foreign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Found is something recognized.
type Found struct {
	What   string // with its article: "an XFS filesystem"
	Label  string // of the filesystem; "" if it has none, or it is not known where
	Todo   string // what to do if bcachefs was expected; may be ""
	Offset int64  // of what gives it away, in bytes
	Len    int64

	Bcachefs bool // it is ours
}

// String names it, with its label.
func (f Found) String() string {
	if f.Label == "" {
		return f.What
	}
	return fmt.Sprintf("%s labelled %q", f.What, f.Label)
}

// Probe returns all that is recognized on size bytes, what is most telling first: who leaves others' traces behind comes before them.
// Data that ends early is no error, one that cannot be read is.
func Probe(r io.ReaderAt, size int64) ([]Found, error) {
	p := probe{r: r, size: size}
	for i := range signatures {
		p.match(&signatures[i])
	}
	for _, find := range []func(*probe){(*probe).bcachefs, (*probe).mdraid, (*probe).zfs, (*probe).partitions} {
		find(&p)
	}
	return p.found, p.err
}

// ProbeDevice is [Probe] for a device.
func ProbeDevice(ctx context.Context, dev blockdev.Device) ([]Found, error) {
	return Probe(reader{ctx, dev}, dev.Size())
}

// maxRounds bounds how often [Wipe] looks again for what was hidden by something else.
const maxRounds = 64

// Wipe overwrites with zeros what gives others away until nothing is found any more, and makes that durable. It touches no
// more than the magic numbers.
func Wipe(ctx context.Context, dev blockdev.Device) error {
	for range maxRounds {
		found, err := ProbeDevice(ctx, dev)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return dev.Flush(ctx)
		}
		for _, f := range found {
			if err := zero(ctx, dev, f.Offset, f.Len); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("%s: traces of what it held cannot be wiped", dev.Name())
}

// zero clears bytes, in whole sectors for devices that take nothing else.
func zero(ctx context.Context, dev blockdev.Device, off, n int64) error {
	const unit = 4096
	from := off &^ (unit - 1)
	to := min((off+n+unit-1)&^(unit-1), dev.Size())
	b := make([]byte, to-from)
	if err := dev.ReadAt(ctx, b, from); err != nil {
		return err
	}
	clear(b[off-from : off-from+n])
	return dev.WriteAt(ctx, b, from)
}

// reader makes a device an io.ReaderAt.
type reader struct {
	ctx context.Context
	dev blockdev.Device
}

func (r reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > r.dev.Size()-int64(len(p)) {
		return 0, io.EOF
	}
	if err := r.dev.ReadAt(r.ctx, p, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

// probe is one search.
type probe struct {
	r     io.ReaderAt
	size  int64
	found []Found
	err   error // the first
}

// at returns n bytes from an offset, nil if they are not there.
func (p *probe) at(off, n int64) []byte {
	if off < 0 || off > p.size-n {
		return nil
	}
	b := make([]byte, n)
	if _, err := p.r.ReadAt(b, off); err != nil {
		if !errors.Is(err, io.EOF) && p.err == nil {
			p.err = err
		}
		return nil
	}
	return b
}

func (p *probe) has(off int64, magic string) bool {
	return bytes.Equal(p.at(off, int64(len(magic))), []byte(magic))
}

func (p *probe) add(f Found) { p.found = append(p.found, f) }

// match looks for a signature at each of its places, which count from the end if they are negative.
func (p *probe) match(s *signature) {
	for _, off := range s.offsets {
		if off < 0 {
			off += p.size
		}
		if !p.has(off, s.magic) {
			continue
		}
		f := Found{What: s.what, Todo: s.todo, Offset: off, Len: int64(len(s.magic))}
		if s.labelLen > 0 {
			f.Label = text(p.at(s.labelAt, s.labelLen))
		}
		p.add(f)
	}
}

// text is a label as it stands on disk: up to the first zero, without blanks at the end.
func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return strings.TrimRight(string(b), " ")
}

// magicAt is where the magic number stands in a superblock.
const (
	magicAt  = 24
	magicLen = 16
)

// bcachefs finds the copies of superblocks, wherever the layouts say.
func (p *probe) bcachefs() {
	first := int64(ondisk.SuperblockSector * ondisk.SectorSize)
	places := map[int64]bool{}
	look := func(l *ondisk.Layout) {
		for _, s := range l.Sectors() {
			places[int64(s)*ondisk.SectorSize] = true
		}
	}
	layoutAt := int64(ondisk.LayoutSector * ondisk.SectorSize)
	b := p.at(layoutAt, ondisk.LayoutSize)
	if l, err := ondisk.DecodeLayout(b); b != nil && err == nil {
		look(l)
	}
	if head := p.at(first, ondisk.SuperblockFixed); ondisk.IsSuperblock(head) {
		if l, err := ondisk.DecodeLayout(head[ondisk.SuperblockFixed-ondisk.LayoutSize:]); err == nil {
			look(l)
		}
		p.add(Found{What: "a bcachefs filesystem", Label: text(head[72:104]), Offset: first + magicAt, Len: magicLen,
			Bcachefs: true})
		delete(places, first)
	}
	for off := range places {
		if ondisk.IsSuperblock(p.at(off, magicAt+magicLen)) {
			p.add(Found{What: "copies of superblocks of a bcachefs filesystem", Offset: off + magicAt, Len: magicLen,
				Bcachefs: true})
		}
	}
	if b != nil && ondisk.IsSuperblock(append(make([]byte, magicAt), b[:magicLen]...)) {
		p.add(Found{What: "the layout of a bcachefs filesystem", Offset: layoutAt, Len: magicLen, Bcachefs: true})
	}
}

const mdraidMagic = "\xfc\x4e\x2b\xa9" // 0xa92b4efc

// mdraid finds superblocks of Linux software RAID in their four places.
func (p *probe) mdraid() {
	const todo = "assemble the array and give that: mdadm --assemble"
	sectors := p.size / ondisk.SectorSize
	for _, off := range []int64{
		0, 4096, // 1.1, 1.2
		((sectors - 16) &^ 7) * ondisk.SectorSize, // 1.0
		p.size&^(64<<10-1) - 64<<10,               // 0.90
	} {
		if p.has(off, mdraidMagic) {
			p.add(Found{What: "a member of a Linux RAID array", Todo: todo, Offset: off, Len: int64(len(mdraidMagic))})
		}
	}
}

// zfs finds the uberblocks in the four labels of a device.
func (p *probe) zfs() {
	const (
		label = 256 << 10
		ring  = 128 << 10 // where uberblocks begin in a label
		slot  = 1 << 10
	)
	aligned := p.size &^ (label - 1)
	for _, at := range []int64{0, label, aligned - 2*label, aligned - label} {
		b := p.at(at+ring, label-ring)
		for i := 0; i+slot <= len(b); i += slot {
			if m := string(b[i : i+8]); m == "\x0c\xb1\xba\x00\x00\x00\x00\x00" || m == "\x00\x00\x00\x00\x00\xba\xb1\x0c" {
				p.add(Found{What: "a member of a ZFS pool", Offset: at + ring + int64(i), Len: 8})
			}
		}
	}
}

// partitions finds partition tables, and boot sectors of what was not recognized.
func (p *probe) partitions() {
	const todo = "give the partition, as /dev/sda2; of an image: losetup -P"
	const gpt = "EFI PART"
	for _, off := range []int64{512, 4096, p.size - 512, p.size - 4096} {
		if p.has(off, gpt) {
			p.add(Found{What: "a disk with a partition table", Todo: todo, Offset: off, Len: int64(len(gpt))})
		}
	}
	const boot = "\x55\xaa"
	if !p.has(510, boot) {
		return
	}
	f := Found{What: "a boot sector", Todo: todo, Offset: 510, Len: int64(len(boot))}
	table := p.at(446, 64)
	for i := 0; i < len(table); i += 16 {
		if status, kind := table[i], table[i+4]; kind != 0 && status&0x7f == 0 {
			f.What = "a disk with a partition table"
		}
	}
	p.add(f)
}
