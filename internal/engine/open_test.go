package engine

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/super"
)

// openNothing is a device that is only there.
type openNothing struct{ blockdev.Device }

func find(t *testing.T, name string) golden.Image {
	t.Helper()
	for _, img := range golden.Images(t) {
		if img.String() == name {
			return img
		}
	}
	t.Skipf("golden image %s is missing", name)
	return golden.Image{}
}

func mustOpen(t *testing.T, paths []string, opts Options) *FS {
	t.Helper()
	if opts.OpenDevice == nil {
		opts.OpenDevice = openUnwritable
	}
	fs, err := Open(context.Background(), paths, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	return fs
}

func hasMessage(fs *FS, parts ...string) bool {
	for _, m := range fs.Messages() {
		all := true
		for _, p := range parts {
			all = all && strings.Contains(m, p)
		}
		if all {
			return true
		}
	}
	return false
}

func TestPassphrase(t *testing.T) {
	golden.DerivesKeys(t)
	img := find(t, "encrypted")
	paths := img.Unpack(t)
	open := func(pw func(context.Context) ([]byte, error)) error {
		fs, err := Open(context.Background(), paths, Options{OpenDevice: openUnwritable, Passphrase: pw})
		if err == nil {
			fs.Close()
		}
		return err
	}
	if err := open(nil); !errors.Is(err, ErrPassphrase) {
		t.Errorf("without a passphrase: %v", err)
	}
	if err := open(func(context.Context) ([]byte, error) { return []byte("wrong"), nil }); !errors.Is(err, ErrPassphrase) {
		t.Errorf("with a wrong one: %v", err)
	}
	if err := open(func(context.Context) ([]byte, error) { return []byte(img.Passphrase), nil }); err != nil {
		t.Errorf("with the right one: %v", err)
	}
}

func TestMissingMember(t *testing.T) {
	t.Run("with copies", func(t *testing.T) {
		for _, name := range []string{"multi-replicas", "newer/v1.39-multi-replicas", "newer/v1.4-multi-replicas"} {
			paths := find(t, name).Unpack(t)
			for i, p := range paths {
				fs := mustOpen(t, []string{p}, Options{})
				if len(fs.Missing()) != 1 || fs.Device(uint8(1-i)) != nil || fs.Device(uint8(i)) == nil {
					t.Errorf("%s: missing %v", name, fs.Missing())
				}
				m := fs.Missing()[0]
				if !hasMessage(fs, "missing", m.UUID.String(), "everything can be read") {
					t.Errorf("%s: no message on device %d: %q", name, m.Index, fs.Messages())
				}
			}
		}
	})
	t.Run("without", func(t *testing.T) {
		for _, name := range []string{"multi-targets", "newer/v1.39-multi-targets", "newer/v1.31-multi-targets"} {
			paths := find(t, name).Unpack(t)
			fs, err := Open(context.Background(), paths[:1], Options{OpenDevice: openUnwritable})
			if !errors.Is(err, ErrDegraded) || !strings.Contains(err.Error(), "device 1 (uuid ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", name, err)
			}
			if err == nil {
				fs.Close()
			}
			fs = mustOpen(t, paths[:1], Options{VeryDegraded: true})
			if !hasMessage(fs, "cannot be read") {
				t.Errorf("%s: %q", name, fs.Messages())
			}
		}
	})
	t.Run("in a stripe", func(t *testing.T) {
		for _, name := range []string{"newer/v1.31-ec", "newer/v1.39-ec", "newer/v1.39-ec-raid6"} {
			paths := find(t, name).Unpack(t)
			for i := range paths {
				rest := slices.Delete(slices.Clone(paths), i, i+1)
				fs := mustOpen(t, rest, Options{})
				if len(fs.Missing()) != 1 || !hasMessage(fs, "missing", "everything can be read") {
					t.Errorf("%s without device %d: %q", name, i, fs.Messages())
				}
			}
			fs, err := Open(context.Background(), paths[:1], Options{OpenDevice: openUnwritable})
			if !errors.Is(err, ErrDegraded) {
				t.Errorf("%s with one device: %v", name, err)
			}
			if err == nil {
				fs.Close()
			}
		}
	})
	t.Run("found by scanning", func(t *testing.T) {
		paths := find(t, "multi-targets").Unpack(t)
		// Only the directory of the others, or what tests of other packages unpacked would be read too.
		fs := mustOpen(t, paths[2:], Options{ScanDirs: paths[:2]})
		if len(fs.Missing()) != 0 || len(fs.Members) != 3 {
			t.Errorf("missing %v; %q", fs.Missing(), fs.Messages())
		}
	})
	t.Run("by uuid", func(t *testing.T) {
		paths := find(t, "multi-targets").Unpack(t)
		uuid := mustOpen(t, paths, Options{}).SB.UserUUID.String()
		scan := append(find(t, "basic").Unpack(t), paths...)
		fs := mustOpen(t, []string{"UUID=" + uuid}, Options{ScanDirs: scan})
		if len(fs.Missing()) != 0 || len(fs.Members) != 3 {
			t.Errorf("missing %v; %q", fs.Missing(), fs.Messages())
		}
		for _, arg := range []string{"UUID=" + strings.Repeat("0", 32), "UUID=x"} {
			if _, err := Open(context.Background(), []string{arg}, Options{ScanDirs: scan, OpenDevice: openUnwritable}); err == nil {
				t.Errorf("%s: no error", arg)
			}
		}
	})
	t.Run("joined by colons", func(t *testing.T) {
		paths := find(t, "multi-targets").Unpack(t)
		fs := mustOpen(t, []string{strings.Join(paths, ":")}, Options{})
		if len(fs.Missing()) != 0 {
			t.Errorf("missing %v", fs.Missing())
		}
	})
}

func TestStrangers(t *testing.T) {
	a, b := find(t, "basic").Unpack(t), find(t, "reflink").Unpack(t)
	opts := Options{OpenDevice: openUnwritable}
	if _, err := Open(context.Background(), []string{a[0], b[0]}, opts); !errors.Is(err, ErrNotMember) {
		t.Errorf("two filesystems: %v", err)
	}
	if _, err := Open(context.Background(), []string{filepath.Join(t.TempDir(), "none")}, opts); err == nil {
		t.Error("a file that does not exist")
	}
	fs := mustOpen(t, []string{a[0], a[0]}, Options{})
	if !hasMessage(fs, "given twice") {
		t.Errorf("messages %q", fs.Messages())
	}
	empty := blockdev.NewMemory(64 << 20)
	opts.OpenDevice = func(string) (blockdev.Device, error) { return empty, nil }
	if _, err := Open(context.Background(), []string{"x"}, opts); !errors.Is(err, ErrNoSuperblock) {
		t.Errorf("an empty device: %v", err)
	}
}

func openOn(t *testing.T, opts Options, devs ...blockdev.Device) (*FS, error) {
	t.Helper()
	opts.OpenDevice = func(name string) (blockdev.Device, error) {
		return devs[name[0]-'0'], nil
	}
	var names []string
	for i := range devs {
		names = append(names, string(rune('0'+i)))
	}
	fs, err := Open(context.Background(), names, opts)
	if err == nil {
		t.Cleanup(func() { fs.Close() })
	}
	return fs, err
}

func TestSplitBrain(t *testing.T) {
	load := func(seq, seconds uint64) []blockdev.Device {
		paths := find(t, "multi-replicas").Unpack(t)
		a, err := blockdev.LoadMemory(paths[0])
		if err != nil {
			t.Fatal(err)
		}
		b, err := blockdev.LoadMemory(paths[1])
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		r, err := super.Read(ctx, b, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range r.Layout.Sectors() {
			sb, _ := super.ReadAt(ctx, b, at)
			sb.Seq += seq
			sb.WriteTime += seconds
			out, err := sb.Seal()
			if err != nil {
				t.Fatal(err)
			}
			if err := b.WriteAt(ctx, out, int64(at)*ondisk.SectorSize); err != nil {
				t.Fatal(err)
			}
		}
		return []blockdev.Device{a, b}
	}
	fs, err := openOn(t, Options{}, load(0, 0)...)
	if err != nil || len(fs.Missing()) != 0 {
		t.Fatalf("as it was: %v", err)
	}
	// Device 1 was written without device 0, as number seq+1 of which 0 has a lower one: 0 is stale, which is fine.
	fs, err = openOn(t, Options{}, load(1, 5)...)
	if err != nil || len(fs.Missing()) != 0 || fs.SB.DevIdx != 1 {
		t.Errorf("one is stale: %v", err)
	}
	fs, err = openOn(t, Options{}, load(0, 5)...)
	if err != nil || len(fs.Missing()) != 1 || !hasMessage(fs, "split brain") {
		t.Errorf("both went on: %v", err)
	}
	fs, err = openOn(t, Options{NoSplitBrainCheck: true}, load(0, 5)...)
	if err != nil || len(fs.Missing()) != 0 {
		t.Errorf("both went on, not checked: %v", err)
	}
}

// The journal entries that count are those that the kernel replayed.
func TestJournalSelection(t *testing.T) {
	for name, want := range map[string][2]uint64{
		"dirty-deleted": {20, 24}, "dirty-heavy": {117, 159}, "dirty-light": {23, 24}, "dirty-multi": {33, 41},
		"damaged/damaged-journal-newest": {10, 84}, "damaged/damaged-journal-newest-zero": {10, 84},
		"damaged/damaged-journal-oldest": {10, 85}, "damaged/damaged-journal-oldest-zero": {10, 85},
	} {
		fs, err := openGolden(t, find(t, name), Options{})
		if err != nil {
			t.Fatal(err)
		}
		sel := fs.Journal.Selection
		if sel.LastSeq != want[0] || sel.Flush != want[1] {
			t.Errorf("%s: entries %d-%d, want %d-%d", name, sel.LastSeq, sel.Flush, want[0], want[1])
		}
	}
}

func TestNoRecovery(t *testing.T) {
	fs, err := openGolden(t, find(t, "dirty-light"), Options{NoRecovery: true})
	if err != nil {
		t.Fatal(err)
	}
	if fs.Journal.Overlay.Len() != 0 || len(fs.Journal.Roots) == 0 {
		t.Errorf("%d roots, overlay of %d keys", len(fs.Journal.Roots), fs.Journal.Overlay.Len())
	}
	if all := strings.Join(fs.Messages(), "\n"); strings.Contains(all, "applied") || !strings.Contains(all, "no recovery was asked for") {
		t.Errorf("messages:\n%s", all)
	}
}

func TestFresh(t *testing.T) {
	for _, name := range []string{"mkfs-uninitialized", "mkfs-old-uninitialized"} {
		fs, err := openGolden(t, find(t, name), Options{})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for k, err := range fs.Reader.KeysIn(context.Background(), ondisk.BtreeDirents, ondisk.PosMin, ondisk.SPosMax, ^uint32(0)) {
			d, err2 := ondisk.DecodeDirent(k)
			if err != nil || err2 != nil || string(d.Name) != "lost+found" || k.Pos.Inode != ondisk.RootInum {
				t.Errorf("%s: %v %v %v", name, d, err, err2)
			}
			if err := ondisk.ValidateKey(ondisk.BtreeDirents, 0, &k, nil); err != nil {
				t.Error(err)
			}
			n++
		}
		for k, err := range fs.Reader.Keys(context.Background(), ondisk.BtreeInodes, ondisk.PosMin, ondisk.SPosMax) {
			if err != nil {
				t.Fatal(err)
			}
			if err := ondisk.ValidateKey(ondisk.BtreeInodes, 0, &k, nil); err != nil {
				t.Error(err)
			}
			n++
		}
		if n != 3 {
			t.Errorf("%s: %d entries and inodes, want 3", name, n)
		}
	}
}

// What is replayed is without gap at its end and in order.
func TestReplayOrder(t *testing.T) {
	for _, name := range []string{"dirty-heavy", "dirty-multi", "newer/v1.39-multi-dirty"} {
		fs, err := openGolden(t, find(t, name), Options{})
		if err != nil {
			t.Fatal(err)
		}
		sel := fs.Journal.Selection
		var last uint64
		for _, c := range sel.Replay {
			if c.Seq <= last || c.Seq < sel.LastSeq || c.Seq > sel.Flush {
				t.Errorf("%s: entry %d of %d-%d after %d", name, c.Seq, sel.LastSeq, sel.Flush, last)
			}
			last = c.Seq
		}
		if last != sel.Flush {
			t.Errorf("%s: last entry %d, want %d", name, last, sel.Flush)
		}
	}
}

// With Salvage, damaged images open too, and what is left of their nodes is read.
func TestSalvage(t *testing.T) {
	for _, img := range golden.Sample(t) {
		if !img.Damaged() {
			continue
		}
		strict, err := openGolden(t, img, Options{})
		if err != nil {
			t.Fatal(err)
		}
		fs, err := openGolden(t, img, Options{Salvage: true})
		if err != nil {
			t.Errorf("%v: %v", img, err)
			continue
		}
		count := func(fs *FS) (n int) {
			for id := range ondisk.NumBtrees {
				for _, err := range fs.Reader.Keys(context.Background(), id, ondisk.PosMin, ondisk.SPosMax) {
					if err == nil {
						n++
					}
				}
			}
			return n
		}
		if a, b := count(strict), count(fs); b < a {
			t.Errorf("%v: %d keys, %d without salvage", img, b, a)
		}
	}
}

// Without first superblock and layout, the copies are found where formatting puts them.
func TestSuperblockCopies(t *testing.T) {
	for _, name := range []string{"basic", "newer/v1.39-basic"} {
		d, err := blockdev.LoadMemory(find(t, name).Unpack(t)[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := d.WriteAt(context.Background(), make([]byte, 4096), 7*ondisk.SectorSize); err != nil {
			t.Fatal(err)
		}
		fs, err := openOn(t, Options{}, d)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !hasMessage(fs, "superblock at sector 8") || !hasMessage(fs, "superblock layout at sector 7") || len(fs.Messages()) != 2 {
			t.Errorf("%s: %q", name, fs.Messages())
		}
	}
}
