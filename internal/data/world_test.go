package data_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/snapshot"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// world is a filesystem in memory that is written to, with what its files should hold.
type world struct {
	*testing.T
	disks  *enginetest.Disks
	rw     *engine.RW
	v      *enginetest.Volume
	w      *data.Writer
	config func(c *data.WriterConfig)
	files  []*modelFile
	what   string // was done last

	snapshots int
}

// modelFile is a file as it should be.
type modelFile struct {
	id      data.ID
	name    string
	content []byte
}

func shape(name string, options map[string]string, mib ...int64) enginetest.Shape {
	s := enginetest.Shape{Name: name, Options: bcachefs.FormatOptions{Options: options}}
	for _, n := range mib {
		s.Bytes = append(s.Bytes, n<<20)
	}
	s.Devices = make([]bcachefs.FormatDevice, len(s.Bytes))
	return s
}

func newWorld(t *testing.T, s enginetest.Shape) *world {
	t.Helper()
	d, err := enginetest.Format(t.Context(), &s)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, disks: d}
	w.open()
	t.Cleanup(func() { w.rw.Abandon() })
	return w
}

func (w *world) open() {
	w.Helper()
	rw, err := w.disks.Open(w.Context(), engine.Options{}, engine.WriteOptions{})
	if err != nil {
		w.Fatal(err)
	}
	w.rw = rw
	if w.v, err = enginetest.NewVolume(w.Context(), w.rw, nil); err != nil {
		w.Fatal(err)
	}
	c := w.rw.DataConfig()
	if w.config != nil {
		w.config(&c)
	}
	w.w = data.NewWriter(c)
}

// must fails the test for an error.
func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatalf("%s: %v", w.what, err)
	}
}

func (w *world) file(name string) *modelFile {
	w.Helper()
	inum, _, err := w.v.Create(w.Context(), 4096, name, false, 1)
	w.must(err)
	f := &modelFile{id: data.ID{Subvol: 1, Inum: inum}, name: name}
	w.files = append(w.files, f)
	return f
}

// remount closes the filesystem, or leaves it as a crash would, everything durable, and opens it again.
func (w *world) remount(crash bool) {
	w.Helper()
	if crash {
		w.must(w.rw.Journal.Flush(w.Context()))
		w.rw.Abandon()
	} else {
		w.must(w.rw.Close(w.Context()))
	}
	w.open()
}

// end closes the filesystem and checks it: its structures, and what the reader of closed filesystems finds in the files.
func (w *world) end() {
	w.Helper()
	w.checkAll()
	w.noMessages()
	w.must(w.rw.Close(w.Context()))
	o, names := fscktest.OnDevices(w.disks.Devices...)
	o.Passphrase = string(w.disks.Passphrase)
	o.MustBeClean(w.T, names...)
	fs, err := w.disks.Read(w.Context())
	w.must(err)
	defer fs.Close()
	for _, f := range w.files {
		got, err := fs.Root().ReadFile(f.name)
		if err != nil {
			w.Errorf("%s: %v", f.name, err)
		} else if !bytes.Equal(got, f.content) {
			w.Errorf("%s, read from the closed filesystem: %s", f.name, difference(got, f.content))
		}
	}
}

// noMessages fails the test if the engine had anything to say.
func (w *world) noMessages() {
	w.Helper()
	for _, m := range w.rw.Messages() {
		if !strings.Contains(m, "not shut down properly") {
			w.Fatalf("message: %s (after: %s)", m, w.what)
		}
	}
}

func (w *world) checkAll() {
	w.Helper()
	for _, f := range w.files {
		w.check(f)
	}
}

func (w *world) check(f *modelFile) {
	w.Helper()
	got := make([]byte, len(f.content)+10)
	n, err := w.w.ReadAt(w.Context(), f.id, got, 0)
	if !errors.Is(err, io.EOF) {
		w.Fatalf("%s: %d bytes: %v (after: %s)", f.name, n, err, w.what)
	}
	if !bytes.Equal(got[:n], f.content) {
		w.Fatalf("%s: %s (after: %s)%s", f.name, difference(got[:n], f.content), w.what, w.dump(f))
	}
}

// dump lists the extents of a file, for messages.
func (w *world) dump(f *modelFile) (text string) {
	err := w.rw.Store.View(w.Context(), func(tx *trans.Tx) error {
		for _, btree := range []ondisk.BtreeID{ondisk.BtreeExtents, ondisk.BtreeReflink} {
			from, to := ondisk.PosMin, ondisk.SPosMax
			if btree == ondisk.BtreeExtents {
				from, to = ondisk.Pos{Inode: f.id.Inum}, ondisk.Pos{Inode: f.id.Inum, Offset: 1 << 40}
			}
			err := tx.Scan(btree, from, to, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
				text += "\n" + ondisk.KeyText(btree, &k, nil)
				return true, nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		text += err.Error()
	}
	return text
}

func difference(got, want []byte) string {
	if len(got) != len(want) {
		return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			n := i
			for n < len(got) && got[n] != want[n] {
				n++
			}
			return fmt.Sprintf("bytes %d to %d differ: % x, want % x", i, n, got[i:min(i+8, n)], want[i:min(i+8, n)])
		}
	}
	return "the same"
}

// inode returns an inode as the root subvolume sees it.
func (w *world) inode(f *modelFile) (in ondisk.Inode) {
	w.Helper()
	_, err := w.w.Truncate(w.Context(), f.id, int64(len(f.content)), &data.WriteOptions{Touch: func(i *ondisk.Inode) { in = *i }})
	w.must(err)
	return in
}

// random fills with bytes that compress or do not.
func random(r *rand.Rand, n int) []byte {
	p := make([]byte, n)
	switch r.IntN(3) {
	case 0:
		for i := range p {
			p[i] = byte(r.Uint32())
		}
	case 1:
		b := byte(r.Uint32())
		for i := range p {
			p[i] = b + byte(i/97)
		}
	default:
		for i := range p {
			p[i] = byte(r.Uint32N(4))
		}
	}
	return p
}

func (f *modelFile) grow(n int) {
	if n > len(f.content) {
		f.content = append(f.content, make([]byte, n-len(f.content))...)
	}
}

// write writes to file and model.
func (w *world) write(f *modelFile, p []byte, off int) {
	w.Helper()
	n, seq, err := w.w.WriteAt(w.Context(), f.id, p, int64(off), nil)
	if n != len(p) || err != nil || seq == 0 {
		w.Fatalf("%s: write of %d bytes at %d: %d bytes, entry %d, %v", f.name, len(p), off, n, seq, err)
	}
	f.grow(off + len(p))
	copy(f.content[off:], p)
}

// snapshot takes a snapshot of the root subvolume: from then on its files are files of their own.
func (w *world) snapshot(name string) {
	w.Helper()
	volumes := snapshot.New(snapshot.Config{Store: w.rw.Store, Table: w.rw.Snapshots, Now: func() int64 { return time.Now().UnixNano() },
		TimeBase: w.rw.SB.TimeBase, TimePrecision: w.rw.SB.TimePrecision})
	defer w.w.Freeze()()
	var c snapshot.Created
	w.must(w.rw.Store.Update(w.Context(), func(tx *trans.Tx) (err error) {
		c, err = volumes.Snapshot(tx, 1, 1, snapshot.Options{}, func(tx *trans.Tx, c snapshot.Created) (uint64, uint64, error) {
			off, err := w.v.LinkSubvolume(tx, 1, 4096, name, c.Subvol)
			return 4096, off, err
		})
		return err
	}))
	for _, f := range w.files {
		if f.id.Subvol == 1 {
			w.files = append(w.files, &modelFile{id: data.ID{Subvol: c.Subvol, Inum: f.id.Inum}, name: name + "/" + f.name,
				content: bytes.Clone(f.content)})
		}
	}
	w.snapshots++
}

// setOption sets an option of a file.
func (w *world) setOption(f *modelFile, set func(in *ondisk.Inode)) {
	w.Helper()
	_, err := w.w.Truncate(context.WithoutCancel(w.Context()), f.id, int64(len(f.content)), &data.WriteOptions{Touch: set})
	w.must(err)
}

func (w *world) truncate(f *modelFile, size int) {
	w.Helper()
	_, err := w.w.Truncate(w.Context(), f.id, int64(size), nil)
	w.must(err)
	f.grow(size)
	f.content = f.content[:size:size]
}

func (w *world) copyRange(from *modelFile, fromOff int, to *modelFile, off, n int) {
	w.Helper()
	c, _, err := w.w.CopyRange(w.Context(), from.id, int64(fromOff), to.id, int64(off), int64(n), nil)
	if err != nil || int(c) != n {
		w.Fatalf("copy of %d bytes of %s to %s: %d, %v (%s)", n, from.name, to.name, c, err, w.what)
	}
	to.grow(off + n)
	copy(to.content[off:off+n], from.content[fromOff:])
}
