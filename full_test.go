package bcachefs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// A filling is a way to fill a filesystem: step i of a worker makes it a little fuller, below the worker's directory.
type filling struct {
	name string
	step func(d *disk, dir string, i int, r *rand.Rand) error
}

// fillings are all ways: kinds of things of several sizes.
func fillings() (all []filling) {
	add := func(name string, step func(d *disk, dir string, i int, r *rand.Rand) error) {
		all = append(all, filling{name, step})
	}
	for _, n := range []int{1, 100, 1000, 3000, 4096, 5000, 20000, 65536, 150000, 1 << 20, 3 << 20} {
		add(fmt.Sprint("files of ", n), func(d *disk, dir string, i int, r *rand.Rand) error {
			return d.WriteFile(fmt.Sprintf("%s/%d", dir, i), bytes.Repeat([]byte{byte(i)}, n), 0o644)
		})
	}
	for _, n := range []int{2000, 4096, 10000, 100000, 1 << 20} {
		add(fmt.Sprint("appending ", n), func(d *disk, dir string, i int, r *rand.Rand) error {
			return withFile(d, fmt.Sprintf("%s/f", dir), os.O_APPEND, func(f *bcachefs.File) error { return second(f.Write(make([]byte, n))) })
		})
		add(fmt.Sprint("scattered ", n), func(d *disk, dir string, i int, r *rand.Rand) error {
			return withFile(d, fmt.Sprintf("%s/f", dir), 0, func(f *bcachefs.File) error { return second(f.WriteAt(make([]byte, n), r.Int64N(1<<32))) })
		})
	}
	for _, n := range []int{4096, 100000, 1 << 20} {
		add(fmt.Sprint("reserving ", n), func(d *disk, dir string, i int, r *rand.Rand) error {
			return withFile(d, fmt.Sprintf("%s/f", dir), 0, func(f *bcachefs.File) error {
				return f.Allocate(bcachefs.AllocateGrow, int64(i)*int64(n), int64(n))
			})
		})
		add(fmt.Sprint("clones, overwritten by ", n), func(d *disk, dir string, i int, r *rand.Rand) error {
			from := fmt.Sprintf("%s/0", dir)
			if i == 0 {
				return d.WriteFile(from, make([]byte, 1<<20), 0o644)
			}
			return withFile(d, fmt.Sprintf("%s/%d", dir, i), 0, func(f *bcachefs.File) error {
				return withFile(d, from, 0, func(src *bcachefs.File) error {
					if _, err := f.CloneFrom(src, 0, 0, 1<<20); err != nil {
						return err
					}
					return second(f.WriteAt(make([]byte, n), r.Int64N(1<<20)))
				})
			})
		})
		add(fmt.Sprint("snapshots, overwritten by ", n), func(d *disk, dir string, i int, r *rand.Rand) error {
			switch i {
			case 0:
				return second(d.CreateSubvolume(dir+"/s", 0o755))
			case 1:
				return d.WriteFile(dir+"/s/f", make([]byte, 1<<20), 0o644)
			}
			if _, err := d.Snapshot(dir+"/s", fmt.Sprintf("%s/%d", dir, i), i%2 == 0); err != nil {
				return err
			}
			return withFile(d, dir+"/s/f", 0, func(f *bcachefs.File) error { return second(f.WriteAt(make([]byte, n), r.Int64N(1<<20))) })
		})
	}
	for _, n := range []int{1, 100, 500} {
		add(fmt.Sprint("directories with names of ", n), func(d *disk, dir string, i int, r *rand.Rand) error {
			return d.Mkdir(fmt.Sprintf("%s/%d%s", dir, i, strings.Repeat("n", max(n-10, 0))), 0o755)
		})
		add(fmt.Sprint("links with names of ", n), func(d *disk, dir string, i int, r *rand.Rand) error {
			if i == 0 {
				return d.WriteFile(dir+"/0", nil, 0o644)
			}
			return d.Link(dir+"/0", fmt.Sprintf("%s/%d%s", dir, i, strings.Repeat("n", max(n-10, 0))))
		})
	}
	for _, n := range []int{10, 1000, 4000} {
		add(fmt.Sprint("symbolic links of ", n), func(d *disk, dir string, i int, r *rand.Rand) error {
			return d.Symlink(strings.Repeat("t", n), fmt.Sprintf("%s/%d", dir, i))
		})
	}
	for _, n := range []int{10, 1800} {
		add(fmt.Sprint("attributes of ", n), func(d *disk, dir string, i int, r *rand.Rand) error {
			return d.SetXattr(dir, fmt.Sprintf("user.%d", i), bytes.Repeat([]byte{1}, n), 0)
		})
	}
	add("everything", func(d *disk, dir string, i int, r *rand.Rand) error {
		return writeEverything(d.View, fmt.Sprintf("%s/%d", dir, i), r)
	})
	return all
}

func withFile(d *disk, name string, flag int, fn func(f *bcachefs.File) error) error {
	f, err := d.OpenFile(name, flag|os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	err = fn(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// A filesystem is filled in each way, by one and by several at once. It says that it is full, it does not hang, what was there is there, and when all is
// deleted there is as much space as before.
func TestFillings(t *testing.T) {
	all := fillings()
	if testing.Short() || golden.Race {
		t.Log("every eighth way only")
	}
	var d *disk
	dir := t.TempDir()
	for i, way := range all {
		for _, workers := range []int{1, 4} {
			if (testing.Short() || golden.Race) && (i*2+workers/4)%8 != 0 {
				continue
			}
			t.Run(fmt.Sprintf("%s by %d", way.name, workers), func(t *testing.T) {
				if d == nil || d.fs == nil {
					d = fillable(t, dir)
				}
				d.TB = t
				d.fill(way, workers)
				if t.Failed() {
					d.fs.Abandon()
					d = nil
				}
			})
		}
	}
	if d != nil {
		d.TB = t
		d.close()
		if err := checkFile(d.path); err != nil {
			t.Error(err)
		}
	}
}

// fillable is a small filesystem that outlives the test.
func fillable(t *testing.T, dir string) *disk {
	t.Helper()
	d := &disk{TB: t, path: filepath.Join(dir, "disk")}
	_, err := bcachefs.Format(t.Context(), []bcachefs.FormatDevice{{Path: d.path, CreateBytes: 24 << 20}}, bcachefs.FormatOptions{Force: true,
		Options: map[string]string{"btree_node_size": "64k"}})
	d.must(err)
	d.open()
	d.must(d.WriteFile("keep", []byte("kept"), 0o644))
	return d
}

func (d *disk) fill(way filling, workers int) {
	d.Helper()
	before := d.userBytes()
	var wg sync.WaitGroup
	steps := make([]int, workers)
	for w := range workers {
		dir := fmt.Sprint("w", w)
		d.must(d.Mkdir(dir, 0o755))
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(w)))
			for ; steps[w] < 1<<18; steps[w]++ {
				if err := way.step(d, dir, steps[w], r); err != nil {
					if !errors.Is(err, syscall.ENOSPC) {
						d.Errorf("step %d: error %d: %v", steps[w], bcachefs.ErrnoOf(err), err)
					}
					return
				}
			}
			d.Errorf("not full after %d steps", steps[w])
		})
	}
	wg.Wait()
	if got, err := d.ReadFile("keep"); err != nil || string(got) != "kept" {
		d.Errorf("what was there: %q, %v", got, err)
	}
	n := 0
	for w := range workers {
		d.must(d.RemoveAll(fmt.Sprint("w", w)))
		n += steps[w]
	}
	d.must(d.fs.WaitDeleted(d.Context()))
	if after := d.userBytes(); after != before {
		d.Errorf("%d bytes are used after everything was deleted, %d before; messages: %q", after, before, d.fs.Messages())
	}
	if err := fs.WalkDir(d.View, ".", func(name string, e fs.DirEntry, err error) error { return err }); err != nil {
		d.Error(err)
	}
	if err := d.WriteFile("again", make([]byte, 1<<20), 0o644); err != nil {
		d.Errorf("after everything was deleted: %v", err)
	}
	d.must(d.Remove("again"))
	d.must(d.fs.WaitDeleted(d.Context()))
	d.Logf("full after %d steps", n)
}
