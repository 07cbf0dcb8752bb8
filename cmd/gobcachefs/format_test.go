package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// The command lines by which the reference made the golden images make the same filesystems here: layout, options, members and
// labels are those that the reference wrote, but for what the driver changed since.
func TestFormatAsReference(t *testing.T) {
	n := 0
	for _, img := range golden.Sample(t) {
		if img.Format == "" || img.Damaged() || img.Version != "1.13" || strings.HasPrefix(img.Name, "mkfs-old") {
			continue // the old ones were made by an older reference
		}
		n++
		paths := img.Paths()
		dir := t.TempDir()
		var devices []string
		for i := range paths {
			devices = append(devices, filepath.Join(dir, fmt.Sprint(i)))
			if err := os.WriteFile(devices[i], nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(devices[i], img.Sizes[i]); err != nil {
				t.Fatal(err)
			}
		}
		args := append([]string{"format"}, strings.Fields(img.Format)...)
		for i, a := range args {
			for d, path := range devices {
				if a == fmt.Sprintf("DEVICE%d", d) {
					args[i] = path
				}
			}
		}
		if img.BlockSize != 4096 {
			args = slices.Insert(args, 1, fmt.Sprintf("--block_size=%d", img.BlockSize))
		}
		r := runCLI(context.Background(), "", map[string]string{passphraseVar: img.Passphrase}, args...)
		if r.code != 0 || r.err != "" {
			t.Errorf("%v: %v: exit %d, %s", img, args, r.code, r.err)
			continue
		}
		for i, path := range img.Unpack(t) {
			compareFormat(t, fmt.Sprintf("%v, device %d", img, i), path, devices[i])
		}
	}
	if n < 3 && golden.Full() {
		t.Errorf("%d images compared", n)
	}
}

// compareFormat compares what formatting decides on one device.
func compareFormat(t *testing.T, where, reference, ours string) {
	t.Helper()
	read := func(path string) *ondisk.Superblock {
		sb, problems, err := engine.ReadSuperblock(context.Background(), path, engine.Options{})
		if err != nil || len(problems) > 0 {
			t.Fatal(where, err, problems)
		}
		return sb
	}
	want, got := read(reference), read(ours)
	if got.Layout != want.Layout || got.BlockSize != want.BlockSize || got.DevIdx != want.DevIdx || got.NrDevices != want.NrDevices ||
		got.Version != want.Version || got.VersionMin != want.VersionMin || got.RawLabel != want.RawLabel || got.Encrypted() != want.Encrypted() {
		t.Errorf("%s: header %+v\nwant %+v", where, got, want)
	}
	for _, o := range ondisk.Options(want.Version) {
		if g, w := got.OptionText(o), want.OptionText(o); g != w {
			t.Errorf("%s: %s=%s, want %s", where, o.Name, g, w)
		}
	}
	if g, w := got.Section(ondisk.SectionDiskGroups), want.Section(ondisk.SectionDiskGroups); !bytes.Equal(g, w) {
		t.Errorf("%s: labels\n%x\nwant\n%x", where, g, w)
	}
	gm, err := got.Members()
	if err != nil {
		t.Fatal(err)
	}
	wm, err := want.Members()
	if err != nil {
		t.Fatal(err)
	}
	for i := range wm {
		g, w := gm[i], wm[i]
		if g.NBuckets != w.NBuckets || g.BucketSize != w.BucketSize || g.FirstBucket != w.FirstBucket ||
			g.Flags != w.Flags {
			t.Errorf("%s: member %d: %+v\nwant %+v", where, i, g, w)
		}
	}
	gc, err := got.Crypt()
	if err != nil {
		t.Fatal(err)
	}
	wc, err := want.Crypt()
	if err != nil {
		t.Fatal(err)
	}
	if (gc == nil) != (wc == nil) || gc != nil && (gc.KDF != wc.KDF || gc.Key.Encrypted() != wc.Key.Encrypted()) {
		t.Errorf("%s: key %+v, want %+v", where, gc, wc)
	}
}

// Options for a device hold from where they stand on; the size to use is that of the next device only.
func TestFormatDeviceOptions(t *testing.T) {
	dir := t.TempDir()
	a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
	r := runCLI(context.Background(), "", nil, "format", "-q", "--size=64M", a, "--label=ssd.x", "--durability=2", "--fs-size", "32M", b,
		"--discard", "--label", "hdd", "--data-allowed=journal,user", c, "--foreground-target", "ssd", "--promote_target="+a)
	if r.code != 0 || r.out != "" {
		t.Fatalf("exit %d, %s%s", r.code, r.out, r.err)
	}
	sb, _, err := engine.ReadSuperblock(context.Background(), c, engine.Options{})
	if err != nil {
		t.Fatal(err)
	}
	members, err := sb.Members()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range members {
		m := &members[i]
		got = append(got, fmt.Sprintln(m.Bytes()>>20, sb.MemberLabel(i), m.Durability(), m.Discard(), m.DataAllowed()))
	}
	want := []string{"64 1 false 28", "32 ssd.x 2 false 28", "64 hdd 2 true 20"}
	for i := range want {
		if strings.Join(strings.Fields(got[i]), " ") != want[i] {
			t.Errorf("device %d: %s, want %s", i, got[i], want[i])
		}
	}
	for name, want := range map[string]string{"foreground_target": "ssd", "promote_target": "device 0"} {
		if o, _ := ondisk.FindOption(name); sb.OptionText(o) != want {
			t.Errorf("%s=%s, want %s", name, sb.OptionText(o), want)
		}
	}
	if r := runCLI(context.Background(), "", nil, "format", "--size=64M", filepath.Join(dir, "d"), "--label=x"); r.code != exitUsage {
		t.Errorf("an option for no device: exit %d, %s", r.code, r.err)
	}
}
