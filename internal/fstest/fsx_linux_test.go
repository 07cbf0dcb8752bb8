package fstest

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	seed  = flag.Uint64("seed", 1, "first seed of the random tests")
	seeds = flag.Int("seeds", 1, "how many seeds to try")
)

// dirs returns a directory on the disk and one in memory, if there is such a filesystem.
func dirs(t *testing.T) map[string]OS {
	t.Helper()
	unix.Umask(0)
	all := map[string]OS{"disk": {t.TempDir()}}
	if dir, err := os.MkdirTemp("/dev/shm", "fstest"); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		all["memory"] = OS{dir}
	}
	return all
}

func TestFSX(t *testing.T) {
	for name, fs := range dirs(t) {
		t.Run(name, func(t *testing.T) {
			for i := range uint64(*seeds) {
				x := FSX{FS: fs, Dir: ".", Seed: *seed + i, Ops: 800, Logf: t.Logf, Remount: func() (FS, error) { return fs, nil }, Snapshot: copyDir(t)}
				if err := x.Run(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// copyDir stands for snapshots where there are none.
func copyDir(t *testing.T) func(FS, int) (string, error) {
	return func(fs FS, n int) (string, error) {
		from := fs.(OS).Dir
		to := t.TempDir()
		up, err := filepath.Rel(from, to)
		if err != nil {
			return "", err
		}
		return up, os.CopyFS(to, os.DirFS(from))
	}
}

// liar is a filesystem whose files lose a byte in writes over a certain offset.
type liar struct{ OS }

type liarFile struct{ *osFile }

func (l liar) Open(path string, flags OpenFlags, perm uint32) (File, error) {
	f, err := l.OS.Open(path, flags, perm)
	if err != nil {
		return nil, err
	}
	return liarFile{f.(*osFile)}, nil
}

func (f liarFile) Clone(File, int64, int64, int64) error              { return EOPNOTSUPP }
func (f liarFile) CopyRange(File, int64, int64, int64) (int64, error) { return 0, EOPNOTSUPP }

func (f liarFile) WriteAt(p []byte, off int64) (int, error) {
	const bad = 0x5123
	if off <= bad && off+int64(len(p)) > bad {
		p = append([]byte(nil), p...)
		p[bad-off] ^= 1
	}
	return f.osFile.WriteAt(p, off)
}

// What is wrong is found, with the place, and what leads there gets short.
func TestFSXFinds(t *testing.T) {
	x := FSX{FS: liar{dirs(t)["disk"]}, Dir: ".", Seed: *seed, ShrinkFor: 2 * time.Second}
	err := x.Run()
	if err == nil {
		t.Fatal("no error")
	}
	s := err.Error()
	if !strings.Contains(s, "from 0x5123 on 1 bytes are wrong") || !strings.Contains(s, "seed 1") {
		t.Errorf("the place and the seed are not in %s", s)
	}
	_, short, _ := strings.Cut(s, "shorter, ")
	short, _, _ = strings.Cut(short, "with which")
	if n := strings.Count(short, "\n"); n < 1 || n > 4 {
		t.Errorf("not short: %s", s)
	}
	if errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestShrink(t *testing.T) {
	all := make([]int, 100)
	for i := range all {
		all[i] = i
	}
	got := shrink(all, time.Minute, func(s []int) bool {
		n := 0
		for _, x := range s {
			if x == 3 || x == 50 || x == 99 {
				n++
			}
		}
		return n == 3
	})
	if len(got) != 3 || got[0] != 3 || got[1] != 50 || got[2] != 99 {
		t.Errorf("got %v", got)
	}
}
