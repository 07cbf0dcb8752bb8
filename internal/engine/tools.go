package engine

import (
	"context"
	"errors"
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

// FindMembers says which devices make up the filesystem on the given ones: their paths, those that were found by looking around
// included, and what was noticed, in words. Nothing stays open. Devices that must be left out are not among them.
func FindMembers(ctx context.Context, devices []string, opts Options) (paths, messages []string, err error) {
	fs := &FS{opts: opts}
	defer func() { err = errors.Join(err, closeAll(fs.found)) }()
	if err := fs.openMembers(ctx, devices); err != nil {
		return nil, nil, err
	}
	for _, m := range fs.Members {
		if m.Device != nil {
			paths = append(paths, m.Path)
		}
	}
	return paths, fs.Messages(), nil
}
