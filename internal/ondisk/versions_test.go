package ondisk

import "testing"

func TestVersionNames(t *testing.T) {
	for v, want := range map[MetadataVersion]string{
		9:              "0.9: (unknown version)",
		10:             "0.10: bkey_renumber",
		29:             "0.29: snapshot_trees",
		30:             "0.30: (unknown version)",
		1 << 10:        "1.0: major_minor",
		VersionDefault: "1.13: inode_has_child_snapshots",
		VersionMax:     "1.39: per_dev_fragmentation_lru",
		VersionMax + 1: "1.40: (unknown version)",
		2 << 10:        "2.0: (unknown version)",
	} {
		if got := v.Long(); got != want {
			t.Errorf("%d: got %q, want %q", uint16(v), got, want)
		}
		for _, s := range []string{v.Name(), v.String()} {
			if s == "" {
				continue
			}
			if got, err := ParseVersion(s); err != nil || got != v {
				t.Errorf("ParseVersion(%q) is %v, %v, want %v", s, got, err, v)
			}
		}
	}
	if got, err := ParseVersion("1037"); err != nil || got != VersionDefault {
		t.Errorf("ParseVersion(1037) is %v, %v", got, err)
	}
	for _, s := range []string{"", "1.", "1.x", "one", "1.13 ", "1.13.1", "64.0", "1.1024", "-1", "70000"} {
		if got, err := ParseVersion(s); err == nil {
			t.Errorf("ParseVersion(%q) is %v, want an error", s, got)
		}
	}
}

// The list of incompatible versions, each of which a reader must know about.
func TestVersionIncompatible(t *testing.T) {
	want := map[uint16]bool{16: true, 24: true, 25: true, 26: true, 27: true, 29: true, 30: true, 32: true, 33: true, 34: true, 36: true}
	for minor := range uint16(64) {
		if v := MetadataVersion(1<<10 | minor); v.Incompatible() != want[minor] {
			t.Errorf("%v: incompatible is %t", v, v.Incompatible())
		}
	}
}
