package super

import (
	"bytes"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Whatever copies are lost, the others are found and make it whole again: by their places, or by looking everywhere.
func TestRestore(t *testing.T) {
	base := made(t, 1)[0]
	want, err := Read(t.Context(), base, 0)
	if err != nil {
		t.Fatal(err)
	}
	places := want.Layout.Sectors()
	zero := make([]byte, 8192)
	for lost := 1; lost < 8; lost++ {
		m := base.Clone()
		for i, at := range places {
			if lost>>i&1 == 0 {
				continue
			}
			if err := m.WriteAt(t.Context(), zero[:4096], int64(at)*ondisk.SectorSize); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.WriteAt(t.Context(), zero[:4096], 0); err != nil {
			t.Fatal(err)
		}
		byPlace, err := Places(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		scanned, err := Scan(t.Context(), m, 0, m.Size())
		if err != nil {
			t.Fatal(err)
		}
		for how, all := range map[string][]Found{"by place": byPlace, "by scan": scanned} {
			best := Newest(all)
			if lost == 7 {
				if len(best) > 0 {
					t.Errorf("%s: found %v where nothing is left", how, best)
				}
				continue
			}
			if len(best) != 1 || best[0].UUID != want.UUID {
				t.Errorf("copies %03b lost, %s: found %v", lost, how, best)
				continue
			}
			whole := m.Clone()
			if err := Restore(t.Context(), whole, best[0].Superblock); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(content(t, whole), content(t, base)) {
				t.Errorf("copies %03b lost, %s: not as before", lost, how)
			}
			if f, err := Read(t.Context(), whole, 0); err != nil || len(f.Problems) > 0 {
				t.Errorf("copies %03b lost, %s: %v, %v", lost, how, err, f)
			}
		}
	}
}

// Of several filesystems' remains each is told, the last used first.
func TestNewest(t *testing.T) {
	sb := func(uuid byte, seq, written uint64) Found {
		return Found{Superblock: &ondisk.Superblock{UUID: ondisk.UUID{uuid}, Seq: seq, WriteTime: written}}
	}
	got := Newest([]Found{sb(1, 5, 100), sb(2, 3, 300), sb(1, 7, 200), sb(1, 6, 150)})
	if len(got) != 2 || got[0].UUID[0] != 2 || got[1].UUID[0] != 1 || got[1].Seq != 7 {
		t.Errorf("%+v", got)
	}
}

// A device is made a member again by what another knows of it.
func TestFromMember(t *testing.T) {
	mem := made(t, 3)
	s := openSet(t, mem)
	if err := s.Update(t.Context(), setLabel("x"), func(i int, own *ondisk.Superblock) error {
		own.SetJournal([]ondisk.SeqRange{{Start: 20, End: 30}})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want := s.Own(1)
	sb, err := FromMember(s.Own(0), 1, mem[1].Size())
	if err != nil {
		t.Fatal(err)
	}
	if sb.Layout != want.Layout || sb.DevIdx != 1 || sb.Section(ondisk.SectionJournalV2) != nil || sb.Seq != want.Seq {
		t.Errorf("%+v, want %+v", sb, want)
	}
	lost := blockdev.NewMemory(mem[1].Size())
	if err := Restore(t.Context(), lost, sb); err != nil {
		t.Fatal(err)
	}
	if err := openSet(t, []*blockdev.Memory{mem[0], lost, mem[2]}).Update(t.Context(), setLabel("y"), nil); err != nil {
		t.Error(err)
	}
	for _, tt := range []struct {
		index int
		size  int64
		want  string
	}{{0, 1 << 30, "is the one"}, {3, 1 << 30, "no device 3"}, {-1, 1 << 30, "no device"}, {1, 1 << 20, "this one"}} {
		if _, err := FromMember(s.Own(0), tt.index, tt.size); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("device %d of %d bytes: %v", tt.index, tt.size, err)
		}
	}
}
