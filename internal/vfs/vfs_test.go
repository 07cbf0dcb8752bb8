package vfs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/vfs"
)

var root = namei.ID{Subvol: 1, Inum: 4096}

// newFS makes a filesystem in memory and begins to use it.
func newFS(t testing.TB) *vfs.FS {
	t.Helper()
	ctx := context.Background()
	d, err := enginetest.Format(ctx, &enginetest.Shape{Bytes: []int64{256 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	rw, err := d.Open(ctx, engine.Options{}, engine.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := vfs.New(ctx, rw, vfs.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return f
}

func create(t testing.TB, f *vfs.FS, name string, hold uint64) namei.Attr {
	t.Helper()
	a, err := f.Create(t.Context(), root, name, &namei.NewInode{Mode: ondisk.DTReg<<12 | 0o644}, hold)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Times that an inode has already are no change.
func TestSetTimesAgain(t *testing.T) {
	f := newFS(t)
	a := create(t, f, "file", 0)
	sb := f.RW().Super.Superblock()
	ns := func(disk int64) int64 { return disk*int64(max(sb.TimePrecision, 1)) + int64(sb.TimeBase) }
	mtime, ctime := ns(a.Inode.Mtime), ns(a.Inode.Ctime)
	const times, forced = namei.SetMtime | namei.SetCtime, namei.SetForced
	for _, c := range []struct {
		what         string
		set          namei.AttrMask
		mtime, ctime int64
		changes      bool
	}{
		{"the same", times | forced, mtime, ctime, false},
		{"the same, as a user asks", times, mtime, ctime, true},
		{"the same, and another", times | forced | namei.SetAtime, mtime, ctime, true},
		{"a later ctime", times | forced, mtime, ctime + 1, true},
		{"a later mtime", times | forced, mtime + 1, ctime + 1, true},
		{"these again", times | forced, mtime + 1, ctime + 1, false},
	} {
		if err := f.Sync(t.Context()); err != nil { // the next change is in another journal entry
			t.Fatal(err)
		}
		before, err := f.Inode(t.Context(), a.ID)
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.SetAttr(t.Context(), a.ID, &namei.Attrs{Set: c.set, Mtime: c.mtime, Ctime: c.ctime})
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if ns(got.Inode.Mtime) != c.mtime || ns(got.Inode.Ctime) != c.ctime {
			t.Errorf("%s: times are %d and %d, not %d and %d", c.what, ns(got.Inode.Mtime), ns(got.Inode.Ctime), c.mtime, c.ctime)
		}
		after, err := f.Inode(t.Context(), a.ID)
		if err != nil {
			t.Fatal(err)
		}
		if changed := after.Inode.JournalSeq != before.Inode.JournalSeq; changed != c.changes {
			t.Errorf("%s: was it written? %v", c.what, changed)
		}
	}
}

// gone waits until an inode is deleted.
func gone(t *testing.T, f *vfs.FS, id namei.ID) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := f.Inode(t.Context(), id)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("inode %d is not deleted: %v", id.Inum, err)
		}
	}
}

// What has no name is deleted once nobody holds it, one by one and many together.
func TestReap(t *testing.T) {
	f := newFS(t)
	for round, n := range []int{1, 1, 200, 3} {
		var ids []namei.ID
		for i := range n {
			ids = append(ids, create(t, f, fmt.Sprint(i), uint64(i%2)).ID)
		}
		for i := range n {
			if _, err := f.Unlink(t.Context(), root, fmt.Sprint(i), namei.File); err != nil {
				t.Fatal(err)
			}
		}
		if round == 1 {
			time.Sleep(20 * time.Millisecond) // it sleeps again
		}
		for i, id := range ids {
			if i%2 == 0 {
				gone(t, f, id)
			}
		}
		for i, id := range ids {
			if i%2 == 0 {
				continue
			}
			if _, err := f.Inode(t.Context(), id); err != nil {
				t.Fatalf("inode %d is held: %v", id.Inum, err)
			}
			f.Release(id, 1)
		}
		for _, id := range ids {
			gone(t, f, id)
		}
	}
}

func BenchmarkUnlink(b *testing.B) {
	f := newFS(b)
	b.ReportAllocs()
	const n = 1000
	for b.Loop() {
		b.StopTimer()
		for i := range n {
			create(b, f, fmt.Sprint(i), 0)
		}
		b.StartTimer()
		for i := range n {
			if _, err := f.Unlink(b.Context(), root, fmt.Sprint(i), namei.File); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/unlink")
}

func BenchmarkRename(b *testing.B) {
	f := newFS(b)
	for i := range 10000 {
		create(b, f, fmt.Sprint(i), 0)
	}
	names := [2]string{"0", "another"}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := f.Rename(b.Context(), root, names[i%2], root, names[1-i%2], 0, 0, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSetTimes sets times that an inode has, and others.
func BenchmarkSetTimes(b *testing.B) {
	for _, same := range []bool{true, false} {
		b.Run(fmt.Sprintf("same=%v", same), func(b *testing.B) {
			f := newFS(b)
			id := create(b, f, "file", 0).ID
			a := namei.Attrs{Set: namei.SetMtime | namei.SetCtime | namei.SetForced, Mtime: 1e18, Ctime: 1e18}
			b.ReportAllocs()
			for b.Loop() {
				if !same {
					a.Ctime++
				}
				if _, err := f.SetAttr(b.Context(), id, &a); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
