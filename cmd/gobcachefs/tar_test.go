package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tarCases are members of all kinds, some of which no plain header can hold.
func tarCases() []*tarHeader {
	at := time.Unix(1700000000, 123456789)
	long := strings.Repeat("d23456789/", 30) + "file"
	return []*tarHeader{
		{name: "./", typ: '5', mode: 0o755, mtime: at},
		{name: "plain", typ: '0', mode: 0o4755, uid: 1000, gid: 100, size: 5, mtime: time.Unix(5, 0)},
		{name: "empty", typ: '0', mode: 0o644, mtime: at},
		{name: "old", typ: '0', mtime: time.Unix(-2, 500000000)},
		{name: long, typ: '0', size: 1, mtime: at, uid: 1 << 31, gid: 1<<32 - 2},
		{name: strings.Repeat("n", 101), typ: '1', link: long, mtime: at},
		{name: "umläut", typ: '2', link: "zür\xffück", mtime: at},
		{name: "dev", typ: '4', major: 8, minor: 1 << 19, mtime: at},
		{name: "fifo", typ: '6', mtime: at},
		{name: "attrs", typ: '0', size: 512, mtime: at, xattrs: map[string]string{"user.a": "x\x00\xff\n=y", "security.capability": ""}},
	}
}

func writeTar(t *testing.T, headers []*tarHeader) []byte {
	t.Helper()
	var b bytes.Buffer
	w := &tarWriter{w: &b}
	for _, h := range headers {
		if err := w.header(h); err != nil {
			t.Fatalf("%s: %v", h.name, err)
		}
		if h.typ == '0' {
			if err := w.content(bytes.Repeat([]byte("x"), int(h.size))); err != nil {
				t.Fatalf("%s: %v", h.name, err)
			}
		}
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTarReadBack(t *testing.T) {
	cases := tarCases()
	r := tar.NewReader(bytes.NewReader(writeTar(t, cases)))
	for _, want := range cases {
		got, err := r.Next()
		if err != nil {
			t.Fatalf("%s: %v", want.name, err)
		}
		if got.Name != want.name || got.Typeflag != want.typ || got.Linkname != want.link || got.Size != want.size {
			t.Errorf("have %q %c %q %d, want %q %c %q %d", got.Name, got.Typeflag, got.Linkname, got.Size,
				want.name, want.typ, want.link, want.size)
		}
		if !got.ModTime.Equal(want.mtime) {
			t.Errorf("%s: mtime %v, want %v", want.name, got.ModTime, want.mtime)
		}
		if got.Mode != int64(want.mode) || got.Uid != int(want.uid) || got.Gid != int(want.gid) {
			t.Errorf("%s: mode %o uid %d gid %d, want %o %d %d", want.name, got.Mode, got.Uid, got.Gid, want.mode, want.uid, want.gid)
		}
		if got.Devmajor != int64(want.major) || got.Devminor != int64(want.minor) {
			t.Errorf("%s: device %d:%d, want %d:%d", want.name, got.Devmajor, got.Devminor, want.major, want.minor)
		}
		for name, value := range want.xattrs {
			if have := got.PAXRecords["SCHILY.xattr."+name]; have != value && value != "" {
				t.Errorf("%s: attribute %s %q, want %q", want.name, name, have, value)
			}
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("behind the last member: %v", err)
	}
}

// TestTarSparse reads a sparse member with archive/tar and, where there is one, extracts it with tar(1).
func TestTarSparse(t *testing.T) {
	const size = 1 << 20
	segs := []segment{{4096, 8192}, {size - 5000, size - 1000}}
	want := make([]byte, size)
	for _, s := range segs {
		for i := s.start; i < s.end; i++ {
			want[i] = byte(i%251) + 1
		}
	}
	var b bytes.Buffer
	w := &tarWriter{w: &b}
	h := &tarHeader{name: "dir/holes", typ: '0', mode: 0o644, size: size, mtime: time.Unix(1, 1), isSparse: true, sparse: segs}
	if err := w.header(h); err != nil {
		t.Fatal(err)
	}
	for _, s := range segs {
		if err := w.content(want[s.start:s.end]); err != nil {
			t.Fatal(err)
		}
	}
	all := &tarHeader{name: "allhole", typ: '0', mode: 0o644, size: size, mtime: time.Unix(1, 1), isSparse: true}
	if err := w.header(all); err != nil {
		t.Fatal(err)
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	archive := b.Bytes()
	if len(archive) > 100<<10 {
		t.Errorf("archive of %d bytes: holes were written", len(archive))
	}
	wants := map[string][]byte{"dir/holes": want, "allhole": make([]byte, size)}
	r := tar.NewReader(bytes.NewReader(archive))
	for range wants {
		got, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if w, ok := wants[got.Name]; !ok || !bytes.Equal(content, w) {
			t.Errorf("%s: wrong content of %d bytes", got.Name, len(content))
		}
	}
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("tar(1) is not installed: not extracted with it")
	}
	dir := t.TempDir()
	cmd := exec.Command("tar", "-x", "-f", "-", "-C", dir)
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	for name, w := range wants {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(content, w) {
			t.Errorf("tar: %s: %d bytes, %v", name, len(content), err)
		}
	}
}

func TestTarRefusesWrongLengths(t *testing.T) {
	w := &tarWriter{w: io.Discard}
	if err := w.header(&tarHeader{name: "a", typ: '0', size: 3}); err != nil {
		t.Fatal(err)
	}
	if err := w.content([]byte("abcd")); err == nil {
		t.Error("too much content was accepted")
	}
	if err := w.header(&tarHeader{name: "b", typ: '0'}); err == nil {
		t.Error("a member was begun within another")
	}
	if err := w.close(); err == nil {
		t.Error("the archive was ended within a member")
	}
}

func TestPaxTime(t *testing.T) {
	for _, c := range []struct {
		sec, nsec int64
		want      string
	}{{0, 0, "0"}, {1, 500000000, "1.5"}, {-2, 500000000, "-1.5"}, {-1, 999999999, "-0.000000001"}, {-3, 0, "-3"}} {
		if got := paxTime(time.Unix(c.sec, c.nsec)); got != c.want {
			t.Errorf("%d s %d ns: %s, want %s", c.sec, c.nsec, got, c.want)
		}
	}
}
