package kernelvm_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
)

// A script runs with its disks and its share, and what it writes, there and to its outputs, comes back.
func TestRun(t *testing.T) {
	kernelvm.Available(t)
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	share := t.TempDir()
	out := kernelvm.RunScript(t, "echo out; echo err >&2; printf x | dd of=/dev/vda bs=1 seek=4096 conv=notrunc 2>/dev/null; echo y >/share/file; exit 3",
		kernelvm.RunOptions{Disks: []kernelvm.Disk{{Path: disk, Keep: true}}, Share: share})
	if out.Status != 3 || out.Stdout != "out\n" || !strings.Contains(out.Stderr, "err\n") {
		t.Errorf("%+v", out)
	}
	if b, err := os.ReadFile(disk); err != nil || b[4096] != 'x' {
		t.Errorf("what was written to the disk is lost: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(share, "file")); err != nil || string(b) != "y\n" {
		t.Errorf("what was written to the share is lost: %q, %v", b, err)
	}
}

// The driver finds its own image clean and lists it as it was listed, and a damaged one is told from it.
func TestCheck(t *testing.T) {
	kernelvm.Available(t)
	sound, bad := golden.Find(t, "mkfs-only"), golden.Find(t, "damaged-sb-first-zero")
	copyOf := bad.UnpackCopy(t)
	f, err := os.OpenFile(copyOf[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	results := kernelvm.Check(t, [][]string{sound.Unpack(t), copyOf}, kernelvm.CheckOptions{})
	if r := results[0]; r.Status != 0 || !bytes.Equal(r.Manifest, sound.Manifest()) {
		t.Errorf("a sound image: status %d, %s\n%s", r.Status, r.Why, r.Manifest)
	}
	if r := results[1]; r.Status == 0 || r.Log == "" {
		t.Errorf("an image that was cut short: %+v", r)
	}
}
