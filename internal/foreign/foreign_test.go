package foreign

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// put writes bytes to a device in memory; from the end if off is negative.
func put(t *testing.T, dev *blockdev.Memory, off int64, b string) {
	t.Helper()
	if off < 0 {
		off += dev.Size()
	}
	if err := dev.WriteAt(t.Context(), []byte(b), off); err != nil {
		t.Fatal(err)
	}
}

const deviceSize = 96<<20 + 12345*512

// Each signature is found at each of its places, told by name, and wiped.
func TestSignatures(t *testing.T) {
	for _, s := range signatures {
		for _, off := range s.offsets {
			size := int64(deviceSize)
			if off > size/2 {
				size = off + 1<<20
			}
			dev := blockdev.NewMemory(size)
			put(t, dev, off, s.magic)
			if s.labelLen > 0 && s.labelAt != off {
				put(t, dev, s.labelAt, "LBL\x00")
			}
			check(t, dev, s.what)
		}
	}
}

// check expects the first thing found to be what, and nothing after wiping.
func check(t *testing.T, dev *blockdev.Memory, what string) {
	t.Helper()
	found, err := ProbeDevice(t.Context(), dev)
	if err != nil || len(found) == 0 || found[0].What != what {
		t.Errorf("%s: found %v, %v", what, found, err)
		return
	}
	if err := Wipe(t.Context(), dev); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if found, err := ProbeDevice(t.Context(), dev); err != nil || len(found) > 0 {
		t.Errorf("%s: after wiping, found %v, %v", what, found, err)
	}
}

func TestMoreThanMagic(t *testing.T) {
	sectors := int64(deviceSize / 512)
	for _, tt := range []struct {
		what string
		off  int64
		b    string
	}{
		{"a member of a Linux RAID array", 0, mdraidMagic},
		{"a member of a Linux RAID array", 4096, mdraidMagic},
		{"a member of a Linux RAID array", ((sectors - 16) &^ 7) * 512, mdraidMagic},
		{"a member of a Linux RAID array", deviceSize&^65535 - 65536, mdraidMagic},
		{"a member of a ZFS pool", 128<<10 + 5<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
		{"a member of a ZFS pool", 384 << 10, "\x00\x00\x00\x00\x00\xba\xb1\x0c"},
		{"a member of a ZFS pool", deviceSize&^(256<<10-1) - 128<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
		{"a disk with a partition table", 512, "EFI PART"},
		{"a disk with a partition table", 4096, "EFI PART"},
		{"a disk with a partition table", -512, "EFI PART"},
		{"a disk with a partition table", 446, "\x80\x00\x02\x00\x83" + strings.Repeat("\x00", 59) + "\x55\xaa"},
		{"a boot sector", 510, "\x55\xaa"},
	} {
		dev := blockdev.NewMemory(deviceSize)
		put(t, dev, tt.off, tt.b)
		check(t, dev, tt.what)
	}
}

// Real filesystems of ours are found with their labels, and gone after wiping, whatever is damaged in them.
func TestGolden(t *testing.T) {
	for _, name := range []string{"options", "mkfs-uninitialized", "damaged-sb-first", "damaged-sb-first-zero"} {
		dev, err := blockdev.LoadMemory(golden.Find(t, name).Unpack(t)[0])
		if err != nil {
			t.Fatal(err)
		}
		found, err := ProbeDevice(t.Context(), dev)
		if err != nil || len(found) < 3 || !found[0].Bcachefs {
			t.Errorf("%s: found %v, %v", name, found, err)
			continue
		}
		if name == "options" && found[0].String() != `a bcachefs filesystem labelled "golden"` {
			t.Errorf("%s: %v", name, found[0])
		}
		check(t, dev, found[0].What)
	}
}

// An empty device, and one too small for anything, hold nothing; random bytes are no reason to panic.
func TestNothing(t *testing.T) {
	for _, size := range []int64{0, 1, 511, 512, 4096, 70000, 1 << 20} {
		if found, err := ProbeDevice(t.Context(), blockdev.NewMemory(size)); err != nil || len(found) > 0 {
			t.Errorf("%d bytes: %v, %v", size, found, err)
		}
	}
}

// What cannot be read is told: it may hold anything.
func TestUnreadable(t *testing.T) {
	dev := blockdev.NewFaulter(blockdev.NewMemory(1<<20), blockdev.Rule{Ops: blockdev.OpRead, Off: 0x10000, Len: 4096})
	if _, err := ProbeDevice(t.Context(), dev); err == nil {
		t.Error("no error")
	}
	if err := Wipe(t.Context(), dev); err == nil {
		t.Error("no error of wiping")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Wipe(ctx, blockdev.NewMemory(1<<20)); err == nil {
		t.Error("wiped after being interrupted")
	}
}

func FuzzProbe(f *testing.F) {
	for _, s := range signatures[:4] {
		f.Add(uint32(s.offsets[0]), []byte(s.magic))
	}
	f.Add(uint32(3584), []byte("\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef\x00\x0b\x03"))
	f.Fuzz(func(t *testing.T, off uint32, b []byte) {
		dev := blockdev.NewMemory(1 << 20)
		off %= 1 << 20
		if err := dev.WriteAt(t.Context(), b[:min(len(b), 1<<20-int(off))], int64(off)); err != nil {
			t.Fatal(err)
		}
		if _, err := ProbeDevice(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
		if err := Wipe(t.Context(), dev); err != nil {
			t.Fatal(err)
		}
		if found, _ := ProbeDevice(t.Context(), dev); len(found) > 0 {
			t.Fatal(fmt.Sprint("left after wiping: ", found))
		}
	})
}

// A file that is read where it ends is no error.
func TestShortFile(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if found, err := Probe(f, 1<<30); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
}
