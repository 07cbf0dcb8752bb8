package ondisk

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// resetSections sets each section that is there to what it was decoded to.
func resetSections(t testing.TB, sb *Superblock) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	for _, s := range append([]Section(nil), sb.Sections...) {
		switch s.Type {
		case SectionJournalV2:
			r, err := sb.Journal()
			must(err)
			sb.SetJournal(r)
		case SectionMembersV2:
			m, err := sb.Members()
			must(err)
			must(sb.SetMembers(m))
		case SectionCrypt:
			c, err := sb.Crypt()
			must(err)
			sb.SetCrypt(c)
		case SectionReplicasV0, SectionReplicas:
			r, err := sb.Replicas()
			must(err)
			sb.SetReplicas(r)
		case SectionQuota:
			q, err := sb.Quota()
			must(err)
			sb.SetQuota([3]QuotaLimits(q))
		case SectionDiskGroups:
			g, err := sb.DiskGroups()
			must(err)
			must(sb.SetDiskGroups(g))
		case SectionClean:
			c, err := sb.Clean()
			must(err)
			sb.SetClean(c)
		case SectionJournalSeqBlacklist:
			r, err := sb.Blacklist()
			must(err)
			sb.SetBlacklist(r)
		case SectionCounters:
			sb.SetCounters(sb.Counters())
		case SectionErrors, SectionErrorsV2:
			sb.SetErrors(sb.Errors())
		case SectionExt:
			e, err := sb.Ext()
			must(err)
			sb.SetExt(e)
		case SectionDowngrade:
			d, err := sb.Downgrades()
			must(err)
			sb.SetDowngrades(d)
		case SectionRecoveryPasses:
			sb.SetRecoveryPasses(sb.RecoveryPasses())
		case SectionExtentTypeU64s:
			sb.SetExtentTypeU64s(sb.ExtentTypeU64s())
		}
	}
}

// goldenSupers calls f with every sound copy of a superblock of the golden images.
func goldenSupers(t *testing.T, f func(t *testing.T, img golden.Image, sb *Superblock, b []byte)) {
	for _, img := range golden.Images(t) {
		for _, path := range img.Unpack(t) {
			file, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			b := readCopy(t, file, SuperblockSector)
			places := []Sector{SuperblockSector}
			if sb, err := DecodeSuperblock(b); err == nil {
				places = sb.Layout.Sectors()
			}
			for _, at := range places {
				b := readCopy(t, file, at)
				if sb, err := DecodeSuperblock(b); err == nil {
					f(t, img, sb, b)
				}
			}
			file.Close()
		}
	}
}

func TestSectionsGolden(t *testing.T) {
	seen := map[SectionType]int{}
	goldenSupers(t, func(t *testing.T, img golden.Image, sb *Superblock, b []byte) {
		for _, s := range sb.Sections {
			seen[s.Type]++
		}
		if err := sb.Validate(ValidateRead); err != nil && !img.Damaged() {
			t.Errorf("%v: %v", img, err)
		}
		order := sb.sectionNames()
		resetSections(t, sb)
		if got := sb.Encode(); !bytes.Equal(got, b) {
			again, _ := parseSuperblock(b)
			for _, s := range again.Sections {
				if !bytes.Equal(s.Data, sb.Section(s.Type)) {
					t.Errorf("%v: section %v\n got %x\nwant %x", img, s.Type, sb.Section(s.Type), s.Data)
				}
			}
			if d := cmp.Diff(order, sb.sectionNames()); d != "" {
				t.Errorf("%v: sections: %s", img, d)
			}
		}
		var text bytes.Buffer
		if err := sb.Text(&text, TextOptions{All: true, Layout: true}); err != nil || strings.Contains(text.String(), "(superblock:") {
			t.Errorf("%v: text: %v\n%s", img, err, &text)
		}
	})
	for ty := range NumSections {
		t.Logf("section %v: %d", ty, seen[ty])
	}
}

// sectionSamples are sections without their headers, by type: those of the format description, and made up ones of types
// that no image has.
var sectionSamples = map[SectionType]string{
	SectionJournal: "1100000000000000 1200000000000000 1300000000000000",
	SectionDiskGroups: `7373640000000000 0000000000000000 0000000000000000 0000000000000000 3e00000000000000 0000000000000000
		6100000000000000 0000000000000000 0000000000000000 0000000000000000 7e00000000000000 0000000000000000`,
	SectionMembersV2: `9000000000000000 6fd4921aaa164d00 84674ee40c0f7a18 0008000000000000 0000000108000000 a6c3026b00000000
		00002e6000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000
		0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 1000000000000000
		00000000ac491200 0100000068000000`,
	SectionJournalV2:  "1100000000000000 1000000000000000",
	SectionErrors:     "1900050000000000 00f1536500000000 2000010000000000 00f1536500000000",
	SectionReplicasV0: "0301000201000000",
	SectionReplicas:   "0603020001020301 0100000000000000",
	SectionDowngrade: `0904200000000000 0000000000000000 00000c004c004d00 4e00440045004600 470048004a004900 4b0050000a042000
		0000000000000000 0000000000000d00 4c004d004e004400 4500460047004800 4a0049004b001101 50000c0420000000
		0000000000000000 0000000001001001`,
	SectionClean: `0000000000000000 0900000000000000 0100020005000000 0000000000000000 0200000007000000 0000000000000000
		0000000000000000 0200000007000000 0100000000000000 0009000000000000 0000000000000000`,
	SectionCrypt: `0000000000000000 0000000000000000 6263682a2a6b6579 0102030405060708 0102030405060708 0102030405060708
		0102030405060708`,
	SectionQuota: `0000000000000000 803a090003000000 803a090004000000 0100000000000000 803a090000000000 803a090000000000
		0200000000000000 803a090000000000 803a090000000000`,
	SectionJournalSeqBlacklist: "0a00000000000000 1200000000000000 1200000000000000 1a00000000000000",
	SectionCounters:            "0100000000000000 0200000000000000 ffffffffffffffff",
	SectionExt: `2000000000000000 0000000000000000 0000000000010000 0000000000000000 0000000000000000 0000000000000000
		0000000000000000 0000000000000000 0000000000000000 0000000000000000 0200000000000000 0010000000000000
		0600000000000000 0001000000000000`,
	SectionRecoveryPasses: "0000000000000000 0000000000000000 00f1536500000000 0300000001000000",
	SectionExtentTypeU64s: "0101020301010101 0100000000000000",
	SectionErrorsV2:       "19000500000000f1 53650000f1536500",
}

// withSection is a sound superblock of one device with a section replaced, and nothing that contradicts it.
func withSection(t testing.TB, ty SectionType, data []byte) *Superblock {
	t.Helper()
	sb, err := DecodeSuperblock(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	switch ty {
	case SectionJournal:
		sb.SetSection(SectionJournalV2, nil)
	case SectionReplicas:
		sb.SetSection(SectionReplicasV0, nil)
	case SectionReplicasV0:
		sb.SetSection(SectionReplicas, nil)
	case SectionErrorsV2:
		sb.Version = VersionMax
		if o, _ := FindOption("write_error_timeout"); sb.SetOption(o, 30) != nil {
			t.Fatal("option cannot be set")
		}
		sb.SetSection(SectionErrors, nil)
		sb.SetSection(SectionDowngrade, nil)
	}
	sb.SetSection(ty, data)
	return sb
}

// Each sample decodes, encodes to the same bytes, and prints.
func TestSectionSamples(t *testing.T) {
	for ty, text := range sectionSamples {
		t.Run(ty.String(), func(t *testing.T) {
			want := unhex(t, text)
			sb := withSection(t, ty, want)
			if ty != SectionDiskGroups { // the sample has no member in them
				if err := sb.Validate(ValidateRead); err != nil && !strings.Contains(err.Error(), "has label") && ty != SectionReplicas {
					t.Error(err)
				}
			}
			if ty == SectionJournal {
				return // is not written any more
			}
			resetSections(t, sb)
			if got := sb.Section(ty); !bytes.Equal(got, want) {
				t.Errorf("got  %x\nwant %x", got, want)
			}
		})
	}
}

// What is wrong in a section is named; what is only wrong to write is read.
func TestValidateSections(t *testing.T) {
	for _, c := range []struct {
		ty       SectionType
		data     string
		want     string
		readable bool
	}{
		{SectionJournalV2, "1100000000000000 0000000000000000", "no buckets from 17 on", false},
		{SectionJournalV2, "1100000000000000 1000000000000000 1200000000000000 0100000000000000", "bucket 18 occurs twice", false},
		{SectionJournalV2, "0000000000000000 0100000000000000", "are not on a device", false},
		{SectionCrypt, "0100000000000000 0000000000000000", "section crypt", false},
		{SectionReplicasV0, "0301400000000000", "device 64", false},
		{SectionReplicasV0, "0302000000000000", "device 0 twice", false},
		{SectionReplicasV0, "0301000301000000", "twice", false},
		{SectionQuota, "0000000000000000", "section quota", false},
		{SectionErrors, "1900000000000000 00f1536500000000", "count is 0", false},
		{SectionErrors, "1900010000000000 00f1536500000000 1900010000000000 00f1536500000000", "out of order", false},
		{SectionErrorsV2, "19000500000000f1 53650000f2536500", "first met", false},
		{SectionJournalSeqBlacklist, "1200000000000000 1200000000000000", "no range", false},
		{SectionExt, "0000000000000000", "section ext", false},
		{SectionDowngrade, "0908200000000000 0000000000000000 0000000000000000", "version 2.9", false},
		{SectionDowngrade, "0904200000000000 0000000000000000 0000090000000000", "section downgrade", true},
		{SectionExtentTypeU64s, "0201020301010101 0100000000000000", "entries of type ptr", false},
	} {
		sb := withSection(t, c.ty, unhex(t, c.data))
		if _, err := sb.Members(); err != nil {
			t.Fatal(err)
		}
		modes := []ValidateMode{ValidateRead, ValidateWrite}
		if c.readable {
			if err := sb.Validate(ValidateRead); err != nil {
				t.Errorf("%v %s: %v", c.ty, c.data, err)
			}
			modes = modes[1:]
		}
		for _, mode := range modes {
			if err := sb.Validate(mode); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v %s: mode %d: %v, want one with %q", c.ty, c.data, mode, err, c.want)
			}
		}
	}
}

func TestValidateOptions(t *testing.T) {
	set := func(name string, v uint64) *Superblock {
		sb := withSection(t, SectionCounters, nil)
		o, ok := FindOption(name)
		if !ok {
			t.Fatalf("no option %s", name)
		}
		if err := sb.SetOption(o, v); err != nil {
			t.Fatal(err)
		}
		return sb
	}
	for name, bad := range map[string]uint64{
		"metadata_replicas": 5, "gc_reserve_percent": 4, "root_reserve_percent": 101, "encoded_extent_max": 4 << 20,
		"errors": 4, "compression": 4, "background_compression": 5 << 4, "str_hash": 3, "data_checksum": 4, "erasure_code": 2,
	} {
		if err := set(name, bad).Validate(ValidateRead); err == nil || !strings.Contains(err.Error(), "option "+name) {
			t.Errorf("%s = %d: %v", name, bad, err)
		}
	}
	sb := set("gc_reserve_percent", 0)
	if err := sb.Validate(ValidateRead); err != nil {
		t.Error(err)
	}
	if err := sb.Validate(ValidateWrite); err == nil || !strings.Contains(err.Error(), "gc_reserve_percent") {
		t.Errorf("written with a reserve of 0 %%: %v", err)
	}
}
