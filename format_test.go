package bcachefs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

const formatSize = 64 << 20

// Without a device file: filesystems are made in memory, and open.
func TestFormatMemory(t *testing.T) {
	devs := []*blockdev.Memory{blockdev.NewMemory(formatSize), blockdev.NewMemory(2 * formatSize)}
	zero := 0
	passphrase := []byte("secret")
	if golden.Race {
		t.Log("race detector: without a passphrase, as each time a key is derived takes seconds")
		passphrase = nil
	}
	info, err := bcachefs.Format(t.Context(), []bcachefs.FormatDevice{
		{Device: devs[0], Label: "ssd.a", Discard: true},
		{Device: devs[1], Label: "hdd", Durability: &zero, DataAllowed: []string{"user"}, Bytes: formatSize},
	}, bcachefs.FormatOptions{Label: "name", Encrypted: true, Passphrase: passphrase,
		Options: map[string]string{"compression": "zstd:3", "foreground_target": "ssd"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Devices) != 2 || info.Devices[1].Bytes != formatSize || info.Version != "1.13" {
		t.Errorf("%+v", info)
	}
	fs, err := bcachefs.Open(t.Context(), []string{"0", "1"}, &bcachefs.OpenOptions{
		Passphrase: func(context.Context) ([]byte, error) { return passphrase, nil },
		OpenDevice: func(path string) (bcachefs.Device, error) { return devs[path[0]-'0'], nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	if fs.UUID() != info.UUID || fs.Label() != "name" {
		t.Errorf("uuid %s, label %s", fs.UUID(), fs.Label())
	}
	entries, err := fs.Root().ReadDir(".")
	if err != nil || len(entries) != 1 || entries[0].Name() != "lost+found" {
		t.Errorf("%v, %v", entries, err)
	}
}

// With seed, UUID and time the same image comes out, whatever the file held; with another of them, another.
func TestFormatReproducible(t *testing.T) {
	const size = 16 << 20
	dir := t.TempDir()
	opts := bcachefs.FormatOptions{UUID: "11111111-2222-4333-8444-555555555555", Seed: []byte("seed"), Time: time.Unix(1700000000, 5),
		Encrypted: true, Force: true}
	format := func(name string, opts bcachefs.FormatOptions) string {
		path := filepath.Join(dir, name)
		if _, err := bcachefs.Format(t.Context(), []bcachefs.FormatDevice{{Path: path, CreateBytes: size, Label: "a"}}, opts); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x", sumOf(t, path))
	}
	first := format("one", opts)
	if err := os.WriteFile(filepath.Join(dir, "two"), bytes.Repeat([]byte("junk"), size/8), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two", "three"} {
		if got := format(name, opts); got != first {
			t.Errorf("%s differs", name)
		}
	}
	for i, change := range []func(o *bcachefs.FormatOptions){
		func(o *bcachefs.FormatOptions) { o.Seed = []byte("other") },
		func(o *bcachefs.FormatOptions) { o.Seed = nil },
		func(o *bcachefs.FormatOptions) { o.Time = time.Unix(1700000000, 6) },
		func(o *bcachefs.FormatOptions) { o.UUID = "11111111-2222-4333-8444-555555555556" },
		func(o *bcachefs.FormatOptions) { o.Encrypted = false },
	} {
		other := opts
		change(&other)
		if format("other", other) == first {
			t.Errorf("change %d makes no difference", i)
		}
	}
}

// A device that holds something is refused by name, and what it held is still there; Force overwrites it without a trace.
func TestFormatRefuses(t *testing.T) {
	dev := blockdev.NewMemory(formatSize)
	dev.SetName("disk")
	if err := dev.WriteAt(t.Context(), []byte("\x53\xef"), 0x438); err != nil {
		t.Fatal(err)
	}
	devices := []bcachefs.FormatDevice{{Device: dev}}
	_, err := bcachefs.Format(t.Context(), devices, bcachefs.FormatOptions{})
	if !errors.Is(err, bcachefs.ErrInUse) || !strings.Contains(err.Error(), "disk") || !strings.Contains(err.Error(), "ext4") {
		t.Errorf("%v", err)
	}
	b := make([]byte, 2)
	if err := dev.ReadAt(t.Context(), b, 0x438); err != nil || b[0] != 0x53 {
		t.Error("it was overwritten all the same")
	}
	info, err := bcachefs.Format(t.Context(), devices, bcachefs.FormatOptions{Force: true})
	if err != nil || !strings.Contains(info.Devices[0].Held, "ext4") {
		t.Errorf("%v, %v", info, err)
	}
	if err := dev.ReadAt(t.Context(), b, 0x438); err != nil || b[0] != 0 {
		t.Error("the trace is still there")
	}
	if _, err := bcachefs.Format(t.Context(), devices, bcachefs.FormatOptions{}); !errors.Is(err, bcachefs.ErrInUse) {
		t.Errorf("formatted twice: %v", err)
	}
}

// The remains of a filesystem from the same seed would pass for the new one's.
func TestFormatSameSeedTwice(t *testing.T) {
	devices := []bcachefs.FormatDevice{{Device: blockdev.NewMemory(formatSize)}}
	opts := bcachefs.FormatOptions{Force: true, Seed: []byte("s")}
	if _, err := bcachefs.Format(t.Context(), devices, opts); err != nil {
		t.Fatal(err)
	}
	if _, err := bcachefs.Format(t.Context(), devices, opts); err == nil || !strings.Contains(err.Error(), "same seed") {
		t.Errorf("%v", err)
	}
	opts.Seed = []byte("t")
	if _, err := bcachefs.Format(t.Context(), devices, opts); err != nil {
		t.Error(err)
	}
}

// Errors say which device, and leave no files behind.
func TestFormatErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(file("small"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	minus := -1
	for name, tt := range map[string]struct {
		devices []bcachefs.FormatDevice
		opts    bcachefs.FormatOptions
		want    string
	}{
		"none":           {nil, bcachefs.FormatOptions{}, "no device"},
		"nameless":       {[]bcachefs.FormatDevice{{}}, bcachefs.FormatOptions{}, "without a name"},
		"missing":        {[]bcachefs.FormatDevice{{Path: file("missing")}}, bcachefs.FormatOptions{}, "missing"},
		"directory":      {[]bcachefs.FormatDevice{{Path: dir}}, bcachefs.FormatOptions{}, "block device"},
		"small":          {[]bcachefs.FormatDevice{{Path: file("small")}}, bcachefs.FormatOptions{}, "too small"},
		"other size":     {[]bcachefs.FormatDevice{{Path: file("small"), CreateBytes: formatSize}}, bcachefs.FormatOptions{}, "4096 bytes"},
		"twice":          {[]bcachefs.FormatDevice{{Path: file("new"), CreateBytes: formatSize}, {Path: file("new"), CreateBytes: formatSize}}, bcachefs.FormatOptions{}, "same device"},
		"negative":       {[]bcachefs.FormatDevice{{Path: file("new"), CreateBytes: -1}}, bcachefs.FormatOptions{}, "negative"},
		"durability":     {[]bcachefs.FormatDevice{{Path: file("new"), Durability: &minus}}, bcachefs.FormatOptions{}, "durability"},
		"data":           {[]bcachefs.FormatDevice{{Path: file("new"), DataAllowed: []string{"music"}}}, bcachefs.FormatOptions{}, "music"},
		"more than all":  {[]bcachefs.FormatDevice{{Path: file("new"), CreateBytes: formatSize, Bytes: formatSize + 1}}, bcachefs.FormatOptions{}, "to use"},
		"uuid":           {[]bcachefs.FormatDevice{{Path: file("new"), CreateBytes: formatSize}}, bcachefs.FormatOptions{UUID: "x"}, "uuid"},
		"zero uuid":      {[]bcachefs.FormatDevice{{Path: file("new"), CreateBytes: formatSize}}, bcachefs.FormatOptions{UUID: strings.Repeat("0", 32)}, "zero"},
		"version":        {[]bcachefs.FormatDevice{{Path: file("new"), CreateBytes: formatSize}}, bcachefs.FormatOptions{Version: "1.14"}, "1.14"},
		"passphrase":     {[]bcachefs.FormatDevice{{Path: file("new"), CreateBytes: formatSize}}, bcachefs.FormatOptions{Passphrase: []byte("x")}, "not encrypted"},
		"unknown option": {[]bcachefs.FormatDevice{{Path: file("new"), CreateBytes: formatSize}}, bcachefs.FormatOptions{Options: map[string]string{"x": "1"}}, `"x"`},
	} {
		_, err := bcachefs.Format(t.Context(), tt.devices, tt.opts)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want an error with %q", name, err, tt.want)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A file that someone else has open for writing is not formatted.
func TestFormatBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	devices := []bcachefs.FormatDevice{{Path: path, CreateBytes: formatSize}}
	if _, err := bcachefs.Format(t.Context(), devices, bcachefs.FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	dev, err := blockdev.OpenFile(path, blockdev.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if _, err := bcachefs.Format(t.Context(), devices, bcachefs.FormatOptions{Force: true}); !errors.Is(err, blockdev.ErrBusy) {
		t.Errorf("%v, want %v", err, blockdev.ErrBusy)
	}
}

// Each member has a journal, even if it may not hold one: the driver of 1.13 stumbles over members without.
func TestFormatJournalEverywhere(t *testing.T) {
	dir := t.TempDir()
	devices := []bcachefs.FormatDevice{{Path: filepath.Join(dir, "a"), CreateBytes: 64 << 20, DataAllowed: []string{"user"}},
		{Path: filepath.Join(dir, "b"), CreateBytes: 64 << 20}}
	if _, err := bcachefs.Format(t.Context(), devices, bcachefs.FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		sb, _, err := engine.ReadSuperblock(t.Context(), d.Path, engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if j, err := sb.Journal(); err != nil || len(j) == 0 {
			t.Errorf("%s: journal in %v (%v)", d.Path, j, err)
		}
	}
}
