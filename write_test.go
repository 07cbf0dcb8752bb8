package bcachefs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/go-bcachefs/bcachefs"
)

// disk is a filesystem in a file that tests write to.
type disk struct {
	testing.TB
	path string
	fs   *bcachefs.FS
	*bcachefs.View
}

// newDisk formats a file of so many MiB and opens it for writing. At the end of the test it is closed and must be clean.
func newDisk(t testing.TB, mib int64, options map[string]string) *disk {
	t.Helper()
	d := &disk{TB: t, path: filepath.Join(t.TempDir(), "disk")}
	if _, err := bcachefs.Format(t.Context(), []bcachefs.FormatDevice{{Path: d.path, CreateBytes: mib << 20}}, bcachefs.FormatOptions{Options: options}); err != nil {
		t.Fatal(err)
	}
	d.open()
	t.Cleanup(func() {
		if d.fs != nil {
			d.close()
		}
		if err := checkFile(d.path); err != nil {
			t.Error(err)
		}
	})
	return d
}

// checkFile says what our check finds in a filesystem.
func checkFile(paths ...string) error {
	r, err := bcachefs.Check(context.Background(), paths, &bcachefs.OpenOptions{NoScan: true}, nil)
	if err != nil {
		return err
	}
	var all []error
	for _, x := range r.Findings {
		all = append(all, fmt.Errorf("%s: %v", x.Pass, x))
	}
	return errors.Join(all...)
}

func (d *disk) open() {
	d.Helper()
	var err error
	if d.fs, err = bcachefs.Open(context.Background(), []string{d.path}, &bcachefs.OpenOptions{Write: true, NoScan: true, UID: 7, GID: 8}); err != nil {
		d.Fatal(err)
	}
	d.View = d.fs.Root()
}

func (d *disk) close() {
	d.Helper()
	if err := d.fs.Close(); err != nil {
		d.Error(err)
	}
	d.fs = nil
}

func (d *disk) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

// fails checks the number of an error.
func (d *disk) fails(err error, want bcachefs.Errno) {
	d.Helper()
	if got := bcachefs.ErrnoOf(err); got != want {
		d.Errorf("error %d (%v), want %d", got, err, want)
	}
}

// Files and directories as package os has them, over closing and opening.
func TestWriteFiles(t *testing.T) {
	d := newDisk(t, 64, nil)
	d.must(d.MkdirAll("a/b/c", 0o755))
	d.must(d.WriteFile("a/small", []byte("small"), 0o640))
	big := make([]byte, 5<<20+123)
	rand.NewChaCha8([32]byte{1}).Read(big)
	f, err := d.Create("a/b/big")
	d.must(err)
	n, err := f.ReadFrom(bytes.NewReader(big))
	if d.must(err); n != int64(len(big)) || f.Size() != n {
		t.Errorf("%d of %d bytes were written, the size is %d", n, len(big), f.Size())
	}
	d.must(f.Sync())
	d.must(f.Close())
	d.must(d.Symlink("../a/small", "a/link"))
	d.must(d.Link("a/small", "hard"))
	d.must(d.SetXattr("hard", "user.x", []byte("1"), 0))
	d.must(d.Mknod("pipe", fs.ModeNamedPipe|0o600, 0, 0))
	d.must(d.Mknod("tty", fs.ModeDevice|fs.ModeCharDevice|0o620, 4, 64))
	when := time.Unix(1234567890, 123456789)
	d.must(d.Chtimes("hard", when, when))
	d.must(d.Chmod("hard", 0o711|fs.ModeSetuid))
	d.must(d.Chown("hard", 1, -1))
	for _, again := range []bool{false, true} {
		if again {
			d.close()
			d.open()
		}
		if got, err := d.ReadFile("a/b/big"); err != nil || !bytes.Equal(got, big) {
			t.Errorf("the large file differs: %v", err)
		}
		if got, err := d.ReadFile("a/link"); err != nil || string(got) != "small" {
			t.Errorf("through the link: %q, %v", got, err)
		}
		st, err := d.Stat("a/small")
		d.must(err)
		s := st.Sys().(*bcachefs.Stat)
		if st.Mode() != 0o711|fs.ModeSetuid || s.UID != 1 || s.GID != 8 || s.Nlink != 2 || !st.ModTime().Equal(when) {
			t.Errorf("the file with two names: %v, owner %d:%d, %d links, %v", st.Mode(), s.UID, s.GID, s.Nlink, st.ModTime())
		}
		if v, err := d.fs.GetXattr(t.Context(), s.ID, "user.x"); err != nil || string(v) != "1" {
			t.Errorf("attribute: %q, %v", v, err)
		}
		if st, err := d.Stat("tty"); err != nil || st.Sys().(*bcachefs.Stat).RdevMajor != 4 || st.Sys().(*bcachefs.Stat).RdevMinor != 64 {
			t.Errorf("device: %v, %v", st, err)
		}
	}
	d.must(d.Rename("a/b/big", "a/b/c/big"))
	d.must(d.Truncate("a/b/c/big", 1000))
	if err := fstest.TestFS(d.View, "a/b/c/big", "a/small", "hard"); err != nil {
		t.Error(err)
	}
	if got, err := d.ReadFile("a/b/c/big"); err != nil || !bytes.Equal(got, big[:1000]) {
		t.Errorf("after truncation: %d bytes, %v", len(got), err)
	}
	d.must(d.RemoveAll("a"))
	d.must(d.RemoveAll("a"))
	if _, err := d.Stat("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was removed is there: %v", err)
	}
}

// userBytes is the space that the content of files takes.
func (d *disk) userBytes() (n uint64) {
	u, err := d.fs.Usage(d.Context())
	d.must(err)
	for _, r := range u.Replicas {
		if r.DataType == "user" {
			n += r.Bytes
		}
	}
	return n
}

// What cannot be done is answered as Linux does.
func TestWriteErrors(t *testing.T) {
	d := newDisk(t, 32, nil)
	d.must(d.Mkdir("dir", 0o755))
	d.must(d.WriteFile("dir/f", []byte("x"), 0o644))
	d.must(d.WriteFile("f", nil, 0o644))
	d.must(d.Symlink("nowhere", "dangling"))
	long := string(bytes.Repeat([]byte("n"), 513))
	for name, c := range map[string]struct {
		err  error
		want bcachefs.Errno
	}{
		"mkdir of a name":            {d.Mkdir("dir", 0), bcachefs.EEXIST},
		"mkdir in a file":            {d.Mkdir("f/x", 0), bcachefs.ENOTDIR},
		"mkdir nowhere":              {d.Mkdir("x/y", 0), bcachefs.ENOENT},
		"long name":                  {d.Mkdir(long, 0), bcachefs.ENAMETOOLONG},
		"remove of a full directory": {d.Remove("dir"), bcachefs.ENOTEMPTY},
		"remove of nothing":          {d.Remove("x"), bcachefs.ENOENT},
		"rename of nothing":          {d.Rename("x", "y"), bcachefs.ENOENT},
		"rename into itself":         {d.Rename("dir", "dir/sub"), bcachefs.EINVAL},
		"rename onto a directory":    {d.Rename("f", "dir"), bcachefs.EISDIR},
		"rename of a directory":      {d.Rename("dir", "f"), bcachefs.ENOTDIR},
		"link to a directory":        {d.Link("dir", "dir2"), bcachefs.EPERM},
		"link onto a name":           {d.Link("f", "dir/f"), bcachefs.EEXIST},
		"empty link":                 {d.Symlink("", "l"), bcachefs.ENOENT},
		"write of a directory":       {d.WriteFile("dir", nil, 0), bcachefs.EISDIR},
		"truncate of a directory":    {d.Truncate("dir", 0), bcachefs.EISDIR},
		"negative size":              {d.Truncate("f", -1), bcachefs.EINVAL},
		"xattr of no namespace":      {d.SetXattr("f", "x", nil, 0), bcachefs.EOPNOTSUPP},
		"xattr that is there":        {errors.Join(d.SetXattr("f", "user.a", nil, 0), d.SetXattr("f", "user.a", nil, bcachefs.XattrCreate)), bcachefs.EEXIST},
		"xattr that is not":          {d.RemoveXattr("f", "user.b"), bcachefs.ENODATA},
		"subvolume on a name":        {second(d.CreateSubvolume("dir", 0o755)), bcachefs.EEXIST},
		"snapshot of nothing":        {second(d.Snapshot("x", "y", false)), bcachefs.ENOENT},
		"no subvolume":               {d.DeleteSubvolume("dir"), bcachefs.ENOENT},
		"bad name":                   {d.Mkdir("/x", 0), bcachefs.EINVAL},
		"root":                       {d.Remove("."), bcachefs.EINVAL},
	} {
		if got := bcachefs.ErrnoOf(c.err); got != c.want {
			t.Errorf("%s: error %d (%v), want %d", name, got, c.err, c.want)
		}
	}
	f, err := d.OpenFile("dangling", os.O_CREATE|os.O_WRONLY, 0o600)
	d.must(err)
	d.fails(second(f.Read(make([]byte, 1))), bcachefs.EBADF)
	d.must(f.Close())
	d.fails(second(f.Write(nil)), bcachefs.EBADF)
	if _, err := d.Stat("nowhere"); err != nil {
		t.Errorf("creating through a link made no file: %v", err)
	}
	d.fails(second(d.OpenFile("dangling", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)), bcachefs.EEXIST)
	f, err = d.OpenFile("f", os.O_RDONLY, 0)
	d.must(err)
	d.fails(second(f.Write([]byte("x"))), bcachefs.EBADF)
	d.must(f.Close())
	d.close()
	ro, err := bcachefs.Open(t.Context(), []string{d.path}, nil)
	d.must(err)
	defer ro.Close()
	d.fails(ro.Root().Mkdir("x", 0), bcachefs.EROFS)
	d.fails(second(ro.Root().Create("x")), bcachefs.EROFS)
	d.fails(second(ro.MakeInode(t.Context(), ro.Root().RootInode(), "x", bcachefs.NewInode{}, 0)), bcachefs.EROFS)
	if err := ro.Writable(); !errors.Is(err, bcachefs.ErrNotWritable) {
		t.Errorf("writable: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// A file without a name is there for who has it open, and its space comes back after the last close, or when the filesystem is closed.
func TestUnlinkedOpen(t *testing.T) {
	d := newDisk(t, 64, nil)
	used := func() uint64 {
		d.must(d.fs.WaitDeleted(t.Context()))
		return d.userBytes()
	}
	d.must(d.WriteFile("keep", []byte("k"), 0o644))
	before := used()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	open := func() *bcachefs.File {
		f, err := d.Create("f")
		d.must(err)
		_, err = f.Write(content)
		d.must(err)
		d.must(d.Remove("f"))
		got := make([]byte, len(content))
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, content) {
			t.Errorf("without a name: %v", err)
		}
		return f
	}
	f := open()
	if now := used(); now != before+uint64(len(content)) {
		t.Errorf("%d bytes are used while the file is open, %d before", now, before)
	}
	d.must(f.Close())
	if now := used(); now != before {
		t.Errorf("%d bytes are used after the file was closed, %d before", now, before)
	}
	st, err := d.fs.MakeUnnamed(t.Context(), d.RootInode(), bcachefs.NewInode{RawMode: 0o600}, 1)
	d.must(err)
	_, err = d.fs.WriteInode(t.Context(), st.ID, content, 0, 0)
	d.must(err)
	if _, err := d.fs.MakeLink(t.Context(), st.ID, d.RootInode(), "named", 0); err != nil {
		t.Error(err)
	}
	d.fs.Release(st.ID, 1)
	if got, err := d.ReadFile("named"); err != nil || !bytes.Equal(got, content) {
		t.Errorf("a file that was given a name late: %v", err)
	}
	d.must(d.Remove("named"))
	open() // and left open
	replaced, err := d.Create("replaced")
	d.must(err)
	d.must(d.WriteFile("other", []byte("o"), 0o644))
	d.must(d.Rename("other", "replaced"))
	if _, err := replaced.Write([]byte("still there")); err != nil {
		t.Error(err)
	}
	d.close()
	d.open()
	d.must(d.Remove("replaced"))
	d.must(d.fs.WaitDeleted(t.Context()))
	if now := used(); now != before {
		t.Errorf("%d bytes are used at the end, %d before", now, before)
	}
}

// Snapshots hold what there was; deleted ones give back their space.
func TestSnapshots(t *testing.T) {
	d := newDisk(t, 64, nil)
	sub, err := d.CreateSubvolume("sub", 0o755)
	d.must(err)
	d.must(sub.WriteFile("f", []byte("one"), 0o644))
	s1, err := d.Snapshot("sub", "s1", true)
	d.must(err)
	d.must(sub.WriteFile("f", []byte("two"), 0o644))
	s2, err := d.Snapshot("sub", "s2", false)
	d.must(err)
	d.must(s2.WriteFile("f", []byte("three"), 0o644))
	d.must(s2.Mkdir("dir", 0o755))
	for v, want := range map[*bcachefs.View]string{sub: "two", s1: "one", s2: "three"} {
		if got, err := v.ReadFile("f"); err != nil || string(got) != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	d.fails(s1.WriteFile("f", nil, 0), bcachefs.EROFS)
	d.fails(s1.Mkdir("x", 0), bcachefs.EROFS)
	d.fails(second(s1.OpenFile("f", os.O_RDWR, 0)), bcachefs.EROFS)
	d.fails(second(s1.OpenFile("f", os.O_TRUNC, 0)), bcachefs.EROFS)
	d.fails(d.Link("sub/f", "f"), bcachefs.EXDEV)
	d.fails(d.Rename("sub/f", "f"), bcachefs.EXDEV)
	d.must(d.WriteFile("plain", nil, 0o644))
	d.fails(d.Rename("plain", "sub"), bcachefs.EXDEV)
	d.must(d.Mkdir("empty", 0o755))
	d.fails(d.Rename("empty", "sub"), bcachefs.EXDEV)
	d.must(d.Rename("s2", "moved"))
	nested, err := sub.CreateSubvolume("nested", 0o755)
	d.must(err)
	d.must(nested.WriteFile("f", []byte("n"), 0o644))
	d.fails(d.DeleteSubvolume("sub"), bcachefs.ENOTEMPTY)
	names := func() []string {
		subs, err := d.fs.Subvolumes(t.Context())
		d.must(err)
		var all []string
		for _, s := range subs {
			if !s.Unlinked {
				all = append(all, s.Path)
			}
		}
		slices.Sort(all)
		return all
	}
	if got, want := names(), []string{"", "moved", "s1", "sub", "sub/nested"}; !slices.Equal(got, want) {
		t.Errorf("subvolumes %q, want %q", got, want)
	}
	held, err := sub.OpenFile("f", os.O_RDWR, 0)
	d.must(err)
	d.must(d.DeleteSubvolume("sub/nested"))
	d.must(d.DeleteSubvolume("sub"))
	d.must(d.DeleteSubvolume("s1"))
	d.must(d.fs.WaitDeleted(t.Context()))
	if got, err := io.ReadAll(held); err != nil || string(got) != "two" {
		t.Errorf("a file that is open in a deleted subvolume: %q, %v", got, err)
	}
	d.must(held.Close())
	d.must(d.fs.WaitDeleted(t.Context()))
	if got, want := names(), []string{"", "moved"}; !slices.Equal(got, want) {
		t.Errorf("subvolumes %q, want %q", got, want)
	}
	for range 3 { // ids come back, and mean other subvolumes
		v, err := d.CreateSubvolume("again", 0o755)
		d.must(err)
		d.must(v.WriteFile("f", []byte("again"), 0o644))
		d.must(second(v.ReadFile("f")))
		d.must(d.DeleteSubvolume("again"))
		d.must(d.fs.WaitDeleted(t.Context()))
	}
	if m := d.fs.Messages(); len(m) > 0 {
		t.Errorf("messages: %q", m)
	}
	if got, err := d.ReadFile("moved/f"); err != nil || string(got) != "three" {
		t.Errorf("what is left: %q, %v", got, err)
	}
	d.must(d.RemoveAll("moved"))
	d.close()
	d.open()
	if got, want := names(), []string{""}; !slices.Equal(got, want) {
		t.Errorf("subvolumes %q, want %q", got, want)
	}
}

// What was synced is there after a crash, names are old or new.
func TestAbandon(t *testing.T) {
	d := newDisk(t, 64, nil)
	d.must(d.WriteFile("old", []byte("old"), 0o644))
	d.must(d.fs.Sync(t.Context()))
	f, err := d.Create("new")
	d.must(err)
	_, err = f.Write([]byte("new"))
	d.must(err)
	d.must(f.Sync())
	d.must(d.Rename("new", "old"))
	tmp, err := d.Create("tmp")
	d.must(err)
	d.must(d.Remove("tmp"))
	_, err = tmp.Write(make([]byte, 1<<20))
	d.must(err)
	d.must(tmp.Sync())
	d.fs.Abandon()
	d.open()
	old, err := d.ReadFile("old")
	d.must(err)
	_, newErr := d.Stat("new")
	if newErr == nil && string(old) != "old" || newErr != nil && string(old) != "new" {
		t.Errorf("after the crash %q, and the new name: %v", old, newErr)
	}
	if _, err := d.Stat("tmp"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file without name is back: %v", err)
	}
}

// Many goroutines in the same directories and files.
func TestConcurrentWrites(t *testing.T) {
	d := newDisk(t, 128, nil)
	const workers, rounds = 8, 60
	log, err := d.OpenFile("log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	d.must(err)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for i := range rounds {
				name := fmt.Sprintf("shared-%d", r.IntN(20))
				switch r.IntN(8) {
				case 0, 1:
					ignore(t, d.WriteFile(name, bytes.Repeat([]byte{byte(w)}, r.IntN(9000)), 0o644), bcachefs.EISDIR)
				case 2:
					ignore(t, d.Remove(name), bcachefs.ENOENT, bcachefs.ENOTEMPTY)
				case 3:
					ignore(t, d.Rename(name, fmt.Sprintf("shared-%d", r.IntN(20))), bcachefs.ENOENT, bcachefs.EISDIR, bcachefs.ENOTDIR, bcachefs.ENOTEMPTY, bcachefs.EINVAL)
				case 4:
					ignore(t, d.Link(name, fmt.Sprintf("shared-%d", r.IntN(20))), bcachefs.ENOENT, bcachefs.EEXIST, bcachefs.EPERM)
				case 5:
					ignore(t, d.Mkdir(name, 0o755), bcachefs.EEXIST)
				case 6:
					_, err := d.ReadFile(name)
					ignore(t, err, bcachefs.ENOENT, bcachefs.EISDIR)
				case 7:
					_, err := d.Snapshot(".", fmt.Sprintf("snap-%d-%d", w, i), i%2 == 0)
					ignore(t, err)
					if i%3 == 0 && err == nil {
						ignore(t, d.DeleteSubvolume(fmt.Sprintf("snap-%d-%d", w, i)))
					}
				}
				if _, err := fmt.Fprintf(log, "%d %d\n", w, i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	d.must(log.Close())
	text, err := d.ReadFile("log")
	d.must(err)
	seen := map[string]bool{}
	for line := range bytes.Lines(text) {
		seen[string(line)] = true
	}
	if len(seen) != workers*rounds {
		t.Errorf("%d different lines of %d were appended: %v", len(seen), workers*rounds, slices.Sorted(maps.Keys(seen))[:3])
	}
}

func ignore(t *testing.T, err error, may ...bcachefs.Errno) {
	t.Helper()
	if err != nil && !slices.Contains(may, bcachefs.ErrnoOf(err)) {
		t.Error(err)
	}
}

// A full filesystem says so, loses nothing, and can be used again when something was deleted.
func TestFull(t *testing.T) {
	d := newDisk(t, 32, nil)
	d.must(d.WriteFile("keep", []byte("kept"), 0o644))
	for round := range 3 {
		before, n := d.userBytes(), 0
		var err error
		for ; ; n++ {
			if err = d.WriteFile(fmt.Sprintf("fill-%d", n), make([]byte, 300<<10), 0o644); err != nil {
				break
			}
		}
		d.fails(err, bcachefs.ENOSPC)
		if n < 30 {
			t.Errorf("round %d: full after %d files", round, n)
		}
		for i := range n + 1 {
			d.must(d.RemoveAll(fmt.Sprintf("fill-%d", i))) // the last may not be there
		}
		d.must(d.fs.WaitDeleted(t.Context()))
		if after := d.userBytes(); after != before {
			t.Errorf("round %d: %d bytes are used afterwards, %d before", round, after, before)
		}
	}
	if got, err := d.ReadFile("keep"); err != nil || string(got) != "kept" {
		t.Errorf("what was there: %q, %v", got, err)
	}
}
