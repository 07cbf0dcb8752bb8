package fstest

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// Mix is everything at once, as fsstress does it: some goroutines with a [Random] of their own each, and some that change the same few names under each
// other's feet. Of what these do, errors are part of the game, but only such as races explain; in the end, what is left must fit together.
type Mix struct {
	FS      FS
	Seed    uint64
	Own     int // goroutines with a tree of their own; 0: 4
	Shared  int // goroutines in the shared tree; 0: 4
	Ops     int // of each goroutine; 0: 500
	For     time.Duration
	Compare Compare
	Block   int64
	Without []OpKind
	Allow   func(o *Op, want, got Errno) bool
	Logf    func(format string, args ...any)
}

// sharedKinds are the operations in the shared tree.
var sharedKinds = []OpKind{OpCreate, OpCreate, OpMkdir, OpMkdir, OpRmdir, OpUnlink, OpUnlink, OpLink, OpLink, OpSymlink, OpMknod, OpRename, OpRename, OpRename, OpWrite,
	OpWrite, OpRead, OpTruncate, OpAllocate, OpSetXattr, OpRemoveXattr, OpChmod, OpSetTimes, OpStat, OpReadDir, OpFsync}

// explained are the errors that races explain.
var explained = []Errno{0, ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL, ELOOP, ENODATA, EPERM, EXDEV, EBUSY, ENXIO, ENODEV, EACCES, ESPIPE}

// Run does what the configuration says.
func (x Mix) Run(ctx context.Context) error {
	set(&x.Own, 4)
	set(&x.Shared, 4)
	set(&x.Ops, 500)
	if x.Logf == nil {
		x.Logf = func(string, ...any) {}
	}
	shared := fmt.Sprintf("mix-%d", x.Seed)
	if err := x.FS.Mkdir(shared, 0o755); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i := range x.Own {
		r := Random{FS: x.FS, Seed: x.Seed<<16 + uint64(i), Ops: x.Ops, Duration: x.For, Compare: x.Compare, Block: x.Block, Without: x.Without, Allow: x.Allow,
			ShrinkFor: -1, Logf: x.Logf}
		g.Go(r.Run)
	}
	for i := range x.Shared {
		g.Go(func() error { return x.share(ctx, Sub{x.FS, shared}, uint64(i)) })
	}
	err := g.Wait()
	if err == nil {
		err = Consistent(Sub{x.FS, shared})
	}
	if err == nil {
		err = RemoveAll(x.FS, shared)
	}
	if err != nil {
		err = fmt.Errorf("mix, seed %d: %w", x.Seed, err)
	}
	return err
}

// share is one goroutine in the shared tree.
func (x Mix) share(ctx context.Context, fs FS, id uint64) error {
	rng := newRand(x.Seed, 100+id)
	names := []string{"a", "b", "c", "d"}
	choose := func() string {
		p := pick(rng, names...)
		for range rng.IntN(3) {
			p = path.Join(p, pick(rng, names...))
		}
		return p
	}
	s := session{fs: fs}
	start := time.Now()
	for i := 0; i < x.Ops && ctx.Err() == nil && (x.For == 0 || time.Since(start) < x.For); i++ {
		o := Op{Kind: pick(rng, sharedKinds...), Path: choose(), Path2: choose(), Mode: 0o644, Off: rng.Int64N(20000), N: 1 + rng.Int64N(20000), Tag: id<<32 + uint64(i)}
		switch o.Kind {
		case OpMkdir, OpChmod:
			o.Mode = 0o755
		case OpMknod:
			o.Mode = ModeFIFO | 0o600
		case OpSymlink:
			o.Name = pick(rng, names...)
		case OpSetXattr, OpRemoveXattr:
			o.Name, o.N = "user.mix", o.N%100
		case OpRename:
			o.Flags = uint32(pick(rng, 0, 0, RenameNoReplace, RenameExchange))
		case OpAllocate:
			o.Flags = uint32(pick(rng, AllocExtend, AllocPunch, AllocZero))
		case OpSetTimes:
			o.Time = time.Unix(rng.Int64N(1<<30), 0)
		}
		if o.Kind == OpWrite || o.Kind == OpRead || o.Kind == OpTruncate || o.Kind == OpAllocate || o.Kind == OpFsync {
			// A pipe must not be opened: it would be waited for.
			if st, err := fs.Lstat(o.Path); err != nil || st.Mode&ModeType != ModeRegular && st.Mode&ModeType != ModeDir {
				continue
			}
		}
		_, err := s.do(&o)
		if !slices.Contains(explained, ErrnoOf(err)) && !lacking(err) {
			return fmt.Errorf("goroutine %d, %v: %w", id, o, err)
		}
	}
	return nil
}

// Consistent says what in a tree does not fit together: the links of files and directories, what directories list and what is there, sizes and data.
func Consistent(fs FS) error {
	t, err := Observe(fs)
	if err != nil {
		return err
	}
	var errs []error
	links, subdirs := map[string]uint32{}, map[string]uint32{}
	for p, e := range t {
		links[e.First]++
		if isDir(e.Mode) && p != "." {
			subdirs[path.Dir(p)]++
		}
	}
	for p, e := range t {
		switch {
		case isDir(e.Mode) && e.Nlink != 1 && e.Nlink != 2+subdirs[p]: // some count none
			errs = append(errs, fmt.Errorf("%s has %d links, with %d directories in it", p, e.Nlink, subdirs[p]))
		case !isDir(e.Mode) && e.Nlink != links[e.First]:
			errs = append(errs, fmt.Errorf("%s has %d links, with %d names", p, e.Nlink, links[e.First]))
		}
	}
	return errors.Join(errs...)
}
