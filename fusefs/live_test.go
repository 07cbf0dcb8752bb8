//go:build linux

package fusefs_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/fusefs"
)

// newImage formats a file of so many MiB.
func newImage(t testing.TB, mib int64, options map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs.img")
	_, err := bcachefs.Format(context.Background(), []bcachefs.FormatDevice{{Path: path, CreateBytes: mib << 20}}, bcachefs.FormatOptions{Options: options})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// mounted is a filesystem that is mounted read-write.
type mounted struct {
	t    testing.TB
	img  string
	dir  string
	fsys *bcachefs.FS
	srv  *fusefs.Server
}

// mountImage mounts an image read-write until the end of the test, or unmount.
func mountImage(t testing.TB, img string, o fusefs.Options) *mounted {
	t.Helper()
	needFUSE(t)
	m := &mounted{t: t, img: img, dir: t.TempDir()}
	m.mount(o)
	t.Cleanup(m.unmount)
	return m
}

// mountAll lets everybody in.
var mountAll = fusefs.Options{AllowOther: true}

// newMount mounts a new filesystem, which must be in order at the end of the test.
func newMount(t testing.TB, mib int64) *mounted {
	t.Helper()
	needFUSE(t)
	m := mountImage(t, newImage(t, mib, nil), mountAll)
	t.Cleanup(m.check)
	return m
}

func (m *mounted) mount(o fusefs.Options) {
	m.t.Helper()
	fsys, err := bcachefs.Open(context.Background(), []string{m.img}, &bcachefs.OpenOptions{Write: true, NoScan: true})
	if err != nil {
		m.t.Fatal(err)
	}
	m.fsys = fsys
	if m.srv, err = fusefs.Mount(fsys, m.dir, o); err != nil {
		fsys.Close()
		m.t.Fatal(err)
	}
}

// unmount unmounts and closes the filesystem, if that was not done.
func (m *mounted) unmount() {
	m.t.Helper()
	if m.srv == nil {
		return
	}
	if err := m.srv.Unmount(false); err != nil {
		m.t.Errorf("unmount: %v", err)
		m.srv.Unmount(true)
		m.srv.Stop()
	}
	m.srv.Wait()
	m.srv = nil
	if err := m.fsys.Close(); err != nil {
		m.t.Errorf("close: %v", err)
	}
}

// remount unmounts and mounts again, so that nothing is cached.
func (m *mounted) remount() {
	m.t.Helper()
	m.unmount()
	m.mount(mountAll)
}

// check unmounts and looks for whatever is wrong.
func (m *mounted) check() {
	m.t.Helper()
	m.unmount()
	mustBeSound(m.t, m.img)
}

func mustBeSound(t testing.TB, img string) {
	t.Helper()
	r, err := bcachefs.Check(context.Background(), []string{img}, &bcachefs.OpenOptions{NoScan: true}, nil)
	if err != nil {
		t.Errorf("check: %v", err)
		return
	}
	for i, f := range r.Findings {
		t.Errorf("check: %v", f)
		if i == 10 {
			break
		}
	}
}

// path is that of a name in the mount.
func (m *mounted) path(name string) string { return filepath.Join(m.dir, name) }

func (m *mounted) write(name string, data []byte) {
	m.t.Helper()
	if err := os.WriteFile(m.path(name), data, 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mounted) wants(name string, want []byte) {
	m.t.Helper()
	got, err := os.ReadFile(m.path(name))
	if err != nil {
		m.t.Error(err)
		return
	}
	if !bytes.Equal(got, want) {
		i := 0
		for i < min(len(got), len(want)) && got[i] == want[i] {
			i++
		}
		m.t.Errorf("%s: %d bytes, want %d; they differ at %d", name, len(got), len(want), i)
	}
}

// pattern makes n bytes that tell where they belong.
func pattern(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i>>8*7 + i + seed)
	}
	return b
}

func TestLiveFirst(t *testing.T) {
	m := newMount(t, 64)
	m.write("a", pattern(100000, 1))
	if err := os.Mkdir(m.path("d"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.write("d/b", pattern(10, 2))
	if err := os.Rename(m.path("a"), m.path("d/c")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("d/c", m.path("l")); err != nil {
		t.Fatal(err)
	}
	m.wants("l", pattern(100000, 1))
	m.remount()
	m.wants("l", pattern(100000, 1))
	m.wants("d/b", pattern(10, 2))
	if err := unix.Unlink(m.path("d/b")); err != nil {
		t.Fatal(err)
	}
}

// alignedBytes returns n zero bytes where direct I/O may have them.
func alignedBytes(n int) []byte {
	b := make([]byte, n+4096)
	off := 4096 - int(uintptr(unsafe.Pointer(&b[0]))&4095)
	return b[off : off+n : off+n]
}
