package bcachefs_test

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/fstest"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

var (
	proofSeed  = flag.Uint64("proof.seed", 1, "first seed of the random tests of a filesystem in use")
	proofSeeds = flag.Int("proof.seeds", 1, "how many seeds of each of them to try")
	proofOps   = flag.Int("proof.ops", 0, "operations for each seed; 0: as many as make a quick test")
	proofOnly  = flag.String("proof.kind", "", "only the filesystem of this kind")
)

// proofKinds are the filesystems on which everything has to be right.
var proofKinds = []proofKind{
	{name: "plain"},
	{name: "blocks of 512", options: map[string]string{"block_size": "512"}},
	{name: "compressed", options: map[string]string{"compression": "lz4"}},
	{name: "encrypted", encrypted: true},
	{name: "two replicas", devices: 2, options: map[string]string{"data_replicas": "2", "metadata_replicas": "2"}},
	{name: "nocow", options: map[string]string{"nocow": "1"}},
	{name: "early allocator", early: true},
}

// proofKind says how a filesystem is made.
type proofKind struct {
	name      string
	options   map[string]string
	encrypted bool
	early     bool  // the allocator that scans buckets is used throughout
	devices   int   // 0: 1
	mib       int64 // of a device; 0: 64
}

// forKinds runs a test on each kind of filesystem.
func forKinds(t *testing.T, fn func(t *testing.T, k proofKind)) {
	for i, k := range proofKinds {
		if *proofOnly != "" && *proofOnly != k.name {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			golden.OneIn(t, 3, i)
			fn(t, k)
		})
	}
}

// forSeeds runs a test with each seed, and ends what one has begun before the next.
func forSeeds(t *testing.T, fn func(t *testing.T, seed uint64)) {
	for i := range uint64(*proofSeeds) {
		seed := *proofSeed + i
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { fn(t, seed) })
	}
}

// ops returns how many operations to do where a quick test does so many.
func ops(quick int) int {
	if *proofOps != 0 {
		return *proofOps
	}
	return quick
}

// world is a filesystem in memory that is remounted and crashed.
type world struct {
	t    *testing.T
	kind proofKind
	rng  *rand.Rand
	log  *blockdev.Log
	mems []*blockdev.Memory
	fs   *bcachefs.FS
}

// newWorld formats and opens a filesystem. At the end of the test it is closed and checked.
func newWorld(t *testing.T, k proofKind, seed uint64) *world {
	t.Helper()
	w := &world{t: t, kind: k, rng: rand.New(rand.NewPCG(seed, 5))}
	var devs []bcachefs.FormatDevice
	for i := range max(k.devices, 1) {
		m := blockdev.NewMemory(cmp.Or(k.mib, 64) << 20)
		m.SetName(fmt.Sprint("device-", i))
		w.mems = append(w.mems, m)
		devs = append(devs, bcachefs.FormatDevice{Device: m, BucketBytes: 128 << 10})
	}
	options := map[string]string{"btree_node_size": "32768"}
	for name, v := range k.options {
		options[name] = v
	}
	if _, err := bcachefs.Format(ctx, devs, bcachefs.FormatOptions{Options: options, Encrypted: k.encrypted}); err != nil {
		t.Fatal(err)
	}
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if w.fs == nil {
			return
		}
		if err := w.fs.Close(); err != nil {
			t.Error(err)
			return
		}
		w.check()
	})
	return w
}

// check has our fsck look at what is on the devices.
func (w *world) check() {
	w.t.Helper()
	var devs []blockdev.Device
	for _, m := range w.mems {
		devs = append(devs, m)
	}
	o, names := fscktest.OnDevices(devs...)
	r, err := o.Run(ctx, names...)
	if err != nil {
		w.t.Error(err)
		return
	}
	for _, f := range r.Findings {
		w.t.Errorf("fsck: %s: %v", f.Pass, &f)
	}
}

// open opens the filesystem for writing, and records what is written from now on.
func (w *world) open() error {
	w.log = blockdev.NewLog()
	byName := map[string]bcachefs.Device{}
	var names []string
	for i, m := range w.mems {
		name := fmt.Sprint("device-", i)
		names = append(names, name)
		byName[name] = stayOpen{w.log.Record(m)}
	}
	var err error
	w.fs, err = bcachefs.Open(ctx, names, &bcachefs.OpenOptions{Write: true, NoScan: true, NodeCacheBytes: 1 << 20, ForceEarlyAllocator: w.kind.early,
		OpenDevice: func(name string) (bcachefs.Device, error) { return byName[name], nil }})
	return err
}

// stayOpen is a device that closing leaves open.
type stayOpen struct{ blockdev.Device }

func (stayOpen) Close() error { return nil }

func (w *world) lib() library { return library{w.fs, w.fs.Root()} }

// remount closes and opens.
func (w *world) remount() (fstest.FS, error) {
	err := w.fs.Close()
	w.fs = nil
	if err != nil {
		return nil, fmt.Errorf("closing: %w", err)
	}
	if err := w.open(); err != nil {
		return nil, err
	}
	return w.lib(), nil
}

// crash ends the filesystem now, with any part of what was not flushed lost, and opens what is left.
func (w *world) crash() (fstest.FS, error) {
	keep := []blockdev.Keep{blockdev.KeepAll, blockdev.KeepNone, blockdev.KeepRandom(w.rng)}[w.rng.IntN(3)]
	w.mems = w.log.Crash(w.log.Ticks(), keep)
	w.fs.Abandon()
	w.fs = nil
	if err := w.open(); err != nil {
		return nil, fmt.Errorf("after a crash: %w", err)
	}
	return w.lib(), nil
}

// snapshot takes snapshots of the root for package fstest.
func snapshot(f fstest.FS, n int) (string, error) {
	name := fmt.Sprint("snapshot-", n)
	return name, f.Snapshot(name, ".", n%2 == 0)
}

// Random operations on files' data, with remounts and snapshots in between.
func TestProofFSX(t *testing.T) {
	forKinds(t, func(t *testing.T, k proofKind) {
		forSeeds(t, func(t *testing.T, seed uint64) {
			w := newWorld(t, k, seed)
			x := fstest.FSX{FS: w.lib(), Dir: ".", Seed: seed, Ops: ops(400), Block: blockOf(k), Logf: t.Logf, Remount: w.remount, Snapshot: snapshot}
			if err := x.Run(); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// blockOf is the size of blocks of a kind of filesystem.
func blockOf(k proofKind) int64 {
	if k.options["block_size"] == "512" {
		return 512
	}
	return 4096
}

// otherError accepts that of several things that are wrong the library tells another one than Linux, which looks at names before files.
func otherError(o *fstest.Op, want, got fstest.Errno) bool {
	var as []fstest.Errno
	switch o.Kind {
	case fstest.OpLink, fstest.OpLinkFile:
		as = []fstest.Errno{fstest.EEXIST, fstest.EXDEV, fstest.EPERM, fstest.ENOTDIR, fstest.ENOENT}
	case fstest.OpRename:
		as = []fstest.Errno{fstest.EINVAL, fstest.ENOTEMPTY, fstest.EEXIST, fstest.EXDEV, fstest.ENOTDIR, fstest.EISDIR, fstest.ENOENT}
	}
	return slices.Contains(as, want) && slices.Contains(as, got)
}

// Random operations on everything, with remounts, snapshots and crashes in between.
func TestProofRandom(t *testing.T) {
	forKinds(t, func(t *testing.T, k proofKind) {
		forSeeds(t, func(t *testing.T, seed uint64) {
			w := newWorld(t, k, seed)
			x := fstest.Random{FS: w.lib(), Seed: seed, Ops: ops(800), Block: blockOf(k), Logf: t.Logf, Remount: w.remount, Crash: w.crash,
				Allow: otherError, ShrinkFor: time.Minute, Compare: fstest.Compare{InPlace: k.options["nocow"] != ""}}
			if err := x.Run(); err != nil {
				t.Fatal(err)
			}
		})
	})
}
