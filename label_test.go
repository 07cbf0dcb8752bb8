package bcachefs_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/go-bcachefs/bcachefs"
)

// formatted makes a filesystem in a file.
func formatted(t *testing.T) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs.img")
	if _, err := bcachefs.Format(t.Context(), []bcachefs.FormatDevice{{Path: path, CreateBytes: 64 << 20}}, bcachefs.FormatOptions{Label: "first"}); err != nil {
		t.Fatal(err)
	}
	return []string{path}
}

// TestSetLabel changes the label, which is there when the filesystem is opened next.
func TestSetLabel(t *testing.T) {
	devs := formatted(t)
	fsys, err := bcachefs.Open(t.Context(), devs, &bcachefs.OpenOptions{Write: true, NoScan: true})
	if err != nil {
		t.Fatal(err)
	}
	longest := strings.Repeat("x", 31)
	for _, label := range []string{longest + "x", "a\x00b"} {
		if err := fsys.SetLabel(t.Context(), label); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("label %q: %v", label, err)
		}
	}
	for _, label := range []string{longest, "", "second"} {
		if err := fsys.SetLabel(t.Context(), label); err != nil || fsys.Label() != label {
			t.Errorf("label %q: %v, is %q", label, err, fsys.Label())
		}
	}
	if err := fsys.Close(); err != nil {
		t.Fatal(err)
	}
	if fsys, err = bcachefs.Open(t.Context(), devs, &bcachefs.OpenOptions{NoScan: true}); err != nil {
		t.Fatal(err)
	}
	defer fsys.Close()
	if got := fsys.Label(); got != "second" {
		t.Errorf("label %q when opened again", got)
	}
	if err := fsys.SetLabel(t.Context(), "x"); !errors.Is(err, bcachefs.ErrNotWritable) {
		t.Errorf("opened for reading: %v", err)
	}
}

// TestHalt ends writing: what was durable is there afterwards, nothing else is, and reading goes on meanwhile.
func TestHalt(t *testing.T) {
	devs := formatted(t)
	fsys, err := bcachefs.Open(t.Context(), devs, &bcachefs.OpenOptions{Write: true, NoScan: true})
	if err != nil {
		t.Fatal(err)
	}
	v := fsys.Root()
	if err := v.WriteFile("durable", []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := fsys.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	fsys.Halt(errors.New("that is enough"))
	if err := v.WriteFile("late", []byte("1"), 0o644); bcachefs.ErrnoOf(err) != bcachefs.EROFS {
		t.Errorf("written after the end: %v", err)
	}
	if got, err := v.ReadFile("durable"); err != nil || string(got) != "1" {
		t.Errorf("read: %q, %v", got, err)
	}
	if err := fsys.Close(); err == nil || !strings.Contains(err.Error(), "that is enough") {
		t.Errorf("close: %v", err)
	}
	if fsys, err = bcachefs.Open(context.Background(), devs, &bcachefs.OpenOptions{Write: true, NoScan: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := fsys.Root().Stat("durable"); err != nil {
		t.Error(err)
	}
	if err := fsys.Close(); err != nil {
		t.Error(err)
	}
}
