package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/super"
)

// splitDevices turns arguments into paths: each is a path, or several joined by colons as mount(8) takes them. A colon that
// belongs to a path, as in names by bus address or of Windows drives, is kept if what it gives exists.
func splitDevices(args []string, exists func(string) bool) ([]string, error) {
	var paths []string
	for _, arg := range args {
		parts := strings.Split(arg, ":")
		for i := 0; i < len(parts); {
			j := len(parts)
			for j > i+1 && !exists(strings.Join(parts[i:j], ":")) {
				j--
			}
			if p := strings.Join(parts[i:j], ":"); p != "" {
				paths = append(paths, p)
			}
			i = j
		}
	}
	if len(paths) == 0 {
		return nil, errors.New("no device given")
	}
	return paths, nil
}

func pathExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// openDevice opens a device for reading only, without any lock.
func (o *Options) openDevice(path string) (blockdev.Device, error) {
	if o.OpenDevice != nil {
		return o.OpenDevice(path)
	}
	return blockdev.OpenFile(path, blockdev.FileOptions{ReadOnly: !o.Write})
}

// exists tells paths for splitDevices; with OpenDevice names need not be those of files.
func (o *Options) exists(path string) bool {
	return o.OpenDevice == nil && pathExists(path)
}

// found is a device with a superblock.
type found struct {
	path  string
	given bool // by the caller, and not found by looking around
	dev   blockdev.Device
	sb    *super.Found
}

// openAll opens the given devices and reads their superblocks. On errors everything is closed.
func openAll(ctx context.Context, paths []string, opts *Options) (all []*found, err error) {
	defer func() {
		if err != nil {
			closeAll(all)
			all = nil
		}
	}()
	for _, path := range paths {
		if id, ok := strings.CutPrefix(path, "UUID="); ok {
			more, err := openByUUID(ctx, id, all, opts)
			if err != nil {
				return all, err
			}
			all = append(all, more...)
			continue
		}
		f, err := openOne(ctx, path, opts)
		if err != nil {
			return all, err
		}
		f.given = true
		all = append(all, f)
	}
	return all, nil
}

// openByUUID opens all devices there are of the filesystem with an external UUID, as in fstab(5).
func openByUUID(ctx context.Context, id string, have []*found, opts *Options) ([]*found, error) {
	uuid, err := ondisk.ParseUUID(id)
	if err != nil {
		return nil, err
	}
	scan := *opts
	scan.NoScan = false
	all, err := discover(ctx, have, &scan, func(sb *super.Found) bool { return sb.UserUUID == uuid })
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("no device holds a filesystem with UUID %v", uuid)
	}
	return all, err
}

func openOne(ctx context.Context, path string, opts *Options) (*found, error) {
	dev, err := opts.openDevice(path)
	if err != nil {
		return nil, err
	}
	sb, err := super.Read(ctx, dev, opts.SBSector)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), dev.Close())
	}
	return &found{path: path, dev: dev, sb: sb}, nil
}

func closeAll(all []*found) (err error) {
	for _, f := range all {
		err = errors.Join(err, f.dev.Close())
	}
	return err
}

// discover looks for further members of the filesystem that have belongs true, among the block devices of the system or in
// ScanDirs. Devices that cannot be opened or hold something else are passed over.
func discover(ctx context.Context, have []*found, opts *Options, belongs func(*super.Found) bool) ([]*found, error) {
	if opts.NoScan || opts.OpenDevice != nil && len(opts.ScanDirs) == 0 {
		return nil, nil
	}
	candidates, err := blockdev.Scan(opts.ScanDirs)
	if err != nil && len(opts.ScanDirs) > 0 {
		return nil, fmt.Errorf("looking for members: %w", err)
	}
	var more []*found
	for _, c := range candidates {
		if err := ctx.Err(); err != nil {
			closeAll(more)
			return nil, err
		}
		if isOpen(have, c.Path) || isOpen(more, c.Path) {
			continue
		}
		f, err := openOne(ctx, c.Path, opts)
		if err != nil {
			continue
		}
		if !belongs(f.sb) {
			f.dev.Close()
			continue
		}
		more = append(more, f)
	}
	return more, nil
}

func isOpen(all []*found, path string) bool {
	for _, f := range all {
		if samePath(f.path, path) {
			return true
		}
	}
	return false
}

func samePath(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	ai, err1 := os.Stat(a)
	bi, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(ai, bi)
}
