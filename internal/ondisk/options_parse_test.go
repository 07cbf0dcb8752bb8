package ondisk

import (
	"strings"
	"testing"
)

// What is written of an option reads back, and what cannot be stored is refused.
func TestParseOption(t *testing.T) {
	for _, tt := range []struct {
		option, text string
		want         uint64
	}{
		{"block_size", "4k", 4096},
		{"btree_node_size", "256KiB", 256 << 10},
		{"encoded_extent_max", "128k", 128 << 10},
		{"errors", "ro", 3},
		{"data_checksum", "xxhash", 3},
		{"compression", "none", 0},
		{"compression", "zstd", 3},
		{"background_compression", "zstd:15", 3 | 15<<4},
		{"str_hash", "crc64", 1},
		{"gc_reserve_bytes", "1G", 1 << 30},
		{"acl", "0", 0},
		{"journal_flush_delay", "4294967294", 1<<32 - 2},
		{"foreground_target", "none", 0},
		{"foreground_target", "device 1", 2},
		{"promote_target", "ssd", targetGroups},
		{"promote_target", "ssd.fast", targetGroups + 1},
	} {
		sb := withGroups(t)
		o, ok := FindOption(tt.option)
		if !ok {
			t.Fatalf("no option %s", tt.option)
		}
		v, err := sb.ParseOption(o, tt.text)
		if err != nil || v != tt.want {
			t.Errorf("%s=%s: %d, %v, want %d", tt.option, tt.text, v, err, tt.want)
			continue
		}
		if err := sb.SetOption(o, v); err != nil {
			t.Errorf("%s=%s: %v", tt.option, tt.text, err)
		}
		text := sb.OptionText(o)
		if again, err := sb.ParseOption(o, text); !o.IsSize() && (err != nil || again != v) {
			t.Errorf("%s=%s: prints as %q, which reads as %d, %v", tt.option, tt.text, text, again, err)
		}
	}
	for _, tt := range [][2]string{
		{"btree_node_size", "1M"}, {"btree_node_size", "100"}, {"encoded_extent_max", "96k"}, {"errors", "nothing"},
		{"errors", ""}, {"data_checksum", "3"}, {"compression", "zstd:16"}, {"compression", "zstd:"}, {"compression", "none:3"},
		{"acl", "2"}, {"acl", "yes"}, {"metadata_replicas", "0"}, {"metadata_replicas", "5"}, {"gc_reserve_percent", "4"},
		{"gc_reserve_bytes", "100"}, {"foreground_target", "hdd"}, {"foreground_target", "ssd.slow"},
		{"foreground_target", "device 2"}, {"journal_flush_delay", "0"}, {"journal_flush_delay", "-1"},
	} {
		o, _ := FindOption(tt[0])
		if v, err := withGroups(t).ParseOption(o, tt[1]); err == nil {
			t.Errorf("%s=%s is taken for %d", tt[0], tt[1], v)
		} else if !strings.Contains(err.Error(), "want") {
			t.Errorf("%s=%s: %q does not say what is wanted", tt[0], tt[1], err)
		}
	}
}

// withGroups is a superblock of two devices with the labels ssd and ssd.fast.
func withGroups(t *testing.T) *Superblock {
	t.Helper()
	sb := &Superblock{NrDevices: 2}
	if _, err := sb.AddGroup("ssd.fast"); err != nil {
		t.Fatal(err)
	}
	return sb
}

// Labels are made once, below their parents, and take the place of deleted ones.
func TestAddGroup(t *testing.T) {
	sb := &Superblock{}
	for _, tt := range []struct {
		path string
		want int
	}{{"ssd.a", 1}, {"ssd", 0}, {"a", 2}, {"ssd.a", 1}, {"hdd.a", 4}, {"ssd.a.x.y", 6}} {
		if i, err := sb.AddGroup(tt.path); err != nil || i != tt.want || sb.GroupPath(i) != tt.path {
			t.Errorf("%s: %d (%s), %v, want %d", tt.path, i, sb.GroupPath(i), err, tt.want)
		}
	}
	groups, _ := sb.DiskGroups()
	groups[2].Deleted = true
	if err := sb.SetDiskGroups(groups); err != nil {
		t.Fatal(err)
	}
	if _, ok := sb.FindGroup("a"); ok {
		t.Error("a deleted label is found")
	}
	if i, err := sb.AddGroup("hdd.b"); err != nil || i != 2 {
		t.Errorf("hdd.b: %d, %v, want the place of the deleted label", i, err)
	}
	for _, bad := range []string{"", ".", "a.", ".a", "a..b", strings.Repeat("x", 33)} {
		if i, err := sb.AddGroup(bad); err == nil {
			t.Errorf("label %q is number %d", bad, i)
		}
	}
	for i := 0; ; i++ {
		if _, err := sb.AddGroup("g" + SizeText(uint64(i))); err != nil {
			if all, _ := sb.DiskGroups(); len(all) != maxGroups {
				t.Errorf("%d labels when there are too many, want %d: %v", len(all), maxGroups, err)
			}
			break
		}
	}
}

// The member's fields that formatting sets read back, and do not touch each other.
func TestMemberSetters(t *testing.T) {
	m := Member{UUID: UUID{1}, Flags: 1 << 30}
	m.SetDiscard(true)
	m.SetDataAllowed(1<<DataBtree | 1<<DataUser)
	m.SetGroup(253)
	m.SetDurability(2)
	if g, ok := m.Group(); !m.Discard() || m.DataAllowed() != 1<<DataBtree|1<<DataUser || g != 253 || !ok || m.Durability() != 2 ||
		!m.FreespaceInitialized() {
		t.Errorf("flags %#x", m.Flags)
	}
	m.SetDurability(0)
	m.SetGroup(-1)
	if _, ok := m.Group(); ok || m.Durability() != 0 {
		t.Errorf("flags %#x", m.Flags)
	}
}
