package super

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// fixed is a source of what is random that repeats itself.
func fixed(purpose string, b []byte) {
	for i := range b {
		b[i] = purpose[i%len(purpose)]
	}
}

func plain(devices ...Device) *Config {
	for i := range devices {
		d := &devices[i]
		if d.Name == "" {
			d.Name = fmt.Sprint("dev", i)
		}
		d.Block, d.MinBlock = 4096, ondisk.SectorSize
		d.Durability++
	}
	return &Config{Devices: devices, Options: map[string]string{}, Time: time.Unix(1700000000, 123456789), Random: fixed}
}

// With the UUIDs and the time of an image of the reference, the same bytes come out.
func TestBuildGolden(t *testing.T) {
	dev, err := blockdev.LoadMemory(golden.Find(t, "mkfs-uninitialized").Unpack(t)[0])
	if err != nil {
		t.Fatal(err)
	}
	want, err := Read(t.Context(), dev, 0)
	if err != nil {
		t.Fatal(err)
	}
	members, err := want.Members()
	if err != nil {
		t.Fatal(err)
	}
	c := plain(Device{Size: dev.Size()})
	c.UUID = want.UserUUID
	c.Time = time.Unix(0, int64(want.TimeBase))
	c.Random = func(purpose string, b []byte) {
		switch purpose {
		case "internal uuid":
			copy(b, want.UUID[:])
		case "uuid of device 0":
			copy(b, members[0].UUID[:])
		default:
			t.Errorf("asked for a random %s", purpose)
		}
	}
	sbs, err := Build(c)
	if err != nil {
		t.Fatal(err)
	}
	made := blockdev.NewMemory(dev.Size())
	if err := WriteNew(t.Context(), []blockdev.Device{made}, sbs); err != nil {
		t.Fatal(err)
	}
	size := int64(len(want.Encode()))
	for _, r := range [][2]int64{{0, 4096 + size}, {2056 * 512, size}, {129024 * 512, size}} {
		got, ref := make([]byte, r[1]), make([]byte, r[1])
		if err := made.ReadAt(t.Context(), got, r[0]); err != nil {
			t.Fatal(err)
		}
		if err := dev.ReadAt(t.Context(), ref, r[0]); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, ref) {
			t.Errorf("%d bytes from %d differ:\n%s\nwant\n%s", r[1], r[0], hex.Dump(got), hex.Dump(ref))
		}
	}
}

// The sizes that the reference was seen to choose (docs of the format), and those at the edges.
func TestGeometry(t *testing.T) {
	const k, m, g = 1 << 10, 1 << 20, 1 << 30
	for _, tt := range []struct {
		sizes         []int64
		block, node   int64
		bucket, nodes int64 // of the first device; of btree nodes
	}{
		{[]int64{4 * m}, 0, 0, 64 * k, 64 * k},
		{[]int64{64 * m}, 0, 0, 128 * k, 128 * k},
		{[]int64{2*g - 1}, 0, 0, 128 * k, 128 * k},
		{[]int64{2 * g}, 0, 0, 256 * k, 256 * k},
		{[]int64{511 * g}, 0, 0, 256 * k, 256 * k},
		{[]int64{512 * g}, 0, 0, 512 * k, 256 * k},
		{[]int64{32 << 40}, 0, 0, 512 * k, 256 * k},
		{[]int64{512 * g, 64 * m}, 0, 0, 128 * k, 128 * k},
		{[]int64{64 * m}, 512, 0, 128 * k, 128 * k},
		{[]int64{64 * m}, 0, 32 * k, 128 * k, 32 * k},
		{[]int64{64 * m}, 2 * k, 16 * k, 128 * k, 16 * k},
		{[]int64{64 * m}, 0, 256 * k, 256 * k, 256 * k},
	} {
		var devs []Device
		for _, size := range tt.sizes {
			devs = append(devs, Device{Size: size, Block: 4096, MinBlock: 512})
		}
		geo, err := chooseGeometry(devs, tt.block, tt.node)
		if err != nil || geo.buckets[0] != tt.bucket || geo.node != tt.nodes {
			t.Errorf("%v, block %d, node %d: %+v, %v, want buckets of %d, nodes of %d", tt.sizes, tt.block, tt.node, geo, err,
				tt.bucket, tt.nodes)
		}
	}
}

// What cannot be made is refused, in words that name what is wrong.
func TestBuildRefuses(t *testing.T) {
	const m = 1 << 20
	for _, tt := range []struct {
		name   string
		change func(c *Config)
		want   string
	}{
		{"no devices", func(c *Config) { c.Devices = nil }, "no device"},
		{"too many devices", func(c *Config) { c.Devices = slices.Repeat(c.Devices, 65) }, "65 devices"},
		{"tiny device", func(c *Config) { c.Devices[0].Size = 100 << 10 }, "too small"},
		{"no room for copies", func(c *Config) { c.Devices[0].Size = 3 * m }, "superblock_size"},
		{"huge superblock", func(c *Config) { c.SuperblockSize = 64 * m }, "superblocks of"},
		{"tiny superblock", func(c *Config) { c.SuperblockSize = 512 }, "superblocks of"},
		{"superblock too small", func(c *Config) { c.SuperblockSize = 4096; c.Devices = slices.Repeat(c.Devices, 64) }, "larger superblock_size"},
		{"bucket not whole", func(c *Config) { c.Devices[0].BucketSize = 1000 }, "whole sectors"},
		{"bucket below block", func(c *Config) { c.Devices[0].BucketSize = 2048 }, "smaller than blocks"},
		{"bucket below node", func(c *Config) { c.Devices[0].BucketSize = 64 << 10; c.Options["btree_node_size"] = "128k" }, "smaller than btree nodes"},
		{"bucket too large", func(c *Config) { c.Devices[0].Size = 1 << 40; c.Devices[0].BucketSize = 64 * m }, "at most"},
		{"few buckets", func(c *Config) { c.Devices[0].BucketSize = 8 * m }, "at least 64"},
		{"blocks below physical", func(c *Config) { c.Devices[0].MinBlock = 4096; c.Options["block_size"] = "512" }, "has blocks of 4096"},
		{"blocks too large", func(c *Config) { c.Options["block_size"] = "8k" }, "to 4.00 KiB"},
		{"blocks of no power", func(c *Config) { c.Options["block_size"] = "1536" }, "power of two"},
		{"nodes below blocks", func(c *Config) { c.Options["btree_node_size"] = "2k" }, "at least 32768"},
		{"nodes too small", func(c *Config) { c.Options["btree_node_size"] = "16k" }, "at least 32768"},
		{"buckets too small for nodes", func(c *Config) { c.Devices[0].BucketSize = 16384 }, "at least 32768"},
		{"large nodes", func(c *Config) { c.Options["btree_node_size"] = "1M" }, "btree_node_size=1M"},
		{"unknown option", func(c *Config) { c.Options["colour"] = "red" }, "colour"},
		{"option of later", func(c *Config) { c.Options["casefold"] = "1" }, "casefold"},
		{"option of mounts", func(c *Config) { c.Options["journal_flush_delay"] = "5" }, "journal_flush_delay"},
		{"four replicas", func(c *Config) { c.Options["data_replicas"] = "4" }, "from 1 to 3"},
		{"required above wanted", func(c *Config) { c.Options["data_replicas_required"] = "2" }, "more than"},
		{"unknown target", func(c *Config) { c.Options["foreground_target"] = "hdd" }, "foreground_target=hdd"},
		{"bad label", func(c *Config) { c.Devices[0].Label = "a..b" }, "label"},
		{"long name", func(c *Config) { c.Label = strings.Repeat("x", 33) }, "32 bytes"},
		{"durability", func(c *Config) { c.Devices[0].Durability = 3 }, "durability"},
		{"data", func(c *Config) { c.Devices[0].DataAllowed = 1 << ondisk.DataParity }, "data_allowed"},
		{"new version", func(c *Config) { c.Version = 1<<10 | 14 }, "1.14"},
		{"old version", func(c *Config) { c.Version = 29 }, "0.29"},
		{"old time", func(c *Config) { c.Time = time.Unix(-1, 0) }, "1970"},
		{"far time", func(c *Config) { c.Time = time.Unix(1<<40, 0) }, "1970"},
		{"empty passphrase", func(c *Config) { c.Encrypted, c.Passphrase = true, []byte{} }, "passphrase"},
	} {
		c := plain(Device{Size: 64 * m})
		tt.change(c)
		if _, err := Build(c); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want one with %q", tt.name, err, tt.want)
		}
	}
}

// Every value of every option is stored as it was given, or the filesystem is refused.
func TestBuildOptions(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, o := range Options() {
		if !o.Format || o.Name == "block_size" || o.Name == "btree_node_size" {
			continue
		}
		values := []string{"0", "1", "2", "3", "7", "20", "99", "4k", "64k", "1M", "zstd:15", "lz4", "ssd", "ssd.a", "dev1", "none"}
		values = append(values, o.Choices()...)
		rng.Shuffle(len(values), func(i, j int) { values[i], values[j] = values[j], values[i] })
		taken := 0
		for _, v := range values {
			c := plain(Device{Size: 64 << 20, Label: "ssd.a"}, Device{Size: 64 << 20, Label: "hdd"})
			c.Options["metadata_replicas"], c.Options["data_replicas"] = "3", "3"
			c.Options[o.Name] = v
			sbs, err := Build(c)
			if err != nil {
				continue
			}
			taken++
			want := v
			if v == "dev1" {
				want = "device 1"
			}
			text := sbs[0].OptionText(o.Option)
			if n, err := sbs[0].ParseOption(o.Option, want); err != nil || n != sbs[0].Option(o.Option) {
				t.Errorf("%s=%s is stored as %s (%v)", o.Name, v, text, err)
			}
		}
		if taken == 0 {
			t.Errorf("%s takes no value at all", o.Name)
		}
	}
}

// All options have a default, which a new filesystem has, and only those that depend on devices have none.
func TestDefaults(t *testing.T) {
	sbs, err := Build(plain(Device{Size: 64 << 20}))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, o := range Options() {
		known[o.Name] = true
		if got := sbs[0].OptionText(o.Option); o.Default != "" && got != o.Default {
			t.Errorf("%s is %s, its default %s", o.Name, got, o.Default)
		}
		if o.Help == "" || strings.HasSuffix(o.Help, ".") {
			t.Errorf("%s: help %q", o.Name, o.Help)
		}
	}
	for _, o := range ondisk.Options(ondisk.VersionDefault) {
		if !known[o.Name] {
			t.Errorf("option %s of version %v is not listed", o.Name, ondisk.VersionDefault)
		}
	}
}

// Reading back what was made gives what was asked for.
func TestBuildMembers(t *testing.T) {
	c := plain(Device{Size: 64 << 20, Label: "ssd.a", Discard: true}, Device{Size: 128<<20 + 5000, Label: "hdd.a", BucketSize: 256 << 10,
		DataAllowed: 1 << ondisk.DataUser}, Device{Size: 100 << 20, Label: "ssd.b"})
	c.Devices[1].Durability = 0
	c.Devices[2].Durability = 2
	c.Label, c.SuperblockSize = "name", 300<<10
	c.Options["promote_target"], c.Options["background_target"] = "ssd", "dev1"
	sbs, err := Build(c)
	if err != nil {
		t.Fatal(err)
	}
	devs := []blockdev.Device{blockdev.NewMemory(64 << 20), blockdev.NewMemory(128<<20 + 5000), blockdev.NewMemory(100 << 20)}
	if err := WriteNew(t.Context(), devs, sbs); err != nil {
		t.Fatal(err)
	}
	for i, dev := range devs {
		f, err := Read(t.Context(), dev, 0)
		if err != nil || len(f.Problems) > 0 {
			t.Fatalf("device %d: %v, %v", i, err, f.Problems)
		}
		if err := f.Validate(ondisk.ValidateRead); err != nil {
			t.Error(err)
		}
		if int(f.DevIdx) != i || f.Label() != "name" || f.Layout.MaxSizeBits != 9 || f.MemberLabel(i) != c.Devices[i].Label {
			t.Errorf("device %d: index %d, label %q, layout %+v, member's label %q", i, f.DevIdx, f.Label(), f.Layout, f.MemberLabel(i))
		}
		members, err := f.Members()
		if err != nil {
			t.Fatal(err)
		}
		m := members[i]
		if want := [3]uint8{1, 0, 2}[i]; m.Durability() != want || m.Discard() != (i == 0) {
			t.Errorf("device %d: durability %d, discard %v", i, m.Durability(), m.Discard())
		}
		if want := [3]uint64{0x1c, 0x10, 0x1c}[i]; m.DataAllowed() != want {
			t.Errorf("device %d: may hold %#x, want %#x", i, m.DataAllowed(), want)
		}
		if want := [3]int64{128 << 10, 256 << 10, 128 << 10}[i]; m.BucketBytes() != want || m.NBuckets != uint64(c.Devices[i].Size/want) {
			t.Errorf("device %d: %d buckets of %d", i, m.NBuckets, m.BucketBytes())
		}
		for n, want := range []string{"promote_target", "background_target"} {
			o, _ := FindOption(want)
			if got := f.OptionText(o.Option); got != [2]string{"ssd", "device 1"}[n] {
				t.Errorf("%s is %s", want, got)
			}
		}
	}
}

// A power cut while formatting leaves no filesystem, or the new one on a device, never half of one.
func TestWriteNewPowerCut(t *testing.T) {
	c := plain(Device{Size: 64 << 20}, Device{Size: 64 << 20})
	sbs, err := Build(c)
	if err != nil {
		t.Fatal(err)
	}
	log := blockdev.NewLog()
	devs := []blockdev.Device{log.Record(blockdev.NewMemory(64 << 20)), log.Record(blockdev.NewMemory(64 << 20))}
	if err := WriteNew(t.Context(), devs, sbs); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for tick := range log.Ticks() + 1 {
		for i, dev := range log.Crash(tick, blockdev.KeepRandom(rng)) {
			if f, err := Read(context.Background(), dev, 0); err == nil && f.UUID != sbs[0].UUID {
				t.Errorf("cut at %d: device %d has %v", tick, i, f.UUID)
			}
		}
	}
	for i, dev := range log.Crash(log.Ticks(), blockdev.KeepNone) {
		if f, err := Read(context.Background(), dev, 0); err != nil || len(f.Problems) > 0 || f.Sector != 8 {
			t.Errorf("device %d after all: %v", i, err)
		}
	}
}
