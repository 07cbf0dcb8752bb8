package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// uuidOf returns the external UUID of the filesystem on a device.
func uuidOf(t *testing.T, device string) string {
	t.Helper()
	r := runCLI(context.Background(), "", nil, "show-super", "--json", device)
	_, rest, ok := strings.Cut(r.out, `"uuid": "`)
	if r.code != 0 || !ok {
		t.Fatalf("show-super %s: %q", device, r.err)
	}
	id, _, _ := strings.Cut(rest, `"`)
	return id
}

func TestOpenByUUID(t *testing.T) {
	devices := strings.Split(place(t, "multi-replicas"), ":")
	id, dir := "UUID="+uuidOf(t, devices[1]), filepath.Dir(devices[0])
	r := runCLI(context.Background(), "", nil, "ls", "--scan", dir, id)
	if r.code != 0 || !strings.Contains(r.out, "lost+found") || strings.Contains(r.err, "missing") {
		t.Errorf("exit %d, %q, %q", r.code, r.out, r.err)
	}
	for _, other := range []string{"UUID=00000000-0000-0000-0000-000000000001", "UUID=nonsense"} {
		r := runCLI(context.Background(), "", nil, "ls", "--scan", dir, other)
		if r.code != exitFailed || !strings.Contains(r.err, other) || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%s: exit %d, %q", other, r.code, r.err)
		}
	}
	// Devices that were found are no place for output either.
	img := filepath.Join(t.TempDir(), "img")
	if err := os.Rename(golden.Find(t, "damage-base").UnpackCopy(t)[0], img); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(img)
	if err != nil {
		t.Fatal(err)
	}
	r = runCLI(context.Background(), "", nil, "export", "-f", img, "--scan", filepath.Dir(img), "UUID="+uuidOf(t, img))
	after, err := os.Stat(img)
	if err != nil || r.code != exitFailed || !strings.Contains(r.err, errIsDevice.Error()) || after.Size() != before.Size() {
		t.Errorf("export to a device that was found: exit %d, %q, %v", r.code, r.err, err)
	}
}

// TestNotAFilesystem opens what people give by mistake: one line says what it is, and what to do.
func TestNotAFilesystem(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int, at int, magic string) string {
		b := make([]byte, size)
		copy(b[at:], magic)
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path, want := range map[string]string{
		dir:                                    "give a block device or an image",
		file("empty", 0, 0, ""):                "the file has 0 bytes",
		file("sector", 512, 0, ""):             "the file has 512 bytes",
		file("zeros", 1<<20, 0, ""):            "check that it is the right device",
		file("ext4", 1<<20, 0x438, "\x53\xef"): "looks like an ext2, ext3 or ext4 filesystem",
		file("img.zst", 1<<20, 0, "\x28\xb5\x2f\xfd"): "unpack it first: zstd -d",
		file("disk", 1<<20, 510, "\x55\xaa"):          "give the partition",
	} {
		for _, args := range [][]string{{"ls", path}, {"show-super", path}, {"list", path}, {"fs", "usage", path}} {
			r := runCLI(context.Background(), "", nil, args...)
			if r.code != exitFailed || !strings.Contains(r.err, want) || !strings.Contains(r.err, path) || strings.Count(r.err, "\n") != 1 {
				t.Errorf("%v: exit %d, %q; want %q", args, r.code, r.err, want)
			}
		}
	}
}
