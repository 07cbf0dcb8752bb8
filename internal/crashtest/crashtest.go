// Package crashtest has tests crash filesystems, and say whether what is left is what was promised.
//
// A [Log] of package blockdev records what a run writes. [Sweep] goes over the states that a power cut could have left the devices in: at
// every beginning and end of a write or flush all that was written, only what is sure, and random parts, torn within sectors' bounds.
// [Files] is a workload that knows what may be in each of them: it makes, changes and deletes small files in transactions over several
// btrees and notes, in the order of the journal, what each did; [Files.Match] then tells after which of them a filesystem that was
// found on the devices stands. [History.Durable] tells which it must not be older than.
package crashtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/fsck"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/super"
)

// Geometry says what filesystem to make. Everything in it is small, so that little work makes nodes split, the journal's ring turn
// and buckets be used again.
type Geometry struct {
	Devices     int   // 0: 1
	DeviceBytes int64 // of each
	BucketBytes int64
	NodeBytes   int
	Options     map[string]string // beside sizes, by their names
}

// Small is a device of 256 buckets of 32 KiB, with nodes of 16 KiB.
var Small = Geometry{DeviceBytes: 8 << 20, BucketBytes: 32 << 10, NodeBytes: 16 << 10}

// Format returns devices in memory with a new filesystem that was never mounted.
func (g Geometry) Format(ctx context.Context) ([]*blockdev.Memory, error) {
	var mems []*blockdev.Memory
	for i := range max(g.Devices, 1) {
		m := blockdev.NewMemory(g.DeviceBytes)
		m.SetName(fmt.Sprintf("device-%d", i))
		mems = append(mems, m)
	}
	return mems, g.FormatOn(ctx, mems)
}

// FormatOn makes a new filesystem, with the same UUIDs each time, on devices that may hold another.
func (g Geometry) FormatOn(ctx context.Context, mems []*blockdev.Memory) error {
	c := super.Config{Options: map[string]string{"block_size": "512", "btree_node_size": fmt.Sprint(g.NodeBytes)}, SuperblockSize: 16 << 10,
		Time: time.Unix(1700000000, 0), Random: random}
	for name, v := range g.Options {
		c.Options[name] = v
	}
	for _, m := range mems {
		c.Devices = append(c.Devices, super.Device{Name: m.Name(), Size: m.Size(), Block: 512, MinBlock: 512, BucketSize: g.BucketBytes, Durability: 1})
	}
	sbs, err := super.Build(&c)
	if err != nil {
		return err
	}
	return super.WriteNew(ctx, DevicesOf(mems), sbs)
}

// random fills in the random parts of superblocks, the same ones each time.
func random(purpose string, b []byte) {
	x := uint64(len(purpose))
	for _, c := range []byte(purpose) {
		x = mix(x + uint64(c))
	}
	for i := range b {
		x = mix(x)
		b[i] = byte(x)
	}
}

// DevicesOf returns devices of any kind as what they are.
func DevicesOf[D blockdev.Device](all []D) []blockdev.Device {
	out := make([]blockdev.Device, len(all))
	for i, d := range all {
		out[i] = d
	}
	return out
}

// Clone returns copies of devices.
func Clone(mems []*blockdev.Memory) []*blockdev.Memory {
	out := make([]*blockdev.Memory, len(mems))
	for i, m := range mems {
		out[i] = m.Clone()
	}
	return out
}

// Record returns the devices as a log records them.
func Record(log *blockdev.Log, mems []*blockdev.Memory) []blockdev.Device {
	var out []blockdev.Device
	for _, m := range mems {
		out = append(out, log.Record(m))
	}
	return out
}

// cacheBytes bounds the caches of the filesystems of tests, so that nodes are evicted and read again.
const cacheBytes = 96 << 10

// Open opens a filesystem for reading, on devices that stay open.
func Open(ctx context.Context, devs []blockdev.Device, logf func(string, ...any)) (*engine.FS, error) {
	return open(ctx, devs, engine.Options{Logf: logf})
}

func open(ctx context.Context, devs []blockdev.Device, opts engine.Options) (*engine.FS, error) {
	on, names := fscktest.OnDevices(devs...)
	opts.OpenDevice, opts.NoScan, opts.NodeCacheBytes = on.OpenDevice, true, cacheBytes
	return engine.Open(ctx, names, opts)
}

// OpenRW opens a filesystem for writing, on devices that stay open.
func OpenRW(ctx context.Context, devs []blockdev.Device, opts engine.WriteOptions, logf func(string, ...any)) (*engine.RW, error) {
	fs, err := open(ctx, devs, engine.Options{Write: true, Logf: logf})
	if err != nil {
		return nil, fmt.Errorf("opening: %w", err)
	}
	rw, err := fs.GoReadWrite(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("going read-write: %w", err)
	}
	return rw, nil
}

// Fsck returns what is wrong with an open filesystem.
func Fsck(ctx context.Context, fs *engine.FS) error {
	r, err := fsck.Check(ctx, fsck.Of(fs), fsck.Options{})
	if err != nil {
		return fmt.Errorf("fsck: %w", err)
	}
	var errs []error
	for i, f := range r.Findings {
		if i == 10 {
			errs = append(errs, fmt.Errorf("fsck: %d findings in all", r.Total))
			break
		}
		errs = append(errs, fmt.Errorf("fsck: %s: %v", f.Pass, &f))
	}
	return errors.Join(errs...)
}

// Sweep says which states of a log are visited. The zero value visits none of them.
type Sweep struct {
	From, To int  // ticks; To 0: the last one
	Every    int  // only each n-th tick
	Offset   int  // of the ticks that are visited, below Every
	Whole    bool // all that was written and only what is sure, at each tick
	Random   int  // so many random subsets at each tick
	Seed     uint64
}

// State is what a power cut may leave.
type State struct {
	Tick    int
	How     string // what is kept of that which is not sure: all, none, a number
	Devices []*blockdev.Memory
}

// Visit calls fn with each state, in the order of time. fn owns the devices. Visit ends when fn returns false.
func (s Sweep) Visit(log *blockdev.Log, fn func(State) bool) {
	to := s.To
	if to == 0 {
		to = log.Ticks()
	}
	for t := s.From; t <= to; t++ {
		if s.Every > 1 && t%s.Every != s.Offset {
			continue
		}
		for _, c := range s.at(t) {
			unsure := false
			devs := log.Crash(t, func(r *blockdev.Record, sectors []bool) {
				unsure = true
				c.keep(r, sectors)
			})
			if !unsure && c.how != "all" {
				continue // the same as all
			}
			if !fn(State{Tick: t, How: c.how, Devices: devs}) {
				return
			}
		}
	}
}

type choice struct {
	how  string
	keep blockdev.Keep
}

// at lists the choices at a tick. They depend on nothing else, so that a failing one is found again.
func (s Sweep) at(t int) (all []choice) {
	if s.Whole {
		all = append(all, choice{"all", blockdev.KeepAll}, choice{"none", blockdev.KeepNone})
	}
	for i := range s.Random {
		all = append(all, choice{fmt.Sprint("random ", i), blockdev.KeepRandom(newRand(s.Seed, uint64(t), uint64(i)))})
	}
	return all
}
