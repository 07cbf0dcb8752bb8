package bcachefs_test

import (
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// TestReadNothing reads no bytes, also far behind the end.
func TestReadNothing(t *testing.T) {
	fsys := openGolden(t, golden.Find(t, "damage-base"), bcachefs.OpenOptions{})
	f := firstFile(t, fsys)
	for _, off := range []int64{0, f.Size(), f.Size() + 1, f.Size() + 1<<40} {
		if n, err := f.ReadAt(nil, off); n != 0 || err != nil {
			t.Errorf("at %d of %d: %d, %v", off, f.Size(), n, err)
		}
	}
}

// firstFile opens some regular file with content.
func firstFile(t testing.TB, fsys *bcachefs.FS) *bcachefs.File {
	t.Helper()
	dirs := []bcachefs.InodeID{fsys.Root().RootInode()}
	for len(dirs) > 0 {
		dir := dirs[0]
		dirs = dirs[1:]
		for e, err := range fsys.ReadDir(t.Context(), dir, 0) {
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case e.Type.IsDir():
				dirs = append(dirs, e.ID)
			case e.Type.IsRegular():
				if f, err := fsys.OpenInode(t.Context(), e.ID); err == nil && f.Size() > 0 {
					return f
				}
			}
		}
	}
	t.Fatal("no file")
	return nil
}
