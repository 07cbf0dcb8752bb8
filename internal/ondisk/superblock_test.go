package ondisk

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// readCopy reads the copy of a superblock at a sector, nil if there is none.
func readCopy(t testing.TB, f io.ReaderAt, at Sector) []byte {
	t.Helper()
	b := make([]byte, SuperblockFixed)
	if _, err := f.ReadAt(b, int64(at)*SectorSize); err != nil {
		return nil
	}
	n, err := SuperblockBytes(b)
	if err != nil {
		return nil
	}
	b = make([]byte, n)
	if _, err := f.ReadAt(b, int64(at)*SectorSize); err != nil {
		return nil
	}
	return b
}

// Every copy of every superblock of the set must come out as it went in, byte for byte, and so must its sections that can
// be set.
func TestSuperblockGolden(t *testing.T) {
	copies := 0
	for _, img := range golden.Images(t) {
		for _, path := range img.Unpack(t) {
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			layout := make([]byte, LayoutSize)
			if _, err := f.ReadAt(layout, LayoutSector*SectorSize); err != nil {
				t.Fatal(err)
			}
			places := []Sector{SuperblockSector}
			if l, err := DecodeLayout(layout); err == nil {
				if !bytes.Equal(l.Encode(), layout) {
					t.Errorf("%v: %s: layout does not round trip", img, path)
				}
				places = l.Sectors()
			} else if !img.Damaged() {
				t.Errorf("%v: %s: %v", img, path, err)
			}
			for _, at := range places {
				b := readCopy(t, f, at)
				sb, err := DecodeSuperblock(b)
				if err != nil {
					if !img.Damaged() {
						t.Errorf("%v: %s: sector %d: %v", img, path, at, err)
					}
					continue
				}
				copies++
				checkRoundTrip(t, img.String(), sb, b)
			}
			f.Close()
		}
	}
	if copies == 0 {
		t.Fatal("no superblock was met")
	}
	t.Logf("%d superblocks", copies)
}

func checkRoundTrip(t *testing.T, name string, sb *Superblock, b []byte) {
	t.Helper()
	if got := sb.Encode(); !bytes.Equal(got, b) {
		t.Fatalf("%s: decoded and encoded it differs", name)
	}
	if got, err := sb.Seal(); err != nil || !bytes.Equal(got, b) {
		t.Errorf("%s: sealed anew it differs: %v", name, err)
	}
	members, err := sb.Members()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := sb.SetMembers(members); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	replicas, err := sb.Replicas()
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if len(replicas) > 0 {
		sb.SetReplicas(replicas)
	}
	ranges, err := sb.Blacklist()
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	sb.SetBlacklist(ranges)
	if _, err := sb.Journal(); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if _, err := sb.Clean(); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if err := sb.CheckSupported(); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if got := sb.Encode(); !bytes.Equal(got, b) {
		t.Errorf("%s: with members, replicas and blacklist set again it differs", name)
	}
}

// sample is the superblock of the image that is in the repository.
func sample(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open("../../testdata/golden/damaged/damage-base.img.zst")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer zr.Close()
	head := make([]byte, 64<<10)
	if _, err := io.ReadFull(zr, head); err != nil {
		t.Fatal(err)
	}
	b := readCopy(t, bytes.NewReader(head), SuperblockSector)
	if b == nil {
		t.Fatal("no superblock in the image")
	}
	return b
}

// One field wrong at a time, each must be refused with words that name it.
func TestSuperblockValidate(t *testing.T) {
	for _, c := range []struct {
		name, want string
		spoil      func(*Superblock)
	}{
		{"version order", "oldest version", func(sb *Superblock) { sb.VersionMin = sb.Version + 1 }},
		{"block size", "block size", func(sb *Superblock) { sb.BlockSize = 3 }},
		{"uuid", "internal uuid", func(sb *Superblock) { sb.UUID = UUID{} }},
		{"user uuid", "external uuid", func(sb *Superblock) { sb.UserUUID = UUID{} }},
		{"no devices", "no devices", func(sb *Superblock) { sb.NrDevices = 0 }},
		{"index", "device index", func(sb *Superblock) { sb.DevIdx = 5 }},
		{"time", "time precision", func(sb *Superblock) { sb.TimePrecision = 0 }},
		{"node size", "btree nodes", func(sb *Superblock) { sb.Flags[0] &^= 0xffff << 12 }},
		{"layout type", "type 1", func(sb *Superblock) { sb.Layout.Type = 1 }},
		{"layout copies", "superblocks", func(sb *Superblock) { sb.Layout.Copies = 0 }},
		{"layout overlap", "overlaps", func(sb *Superblock) { sb.Layout.Offsets[1] = 9 }},
		{"buckets", "buckets", func(sb *Superblock) { spoilMember(sb, func(m *Member) { m.NBuckets = 3 }) }},
		{"bucket size", "smaller than", func(sb *Superblock) { spoilMember(sb, func(m *Member) { m.BucketSize = 1 }) }},
		{"no members", "no section members", func(sb *Superblock) {
			sb.SetSection(SectionMembersV1, nil)
			sb.SetSection(SectionMembersV2, nil)
		}},
		{"short members", "want 1 records", func(sb *Superblock) { sb.SetSection(SectionMembersV2, sb.Section(SectionMembersV2)[:16]) }},
		{"checksum type", "checksum type", func(sb *Superblock) { sb.Flags[0] |= 0x3f << 2 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			sb, err := DecodeSuperblock(sample(t))
			if err != nil {
				t.Fatal(err)
			}
			c.spoil(sb)
			b, err := sb.Seal()
			if err != nil {
				b = sb.Encode()
			}
			if _, err := DecodeSuperblock(b); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func spoilMember(sb *Superblock, f func(*Member)) {
	m, err := sb.Members()
	if err != nil {
		panic(err)
	}
	f(&m[0])
	if err := sb.SetMembers(m); err != nil {
		panic(err)
	}
}

func TestSuperblockUnsupported(t *testing.T) {
	for _, c := range []struct {
		want  string
		spoil func(*Superblock)
	}{
		{"metadata version 1.40, versions 1.0 to 1.39 can be read", func(sb *Superblock) { sb.Version = VersionMax + 1 }},
		{"metadata version 0.29, versions 1.0 to 1.39 can be read", func(sb *Superblock) { sb.Version, sb.VersionMin = 29, 29 }},
		{"incompatible feature 40 is not known", func(sb *Superblock) { sb.Features[0] |= 1 << 40 }},
		{"features of metadata version 1.41", func(sb *Superblock) {
			sb.Features[0] |= 1 << FeatureIncompatVersionField
			sb.Flags[5] |= (1<<10 | 41) << 32
		}},
	} {
		sb, err := DecodeSuperblock(sample(t))
		if err != nil {
			t.Fatal(err)
		}
		c.spoil(sb)
		if err := sb.CheckSupported(); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

func TestSuperblockChecksum(t *testing.T) {
	b := sample(t)
	b[200] ^= 1
	if _, err := DecodeSuperblock(b); !errors.Is(err, ErrChecksum) {
		t.Fatalf("a bit flipped: %v", err)
	}
}

// FuzzSuperblock decodes mutated superblocks whose checksum is made right again, with every section.
func FuzzSuperblock(f *testing.F) {
	f.Add(sample(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		sb, err := parseSuperblock(b)
		if err != nil {
			return
		}
		sb.Flags[0] &^= 0x3f << 2 // no checksum
		again, err := DecodeSuperblock(sb.Encode())
		if err != nil {
			return
		}
		if !bytes.Equal(again.Encode(), sb.Encode()) {
			t.Fatal("decoded and encoded it differs")
		}
		again.CheckSupported()
		again.Members()
		again.DiskGroups()
		again.MemberLabel(0)
		again.Journal()
		again.Crypt()
		again.Clean()
		again.Replicas()
		again.Blacklist()
		again.Counters()
		again.Errors()
		again.Ext()
		again.Downgrades()
		again.RecoveryPasses()
		again.ExtentTypeU64s()
		again.Quota()
	})
}
