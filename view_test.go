package bcachefs_test

import (
	"errors"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

func TestFS(t *testing.T) {
	for _, name := range golden.Some(t, 1, []string{"damage-base", "v1.39-casefold"}) {
		t.Run(name, func(t *testing.T) {
			v := openGolden(t, golden.Find(t, name), bcachefs.OpenOptions{}).Root()
			var names []string
			fs.WalkDir(v, ".", func(path string, d fs.DirEntry, err error) error {
				if err != nil {
					t.Error(err)
				}
				if path != "." {
					names = append(names, path)
				}
				return nil
			})
			err := fstest.TestFS(v, names...)
			wrong := []error{err}
			if all, ok := errors.Unwrap(err).(interface{ Unwrap() []error }); ok {
				wrong = all.Unwrap()
			}
			for _, err := range wrong {
				// TestFS counts it as a mistake when opening a dangling symbolic link fails, as it must.
				var pe *fs.PathError
				if errors.As(err, &pe) && pe.Op == "open" && errors.Is(err, fs.ErrNotExist) {
					if fi, err := v.Lstat(pe.Path); err == nil && fi.Mode().Type() == fs.ModeSymlink {
						continue
					}
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestErrors(t *testing.T) {
	fsys := openGolden(t, golden.Find(t, "damage-base"), bcachefs.OpenOptions{})
	v := fsys.Root()
	id, err := v.Resolve(t.Context(), "/lines", true)
	if err != nil {
		t.Fatal(err)
	}
	file, err := fsys.OpenInode(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		err   func() error
		errno bcachefs.Errno
	}{
		"missing name":  {func() error { _, err := v.Open("nothing"); return err }, bcachefs.ENOENT},
		"missing dir":   {func() error { _, err := v.Stat("nothing/below"); return err }, bcachefs.ENOENT},
		"file as dir":   {func() error { _, err := v.Stat("lines/below"); return err }, bcachefs.ENOTDIR},
		"invalid path":  {func() error { _, err := v.Open("/lines"); return err }, bcachefs.EINVAL},
		"long name":     {func() error { _, err := v.Open(strings.Repeat("x", 600)); return err }, bcachefs.ENAMETOOLONG},
		"dir as file":   {func() error { _, err := v.ReadFile("dir"); return err }, bcachefs.EISDIR},
		"open dir":      {func() error { _, err := fsys.OpenInode(t.Context(), v.RootInode()); return err }, bcachefs.EISDIR},
		"list file":     {func() error { _, err := v.ReadDir("lines"); return err }, bcachefs.ENOTDIR},
		"not a link":    {func() error { _, err := v.ReadLink("lines"); return err }, bcachefs.EINVAL},
		"no attribute":  {func() error { _, err := fsys.GetXattr(t.Context(), id, "user.none"); return err }, bcachefs.ENODATA},
		"odd attribute": {func() error { _, err := fsys.GetXattr(t.Context(), id, "odd"); return err }, bcachefs.ENODATA},
		"no inode": {func() error {
			_, err := fsys.Stat(t.Context(), bcachefs.InodeID{Subvol: 1, Snapshot: 1, Inum: 5})
			return err
		}, bcachefs.ENOENT},
		"no subvolume":     {func() error { _, err := fsys.Subvolume("77"); return err }, bcachefs.ENOENT},
		"no snapshot":      {func() error { _, err := fsys.SnapshotView(5); return err }, bcachefs.ENOENT},
		"plain directory":  {func() error { _, err := fsys.Subvolume("dir"); return err }, bcachefs.ENOENT},
		"data behind end":  {func() error { _, err := file.Seek(1<<30, bcachefs.SeekData); return err }, bcachefs.ENXIO},
		"odd whence":       {func() error { _, err := file.Seek(0, 9); return err }, bcachefs.EINVAL},
		"negative offset":  {func() error { _, err := file.ReadAt(make([]byte, 1), -1); return err }, bcachefs.EINVAL},
		"nothing happened": {func() error { return nil }, 0},
	} {
		if err := c.err(); bcachefs.ErrnoOf(err) != c.errno {
			t.Errorf("%s: %v has errno %d, want %d", what, err, bcachefs.ErrnoOf(err), c.errno)
		}
	}
}

func TestFile(t *testing.T) {
	v := openGolden(t, golden.Find(t, "damage-base"), bcachefs.OpenOptions{}).Root()
	want, err := v.ReadFile("lines")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := v.Open("lines")
	if err != nil {
		t.Fatal(err)
	}
	f := opened.(*bcachefs.File)
	if pos, err := f.Seek(-100, io.SeekEnd); err != nil || pos != int64(len(want))-100 {
		t.Fatalf("seek: %d, %v", pos, err)
	}
	var tail strings.Builder
	if n, err := f.WriteTo(&tail); err != nil || n != 100 || tail.String() != string(want[len(want)-100:]) {
		t.Errorf("WriteTo: %d, %v", n, err)
	}
	if n, err := f.Read(make([]byte, 10)); n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	b := make([]byte, 64)
	if n, err := f.ReadAt(b, int64(len(want))-10); n != 10 || err != io.EOF {
		t.Errorf("ReadAt across the end: %d, %v", n, err)
	}
	if hole, err := f.Seek(0, bcachefs.SeekHole); err != nil || hole != int64(len(want)) {
		t.Errorf("SeekHole: %d, %v", hole, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.Read(b); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("read of a closed file: %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	fsys := openGolden(t, golden.Find(t, "damage-base"), bcachefs.OpenOptions{NodeCacheBytes: 1 << 20, ExtentCacheBytes: 1 << 16})
	want, unread := writeManifest(t, fsys.Root())
	if unread > 0 {
		t.Fatal("image cannot be read")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if got, _ := writeManifest(t, fsys.Root()); string(got) != string(want) {
				t.Error("manifests differ")
			}
		})
	}
	wg.Wait()
}

func TestReadDirCookies(t *testing.T) {
	fsys := openGolden(t, golden.Find(t, "damage-base"), bcachefs.OpenOptions{})
	dir := fsys.Root().RootInode()
	var all []bcachefs.DirEntry
	for e, err := range fsys.ReadDir(t.Context(), dir, 0) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	for i, e := range all {
		var rest []bcachefs.DirEntry
		for e, err := range fsys.ReadDir(t.Context(), dir, e.Cookie) {
			if err != nil {
				t.Fatal(err)
			}
			rest = append(rest, e)
		}
		if len(rest) != len(all)-i-1 || len(rest) > 0 && rest[0] != all[i+1] {
			t.Errorf("behind entry %d of %d there are %d", i, len(all), len(rest))
		}
	}
}

func TestSnapshotViews(t *testing.T) {
	img := golden.Find(t, "snapshots")
	fsys := openGolden(t, img, bcachefs.OpenOptions{})
	subvols, err := fsys.Subvolumes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range subvols {
		v, err := fsys.Subvolume(s.Path)
		if err != nil {
			t.Errorf("subvolume %d, %q: %v", s.ID, s.Path, err)
			continue
		}
		if id := v.RootInode(); id.Subvol != s.ID || id.Snapshot != s.Snapshot || id.Inum != s.RootInum {
			t.Errorf("%q has root %+v, want that of %+v", s.Path, id, s)
		}
	}
	snaps, err := fsys.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	interior := 0
	for _, s := range snaps {
		v, err := fsys.SnapshotView(s.ID)
		if err != nil {
			t.Errorf("snapshot %d: %v", s.ID, err)
			continue
		}
		if s.Subvol == 0 {
			interior++
		}
		if _, unread := writeManifest(t, v); unread > 0 {
			t.Errorf("snapshot %d: %d things cannot be read", s.ID, unread)
		}
	}
	t.Logf("%d subvolumes, %d snapshots, %d of them interior", len(subvols), len(snaps), interior)
	usage, err := fsys.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if usage.Used == 0 || usage.Used > usage.Capacity || usage.Inodes == 0 || len(usage.Devices) != 1 || len(usage.Devices[0].Types) == 0 {
		t.Errorf("usage is %+v", usage)
	}
}
