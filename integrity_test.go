package bcachefs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// flipper is a device of which some bits read wrong.
type flipper struct {
	blockdev.Device
	on    atomic.Bool
	flips []flip // by offset
}

type flip struct {
	off  int64
	mask byte
}

func (f *flipper) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := f.Device.ReadAt(ctx, p, off); err != nil || !f.on.Load() {
		return err
	}
	i, _ := slices.BinarySearchFunc(f.flips, off, func(a flip, off int64) int { return int(a.off - off) })
	for ; i < len(f.flips) && f.flips[i].off < off+int64(len(p)); i++ {
		p[f.flips[i].off-off] ^= f.flips[i].mask
	}
	return nil
}

// flipped opens an image, with the devices that it is on.
func flipped(t *testing.T, img golden.Image, opts bcachefs.OpenOptions) (*bcachefs.FS, []*flipper) {
	t.Helper()
	var devices []*flipper
	opts.OpenDevice = func(path string) (blockdev.Device, error) {
		d, err := blockdev.OpenFile(path, blockdev.FileOptions{ReadOnly: true})
		if err != nil {
			return nil, err
		}
		devices = append(devices, &flipper{Device: d})
		return devices[len(devices)-1], nil
	}
	fsys := openGolden(t, img, opts)
	return fsys, devices
}

func (f *flipper) flip(rng *rand.Rand, sector ondisk.Sector, n int64) {
	f.flips = append(f.flips, flip{int64(sector)*ondisk.SectorSize + rng.Int64N(n), 1 << rng.IntN(8)})
}

func (f *flipper) start() {
	slices.SortFunc(f.flips, func(a, b flip) int { return int(a.off - b.off) })
	f.on.Store(true)
}

// storedData calls found for each copy of data that is stored under a checksum.
func storedData(t *testing.T, e *engine.FS, found func(p *ondisk.DecodedPtr)) {
	t.Helper()
	var ptrs []ondisk.DecodedPtr
	for _, id := range []ondisk.BtreeID{ondisk.BtreeExtents, ondisk.BtreeReflink} {
		for k, err := range e.Reader.Keys(t.Context(), id, ondisk.PosMin, ondisk.SPosMax) {
			if err != nil {
				t.Fatal(err)
			}
			ptrs, _, err = ondisk.AppendExtentPtrs(ptrs[:0], &k, e.SB.ExtentTypeU64s())
			if err != nil {
				t.Fatal(err)
			}
			for i := range ptrs {
				if p := &ptrs[i]; p.CRC.Csum != checksum.None && !p.Unwritten && p.Dev != ondisk.DevInvalid {
					found(p)
				}
			}
		}
	}
}

// outcome counts files: whole ones, and those of which a part could not be read.
type outcome struct{ whole, failed int }

var placeRE = regexp.MustCompile(`inode \d+ offset \d+: \S+\.img sector \d+: `)

// compare reads every file and attribute of both views. Whatever bad hands out must be what good has.
func compare(t *testing.T, good, bad *bcachefs.FS, place bool) (o outcome) {
	t.Helper()
	ctx := t.Context()
	v := good.Root()
	err := fs.WalkDir(v, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() != 0 && d.Type() != fs.ModeSymlink {
			return err
		}
		id, err := v.Resolve(ctx, path, false)
		if err != nil {
			return err
		}
		o.add(compareFile(t, good, bad, id, path, place))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *outcome) add(whole bool) {
	if whole {
		o.whole++
	} else {
		o.failed++
	}
}

func compareFile(t *testing.T, good, bad *bcachefs.FS, id bcachefs.InodeID, path string, place bool) (whole bool) {
	t.Helper()
	want, err := contents(t, good, id)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	got, err := contents(t, bad, id)
	if len(got) > len(want) || !bytes.Equal(got, want[:len(got)]) {
		t.Errorf("%s: wrong bytes among the %d that were read, %v", path, len(got), err)
	}
	switch {
	case err == nil && len(got) != len(want):
		t.Errorf("%s: %d bytes, want %d", path, len(got), len(want))
	case err != nil && bcachefs.ErrnoOf(err) != bcachefs.EIO:
		t.Errorf("%s: %v is errno %d, want EIO", path, err, bcachefs.ErrnoOf(err))
	case err != nil && place && !placeRE.MatchString(err.Error()):
		t.Errorf("%s: %q does not name device, sector, inode and offset", path, err)
	}
	return err == nil
}

// contents returns the data of a file, or the target of a link, as far as it can be read.
func contents(t *testing.T, fsys *bcachefs.FS, id bcachefs.InodeID) ([]byte, error) {
	t.Helper()
	st, err := fsys.Stat(t.Context(), id)
	if err != nil {
		return nil, err
	}
	if st.Mode.Type() == fs.ModeSymlink {
		s, err := fsys.Readlink(t.Context(), id)
		return []byte(s), err
	}
	f, err := fsys.OpenInode(t.Context(), id)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := bytes.Repeat([]byte{0xaa}, int(st.Size))
	n, err := f.ReadAt(p, 0)
	if i := bytes.IndexFunc(p[n:], func(r rune) bool { return r != 0 && r != 0xfffd }); err != nil && i >= 0 {
		return p[:n], fmt.Errorf("the buffer holds something behind the %d bytes read: %w", n, err)
	}
	return p[:n], err
}

// TestFlippedData flips a bit in every copy of data that has a checksum: not one wrong byte is read, and each file with such
// data fails with an error that tells where.
func TestFlippedData(t *testing.T) {
	for _, name := range golden.Some(t, 3, []string{"basic", "block-512", "csum-crc32c-crc64", "csum-crc64-xxhash", "csum-xxhash-crc32c", "compress-lz4",
		"compress-gzip", "compress-zstd", "compress-mixed", "encrypted", "encrypted-wide-zstd", "reflink", "snapshots",
		"multi-replicas", "v1.39-basic", "v1.39-compress-zstd", "v1.31-unwritten", "v1.4-encrypted-lz4"}) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := golden.Find(t, name)
			good := openGolden(t, img, bcachefs.OpenOptions{})
			bad, devices := flipped(t, img, bcachefs.OpenOptions{})
			rng := rand.New(rand.NewPCG(1, uint64(len(name))))
			n := 0
			storedData(t, bad.Engine(), func(p *ondisk.DecodedPtr) {
				devices[p.Dev].flip(rng, p.Offset, int64(p.CRC.CompressedSize)*ondisk.SectorSize)
				n++
			})
			for _, d := range devices {
				d.start()
			}
			o := compare(t, good, bad, true)
			t.Logf("%d bits flipped, %d files are whole, %d fail", n, o.whole, o.failed)
			if n == 0 || o.failed == 0 {
				t.Error("nothing fails")
			}
			wantFailed := 0
			storedFiles(t, good, func() { wantFailed++ })
			if o.failed != wantFailed {
				t.Errorf("%d files fail, %d have data with a checksum", o.failed, wantFailed)
			}
		})
	}
}

// storedFiles calls found for each file of which some byte is stored under a checksum.
func storedFiles(t *testing.T, fsys *bcachefs.FS, found func()) {
	t.Helper()
	e := fsys.Engine()
	v := fsys.Root()
	stored := func(k ondisk.Key) bool {
		ptrs, _, err := ondisk.AppendExtentPtrs(nil, &k, e.SB.ExtentTypeU64s())
		return err == nil && len(ptrs) > 0 && ptrs[0].CRC.Csum != checksum.None && !ptrs[0].Unwritten
	}
	err := fs.WalkDir(v, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() != 0 && d.Type() != fs.ModeSymlink {
			return err
		}
		id, err := v.Resolve(t.Context(), path, false)
		if err != nil {
			return err
		}
		st, err := fsys.Stat(t.Context(), id)
		if err != nil || st.Size == 0 {
			return err
		}
		from, to := ondisk.Pos{Inode: id.Inum}, ondisk.Pos{Inode: id.Inum, Offset: uint64(st.Size-1) / ondisk.SectorSize}
		for k, err := range e.Reader.KeysIn(t.Context(), ondisk.BtreeExtents, from, to, id.Snapshot) {
			if err != nil {
				return err
			}
			if k.Type == ondisk.KeyReflinkP {
				p, err := ondisk.DecodeReflinkP(k)
				if err != nil {
					return err
				}
				if k, _, err = e.Reader.Lookup(t.Context(), ondisk.BtreeReflink, ondisk.Pos{Offset: p.Idx}); err != nil {
					return err
				}
			}
			if stored(k) {
				found()
				return nil
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFlippedReplica flips a bit in each copy on one device: the other copies, and stripes, are read instead.
func TestFlippedReplica(t *testing.T) {
	flips := map[string][]int{"multi-replicas": {0}, "v1.39-multi-replicas": {1}, "v1.4-multi-replicas": {0}, "v1.39-ec": {2}, "v1.31-ec": {0}, "v1.39-ec-raid6": {1, 3}}
	for _, name := range golden.Some(t, 3, slices.Sorted(maps.Keys(flips))) {
		devs := flips[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := golden.Find(t, name)
			good := openGolden(t, img, bcachefs.OpenOptions{})
			bad, devices := flipped(t, img, bcachefs.OpenOptions{})
			rng := rand.New(rand.NewPCG(2, uint64(len(name))))
			n := 0
			storedData(t, bad.Engine(), func(p *ondisk.DecodedPtr) {
				if slices.Contains(devs, int(p.Dev)) {
					devices[p.Dev].flip(rng, p.Offset, int64(p.CRC.CompressedSize)*ondisk.SectorSize)
					n++
				}
			})
			for _, d := range devices {
				d.start()
			}
			if o := compare(t, good, bad, true); o.failed > 0 || n == 0 {
				t.Errorf("%d bits flipped: %d files fail", n, o.failed)
			}
		})
	}
}

// TestFlippedNodes flips a bit in every leaf of the btrees that hold or lead to data, inline data among it: no file reads as
// something that it is not, zeros included.
func TestFlippedNodes(t *testing.T) {
	for _, name := range golden.Some(t, 2, []string{"basic", "reflink", "encrypted", "snapshots", "v1.39-basic", "v1.31-btree-64k"}) {
		for _, id := range []ondisk.BtreeID{ondisk.BtreeExtents, ondisk.BtreeReflink, ondisk.BtreeXattrs, ondisk.BtreeInodes, ondisk.BtreeSnapshots} {
			if name == "encrypted" && id != ondisk.BtreeExtents {
				continue // deriving its key takes long
			}
			t.Run(fmt.Sprintf("%s-%v", name, id), func(t *testing.T) {
				t.Parallel()
				img := golden.Find(t, name)
				good := openGolden(t, img, bcachefs.OpenOptions{})
				for _, where := range []string{"header", "anywhere"} {
					flips := flipLeaves(t, good, id, where == "header")
					if flips == nil {
						t.Skip("the btree is empty")
					}
					bad := openGolden(t, img, bcachefs.OpenOptions{OpenDevice: func(path string) (blockdev.Device, error) {
						d, err := blockdev.OpenFile(path, blockdev.FileOptions{ReadOnly: true})
						if err != nil {
							return nil, err
						}
						f := &flipper{Device: d, flips: flips}
						f.start()
						return f, nil
					}})
					o := compareLoosely(t, good, bad)
					t.Logf("%s: %d leaves: %d files are whole, %d fail", where, len(flips), o.whole, o.failed)
					if where == "header" && id == ondisk.BtreeInodes && o.whole > 0 {
						t.Error("inodes are read from nodes whose checksums are wrong")
					}
				}
			})
		}
	}
}

// flipLeaves flips a bit of each leaf of a btree, in its header or anywhere in it, between bsets too, where it does no harm.
func flipLeaves(t *testing.T, fsys *bcachefs.FS, id ondisk.BtreeID, header bool) []flip {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, uint64(id)))
	var f flipper
	for ref, err := range fsys.Engine().Reader.NodesAt(t.Context(), id, 0) {
		if err != nil {
			t.Fatal(err)
		}
		ptr, err := ondisk.DecodeBtreePtr(ref.Key)
		if err != nil {
			t.Fatal(err)
		}
		n := int64(ptr.SectorsWritten) * ondisk.SectorSize
		if header {
			n = 160
		}
		for a := range ptr.Addrs() {
			f.flip(rng, a.Sector, n)
		}
	}
	return f.flips
}

// compareLoosely is compare for a filesystem of which inodes may be unknown.
func compareLoosely(t *testing.T, good, bad *bcachefs.FS) (o outcome) {
	t.Helper()
	v := good.Root()
	err := fs.WalkDir(v, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() != 0 && d.Type() != fs.ModeSymlink {
			return err
		}
		id, err := v.Resolve(t.Context(), path, false)
		if err != nil {
			return err
		}
		if _, err := bad.Stat(t.Context(), id); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: is said not to exist: %v", path, err)
			}
			o.failed++
			return nil
		}
		o.add(compareFile(t, good, bad, id, path, false))
		names, err := good.ListXattr(t.Context(), id)
		if err != nil {
			return err
		}
		for _, name := range names {
			want, err := good.GetXattr(t.Context(), id, name)
			if err != nil {
				return err
			}
			if got, err := bad.GetXattr(t.Context(), id, name); err == nil && !bytes.Equal(got, want) || bcachefs.ErrnoOf(err) == bcachefs.ENODATA {
				t.Errorf("%s: attribute %s is %q, %v, want %q", path, name, got, err, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}
