//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/manifest"
)

// comparable is what a copy keeps of a manifest's line: no size of directories, no options, and no owner unless root made it.
func comparable(fields []string, root bool) string {
	f := slices.Clone(fields[:11])
	if f[1] == "d" {
		f[5], f[6] = "-", "-" // links of directories depend on the filesystem
	}
	if f[1] == "l" {
		f[6] = "-" // some writers count a null byte behind the target
	}
	if !root {
		f[3], f[4] = "-", "-"
	}
	attrs := slices.DeleteFunc(strings.Split(f[10], ","), func(a string) bool { return strings.HasPrefix(a, "bcachefs.") })
	if f[10] = strings.Join(attrs, ","); f[10] == "" {
		f[10] = "-"
	}
	return strings.Join(f, "\t")
}

// imageLines are the comparable lines of an image below a directory.
func imageLines(t *testing.T, img string, root bool, keep func(fields []string) bool) []string {
	t.Helper()
	r := runCLI(context.Background(), "", nil, "manifest", "-q", img)
	if r.code > exitFailed {
		t.Fatalf("manifest: exit %d: %s", r.code, r.err)
	}
	var lines []string
	for line := range strings.Lines(r.out) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if !strings.HasPrefix(line, "#") && keep(fields) {
			lines = append(lines, comparable(fields, root))
		}
	}
	slices.Sort(lines)
	return lines
}

// localLines are the comparable lines of a directory of this machine.
func localLines(t *testing.T, dir string, root bool) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		kind, data, rdev := "?", "-", "-"
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			kind, data = "f", fmt.Sprintf("%x", sha256.Sum256(content))
		case unix.S_IFDIR:
			kind = "d"
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			kind, data = "l", manifest.Escape(target)
		case unix.S_IFIFO:
			kind = "p"
		case unix.S_IFSOCK:
			kind = "s"
		case unix.S_IFBLK:
			kind, rdev = "b", fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		case unix.S_IFCHR:
			kind, rdev = "c", fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		lines = append(lines, comparable([]string{manifest.Escape(rel), kind, fmt.Sprintf("%04o", st.Mode&0o7777),
			fmt.Sprint(st.Uid), fmt.Sprint(st.Gid), fmt.Sprint(st.Nlink), fmt.Sprint(st.Size),
			fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec), rdev, data, localXattrs(path)}, root))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

func localXattrs(path string) string {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil || n == 0 {
		return "-"
	}
	var pairs []string
	for _, name := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		value := make([]byte, 64<<10)
		if n, err := unix.Lgetxattr(path, name, value); err == nil {
			pairs = append(pairs, fmt.Sprintf("%s=%x", manifest.Escape(name), value[:n]))
		}
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

func diffLines(t *testing.T, got, want []string) {
	t.Helper()
	report := func(what string, a, b []string) {
		shown := 0
		for _, line := range a {
			if _, ok := slices.BinarySearch(b, line); !ok {
				if shown++; shown <= 10 {
					t.Errorf("%s: %s", what, line)
				}
			}
		}
	}
	report("missing", want, got)
	report("unexpected", got, want)
}

// canHold skips tests on filesystems that cannot hold what is to be copied.
func canHold(t *testing.T, dir string) (root bool) {
	t.Helper()
	probe := filepath.Join(dir, "probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(probe)
	if err := unix.Lsetxattr(probe, "user.probe", []byte("x"), 0); errors.Is(err, unix.ENOTSUP) {
		t.Skipf("%s has no extended attributes", dir)
	}
	if os.Geteuid() != 0 {
		t.Skip("not root: owners, devices and trusted attributes cannot be copied")
	}
	return true
}

func everything([]string) bool { return true }

func TestCpGivesTheSameTree(t *testing.T) {
	for _, name := range []string{"damage-base", "v1.39-snapshots", "basic"} {
		t.Run(name, func(t *testing.T) {
			img, dir := place(t, name), t.TempDir()
			root := canHold(t, dir)
			out := filepath.Join(dir, "out")
			if r := runCLI(context.Background(), "", nil, "cp", "-q", img, "/", out); r.code != 0 || r.err != "" {
				t.Fatalf("cp: exit %d: %s", r.code, r.err)
			}
			want := imageLines(t, img, root, everything)
			diffLines(t, localLines(t, out, root), want)
			checkSparse(t, img, out)

			// A second run with --resume has nothing to do, and one over a changed file mends it.
			victim := firstFile(t, out)
			if err := os.WriteFile(victim, []byte("changed"), 0o600); err != nil {
				t.Fatal(err)
			}
			if r := runCLI(context.Background(), "", nil, "cp", "-q", "--resume", img, "/", out); r.code != 0 || r.err != "" {
				t.Fatalf("cp --resume: exit %d: %s", r.code, r.err)
			}
			diffLines(t, localLines(t, out, root), want)
		})
	}
}

// firstFile returns a regular file with one name.
func firstFile(t *testing.T, dir string) string {
	t.Helper()
	found := ""
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && d.Type().IsRegular() && unix.Lstat(path, &st) == nil && st.Nlink == 1 && st.Size > 0 {
			found = path
			return fs.SkipAll
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("no regular file in %s: %v", dir, err)
	}
	return found
}

// checkSparse compares the space of a copy with that of the image, generously.
func checkSparse(t *testing.T, img, dir string) {
	t.Helper()
	sectors := int64(0)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && d.Type().IsRegular() {
			err = unix.Lstat(path, &st)
			sectors += st.Blocks
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	r := runCLI(context.Background(), "", nil, "du", "-q", "-s", img)
	var kib int64
	if _, err := fmt.Sscan(r.out, &kib); err != nil {
		t.Fatalf("du: %q", r.out)
	}
	if sectors/2 > kib*2+4096 {
		t.Errorf("the copy takes %d KiB, the original %d: holes were filled", sectors/2, kib)
	}
}

func TestCpResumesAPart(t *testing.T) {
	img, dir := place(t, "basic"), t.TempDir()
	r := runCLI(context.Background(), "", nil, "find", img, "/", "-size", "+8M", "-type", "f", "--json")
	var name string
	for line := range strings.Lines(r.out) {
		_, rest, _ := strings.Cut(line, `"path":"`)
		name, _, _ = strings.Cut(rest, `"`)
		break
	}
	if name == "" {
		t.Fatalf("no large file: %s%s", r.out, r.err)
	}
	whole := filepath.Join(dir, "whole")
	if r := runCLI(context.Background(), "", nil, "cp", "-q", img, name, whole); r.code != 0 {
		t.Fatalf("cp: %s", r.err)
	}
	content, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	// What an interrupted copy leaves: a part with a right beginning and a wrong, half-written end.
	st, err := os.Stat(whole)
	if err != nil {
		t.Fatal(err)
	}
	var inode struct{ subvol, inum uint64 }
	r = runCLI(context.Background(), "", nil, "ls", "-i", img, name)
	if _, err := fmt.Sscanf(strings.TrimSpace(r.out), "%d:%d", &inode.subvol, &inode.inum); err != nil {
		t.Fatalf("ls -i: %q: %v", r.out, err)
	}
	if err := os.Remove(whole); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(dir, fmt.Sprintf(".gobcachefs-part-%d-%d-%x", inode.subvol, inode.inum, st.ModTime().UnixNano()))
	half := append(bytes.Clone(content[:chunkSize+1000]), "garbage"...)
	if err := os.WriteFile(part, half, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := runCLI(context.Background(), "", nil, "cp", "-q", "--resume", img, name, whole); r.code != 0 {
		t.Fatalf("cp --resume: %s", r.err)
	}
	again, err := os.ReadFile(whole)
	if err != nil || !bytes.Equal(again, content) {
		t.Errorf("a resumed copy differs: %v", err)
	}
	if _, err := os.Lstat(part); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the part is left: %v", err)
	}
}

func TestExportGivesTheSameTree(t *testing.T) {
	for _, name := range []string{"damage-base", "v1.39-snapshots", "basic"} {
		t.Run(name, func(t *testing.T) {
			img := place(t, name)
			r := runCLI(context.Background(), "", nil, "export", "-q", img)
			if r.code != 0 {
				t.Fatalf("export: exit %d: %s", r.code, r.err)
			}
			want := imageLines(t, img, true, func(f []string) bool { return f[1] != "s" }) // tar has no sockets
			for i, line := range want {
				want[i] = withoutLinks(line)
			}
			slices.Sort(want)
			diffLines(t, tarLines(t, strings.NewReader(r.out)), want)
		})
	}
}

// withoutLinks clears the number of links, which is not in archives.
func withoutLinks(line string) string {
	f := strings.Split(line, "\t")
	f[5] = "-"
	return strings.Join(f, "\t")
}

// tarLines are the comparable lines of an archive.
func tarLines(t *testing.T, r io.Reader) []string {
	t.Helper()
	var lines []string
	byName := map[string][]string{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Clean(h.Name)
		fields := []string{manifest.Escape(name), "?", fmt.Sprintf("%04o", h.Mode&0o7777), fmt.Sprint(h.Uid), fmt.Sprint(h.Gid), "-",
			fmt.Sprint(h.Size), stampOf(h.ModTime), "-", "-", "-"}
		var pairs []string
		for key, value := range h.PAXRecords {
			if attr, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
				pairs = append(pairs, fmt.Sprintf("%s=%x", manifest.Escape(attr), value))
			}
		}
		if slices.Sort(pairs); len(pairs) > 0 {
			fields[10] = strings.Join(pairs, ",")
		}
		switch h.Typeflag {
		case tar.TypeReg:
			sum := sha256.New()
			if _, err := io.Copy(sum, tr); err != nil {
				t.Fatal(err)
			}
			fields[1], fields[9] = "f", fmt.Sprintf("%x", sum.Sum(nil))
		case tar.TypeDir:
			fields[1] = "d"
		case tar.TypeSymlink:
			fields[1], fields[9] = "l", manifest.Escape(h.Linkname)
		case tar.TypeFifo:
			fields[1] = "p"
		case tar.TypeBlock, tar.TypeChar:
			fields[1] = map[byte]string{tar.TypeBlock: "b", tar.TypeChar: "c"}[h.Typeflag]
			fields[8] = fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)
		case tar.TypeLink:
			first, ok := byName[filepath.Clean(h.Linkname)]
			if !ok {
				t.Errorf("%s links to %s, which is not before it", name, h.Linkname)
				continue
			}
			fields = append([]string{manifest.Escape(name)}, first[1:]...)
		}
		byName[name] = fields
		lines = append(lines, withoutLinks(comparable(fields, true)))
	}
	slices.Sort(lines)
	return lines
}

func stampOf(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }

func TestPassphraseFD(t *testing.T) {
	golden.DerivesKeys(t)
	img := place(t, "encrypted")
	var fds [2]int // not files, as the command closes what it was given
	if err := unix.Pipe(fds[:]); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fds[1], []byte("correct horse battery staple")); err != nil {
		t.Fatal(err)
	}
	unix.Close(fds[1])
	if r := runCLI(context.Background(), "", nil, "ls", "--passphrase-fd", fmt.Sprint(fds[0]), img); r.code != 0 {
		t.Errorf("--passphrase-fd: %s", r.err)
	}
}
