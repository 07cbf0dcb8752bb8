package blockdev

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// loopDevice makes a block device of size bytes, where the system lets us.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	backing := filepath.Join(t.TempDir(), "backing")
	if err := os.WriteFile(backing, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(backing, size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", backing).Output()
	if err != nil {
		t.Skipf("no loop devices here: %v", err)
	}
	path := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "--detach", path).Run() })
	return path
}

// backingFile returns the file behind a loop device.
func backingFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(path), "loop/backing_file"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestBlockDevice(t *testing.T) {
	const size = 1<<20 + 3*SectorSize
	path := loopDevice(t, size)
	content := bytes.Repeat([]byte("0123456789abcdef"), size/16)

	for _, direct := range []bool{false, true} {
		d, err := OpenFile(path, FileOptions{Direct: direct})
		if err != nil {
			t.Fatal(err)
		}
		if d.Size() != size || !d.(*File).IsBlockDevice() {
			t.Fatalf("size %d, block device %v", d.Size(), d.(*File).IsBlockDevice())
		}
		if err := errors.Join(d.WriteAt(t.Context(), content, 0), d.Flush(t.Context())); err != nil {
			t.Fatal(err)
		}
		if other, err := OpenFile(path, FileOptions{}); !errors.Is(err, ErrBusy) {
			t.Errorf("second writer: %v, %v", other, err)
		}
		reader, err := OpenFile(path, FileOptions{ReadOnly: true, Direct: direct})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, size)
		if err := reader.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, content) {
			t.Errorf("direct %v: read differs, %v", direct, err)
		}
		if err := reader.ReadAt(t.Context(), got[:100], size-100); err != nil || !bytes.Equal(got[:100], content[size-100:]) {
			t.Errorf("direct %v: end differs, %v", direct, err)
		}
		reader.Close()
		if err := d.Discard(t.Context(), 4096, 65536); err != nil {
			t.Errorf("discard: %v", err)
		}
		d.Close()
	}

	// The loop device hands discards on to its file.
	var before, after unix.Stat_t
	backing := backingFile(t, path)
	d, err := OpenFile(path, FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.WriteAt(t.Context(), content, 0), d.Flush(t.Context()), unix.Stat(backing, &before),
		d.Discard(t.Context(), 0, 512<<10), unix.Stat(backing, &after), d.Close()); err != nil {
		t.Fatal(err)
	}
	if after.Blocks > before.Blocks-512 {
		t.Errorf("the file behind had %d blocks and has %d after a discard of 1024", before.Blocks, after.Blocks)
	}

	found, err := Scan([]string{path})
	if err != nil || len(found) != 1 || found[0].Size != size || !found[0].Block {
		t.Errorf("scan: %+v, %v", found, err)
	}
}

// TestDirectIsUsed checks that Direct does something where it can.
func TestDirectIsUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := OpenFile(path, FileOptions{ReadOnly: true, Direct: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f := d.(*File)
	if f.direct == nil {
		t.Skip("no direct I/O on this filesystem")
	}
	flags, err := unix.FcntlInt(f.direct.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_DIRECT == 0 || f.dioAlign < SectorSize {
		t.Errorf("flags %#x, alignment %d, %v", flags, f.dioAlign, err)
	}
}

// TestReadOnlyTakesNoWriteAccess looks at the descriptor itself.
func TestReadOnlyTakesNoWriteAccess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, 4096), 0o400); err != nil {
		t.Fatal(err)
	}
	d, err := OpenFile(path, FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	flags, err := unix.FcntlInt(d.(*File).f.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY {
		t.Errorf("flags %#x, %v", flags, err)
	}
}
