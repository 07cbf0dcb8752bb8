package bcachefs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
)

// ImageOptions say how [BuildImage] makes an image.
type ImageOptions struct {
	// Format is how it is formatted. With a Seed the same tree and options make the same bytes; without Time, that is the latest time in the tree.
	Format FormatOptions
	// Device has the options of the device: CreateBytes is the size of the image, 0 for the smallest that holds the tree, with SpareBytes left.
	Device     FormatDevice
	SpareBytes int64
	// Load says what is taken over of the tree.
	Load LoadOptions
	// Tried is told of each size that is tried; may be nil.
	Tried func(bytes int64, fits bool)
}

// ImageInfo is what [BuildImage] made.
type ImageInfo struct {
	FormatInfo
	Bytes int64 // of the image
	Tree  TreeDigest
}

// TreeDigest is what there is to say of a whole tree.
type TreeDigest struct {
	Sum    [sha256.Size]byte // of names, attributes and contents; times of last access do not count
	Files  int
	Bytes  int64     // of data, without holes
	Newest time.Time // the latest time of modification
}

// DigestTree goes through a tree and its data.
func DigestTree(ctx context.Context, tree FileTree) (d TreeDigest, err error) {
	h := sha256.New()
	for f, err := range tree.Files(ctx) {
		if err != nil {
			if f != nil {
				err = pathError("read", f.Path, err)
			}
			return d, err
		}
		if err := d.add(ctx, h, f); err != nil {
			return d, pathError("read", f.Path, err)
		}
	}
	h.Sum(d.Sum[:0])
	return d, nil
}

func (d *TreeDigest) add(ctx context.Context, h hash.Hash, f *TreeFile) error {
	var buf []byte
	text := func(s string) { buf = append(binary.LittleEndian.AppendUint64(buf, uint64(len(s))), s...) }
	text(f.Path)
	text(f.Target)
	text(f.LinkTo)
	for _, n := range []uint64{uint64(f.RawMode), uint64(f.UID), uint64(f.GID), uint64(f.Size), uint64(f.Mtime.UnixNano()), uint64(f.RdevMajor), uint64(f.RdevMinor)} {
		buf = binary.LittleEndian.AppendUint64(buf, n)
	}
	for _, attr := range sortedNames(f.Xattrs) {
		text(attr)
		text(f.Xattrs[attr])
	}
	h.Write(buf)
	d.Files++
	if f.Mtime.After(d.Newest) {
		d.Newest = f.Mtime
	}
	if f.Data == nil {
		return nil
	}
	return f.Data(ctx, func(p []byte, off int64) error {
		var at [16]byte
		binary.LittleEndian.PutUint64(at[:], uint64(off))
		binary.LittleEndian.PutUint64(at[8:], uint64(len(p)))
		h.Write(at[:])
		h.Write(p)
		d.Bytes += int64(len(p))
		return nil
	})
}

// BuildImage makes an image of a filesystem that holds the files of a tree, in a new file or on a block device. Nothing but the files and the right to write there
// is needed. The tree is gone through more than once. A file appears under its name when it is complete; one that is there is refused with [ErrInUse], unless
// [FormatOptions].Force is set.
func BuildImage(ctx context.Context, name string, tree FileTree, opts ImageOptions) (info *ImageInfo, err error) {
	b := imageBuilder{name: name, tree: tree, opts: opts}
	if b.direct, err = b.check(); err != nil {
		return nil, err
	}
	if b.digest, err = DigestTree(ctx, tree); err != nil {
		return nil, err
	}
	if b.opts.Format.Time.IsZero() {
		b.opts.Format.Time = b.digest.Newest
	}
	if least := time.Unix(1, 0); b.opts.Format.Time.Before(least) { // superblocks have no earlier ones
		b.opts.Format.Time = least
	}
	if b.opts.Format.Seed == nil {
		b.opts.Format.Seed = make([]byte, 32)
		seeded(nil)("", b.opts.Format.Seed)
	}
	if b.direct || opts.Device.CreateBytes > 0 {
		info, err = b.build(ctx, opts.Device.CreateBytes)
	} else {
		info, err = b.smallest(ctx)
	}
	return info, errors.Join(err, b.end(err == nil))
}

// imageBuilder is one call of BuildImage.
type imageBuilder struct {
	name   string
	tree   FileTree
	opts   ImageOptions
	direct bool // onto a device
	digest TreeDigest
	temp   string // "": there is none yet
	built  int64  // the size of the complete image that is there, 0: there is none
}

// check refuses what must not be overwritten.
func (b *imageBuilder) check() (direct bool, err error) {
	st, err := os.Stat(b.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case st.IsDir():
		return false, fmt.Errorf("%s: %w", b.name, ErrIsDir)
	case !st.Mode().IsRegular():
		return true, nil
	case !b.opts.Format.Force:
		return false, fmt.Errorf("%s: %w: a file of %d bytes", b.name, ErrInUse, st.Size())
	}
	return false, nil
}

// end puts the image in its place, or removes what there is of it.
func (b *imageBuilder) end(ok bool) error {
	switch {
	case b.temp == "":
		return nil
	case ok:
		return os.Rename(b.temp, b.name)
	}
	if err := os.Remove(b.temp); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// build makes the image with a size.
func (b *imageBuilder) build(ctx context.Context, size int64) (*ImageInfo, error) {
	dev := b.opts.Device
	dev.Path, dev.CreateBytes = b.name, size
	format := b.opts.Format
	if !b.direct {
		if err := b.makeTemp(size); err != nil {
			return nil, err
		}
		dev.Path, dev.CreateBytes, format.Force = b.temp, 0, true
	}
	made, err := Format(ctx, []FormatDevice{dev}, format)
	if err != nil {
		return nil, err
	}
	made.Devices[0].Path = b.name
	if err := b.fill(ctx, dev.Path); err != nil {
		return nil, err
	}
	return &ImageInfo{FormatInfo: *made, Bytes: made.Devices[0].Bytes, Tree: b.digest}, nil
}

// ImagePartSuffix follows the name of an image in that of the file in the same directory that it is while it is being made.
const ImagePartSuffix = ".gobcachefs-part-"

// makeTemp makes an empty file beside the one that is to be made.
func (b *imageBuilder) makeTemp(size int64) error {
	if b.temp == "" {
		f, err := os.CreateTemp(filepath.Dir(b.name), filepath.Base(b.name)+ImagePartSuffix+"*")
		if err != nil {
			return err
		}
		b.temp = f.Name()
		if err := f.Close(); err != nil {
			return err
		}
	}
	return errors.Join(os.Truncate(b.temp, 0), os.Truncate(b.temp, size))
}

// fill puts the tree into the filesystem that was made.
func (b *imageBuilder) fill(ctx context.Context, where string) error {
	format := &b.opts.Format
	at := format.Time
	f, err := Open(ctx, []string{where}, &OpenOptions{
		Write: true, NoScan: true, Ordered: true, Rand: lockedRand(format.Seed), Now: func() time.Time { return at },
		Passphrase: func(context.Context) ([]byte, error) { return append([]byte(nil), format.Passphrase...), nil },
		OpenDevice: func(path string) (Device, error) {
			d, err := blockdev.OpenFile(path, blockdev.FileOptions{})
			return unhurried{d}, err
		},
	})
	if err != nil {
		return err
	}
	opts := b.opts.Load
	opts.Atime = at
	opts.settle = settler(f)
	err = f.Root().Load(ctx, b.tree, opts)
	if err == nil && b.opts.SpareBytes > 0 {
		err = f.mustHave(b.opts.SpareBytes)
	}
	if err != nil {
		f.Abandon()
		return err
	}
	return f.Close()
}

// settler calls Settle, and now and then has it do all.
func settler(f *FS) func(ctx context.Context, bytes int) error {
	const all, unit = 64, 32 << 10 // so many changes, of data so many bytes being one
	n := 0
	return func(ctx context.Context, bytes int) error {
		n += 1 + bytes/unit
		due := n >= all
		if due {
			n = 0
		}
		return f.Settle(ctx, due)
	}
}

// lockedRand gives numbers that are derived from a seed.
func lockedRand(seed []byte) func() uint64 {
	sum := sha256.Sum256(append([]byte("bcachefs image\x00"), seed...))
	r, mu := rand.NewChaCha8(sum), new(sync.Mutex)
	return func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return r.Uint64()
	}
}

// unhurried is a device that is flushed when it is closed only: until then what is on it is of no use to anybody.
type unhurried struct{ Device }

func (unhurried) Flush(context.Context) error { return nil }

func (d unhurried) Close() error {
	return errors.Join(d.Device.Flush(context.Background()), d.Device.Close())
}
