package bcachefs

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
)

// sizeUnit is what sizes of images that are chosen here are multiples of, in bytes.
const sizeUnit = 1 << 20

// leastImage is the size of the smallest image that is tried.
const leastImage = 8 << 20

// smallest makes the smallest image that the tree fits in, within a part in 64 or a MiB. It tries: how much metadata takes depends on too much.
func (b *imageBuilder) smallest(ctx context.Context) (*ImageInfo, error) {
	low, high, info, err := b.bounds(ctx)
	low = max(low, leastImage)
	if err != nil {
		return nil, err
	}
	for high-low > max(high/64, sizeUnit) {
		middle := roundSize((low + high) / 2)
		if middle >= high {
			break
		}
		switch fits, err := b.fits(ctx, middle, &info); {
		case err != nil:
			return nil, err
		case fits:
			high = middle
		default:
			low = middle
		}
	}
	if b.built != high {
		return b.build(ctx, high)
	}
	return info, nil
}

// bounds returns a size that is too small, if not 0, and one that suffices, near each other if all goes well. The image has the latter.
func (b *imageBuilder) bounds(ctx context.Context) (low, high int64, info *ImageInfo, err error) {
	const (
		fileBytes = 4 << 10 // guessed: metadata of a file, and what its last block wastes
		tries     = 16
	)
	high = roundSize(b.digest.Bytes/8*11 + b.opts.SpareBytes + int64(b.digest.Files)*fileBytes + 2*leastImage)
	for range tries {
		fits, err := b.fits(ctx, high, &info)
		if err != nil {
			return 0, 0, nil, err
		}
		if fits {
			return b.closeIn(ctx, low, high, info)
		}
		low, high = high, 2*high
	}
	return 0, 0, nil, fmt.Errorf("%w, in an image of %d bytes", syscall.ENOSPC, low)
}

// closeIn tries two sizes about as large as what is used wants it.
func (b *imageBuilder) closeIn(ctx context.Context, low, high int64, info *ImageInfo) (int64, int64, *ImageInfo, error) {
	used, err := b.usedPart(ctx)
	if err != nil {
		return 0, 0, nil, err
	}
	guess := roundSize(int64(float64(high)*used) + b.opts.SpareBytes)
	for _, size := range []int64{guess + max(roundSize(guess/64), sizeUnit), guess - max(roundSize(guess/16), sizeUnit)} {
		if size <= low || size < leastImage || size >= high {
			continue
		}
		fits, err := b.fits(ctx, size, &info)
		if err != nil {
			return 0, 0, nil, err
		}
		if fits {
			high = size
		} else {
			low = size
		}
	}
	if b.built != high {
		info, err = b.build(ctx, high)
	}
	return low, high, info, err
}

func roundSize(n int64) int64 { return (n + sizeUnit - 1) / sizeUnit * sizeUnit }

// fits makes the image with a size, and reports whether that is large enough. info is of the last that was.
func (b *imageBuilder) fits(ctx context.Context, size int64, info **ImageInfo) (bool, error) {
	made, err := b.build(ctx, size)
	fits := err == nil
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, alloc.ErrNoSpace) {
		err = nil
	}
	if err != nil {
		return false, err
	}
	if fits {
		*info, b.built = made, size
	} else {
		b.built = 0
	}
	if b.opts.Tried != nil {
		b.opts.Tried(size, fits)
	}
	return fits, nil
}

// usedPart returns how much of what the image can hold it does.
func (b *imageBuilder) usedPart(ctx context.Context) (float64, error) {
	f, err := Open(ctx, []string{b.temp}, &OpenOptions{NoScan: true, Passphrase: func(context.Context) ([]byte, error) {
		return append([]byte(nil), b.opts.Format.Passphrase...), nil
	}})
	if err != nil {
		return 0, err
	}
	u, err := f.Usage(ctx)
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	return float64(u.Used) / float64(max(u.Capacity, 1)), nil
}

// mustHave returns an error unless there are so many bytes left.
func (f *FS) mustHave(bytes int64) error {
	if free := f.live.Space().Free * sectorSize; int64(free) < bytes {
		return fmt.Errorf("%d bytes are to be left, %d are: %w", bytes, free, syscall.ENOSPC)
	}
	return nil
}

// UpdateOptions say how [View.UpdateFrom] changes a filesystem.
type UpdateOptions struct {
	Load   LoadOptions // Update is set
	Delete bool        // what the tree does not have is removed, but for lost+found
	// Deleted is told of each name that is removed; may be nil.
	Deleted func(name string)
}

// UpdateFrom makes what is in a view equal to a tree: files that are not there or differ are put in, see [LoadOptions].Update, and with Delete others are
// removed, before: what is deleted makes room. The tree is gone through twice then.
func (v *View) UpdateFrom(ctx context.Context, tree FileTree, opts UpdateOptions) error {
	if v.fs.live == nil {
		return ErrNotWritable
	}
	if opts.Delete {
		if err := v.deleteOthers(ctx, tree, opts); err != nil {
			return err
		}
	}
	opts.Load.Update = true
	return v.Load(ctx, tree, opts.Load)
}

// deleteOthers removes what a tree does not have.
func (v *View) deleteOthers(ctx context.Context, tree FileTree, opts UpdateOptions) error {
	keep := map[string]bool{}
	for f, err := range tree.Files(ctx) {
		if f == nil {
			return err
		}
		keep[f.Path] = true // also of what cannot be read
		for p := f.Path; !keep[parentOf(p)]; {
			p = parentOf(p)
			keep[p] = true
		}
	}
	d := deleter{fs: v.fs, keep: keep, told: opts.Deleted}
	if err := d.in(ctx, v.root, "."); err != nil {
		return err
	}
	return v.fs.WaitDeleted(ctx)
}
