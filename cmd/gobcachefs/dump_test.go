package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

func TestMergedRanges(t *testing.T) {
	got := byteRanges{{30, 40}, {0, 10}, {5, 12}, {12, 20}, {30, 35}}.merged()
	if want := []byteRange{{0, 20}, {30, 40}}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A dump of each golden image shows every key and, but for the contents of files, everything that the image shows; and of what
// is in buckets of file data nothing is in it.
func TestDumpGolden(t *testing.T) {
	names := []string{"encrypted", "multi-targets", "dirty-light", "dirty-multi", "snapshots", "small-buckets", "mkfs-uninitialized", "v1.39-basic"}
	for _, name := range golden.Some(t, 4, names) {
		t.Run(name, func(t *testing.T) {
			img := golden.Find(t, name)
			if img.Passphrase != "" {
				golden.DerivesKeys(t)
			}
			env := map[string]string{passphraseVar: img.Passphrase}
			out := filepath.Join(t.TempDir(), "dump")
			var paths, dumps []string
			dir := t.TempDir()
			for i, path := range img.Unpack(t) { // under the names of the dumps, which are printed
				name := "dump"
				if img.Multi() {
					name = fmt.Sprint("dump.", i)
				}
				paths, dumps = append(paths, filepath.Join(dir, name)), append(dumps, filepath.Join(filepath.Dir(out), name))
				if err := os.Symlink(path, paths[i]); err != nil {
					t.Skipf("no symbolic links here: %v", err)
				}
			}
			source := strings.Join(paths, ":")
			must(t, env, "dump", "-o", out, source)
			dump := strings.Join(dumps, ":")
			compare := [][]string{{"list", "-q", "-b", "extents"}, {"list", "-q", "-b", "alloc"}, {"find", "-q"}}
			if !img.Multi() { // of several, the order of the copies of an entry changes from run to run
				compare = append(compare, []string{"list_journal", "-q", "-a"})
			}
			for _, args := range compare {
				want := must(t, env, append(slices.Clone(args), source)...)
				got := must(t, env, append(slices.Clone(args), dump)...)
				if got != want {
					t.Errorf("%v: %s", args, differing([]byte(got), []byte(want)))
				}
			}
			noFileData(t, paths, dumps, img.Passphrase)
		})
	}
}

// noFileData looks at the dump of all buckets that hold data of files.
func noFileData(t *testing.T, paths, dumps []string, passphrase string) {
	t.Helper()
	f, err := engine.Open(t.Context(), paths, engine.Options{NoScan: true,
		Passphrase: func(context.Context) ([]byte, error) { return []byte(passphrase), nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buckets := 0
	for k, err := range f.Reader.Keys(t.Context(), ondisk.BtreeAlloc, ondisk.PosMin, ondisk.SPosMax) {
		if err != nil {
			t.Fatal(err)
		}
		a, err := ondisk.DecodeAlloc(k)
		if err != nil {
			t.Fatal(err)
		}
		if a.DataType != ondisk.DataUser && a.DataType != ondisk.DataCached {
			continue
		}
		size := f.Member(uint8(k.Pos.Inode)).BucketBytes()
		b := make([]byte, size)
		d, err := os.Open(dumps[k.Pos.Inode])
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.ReadAt(b, int64(k.Pos.Offset)*size)
		d.Close()
		if err != nil {
			t.Fatal(err)
		}
		if !allZero(b) {
			t.Errorf("device %d, bucket %d: data of files is in the dump", k.Pos.Inode, k.Pos.Offset)
		}
		buckets++
	}
	if buckets == 0 && f.SB.Initialized() {
		t.Error("no bucket of file data was found")
	}
}

// With --nojournal, of a journal only what is to be replayed is there: the filesystem looks the same, and less is in the file.
func TestDumpNoJournal(t *testing.T) {
	source := golden.Find(t, "dirty-light").Unpack(t)[0]
	dir := t.TempDir()
	all, some := filepath.Join(dir, "all"), filepath.Join(dir, "some")
	must(t, nil, "dump", "-q", "-o", all, source)
	must(t, nil, "dump", "-q", "--nojournal", "-o", some, source)
	if got, want := must(t, nil, "find", "-q", some), must(t, nil, "find", "-q", all); got != want {
		t.Errorf("%d bytes of names, with the journal %d", len(got), len(want))
	}
	if got, want := content(t, some), content(t, all); got >= want {
		t.Errorf("%d bytes that are not zero, with the whole journal %d", got, want)
	}
}

// content is how many bytes of a file are not zero.
func content(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return len(b) - bytes.Count(b, []byte{0})
}

// A device is never written to, and nothing is left of a dump that failed.
func TestDumpRefuses(t *testing.T) {
	source := golden.Find(t, "mkfs-only").UnpackCopy(t)[0]
	if r := runCLI(context.Background(), "", nil, "dump", "-f", "-o", source, source); r.code != exitFailed || !strings.Contains(r.err, errIsDevice.Error()) {
		t.Errorf("exit %d, %s", r.code, r.err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	out := filepath.Join(t.TempDir(), "dump")
	if r := runCLI(ctx, "", nil, "dump", "-o", out, source); r.code == 0 {
		t.Errorf("interrupted: exit %d", r.code)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("something was left behind")
	}
}
