package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/super"
)

// copies is an image's device in memory with the places of its superblocks.
type copies struct {
	*blockdev.Memory
	t  *testing.T
	at []ondisk.Sector
}

func loadCopies(t *testing.T, name string) *copies {
	t.Helper()
	d, err := blockdev.LoadMemory(find(t, name).Unpack(t)[0])
	if err != nil {
		t.Fatal(err)
	}
	r, err := super.Read(context.Background(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	return &copies{d, t, r.Layout.Sectors()}
}

// edit changes one copy.
func (c *copies) edit(i int, change func(*ondisk.Superblock)) {
	c.t.Helper()
	sb, err := super.ReadAt(context.Background(), c, c.at[i])
	if err != nil {
		c.t.Fatal(err)
	}
	change(sb)
	b, err := sb.Seal()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.WriteAt(context.Background(), b, int64(c.at[i])*ondisk.SectorSize); err != nil {
		c.t.Fatal(err)
	}
}

// flip changes a bit of one copy, behind its magic.
func (c *copies) flip(i int) {
	c.t.Helper()
	off := int64(c.at[i])*ondisk.SectorSize + 300
	b := make([]byte, 1)
	if err := c.ReadAt(context.Background(), b, off); err != nil {
		c.t.Fatal(err)
	}
	b[0] ^= 4
	if err := c.WriteAt(context.Background(), b, off); err != nil {
		c.t.Fatal(err)
	}
}

func label(sb *ondisk.Superblock, s string) {
	sb.RawLabel = [32]byte([]byte(s + strings.Repeat("\x00", 32-len(s))))
}

// Of all copies the newest valid one is used, and what ails the others is told.
func TestBestSuperblock(t *testing.T) {
	mark := func(c *copies) {
		for i := range c.at {
			c.edit(i, func(sb *ondisk.Superblock) { label(sb, fmt.Sprint("copy ", i)) })
		}
	}
	base := loadCopies(t, "basic")
	if len(base.at) != 3 {
		t.Fatalf("%d copies, want 3", len(base.at))
	}
	newer := func(c *copies, i int, seq uint64) { c.edit(i, func(sb *ondisk.Superblock) { sb.Seq += seq }) }
	for _, tt := range []struct {
		name  string
		make  func(c *copies)
		label string
		told  []int // copies that a message must be about
	}{
		{"all the same", func(*copies) {}, "copy 0", nil},
		{"second is newer", func(c *copies) { newer(c, 1, 2) }, "copy 1", nil},
		{"last is newest", func(c *copies) { newer(c, 1, 2); newer(c, 2, 3) }, "copy 2", nil},
		{"newest is damaged", func(c *copies) { newer(c, 1, 2); newer(c, 2, 3); c.flip(2) }, "copy 1", []int{2}},
		{"first is damaged", func(c *copies) { c.flip(0) }, "copy 1", []int{0}},
		{"all but the last are damaged", func(c *copies) { c.flip(0); c.flip(1) }, "copy 2", []int{0, 1}},
		{"second is another filesystem's", func(c *copies) {
			c.edit(1, func(sb *ondisk.Superblock) { sb.UUID[3] ^= 1; sb.Seq += 1000; sb.WriteTime += 1e9 })
		}, "copy 0", []int{1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &copies{base.Clone(), t, base.at}
			mark(c)
			tt.make(c)
			fs, err := openOn(t, Options{}, c)
			if err != nil {
				t.Fatal(err)
			}
			if got := fs.SB.Label(); got != tt.label {
				t.Errorf("%q is used, want %q", got, tt.label)
			}
			for _, i := range tt.told {
				if !hasMessage(fs, fmt.Sprintf("0: superblock at sector %d: ", c.at[i])) {
					t.Errorf("nothing is said of copy %d: %q", i, fs.Messages())
				}
			}
			if len(fs.Messages()) != len(tt.told) {
				t.Errorf("messages %q, want %d", fs.Messages(), len(tt.told))
			}
		})
	}
}

// Without any valid copy there is one clear error.
func TestNoSuperblockLeft(t *testing.T) {
	c := loadCopies(t, "basic")
	for i := range c.at {
		c.flip(i)
	}
	_, err := openOn(t, Options{}, c)
	if !errors.Is(err, ErrNoSuperblock) || !errors.Is(err, ondisk.ErrChecksum) {
		t.Errorf("error %v, want %v for a checksum", err, ErrNoSuperblock)
	}
	if err != nil && (strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "0: ")) {
		t.Errorf("not one line that names the device: %q", err)
	}
	for _, at := range append(c.at, ondisk.LayoutSector) {
		if err := c.WriteAt(t.Context(), make([]byte, ondisk.SectorSize), int64(at)*ondisk.SectorSize); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openOn(t, Options{}, c); !errors.Is(err, ErrNoSuperblock) {
		t.Errorf("zeroed: %v", err)
	}
}

// The driver's own images with damaged copies open, and say where the damage is.
func TestGoldenDamagedSuperblocks(t *testing.T) {
	for name, sector := range map[string]int{"damaged/damaged-sb-first": 8, "damaged/damaged-sb-first-zero": 8,
		"damaged/damaged-sb-second": 2056, "newer/v1.39-damaged-sb": 8} {
		fs, err := openGolden(t, find(t, name), Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !hasMessage(fs, fmt.Sprintf("superblock at sector %d: ", sector)) {
			t.Errorf("%s: nothing is said of sector %d: %q", name, sector, fs.Messages())
		}
	}
}

// Every version that is supported opens, and others are refused in one line that says what is.
func TestEveryVersion(t *testing.T) {
	d := loadCopies(t, "basic")
	for minor := range ondisk.MetadataVersion(64) {
		for major := range ondisk.MetadataVersion(3) {
			v := major<<10 | minor
			for i := range d.at {
				d.edit(i, func(sb *ondisk.Superblock) { sb.Version, sb.VersionMin = v, min(v, 1<<10) })
			}
			fs, err := openOn(t, Options{}, d)
			switch want := major == 1 && minor <= 39; {
			case want && err != nil:
				t.Errorf("version %v: %v", v, err)
			case want:
				fs.Close()
			case !errors.Is(err, ondisk.ErrUnsupported):
				t.Errorf("version %v: %v, want %v", v, err, ondisk.ErrUnsupported)
			default:
				for _, part := range []string{"0: ", v.String(), "1.0", "1.39"} {
					if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
						t.Errorf("version %v: %q does not say %q in one line", v, err, part)
					}
				}
			}
		}
	}
}

// Unknown incompatible features are refused by name; unknown compatible ones are no matter.
func TestFeatures(t *testing.T) {
	d := loadCopies(t, "basic")
	for bit := int(ondisk.NumFeatures); bit < 128; bit++ {
		for i := range d.at {
			d.edit(i, func(sb *ondisk.Superblock) {
				for b := int(ondisk.NumFeatures); b < 128; b++ {
					sb.Features[b/64] &^= 1 << (b % 64)
				}
				sb.Features[bit/64] |= 1 << (bit % 64)
			})
		}
		_, err := openOn(t, Options{}, d)
		if !errors.Is(err, ondisk.ErrUnsupported) || strings.Contains(err.Error(), "\n") ||
			!strings.Contains(err.Error(), fmt.Sprintf("feature %d ", bit)) {
			t.Errorf("feature %d: %v", bit, err)
		}
	}
	d = loadCopies(t, "basic")
	for i := range d.at {
		d.edit(i, func(sb *ondisk.Superblock) { sb.Compat[0] |= 1 << 60; sb.Compat[1] = ^uint64(0) })
	}
	if _, err := openOn(t, Options{}, d); err != nil {
		t.Errorf("unknown compatible features: %v", err)
	}
}
