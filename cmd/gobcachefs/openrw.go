package main

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/namei"
)

// writeFlags are the flags of the commands that change files of a filesystem that is not mounted: DEV PATH...
type writeFlags struct {
	openFlags
	subvol string
}

func (w *writeFlags) register(c *cobra.Command) {
	w.openFlags.register(c.Flags())
	c.Flags().StringVar(&w.subvol, "subvol", "", "work in the subvolume with this `PATH` or id")
}

// openWrite opens the filesystem on devices for writing. Devices that are in use are refused.
func (o *openFlags) openWrite(ctx context.Context, a *app, devices []string, opts bcachefs.OpenOptions) (*bcachefs.FS, mountOptions, error) {
	for i, list := range o.options {
		kept := strings.Split(list, ",")
		for j, opt := range kept {
			if strings.TrimSpace(opt) == "rw" {
				kept[j] = ""
			}
		}
		o.options[i] = strings.Join(kept, ",")
	}
	m, devs, cache, err := o.prepare(devices)
	if err != nil {
		return nil, m, err
	}
	if err := m.writable(); err != nil {
		return nil, m, err
	}
	where := strings.Join(devs, ":")
	opts.Write, opts.NodeCacheBytes, opts.ScanDirs = true, cache, o.scan
	opts.NoSplitBrainCheck, opts.SuperblockSector = m.noSplitBrainCheck, m.superblockSector
	opts.Passphrase = func(ctx context.Context) ([]byte, error) { return o.passphrase(ctx, a, where) }
	f, err := bcachefs.Open(ctx, devs, &opts)
	if errors.Is(err, fs.ErrPermission) {
		return nil, m, failedTodo("open", where, err, "run it as a user who may write to the device")
	}
	if err != nil {
		return nil, m, openError("open", where, devs, err)
	}
	o.addMembers(f.Engine())
	if !o.quiet {
		for _, msg := range f.Messages() {
			a.warnf("%s", msg)
		}
	}
	return f, m, nil
}

// writable refuses options that show what cannot be written to.
func (m *mountOptions) writable() error {
	for _, o := range []struct {
		on   bool
		name string
	}{{m.noRecovery, "norecovery"}, {m.salvage, "salvage"}, {m.veryDegraded, "very_degraded"}, {m.snapshot != "", "snapshot"}} {
		if o.on {
			return usagef("option %s: it is for reading only", o.name)
		}
	}
	return nil
}

// with opens the filesystem on dev, an argument as splitDevices takes it, runs fn on the view that the flags select and writes everything out.
func (w *writeFlags) with(ctx context.Context, a *app, dev string, fn func(v *bcachefs.View) error) error {
	return w.withOptions(ctx, a, dev, bcachefs.OpenOptions{}, fn)
}

func (w *writeFlags) withOptions(ctx context.Context, a *app, dev string, opts bcachefs.OpenOptions, fn func(v *bcachefs.View) error) error {
	f, m, err := w.openWrite(ctx, a, []string{dev}, opts)
	if err != nil {
		return err
	}
	known := len(f.Messages())
	vf := viewFlags{subvol: w.subvol}
	v, err := vf.view(f, m)
	if err == nil {
		err = fn(v)
	}
	cerr := f.Close()
	if messages := f.Messages(); !w.quiet && len(messages) > known {
		for _, msg := range messages[known:] {
			a.warnf("%s", msg)
		}
	}
	if cerr != nil && (err == nil || errors.Is(err, errPartial)) {
		return failedTodo("write out", dev, cerr, "what is missing of it is made good for when it is opened next")
	}
	return err
}

// imagePath is a path as methods of View want it: the root is ".".
func imagePath(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "."
	}
	return p
}

// writeFailed is the error of changing what is at a path.
func writeFailed(what, at string, err error) error {
	if errors.Is(err, namei.ErrReadOnly) {
		return failedTodo(what, at, err, "take a writable snapshot of it")
	}
	return fileFailed(what, at, err)
}

// owners reads --owner USER:GROUP as numbers.
func parseOwner(s string) (uid, gid *uint32, err error) {
	u, g, both := strings.Cut(s, ":")
	number := func(s string) (*uint32, error) {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil || n == 1<<32-1 {
			return nil, usagef("--owner %s: want UID:GID, as numbers", s)
		}
		v := uint32(n)
		return &v, nil
	}
	if uid, err = number(u); err != nil || !both {
		return uid, uid, err
	}
	gid, err = number(g)
	return uid, gid, err
}

// loadFlags are the flags of commands that put trees of files into a filesystem.
type loadFlags struct {
	noPreserve []string
	owner      string
	verbose    bool
}

func (l *loadFlags) register(f *pflag.FlagSet) {
	f.StringSliceVar(&l.noPreserve, "no-preserve", nil, "do not preserve `WHAT`: owner, mode, timestamps, xattr, links")
	f.StringVar(&l.owner, "owner", "", "everything belongs to `UID:GID`")
	f.BoolVarP(&l.verbose, "verbose", "v", false, "print the name of each file that is written")
}

// options are what the flags ask for. links tells whether names of one file stay such.
func (l *loadFlags) loadOptions() (o bcachefs.LoadOptions, links bool, err error) {
	skip, err := parseNoPreserve(l.noPreserve)
	if err != nil {
		return o, false, err
	}
	o.NoOwner, o.NoMode, o.NoTimes, o.NoXattrs = skip.owner, skip.mode, skip.times, skip.xattrs
	if l.owner != "" {
		if o.UID, o.GID, err = parseOwner(l.owner); err != nil {
			return o, false, err
		}
	}
	return o, !skip.links, nil
}
