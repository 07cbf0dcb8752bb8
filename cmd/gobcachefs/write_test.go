package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
)

// mustRun runs a command that must succeed and returns what it printed.
func mustRun(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	r := runCLI(context.Background(), stdin, nil, args...)
	if r.code != exitOK {
		t.Fatalf("%v: exit %d: %s", args, r.code, r.err)
	}
	return r.out
}

// newImage formats an image.
func newImage(t *testing.T, size string, flags ...string) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	mustRun(t, "", append(append([]string{"format", "-q", "--size=" + size}, flags...), img)...)
	return img
}

// listing is a manifest without what is different in every filesystem: inode numbers, subvolumes, places, times other than that of the
// last modification. Directories below without are left out.
func listing(t *testing.T, img string, without ...string) []string {
	t.Helper()
	return listingOf(mustRun(t, "", "manifest", "-q", img), without...)
}

func listingOf(manifest string, without ...string) []string {
	const fields = 11 // path, type, mode, owners, links, size, time, device, content, attributes
	var lines []string
	for line := range strings.Lines(manifest) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) < fields || strings.HasPrefix(line, "#") {
			continue
		}
		out := false
		for _, dir := range without {
			out = out || f[0] == dir || strings.HasPrefix(f[0], dir+"/")
		}
		if f[1] == "d" {
			f[5] = "-" // links: subvolumes do not count
		}
		if !out {
			lines = append(lines, strings.Join(f[:fields], "\t"))
		}
	}
	return lines
}

func compareContent(t *testing.T, got, want []string) {
	t.Helper()
	if len(want) == 0 {
		t.Fatal("nothing to compare")
	}
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("line %d of %d:\n got %q\nwant %q", i, len(want), g, w)
		}
	}
}

// mustBeClean has our own checks judge an image.
func mustBeClean(t *testing.T, img string) {
	t.Helper()
	if out := mustRun(t, "", "fsck", "-n", img); !strings.Contains(out, "clean") {
		t.Fatalf("fsck: %s", out)
	}
}

// What is exported from an image of the driver's and imported into one of ours is the same, as an archive of either form and as a directory.
func TestImportIsTheReverseOfExport(t *testing.T) {
	src := place(t, "damage-base")
	archive := filepath.Join(t.TempDir(), "archive.tar")
	mustRun(t, "", "export", "-q", "-f", archive, src)
	want := listing(t, src)
	img := newImage(t, "64M")
	mustRun(t, "", "import", "-f", archive, img)
	compareContent(t, listing(t, img), want)
	mustBeClean(t, img)

	b, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, string(b), "import", img) // once more, over what is there
	compareContent(t, listing(t, img), want)
	mustBeClean(t, img)

	mustRun(t, "", "mkdir", img, "/below")
	mustRun(t, string(b), "import", img, "/below")
	compareContent(t, listing(t, img, "below"), append([]string{listing(t, img, "below")[0]}, want[1:]...))
	mustBeClean(t, img)
}

// localTree makes a tree with all that a user may make, and returns its directory.
func localTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "d", "e"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "small"), []byte("hello\n"), 0o640))
	must(os.Link(filepath.Join(dir, "small"), filepath.Join(dir, "d", "same")))
	must(os.Symlink("../small", filepath.Join(dir, "d", "link")))
	must(os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600))
	must(os.Chmod(filepath.Join(dir, "d", "e"), fs.ModeSticky|0o777))
	big := make([]byte, 3<<20+12345)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(big)
	must(os.WriteFile(filepath.Join(dir, "big"), big, 0o755))
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	must(err)
	_, err = sparse.WriteAt([]byte("middle"), 5<<20)
	must(err)
	must(sparse.Truncate(20 << 20))
	must(sparse.Close())
	return dir
}

// What is put in and copied out again is what it was, holes too.
func TestPutAndCopyBack(t *testing.T) {
	dir, img := localTree(t), newImage(t, "64M")
	mustRun(t, "", "put", dir+"/.", img, "/")
	mustRun(t, "", "mkdir", img, "/sub")
	mustRun(t, "", "put", filepath.Join(dir, "d"), filepath.Join(dir, "big"), img, "/sub")
	out := t.TempDir()
	mustRun(t, "", "cp", img, "/.", out)
	for name, same := range map[string]string{"small": "small", "d/same": "small", "big": "big", "sparse": "sparse", "sub/big": "big", "sub/d/same": "small", "empty": "empty"} {
		got, err := os.ReadFile(filepath.Join(out, name))
		want, err2 := os.ReadFile(filepath.Join(dir, same))
		if errors.Join(err, err2) != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d: %v", name, len(got), len(want), errors.Join(err, err2))
		}
		a, err := os.Stat(filepath.Join(out, name))
		b, err2 := os.Stat(filepath.Join(dir, same))
		if errors.Join(err, err2) != nil || a.Mode() != b.Mode() || !a.ModTime().Equal(b.ModTime()) {
			t.Errorf("%s: %v %v, want %v %v", name, a.Mode(), a.ModTime(), b.Mode(), b.ModTime())
		}
	}
	if st, err := os.Stat(filepath.Join(out, "d/e")); err != nil || st.Mode() != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("d/e: %v %v", st, err)
	}
	if j := mustRun(t, "", "stat", "--json", img, "/sparse"); !strings.Contains(j, `"allocated": 4096`) && !strings.Contains(j, `"allocated": 8192`) {
		t.Errorf("the sparse file has no holes: %s", j)
	}
	if j := mustRun(t, "", "stat", "--json", img, "/small"); !strings.Contains(j, `"nlink": 2`) {
		t.Errorf("links: %s", j)
	}
	mustBeClean(t, img)

	// Holes survive an archive, too.
	archive := filepath.Join(t.TempDir(), "archive.tar")
	mustRun(t, "", "export", "-f", archive, img)
	other := newImage(t, "64M")
	mustRun(t, "", "import", "-f", archive, other)
	compareContent(t, listing(t, other), listing(t, img))
	if j := mustRun(t, "", "stat", "--json", other, "/sparse"); !strings.Contains(j, `"allocated": 4096`) && !strings.Contains(j, `"allocated": 8192`) {
		t.Errorf("the imported sparse file has no holes: %s", j)
	}
}

// Owners, modes and times are those of the source unless they are not wanted.
func TestPutNoPreserve(t *testing.T) {
	dir, img := localTree(t), newImage(t, "64M")
	if err := os.Chmod(filepath.Join(dir, "big"), fs.ModeSetuid|0o777); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "", "put", "--no-preserve=mode,timestamps,links", "--owner=7:8", filepath.Join(dir), img, "/tree")
	got := mustRun(t, "", "find", img, "/tree", "-name", "big", "-ls")
	if !strings.Contains(got, "-rwxr-xr-x   1        7        8") {
		t.Errorf("big: %s", got)
	}
	if j := mustRun(t, "", "stat", "--json", img, "/tree/small"); !strings.Contains(j, `"nlink": 1`) {
		t.Errorf("links: %s", j)
	}
	mustBeClean(t, img)
}

// A full filesystem ends a command with one line; what was there stays, a file that is replaced stays the old one, and there is no part of any.
func TestPutWhenFull(t *testing.T) {
	img := newImage(t, "32M")
	dir := t.TempDir()
	for i := range 40 {
		b := make([]byte, 1<<20)
		rnd := rand.NewChaCha8([32]byte{byte(i)})
		_, _ = rnd.Read(b)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%02d", i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mustRun(t, "old", "put", "-", img, "/file39")
	mustRun(t, "kept", "put", "-", img, "/kept")
	r := runCLI(context.Background(), "", nil, "put", dir+"/.", img, "/")
	if r.code != exitFailed || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, "no space left") {
		t.Fatalf("exit %d, %q", r.code, r.err)
	}
	mustBeClean(t, img)
	if got := mustRun(t, "", "cat", img, "/file39", "/kept"); got != "oldkept" {
		t.Errorf("%q", got)
	}
	for line := range strings.Lines(mustRun(t, "", "ls", "-la", img, "/")) {
		if strings.Contains(line, "file") && !strings.Contains(line, "file39") && !strings.Contains(line, " 1048576 ") {
			t.Errorf("a part of a file: %s", line)
		}
		if strings.Contains(line, "gobcachefs-part") {
			t.Errorf("left behind: %s", line)
		}
	}
	mustRun(t, "", "rm", "-f", img, "/file00", "/file01", "/file02")
	mustRun(t, "", "put", filepath.Join(dir, "file39"), img, "/file39")
	mustBeClean(t, img)
}

// Devices that somebody writes to are left alone.
func TestWritingRefusesWhatIsInUse(t *testing.T) {
	img := newImage(t, "32M")
	dev, err := blockdev.OpenFile(img, blockdev.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	for _, args := range [][]string{{"mkdir", img, "/x"}, {"rm", img, "/x"}, {"import", img}, {"put", os.DevNull, img, "/x"}} {
		if r := runCLI(context.Background(), "", nil, args...); r.code != exitFailed || !strings.Contains(r.err, "in use: unmount it") || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%v: exit %d, %q", args, r.code, r.err)
		}
	}
}

// An interrupted command leaves a clean filesystem.
func TestWritingInterrupted(t *testing.T) {
	dir, img := localTree(t), newImage(t, "64M")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, args := range [][]string{{"put", dir, img, "/x"}, {"import", "-f", dir, img}, {"mkdir", img, "/x"}, {"rm", "-r", img, "/lost+found"}} {
		if r := runCLI(ctx, "", nil, args...); r.code != exitFailed || !strings.Contains(r.err, "interrupted") && !strings.Contains(r.err, "canceled") {
			t.Errorf("%v: exit %d, %q", args, r.code, r.err)
		}
	}
	mustBeClean(t, img)
}

// What others' tools make of an archive that is damaged, or leads out of the tree, is told file by file.
func TestImportHostileArchives(t *testing.T) {
	img := newImage(t, "32M")
	var b bytes.Buffer
	w := &tarWriter{w: &b}
	member := func(h tarHeader, content string) {
		h.size = int64(len(content))
		if err := w.header(&h); err != nil {
			t.Fatal(err)
		}
		if content != "" {
			if err := w.content([]byte(content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	member(tarHeader{name: "../up", typ: '0', mode: 0o644}, "x")
	member(tarHeader{name: "/abs/file", typ: '0', mode: 0o644}, "absolute")
	member(tarHeader{name: "toroot", typ: '2', link: "/abs"}, "")
	member(tarHeader{name: "toroot/through", typ: '0', mode: 0o644}, "through")
	member(tarHeader{name: "hard", typ: '1', link: "nothing"}, "")
	member(tarHeader{name: "file/below", typ: '0', mode: 0o644}, "1")
	member(tarHeader{name: "abs", typ: '0', mode: 0o644}, "a directory is there")
	member(tarHeader{name: "twice", typ: '0', mode: 0o644}, "first")
	member(tarHeader{name: "twice", typ: '0', mode: 0o600}, "second")
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	r := runCLI(context.Background(), b.String(), nil, "import", img)
	if r.code != exitFailed || strings.Count(r.err, "\n") != 3 {
		t.Errorf("exit %d, %s", r.code, r.err)
	}
	if got := mustRun(t, "", "cat", img, "/abs/file", "/abs/through", "/file/below", "/twice"); got != "absolutethrough1second" {
		t.Errorf("%q", got)
	}
	for _, bad := range []string{strings.Repeat("garbage", 1000), b.String()[1024:1324], "\x1f\x8bgarbage"} {
		if r := runCLI(context.Background(), bad, nil, "import", img); r.code != exitFailed || !strings.Contains(r.err, "tar archive") || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%.20q: exit %d, %q", bad, r.code, r.err)
		}
	}
	mustBeClean(t, img)
}

func TestParseMode(t *testing.T) {
	for _, c := range []struct {
		old  uint16
		dir  bool
		mode string
		want uint16
	}{
		{0o644, false, "755", 0o755}, {0o6755, false, "755", 0o755}, {0o6755, true, "755", 0o6755}, {0o6755, true, "00755", 0o755}, {0o644, false, "4755", 0o4755},
		{0o644, false, "+x", 0o755}, {0o644, false, "+w", 0o644}, {0o644, false, "a+w", 0o666}, {0o777, false, "-x", 0o666}, {0o777, false, "go-w", 0o755},
		{0o644, false, "u=rwx,g=u,o=", 0o770}, {0o600, false, "+X", 0o600}, {0o600, true, "+X", 0o711}, {0o700, false, "a+X", 0o711},
		{0o755, false, "u+s", 0o4755}, {0o755, false, "g+s", 0o2755}, {0o755, false, "+s", 0o6755}, {0o755, true, "+t", 0o1755}, {0o7777, true, "a=rx", 0o6555},
		{0o7777, false, "a=rx", 0o555}, {0o640, false, "o=g-w", 0o644}, {0o1777, true, "o-t", 0o777}, {0o755, false, "=", 0}, {0o644, false, ",-r", 0o200},
	} {
		m, err := parseMode(c.mode)
		if err != nil {
			t.Errorf("%s: %v", c.mode, err)
		} else if got := m.apply(c.old, c.dir); got != c.want {
			t.Errorf("%04o (directory: %v) with %s: %04o, want %04o", c.old, c.dir, c.mode, got, c.want)
		}
	}
	for _, bad := range []string{"", "8", "u", "u=z", "77777", "rwx", "u+r,,g+w", "-"} {
		if _, err := parseMode(bad); err == nil && bad != "-" {
			t.Errorf("%q is taken for a mode", bad)
		}
	}
}
