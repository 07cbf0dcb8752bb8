package super

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// made is a new filesystem in memory.
func made(t *testing.T, devices int) []*blockdev.Memory {
	t.Helper()
	const size = 64 << 20
	var all []Device
	var mem []*blockdev.Memory
	var devs []blockdev.Device
	for i := range devices {
		all = append(all, Device{Size: size, Label: fmt.Sprintf("g.d%d", i)})
		mem = append(mem, blockdev.NewMemory(size))
		mem[i].SetName(fmt.Sprint("dev", i))
		devs = append(devs, mem[i])
	}
	sbs, err := Build(plain(all...))
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteNew(t.Context(), devs, sbs); err != nil {
		t.Fatal(err)
	}
	return mem
}

func devicesOf[D blockdev.Device](mem []D) []blockdev.Device {
	var devs []blockdev.Device
	for _, m := range mem {
		devs = append(devs, m)
	}
	return devs
}

func openSet[D blockdev.Device](t *testing.T, mem []D) *Set {
	t.Helper()
	s, err := OpenSet(t.Context(), devicesOf(mem), false)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func setLabel(label string) func(sb *ondisk.Superblock) error {
	return func(sb *ondisk.Superblock) error { return sb.SetLabel(label) }
}

// What is changed is in every copy on every device, with what belongs to each device as it was.
func TestUpdate(t *testing.T) {
	mem := made(t, 3)
	s := openSet(t, mem)
	unknown := ondisk.SectionType(77)
	err := s.Update(t.Context(), setLabel("one"), func(i int, own *ondisk.Superblock) error {
		own.SetJournal([]ondisk.SeqRange{{Start: uint64(10 + i), End: 30}})
		own.SetSection(unknown, []byte{byte(i), 1, 2, 3, 4, 5, 6, 7})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1700001234, 0)
	s.now = func() time.Time { return now }
	if err := s.Update(t.Context(), setLabel("two"), nil); err != nil {
		t.Fatal(err)
	}
	for i, m := range mem {
		first, err := Read(t.Context(), m, 0)
		if err != nil || len(first.Problems) > 0 {
			t.Fatal(err, first.Problems)
		}
		for n, at := range first.Layout.Sectors() {
			sb, err := ReadAt(t.Context(), m, at)
			if err != nil {
				t.Fatal(err)
			}
			if err := sb.Validate(ondisk.ValidateWrite); err != nil {
				t.Error(err)
			}
			journal, err := sb.Journal()
			members, err2 := sb.Members()
			if err != nil || err2 != nil || sb.Label() != "two" || sb.Seq != 2 || sb.Offset != at || int(sb.DevIdx) != i ||
				sb.WriteTime != uint64(now.Unix()) || sb.ChecksumType() == 0 || members[i].Seq != 2 ||
				len(journal) != 1 || journal[0].Start != uint64(10+i) || sb.Section(unknown)[0] != byte(i) {
				t.Errorf("device %d, copy %d: %+v, %v, %v, %v", i, n, sb, journal, err, err2)
			}
		}
	}
	if s.Superblock().Label() != "two" || s.Own(1).Seq != 2 || s.Own(3) != nil || s.Index(mem[2]) != 2 {
		t.Error("the set does not know what it wrote")
	}
}

// Changes that fail, or that make no sense, leave the devices alone.
func TestUpdateRefuses(t *testing.T) {
	mem := made(t, 2)
	s := openSet(t, mem)
	before := content(t, mem[0])
	boom := errors.New("boom")
	for name, tt := range map[string]struct {
		change func(sb *ondisk.Superblock) error
		want   string
	}{
		"failing":       {func(*ondisk.Superblock) error { return boom }, "boom"},
		"block size":    {func(sb *ondisk.Superblock) error { sb.BlockSize = 3; return nil }, "block size"},
		"no uuid":       {func(sb *ondisk.Superblock) error { sb.UUID = ondisk.UUID{}; return nil }, "uuid"},
		"unknown":       {func(sb *ondisk.Superblock) error { sb.Features[1] = 1; return nil }, "feature"},
		"fewer devices": {func(sb *ondisk.Superblock) error { sb.NrDevices = 1; return nil }, "devices"},
		"too large": {func(sb *ondisk.Superblock) error {
			sb.SetSection(ondisk.SectionCounters, make([]byte, 1<<20))
			return nil
		}, "no room"},
	} {
		err := s.Update(t.Context(), tt.change, nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, tt.want)
		}
		if s.Superblock().Seq != 0 || !bytes.Equal(before, content(t, mem[0])) {
			t.Fatalf("%s: something was written", name)
		}
	}
}

// content is all that superblocks may lie in.
func content(t *testing.T, m blockdev.Device) []byte {
	t.Helper()
	b := make([]byte, 4<<20)
	if err := m.ReadAt(t.Context(), b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// Whenever the power goes, each device has a whole superblock, old or new; the devices belong together; and once a write
// has returned, it is the new one that counts. Every cut is tried.
func TestUpdatePowerCut(t *testing.T) {
	log := blockdev.NewLog()
	var devs []*blockdev.Recorder
	for _, m := range made(t, 2) {
		devs = append(devs, log.Record(m))
	}
	s := openSet(t, devs)
	var acked []int // tick at which each update had returned
	for i := range 4 {
		if err := s.Update(t.Context(), setLabel(fmt.Sprint("label ", i+1)), nil); err != nil {
			t.Fatal(err)
		}
		acked = append(acked, log.Ticks())
	}
	rng := rand.New(rand.NewPCG(5, 6))
	keeps := []blockdev.Keep{blockdev.KeepNone, blockdev.KeepAll}
	for range 8 {
		keeps = append(keeps, blockdev.KeepRandom(rng))
	}
	for k, keep := range keeps {
		for tick := range log.Ticks() + 1 {
			least := 0
			for i, at := range acked {
				if tick >= at {
					least = i + 1
				}
			}
			after := log.Crash(tick, keep)
			where := fmt.Sprintf("cut at tick %d, keeping by %d", tick, k)
			again, err := OpenSet(t.Context(), devicesOf(after), false)
			if err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			sb := again.Superblock()
			if n := int(sb.Seq); n < least || n > least+1 || n > 0 && sb.Label() != fmt.Sprint("label ", n) {
				t.Errorf("%s: number %d, label %q, %d had returned", where, n, sb.Label(), least)
			}
			// The driver of version 1.13 looks at copies only if the first is damaged.
			for i, m := range after {
				if first, err := ReadAt(t.Context(), m, 8); err == nil && int(first.Seq) < least {
					t.Errorf("%s: device %d begins with number %d, %d had returned", where, i, first.Seq, least)
				}
			}
			if err := again.Update(t.Context(), setLabel("after"), nil); err != nil {
				t.Errorf("%s: writing again: %v", where, err)
			}
			if final := openSet(t, after).Superblock(); final.Label() != "after" || final.Seq != sb.Seq+1 {
				t.Errorf("%s: written again: number %d, label %q", where, final.Seq, final.Label())
			}
		}
	}
}

// A device that fails does not keep the others from being written, and can be written again once it works.
func TestUpdateFailingDevice(t *testing.T) {
	mem := made(t, 2)
	fault := blockdev.NewFaulter(mem[1])
	s := openSet(t, []blockdev.Device{mem[0], fault})
	for n := range 3 { // which copy cannot be written
		fault.SetRules()
		fault.SetRules(blockdev.Rule{Ops: blockdev.OpWrite, Skip: n})
		err := s.Update(t.Context(), setLabel("half"), nil)
		var we *WriteError
		if !errors.As(err, &we) || len(we.Failed) != 1 || we.Failed[1] == nil || len(we.Written) != 1 ||
			!strings.Contains(err.Error(), "dev1") {
			t.Fatalf("copy %d fails: %v", n, err)
		}
		if s.Superblock().Label() != "half" {
			t.Errorf("the change does not count")
		}
		if _, err := OpenSet(t.Context(), devicesOf(mem), false); err != nil {
			t.Errorf("copy %d failed: %v", n, err)
		}
		fault.SetRules()
		if err := s.Update(t.Context(), setLabel("whole"), nil); err != nil {
			t.Fatalf("after copy %d failed: %v", n, err)
		}
	}
	fault.SetRules(blockdev.Rule{Ops: blockdev.OpFlush})
	if err := s.Update(t.Context(), setLabel("flush"), nil); err == nil {
		t.Error("a failed flush is no error")
	}
}

// If nothing can be written the change does not count.
func TestUpdateAllFail(t *testing.T) {
	mem := made(t, 1)
	fault := blockdev.NewFaulter(mem[0])
	s := openSet(t, []blockdev.Device{fault})
	fault.SetRules(blockdev.Rule{Ops: blockdev.OpWrite})
	if err := s.Update(t.Context(), setLabel("x"), nil); err == nil || s.Superblock().Label() != "" {
		t.Errorf("%v, label %q", err, s.Superblock().Label())
	}
	fault.SetRules()
	if err := s.Update(t.Context(), setLabel("y"), nil); err != nil || openSet(t, mem).Superblock().Label() != "y" {
		t.Error(err)
	}
}

// Someone else's writes are noticed before they are overwritten, and lost ones too.
func TestOtherWriter(t *testing.T) {
	mem := made(t, 2)
	mine, other := openSet(t, mem), openSet(t, mem)
	old := mem[1].Clone()
	if err := other.Update(t.Context(), setLabel("other"), nil); err != nil {
		t.Fatal(err)
	}
	if err := mine.Update(t.Context(), setLabel("mine"), nil); !errors.Is(err, ErrOtherWriter) {
		t.Errorf("%v, want %v", err, ErrOtherWriter)
	}
	if got := openSet(t, mem).Superblock().Label(); got != "other" {
		t.Errorf("label %q", got)
	}
	b := content(t, old)
	if err := mem[1].WriteAt(t.Context(), b, 0); err != nil {
		t.Fatal(err)
	}
	if err := other.Update(t.Context(), setLabel("x"), nil); !errors.Is(err, ErrLostWrite) {
		t.Errorf("%v, want %v", err, ErrLostWrite)
	}
}

// Devices that do not belong together are refused.
func TestOpenSetRefuses(t *testing.T) {
	mem := made(t, 2)
	if _, err := OpenSet(t.Context(), devicesOf([]*blockdev.Memory{mem[0], mem[0].Clone()}), false); err == nil {
		t.Error("a device and its copy are taken for two")
	}
	if _, err := OpenSet(t.Context(), nil, false); err == nil {
		t.Error("no devices make a filesystem")
	}
	if _, err := OpenSet(t.Context(), devicesOf([]*blockdev.Memory{blockdev.NewMemory(1 << 20)}), false); !errors.Is(err, ErrNone) {
		t.Errorf("an empty device: %v", err)
	}
	apart := []*blockdev.Memory{mem[0].Clone(), mem[1].Clone()}
	for i, m := range apart {
		s := openSet(t, []*blockdev.Memory{m})
		s.now = func() time.Time { return time.Unix(int64(1700000000+i), 0) }
		if err := s.Update(t.Context(), setLabel(fmt.Sprint(i)), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenSet(t.Context(), devicesOf(apart), false); err == nil || !strings.Contains(err.Error(), "split brain") {
		t.Errorf("devices that went apart: %v", err)
	}
	if _, err := OpenSet(t.Context(), devicesOf(apart), true); err != nil {
		t.Errorf("the same, asked not to mind: %v", err)
	}
	one := openSet(t, mem[:1])
	if missing, err := one.Missing(); err != nil || len(missing) != 1 || missing[0] != 1 {
		t.Errorf("missing %v, %v", missing, err)
	}
}

// loadSuperblocks is a device with the superblocks of an image and nothing else.
func loadSuperblocks(t *testing.T, path string) *blockdev.Memory {
	t.Helper()
	dev, err := blockdev.OpenFile(path, blockdev.FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	f, err := Read(t.Context(), dev, 0)
	if err != nil {
		t.Fatal(err)
	}
	m := blockdev.NewMemory(dev.Size())
	m.SetName(path)
	for _, at := range f.Layout.Sectors() {
		b := make([]byte, len(f.Encode()))
		off := int64(at) * ondisk.SectorSize
		if err := errors.Join(dev.ReadAt(t.Context(), b, off), m.WriteAt(t.Context(), b, off)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// Superblocks of the driver, of all versions, can be written without losing anything but what a write changes.
func TestUpdateGolden(t *testing.T) {
	for _, img := range golden.Images(t) {
		if img.Damaged() {
			continue
		}
		var mem []*blockdev.Memory
		for _, path := range img.Unpack(t) {
			mem = append(mem, loadSuperblocks(t, path))
		}
		s := openSet(t, mem)
		old := s.Superblock()
		if err := s.Update(context.Background(), func(*ondisk.Superblock) error { return nil }, nil); err != nil {
			t.Errorf("%v: %v", img, err)
			continue
		}
		sb := openSet(t, mem).Superblock()
		if sb.Seq != old.Seq+1 || len(sb.Sections) != len(old.Sections) || sb.Features != old.Features || sb.Compat != old.Compat {
			t.Errorf("%v: %+v, was %+v", img, sb, old)
		}
		for _, x := range old.Sections {
			if x.Type != ondisk.SectionMembersV1 && x.Type != ondisk.SectionMembersV2 && !bytes.Equal(sb.Section(x.Type), x.Data) {
				t.Errorf("%v: section %v changed", img, x.Type)
			}
		}
	}
}
