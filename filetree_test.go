package bcachefs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/go-bcachefs/bcachefs"
)

// listTree returns the files of a tree, one line each, errors too.
func listTree(tree bcachefs.FileTree) (lines []string) {
	for f, err := range tree.Files(context.Background()) {
		var b strings.Builder
		if f != nil {
			b.WriteString(f.Path + " " + f.Mode().String())
			if f.Target != "" || f.LinkTo != "" {
				b.WriteString(" -> " + f.Target + f.LinkTo)
			}
			if f.RdevMajor != 0 {
				b.WriteString(" device")
			}
			for _, name := range []string{"user.a", "user.b", "security.c", "system.posix_acl_access"} {
				if v, ok := f.Xattrs[name]; ok {
					b.WriteString(" " + name + "=" + strings.ReplaceAll(v, "\x00", "0"))
				}
			}
			if f.Data != nil && err == nil {
				b.WriteString(" ")
				err = f.Data(context.Background(), func(p []byte, _ int64) error { b.Write(p); return nil })
			}
		}
		if err != nil {
			b.WriteString(" error: " + err.Error())
		}
		lines = append(lines, strings.TrimSpace(b.String()))
	}
	return lines
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTarTree(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, content string) {
		h.Size, h.ModTime = int64(len(content)), time.Unix(1, 0)
		if h.PAXRecords != nil {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	add(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	add(tar.Header{Name: "./a/./b", Typeflag: tar.TypeReg, Mode: 0o4755, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "1\x002", "SCHILY.xattr.bcachefs.compression": "x"}}, "content")
	add(tar.Header{Name: "/abs", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"LIBARCHIVE.xattr.user.b%3d": "YQ==", "LIBARCHIVE.xattr.user.b": "YmI"}}, "")
	add(tar.Header{Name: "acl", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.acl.access": "user::rw-,group::r--,other::---,user:joe:-wx:7,mask::r--"}}, "")
	add(tar.Header{Name: "badacl", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.acl.access": "user:joe:rwx"}}, "")
	add(tar.Header{Name: "badattr", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"LIBARCHIVE.xattr.user.b": "!"}}, "")
	add(tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "./a/b"}, "")
	add(tar.Header{Name: "out", Typeflag: tar.TypeLink, Linkname: "../x"}, "")
	add(tar.Header{Name: "soft", Typeflag: tar.TypeSymlink, Linkname: "../x"}, "")
	add(tar.Header{Name: "a/../../up", Typeflag: tar.TypeReg}, "x")
	add(tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, "")
	add(tar.Header{Name: "fifo", Typeflag: tar.TypeFifo}, "")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{". drwxr-xr-x", "a/b urwxr-xr-x user.a=102 content", "abs ---------- user.b=bb", "acl ---------- system.posix_acl_access=ACL",
		`badacl ---------- error: SCHILY.acl.access: invalid ACL: entry "user:joe:rwx" has no number`,
		`badattr ---------- error: attribute "LIBARCHIVE.xattr.user.b": illegal base64 data at input byte 0`, "hard ---------- -> a/b",
		`out ---------- error: a link to "../x": a name that leads out of the archive's tree: invalid argument`, "soft L--------- -> ../x",
		"a/../../up ---------- error: a name that leads out of the archive's tree: invalid argument", "null Dc--------- device", "fifo p---------"}
	compressed := map[string][]byte{"plain": b.Bytes()}
	var z bytes.Buffer
	gz := gzip.NewWriter(&z)
	gz.Write(b.Bytes())
	gz.Close()
	compressed["gzip"] = bytes.Clone(z.Bytes())
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	compressed["zstd"] = enc.EncodeAll(b.Bytes(), nil)
	for name, data := range compressed {
		got := listTree(bcachefs.TarTree{Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }})
		for i, line := range got {
			if before, value, ok := strings.Cut(line, "system.posix_acl_access="); ok {
				// version, then tag, permissions and number of the owner, joe, the group, the mask, others
				if len(value) < 40 {
					t.Errorf("%s: an ACL of %d bytes", name, len(value))
				}
				got[i] = before + "system.posix_acl_access=ACL"
			}
		}
		wantLines(t, got, want...)
	}
	for name, data := range map[string]string{"nothing": "", "zeros": strings.Repeat("\x00", 1024)} {
		got := listTree(bcachefs.TarTree{Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(data)), nil }})
		if name == "zeros" && len(got) != 0 || name == "nothing" && len(got) != 1 {
			t.Errorf("%s: %q", name, got)
		}
	}
	disk := strings.Repeat("\x00", 4096) + "superblock"
	got := listTree(bcachefs.TarTree{Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(disk)), nil }})
	wantLines(t, got, "error: not a tar archive, or a damaged one")
}

// A directory's files come in the order of their names, what cannot be read and what is left out with errors.
func TestDirTree(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b", "a/z", "a/y", "C"} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte("in "+name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "b"), filepath.Join(dir, "a", "again")); err != nil {
		t.Fatal(err)
	}
	skip := func(name string, _ os.FileInfo) error {
		if filepath.Base(name) == "y" {
			return os.ErrInvalid
		}
		return nil
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	wantLines(t, listTree(bcachefs.DirTree{Dir: dir, Skip: skip}), ". drwxr-xr-x", "C -rw-r----- in C", "a drwxr-xr-x", "a/again -rw-r----- in b", "a/y ?--------- error: invalid argument",
		"a/z -rw-r----- in a/z", "b -rw-r----- -> a/again")
	wantLines(t, listTree(bcachefs.DirTree{Dir: filepath.Join(dir, "b"), NoLinks: true}), ". -rw-r----- in b")
	wantLines(t, listTree(bcachefs.DirTree{Dir: filepath.Join(dir, "none")}), ". ?--------- error: lstat "+filepath.Join(dir, "none")+": no such file or directory")
}
