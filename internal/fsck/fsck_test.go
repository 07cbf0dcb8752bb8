package fsck_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/fsck"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// TestMissingDevice: what is said of a device that is not there is checked as well.
func TestMissingDevice(t *testing.T) {
	for _, name := range []string{"multi-replicas", "v1.4-multi-replicas", "v1.31-multi-replicas", "v1.39-multi-replicas"} {
		t.Run(name, func(t *testing.T) {
			img := golden.Find(t, name)
			for i, path := range img.Unpack(t) {
				r := fscktest.Options{Degraded: true}.Check(t, path)
				if !r.Clean() {
					t.Errorf("device %d alone: %v", i, r.Findings)
				}
				if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "is missing: its superblock") }) {
					t.Errorf("the missing device is not told of: %q", r.Notes)
				}
			}
		})
	}
}

func TestMustBeClean(t *testing.T) {
	img := golden.Find(t, "damage-base")
	paths := img.Unpack(t)
	fscktest.MustBeClean(t, paths...)
	m, err := blockdev.LoadMemory(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	fscktest.MustBeCleanMemory(t, m)
	fscktest.MustBeCleanMemory(t, m) // it is still open

	// One byte of a node: the same as a writer that forgot the checksum.
	fs := openGolden(t, img)
	root := fs.Journal.Roots[ondisk.BtreeXattrs]
	ptr, err := ondisk.DecodeBtreePtr(root.Key)
	if err != nil {
		t.Fatal(err)
	}
	for a := range ptr.Addrs() {
		b := make([]byte, 512)
		if err := m.ReadAt(t.Context(), b, int64(a.Sector)*512); err != nil {
			t.Fatal(err)
		}
		b[30] ^= 1 // in the header
		if err := m.WriteAt(t.Context(), b, int64(a.Sector)*512); err != nil {
			t.Fatal(err)
		}
	}
	fake := &fakeT{TB: t}
	fscktest.MustBeCleanMemory(fake, m)
	if !fake.failed || !strings.Contains(fake.log, "btree_root_read_error") {
		t.Errorf("failed %v: %s", fake.failed, fake.log)
	}
}

// fakeT notes what a test says to it.
type fakeT struct {
	testing.TB
	failed bool
	log    string
}

func (f *fakeT) Helper()      {}
func (f *fakeT) Failed() bool { return f.failed }
func (f *fakeT) Log(a ...any) { f.log += fmt.Sprintln(a...) }
func (f *fakeT) Errorf(format string, a ...any) {
	f.failed = true
	f.log += fmt.Sprintf(format+"\n", a...)
}

func TestOptions(t *testing.T) {
	fs := openGolden(t, golden.Find(t, "damage-base"))
	var told []string
	r := check(t, fs, fsck.Options{Passes: []string{"check_subvols", "check_lrus"}, Progress: func(pass string, _ uint64) {
		if len(told) == 0 || told[len(told)-1] != pass {
			told = append(told, pass)
		}
	}})
	want := []string{"check_topology", "check_lrus", "check_subvols"}
	if !slices.Equal(told, want) || len(r.Passes) != 3 || r.Passes[1].Keys == 0 {
		t.Errorf("told %q, ran %v, want %q", told, r.Passes, want)
	}
	if _, err := fsck.Check(t.Context(), fsck.Of(fs), fsck.Options{Passes: []string{"check_all"}}); err == nil {
		t.Error("a pass that does not exist is taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fsck.Check(ctx, fsck.Of(fs), fsck.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	for _, pass := range []string{"check_allocations", "check_snapshots"} {
		if _, err := fsck.Check(t.Context(), fsck.Of(fs), fsck.Options{Passes: []string{pass}, MemoryBytes: 512}); !errors.Is(err, fsck.ErrMemory) {
			t.Errorf("%s with 512 bytes of memory: %v", pass, err)
		}
	}
}

func TestMaxFindings(t *testing.T) {
	p := patch(t, "damage-base")
	n := 0
	for k := range p.Keys(t.Context(), ondisk.BtreeBackpointers, 0, ondisk.PosMin, ondisk.SPosMax) {
		p.delete(ondisk.BtreeBackpointers, k.Pos)
		n++
	}
	r, err := fsck.Check(t.Context(), p, fsck.Options{MaxFindings: 3})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) != 3 || r.Total != n || r.ByID[147] != n || r.Clean() {
		t.Errorf("%d findings kept of %d, want 3 of %d", len(r.Findings), r.Total, n)
	}
}

// TestOrder: whatever goroutines find when, the report is the same.
func TestOrder(t *testing.T) {
	var first []fsck.Finding
	for i := range golden.Times(t, 8, 3) {
		p := patch(t, "btree-deep")
		for k := range p.Keys(t.Context(), ondisk.BtreeBackpointers, 0, ondisk.PosMin, ondisk.Pos{Offset: 1 << 30}) {
			p.delete(ondisk.BtreeBackpointers, k.Pos)
		}
		r, err := fsck.Check(t.Context(), p, fsck.Options{Parallel: 1 + i, Passes: []string{"check_allocations", "check_extents_to_backpointers"}})
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = r.Findings
		}
		if len(first) < 100 || !slices.Equal(first, r.Findings) {
			t.Fatalf("%d goroutines: %d findings, not the same as the %d of one", 1+i, len(r.Findings), len(first))
		}
	}
}

// silent is a filesystem whose superblock says to expect an error.
type silent struct {
	*patched
	sb *ondisk.Superblock
}

func (s silent) Superblock() *ondisk.Superblock { return s.sb }

func TestSilenced(t *testing.T) {
	p := patch(t, "damage-base")
	k := p.first(ondisk.BtreeBackpointers, func(*ondisk.Key) bool { return true })
	p.delete(ondisk.BtreeBackpointers, k.Pos)
	sb, err := ondisk.DecodeSuperblock(p.Superblock().Encode())
	if err != nil {
		t.Fatal(err)
	}
	ext, err := sb.Ext()
	if err != nil || ext == nil {
		t.Fatal(ext, err)
	}
	ext.ErrorsSilent[147/64] |= 1 << (147 % 64)
	ext.PassesRequired[0] |= 1 << 5
	ext.BtreesLostData |= 1 << ondisk.BtreeXattrs
	sb.SetExt(ext)
	r, err := fsck.Check(t.Context(), silent{p, sb}, fsck.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Silenced != 1 || r.Total != 0 {
		t.Errorf("%d silenced, %d found, want 1 and 0: %v", r.Silenced, r.Total, r.Findings)
	}
	for _, want := range []string{"asks for these passes: check_allocations", "these btrees lost data: xattrs", "in use: its journal was not checked"} {
		if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, want) }) {
			t.Errorf("no note says %q: %q", want, r.Notes)
		}
	}
}

// TestFindingText is how findings look.
func TestFindingText(t *testing.T) {
	f := fsck.Finding{ID: 106, Place: true, Btree: ondisk.BtreeAlloc, Pos: ondisk.Pos{Offset: 5}, Text: "wrong"}
	if got, want := f.String(), "btree alloc level 0 0:5:0: wrong [alloc_key_data_type_wrong]"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	f = fsck.Finding{ID: fsck.NoID, Text: "wrong"}
	if got := f.String(); got != "wrong" || f.Name() != "" {
		t.Errorf("%q, %q", got, f.Name())
	}
}

var _ fsck.Filesystem = fsck.Of((*engine.FS)(nil))

// otherSuper is an open filesystem with another superblock.
type otherSuper struct {
	fsck.Engine
	sb      *ondisk.Superblock
	devices []fsck.Device
}

func (o otherSuper) Superblock() *ondisk.Superblock { return o.sb }
func (o otherSuper) Devices() []fsck.Device         { return o.devices }

func TestCleanJournal(t *testing.T) {
	e := fsck.Of(openGolden(t, golden.Find(t, "damage-base")))
	for _, tt := range []struct {
		name   string
		change func(sb *ondisk.Superblock, c *ondisk.Clean)
		want   found
	}{
		{"as it is", func(*ondisk.Superblock, *ondisk.Clean) {}, found{}},
		{"other entry", func(sb *ondisk.Superblock, c *ondisk.Clean) { c.JournalSeq++; sb.SetClean(c) },
			found{"sb_clean_journal_seq_mismatch": 1}},
		{"older entry", func(sb *ondisk.Superblock, c *ondisk.Clean) { c.JournalSeq--; sb.SetClean(c) },
			found{"sb_clean_journal_seq_mismatch": 1}},
		{"no section", func(sb *ondisk.Superblock, _ *ondisk.Clean) { sb.SetSection(ondisk.SectionClean, nil) }, found{"sb_clean_missing": 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sb, err := ondisk.DecodeSuperblock(e.Superblock().Encode())
			if err != nil {
				t.Fatal(err)
			}
			clean, err := sb.Clean()
			if err != nil {
				t.Fatal(err)
			}
			tt.change(sb, clean)
			r, err := fsck.Check(t.Context(), otherSuper{e, sb, e.Devices()}, fsck.Options{})
			if err != nil {
				t.Fatal(err)
			}
			expect(t, r, tt.want)
		})
	}
}

// TestCleanJournalDegraded: newer entries may be on a device that is missing, but not older ones.
func TestCleanJournalDegraded(t *testing.T) {
	e := fsck.Of(openGolden(t, golden.Find(t, "damage-base")))
	for by, want := range map[int64]found{1: {}, -1: {"sb_clean_journal_seq_mismatch": 1}} {
		sb, err := ondisk.DecodeSuperblock(e.Superblock().Encode())
		if err != nil {
			t.Fatal(err)
		}
		clean, err := sb.Clean()
		if err != nil {
			t.Fatal(err)
		}
		clean.JournalSeq += uint64(by)
		sb.SetClean(clean)
		devices := append(e.Devices(), fsck.Device{Index: 9, Name: "a missing one"})
		r, err := fsck.Check(t.Context(), otherSuper{e, sb, devices}, fsck.Options{Passes: []string{"journal"}})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, want)
	}
}

// TestSuperblockCopies: power may fail while copies of the superblock are written, so that only those of a filesystem that was shut down
// properly must all be sound.
func TestSuperblockCopies(t *testing.T) {
	for name, want := range map[string]int{"damage-base": 1, "damage-base-dirty": 0} {
		e := fsck.Of(openGolden(t, golden.Find(t, name)))
		devices := e.Devices()
		devices[0].Problems = []string{"superblock at sector 2056: torn"}
		r, err := fsck.Check(t.Context(), otherSuper{e, e.Superblock(), devices}, fsck.Options{Passes: []string{"superblock"}})
		if err != nil {
			t.Fatal(err)
		}
		if r.Total != want || len(r.Notes)+r.Total != 1 {
			t.Errorf("%s: %d findings, want %d; notes %q", name, r.Total, want, r.Notes)
		}
	}
}

// TestNoAllocInfo: filesystems that are not written to may have no allocation information.
func TestNoAllocInfo(t *testing.T) {
	p := patch(t, "v1.39-casefold")
	for _, id := range []ondisk.BtreeID{ondisk.BtreeAlloc, ondisk.BtreeBackpointers, ondisk.BtreeLRU, ondisk.BtreeAccounting} {
		for k := range p.Keys(t.Context(), id, 0, ondisk.PosMin, ondisk.SPosMax) {
			p.delete(id, k.Pos)
		}
	}
	sb, err := ondisk.DecodeSuperblock(p.Superblock().Encode())
	if err != nil {
		t.Fatal(err)
	}
	sb.SetFeature(ondisk.FeatureNoAllocInfo)
	r, err := fsck.Check(t.Context(), silent{p, sb}, fsck.Options{})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, found{})
	n := 0
	for _, note := range r.Notes {
		if strings.Contains(note, "no allocation information") {
			n++
		}
	}
	if n != 8 || len(r.Passes) != len(fsck.PassNames())-n {
		t.Errorf("%d passes are left out, %d made", n, len(r.Passes))
	}
}
