package bcachefs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
)

// writeCases are the filesystems that we and the driver write to in turns: together they have every option of what is written.
func writeCases() []formatCase {
	var cases []formatCase
	for _, c := range formatCases() {
		if c.opts.Version == "" { // older ones are not written to
			cases = append(cases, c)
		}
	}
	opts := func(o map[string]string) bcachefs.FormatOptions { return bcachefs.FormatOptions{Options: o} }
	return append(cases,
		formatCase{"lz4, large nodes", on(96), opts(map[string]string{"compression": "lz4", "btree_node_size": "512k"})},
		formatCase{"nocow", on(96), opts(map[string]string{"nocow": "1", "metadata_checksum": "crc64"})},
		formatCase{"three replicas", on(64, 64, 64), opts(map[string]string{"data_replicas": "3", "metadata_replicas": "3", "compression": "zstd"})},
	)
}

func openCase(t *testing.T, paths []string, write bool) *bcachefs.FS {
	t.Helper()
	f, err := bcachefs.Open(context.Background(), paths, &bcachefs.OpenOptions{NoScan: true, Write: write,
		Passphrase: func(context.Context) ([]byte, error) { return []byte(vmPassphrase), nil }})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// writeEverything makes one of each kind of thing below a directory, and uses each operation.
func writeEverything(v *bcachefs.View, dir string, r *rand.Rand) (err error) {
	must := func(e error) { err = errors.Join(err, e) }
	in := func(name string) string { return path.Join(dir, name) }
	must(v.MkdirAll(in("files"), 0o755))
	content := func(n int) []byte { // compresses somewhat
		b := make([]byte, n)
		for i := 0; i < n; i += 1 + r.IntN(90) {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	for i, n := range []int{0, 1, 100, 1000, 1025, 4096, 5000, 65536, 70000, 300001, 1 << 20} {
		must(v.WriteFile(in(fmt.Sprintf("files/%d", i)), content(n), 0o644))
	}
	f, e := v.OpenFile(in("sparse"), os.O_RDWR|os.O_CREATE, 0o600)
	if must(e); e != nil {
		return err
	}
	defer f.Close() // where there is no space left for what follows
	for range 20 {
		_, e := f.WriteAt(content(1+r.IntN(20000)), r.Int64N(1<<22))
		must(e)
	}
	must(f.Allocate(bcachefs.AllocateGrow, 1<<21, 100000))
	must(f.Allocate(bcachefs.AllocateKeepSize, 5<<20, 65536))
	must(f.Allocate(bcachefs.AllocatePunch, 300000, 500000))
	must(f.Allocate(bcachefs.AllocateZero, 900000, 123456))
	must(f.Allocate(bcachefs.AllocateInsert, 1<<20, 65536))
	must(f.Allocate(bcachefs.AllocateCollapse, 1<<16, 65536))
	must(f.Truncate(f.Size() - 777))
	for i, p := range []string{"clone", "clone2"} {
		g, e := v.Create(in(p))
		if must(e); e != nil {
			return err
		}
		_, e = g.CloneFrom(f, 0, 0, f.Size())
		must(e)
		_, e = g.WriteAt(content(5000), int64(i)*70000+33)
		must(e)
		must(g.Close())
	}
	must(f.Close())
	must(v.Symlink("files/1", in("short")))
	must(v.Symlink(strings.Repeat("long/", 600), in("long")))
	must(v.Link(in("files/3"), in("hard")))
	must(v.Mknod(in("fifo"), fs.ModeNamedPipe|0o640, 0, 0))
	must(v.Mknod(in("dev"), fs.ModeDevice|0o640, 259, 70000))
	must(v.SetXattr(in("files"), "user.dir", []byte("value"), 0))
	must(v.SetXattr(in("hard"), "security.x", content(1500), 0))
	must(v.SetXattr(in("hard"), "trusted.gone", []byte("x"), 0))
	must(v.RemoveXattr(in("hard"), "trusted.gone"))
	acl := []byte{2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 3, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 5, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255}
	if e := v.SetXattr(in("files"), "system.posix_acl_default", acl, 0); bcachefs.ErrnoOf(e) != bcachefs.EOPNOTSUPP {
		must(e)
	}
	must(v.WriteFile(in("files/inherits"), []byte("acl"), 0o666))
	must(v.SetXattr(in("files"), "bcachefs.compression", []byte("gzip"), 0))
	must(v.Mkdir(in("files/sub"), 0o2755))
	must(v.WriteFile(in("files/sub/compressed"), content(200000), 0o600))
	must(v.Chmod(in("short"), 0o4755|fs.ModeSticky))
	must(v.Chown(in("clone"), 1000, 2000))
	must(v.Chtimes(in("clone"), time.Unix(1, 2), time.Unix(1<<33, 999999999)))
	must(v.Rename(in("files/5"), in("renamed")))
	must(v.Rename(in("files/6"), in("files/7")))
	must(v.Remove(in("files/8")))
	must(v.Mkdir(in("many"), 0o700))
	for i := range 300 {
		must(v.WriteFile(in(fmt.Sprintf("many/%c%d", 'a'+i%26, i)), content(i), 0o600))
	}
	for i := range 100 {
		must(v.Remove(in(fmt.Sprintf("many/%c%d", 'a'+i%26, i))))
	}
	sub, e := v.CreateSubvolume(in("subvol"), 0o755)
	if must(e); e != nil {
		return err
	}
	must(sub.WriteFile("f", content(100000), 0o644))
	must(sub.Mkdir("d", 0o755))
	snap, e := v.Snapshot(in("subvol"), in("snap"), false)
	if must(e); e != nil {
		return err
	}
	must(sub.WriteFile("f", content(50000), 0o644))
	must(snap.WriteFile("d/g", content(3000), 0o644))
	_, e = v.Snapshot(in("subvol"), in("ro"), true)
	must(e)
	_, e = v.Snapshot(in("snap"), in("doomed"), false)
	must(e)
	must(v.DeleteSubvolume(in("doomed")))
	return err
}

// changeEverything changes and removes about half of what is below a directory, whoever made it.
func changeEverything(v *bcachefs.View, dir string, r *rand.Rand) error {
	var all []string
	err := fs.WalkDir(v, dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && name == "lost+found" {
			return fs.SkipDir // the driver's check misses it
		}
		if err == nil && name != dir {
			all = append(all, name)
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.Reverse(all) // what is in a directory before the directory
	for _, name := range all {
		st, err := v.Lstat(name)
		if err != nil {
			continue // its directory was removed
		}
		isRO := func(err error) bool { return bcachefs.ErrnoOf(err) == bcachefs.EROFS }
		mayFail := func(err error) error {
			if no := bcachefs.ErrnoOf(err); err == nil || isRO(err) || no == bcachefs.ENOTEMPTY || no == bcachefs.EPERM || no == bcachefs.EXDEV {
				return nil
			}
			return err
		}
		switch r.IntN(6) {
		case 0:
			err = v.Remove(name)
		case 1:
			err = v.Rename(name, name+"~")
		case 2:
			err = v.SetXattr(name, "security.changed", []byte(name), 0)
		case 3:
			if st.Mode().IsRegular() {
				err = v.Truncate(name, st.Size()*2/3)
			}
		case 4:
			if st.Mode().IsRegular() {
				var f *bcachefs.File
				if f, err = v.OpenFile(name, os.O_RDWR, 0); err == nil {
					_, err = f.WriteAt(bytes.Repeat([]byte("change"), 1+r.IntN(3000)), r.Int64N(st.Size()+1))
					err = errors.Join(err, f.Close())
				}
			}
		}
		if err := mayFail(err); err != nil {
			return err
		}
	}
	return nil
}

// We and the driver write to the same filesystems in turns: each finds what the other left, in the same words, and both checks find nothing.
func TestWriteDriver(t *testing.T) {
	kernelvm.Available(t)
	cases := writeCases()
	dir := t.TempDir()
	all := make([][]string, len(cases))
	var attach []kernelvm.Disk
	var counts []string
	prelude, passphrase := "", ""
	for i, c := range cases {
		for d := range c.devices {
			c.devices[d].Path = filepath.Join(dir, fmt.Sprintf("%d.%d", i, d))
			all[i] = append(all[i], c.devices[d].Path)
			attach = append(attach, kernelvm.Disk{Path: c.devices[d].Path, Keep: true})
		}
		counts = append(counts, fmt.Sprint(len(all[i])))
		info, err := bcachefs.Format(t.Context(), c.devices, c.opts)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if c.opts.Passphrase != nil {
			prelude, passphrase = addKey(t, info.UUID, c.opts.Passphrase), vmPassphrase
		}
		f := openCase(t, all[i], true)
		if err := writeEverything(f.Root(), "ours", rand.New(rand.NewPCG(1, uint64(i)))); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := f.Close(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		checkCase(t, c.name, all[i])
	}
	judge := func(turn string) {
		t.Helper()
		for i, r := range kernelvm.MustBeClean(t, all, kernelvm.CheckOptions{Passphrase: passphrase, Timeout: 4 * time.Minute}) {
			f := openCase(t, all[i], false)
			ours, unread := writeManifest(t, f.Root())
			if unread > 0 || !bytes.Equal(ours, r.Manifest) {
				t.Errorf("%s: %s: %d things could not be read, and we list %d bytes where the driver lists %d: %s", turn, cases[i].name, unread, len(ours),
					len(r.Manifest), firstDifference(ours, r.Manifest))
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	judge("after us")
	if t.Failed() {
		return
	}
	out := kernelvm.RunScript(t, prelude+fmt.Sprintf(useScript, strings.Join(counts, " ")), kernelvm.RunOptions{Disks: attach, Timeout: 4 * time.Minute})
	if out.Status != 0 {
		t.Fatalf("the driver cannot use them: status %d\n%s%s", out.Status, out.Stdout, out.Stderr)
	}
	for i, c := range cases {
		f := openCase(t, all[i], true)
		r := rand.New(rand.NewPCG(2, uint64(i)))
		if err := changeEverything(f.Root(), ".", r); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := writeEverything(f.Root(), "more", r); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if i%3 == 2 {
			if err := f.Sync(t.Context()); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			f.Abandon()
		} else if err := f.Close(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		checkCase(t, c.name, all[i])
	}
	judge("after the driver and us")
}

func checkCase(t *testing.T, name string, paths []string) {
	t.Helper()
	f := openCase(t, paths, false)
	defer f.Close()
	r, err := f.Check(t.Context(), nil)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, x := range r.Findings {
		t.Errorf("%s: fsck: %s: %v", name, x.Pass, x)
	}
}

// firstDifference shows the first line in which two manifests differ.
func firstDifference(ours, theirs []byte) string {
	a, b := strings.Split(string(ours), "\n"), strings.Split(string(theirs), "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d:\n  ours   %s\n  theirs %s", i+1, a[i], b[i])
		}
	}
	return fmt.Sprintf("%d lines and %d", len(a), len(b))
}
