package engine

import (
	"context"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/super"
)

// ReadSuperblock returns the best superblock of one device and what ails its other copies, in words, without opening the
// filesystem: for tools that look at devices of which others are missing, or that are of unsupported versions.
func ReadSuperblock(ctx context.Context, path string, opts Options) (sb *ondisk.Superblock, problems []string, err error) {
	dev, err := opts.openDevice(path)
	if err != nil {
		return nil, nil, err
	}
	defer dev.Close()
	r, err := super.Read(ctx, dev, opts.SBSector)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return r.Superblock, r.Problems, nil
}
