package engine

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// noLeaks fails the test if goroutines of this module are left at its end that were not there before.
func noLeaks(t *testing.T) {
	t.Helper()
	count := func() (n int, stacks string) {
		buf := make([]byte, 4<<20)
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "go-bcachefs/bcachefs") {
				n++
				stacks += g + "\n\n"
			}
		}
		return n, stacks
	}
	before, _ := count()
	t.Cleanup(func() {
		var n int
		var stacks string
		for range 1000 {
			if n, stacks = count(); n <= before {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Errorf("%d goroutines are left, there were %d:\n%s", n, before, stacks)
	})
}

// closing counts the devices that are open.
type closing struct {
	blockdev.Device
	open *atomic.Int64
}

func (c closing) Close() error {
	c.open.Add(-1)
	return c.Device.Close()
}

// However opening ends, devices are closed and goroutines gone.
func TestOpenLeavesNothingBehind(t *testing.T) {
	ec := find(t, "newer/v1.39-ec").Unpack(t)
	for _, tt := range []struct {
		name  string
		paths []string
		opts  Options
		ok    bool
	}{
		{"opens", ec, Options{}, true},
		{"salvage", find(t, "damaged/damaged-extents").Unpack(t), Options{Salvage: true}, true},
		{"dirty", find(t, "dirty-heavy").Unpack(t), Options{}, true},
		{"no such file", append(without(ec), "nothing"), Options{}, false},
		{"members are missing", ec[:2], Options{}, false},
		{"members are found", ec[:1], Options{ScanDirs: ec}, true},
		{"nowhere to look", ec[:4], Options{ScanDirs: []string{"nowhere"}}, false},
		{"strangers", append(without(ec), find(t, "basic").Unpack(t)...), Options{}, false},
		{"no passphrase", find(t, "encrypted").Unpack(t), Options{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			var open, opened atomic.Int64
			tt.opts.OpenDevice = func(path string) (blockdev.Device, error) {
				d, err := openUnwritable(path)
				if err != nil {
					return nil, err
				}
				open.Add(1)
				opened.Add(1)
				return closing{d, &open}, nil
			}
			fs, err := Open(t.Context(), tt.paths, tt.opts)
			if (err == nil) != tt.ok {
				t.Fatal(err)
			}
			if err == nil {
				if err := fs.Close(); err != nil {
					t.Error(err)
				}
			}
			if open.Load() != 0 || opened.Load() == 0 {
				t.Errorf("%d devices are open yet of %d", open.Load(), opened.Load())
			}
		})
	}
}

// Opening gives up soon after its context ended, wherever it is, and leaves nothing behind.
func TestOpenCancelled(t *testing.T) {
	for _, name := range []string{"dirty-heavy", "damaged/damaged-extents", "newer/v1.39-multi-dirty"} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			paths := find(t, name).Unpack(t)
			for after := int64(0); ; after = after*3/2 + 1 {
				ctx, cancel := context.WithCancel(t.Context())
				var reads, late atomic.Int64
				fs, err := Open(ctx, paths, Options{NoScan: true, OpenDevice: func(path string) (blockdev.Device, error) {
					d, err := openUnwritable(path)
					if err != nil {
						return nil, err
					}
					return blockdev.NewDelayer(d, func(ctx context.Context, _ blockdev.Op, _, _ int64) error {
						switch n := reads.Add(1); {
						case n > after:
							cancel()
							<-ctx.Done()
							late.Add(1)
						}
						return ctx.Err()
					}), nil
				}})
				cancel()
				if err == nil {
					fs.Close()
					if after < 10 {
						t.Errorf("opened with %d reads", after)
					}
					return
				}
				if !errors.Is(err, context.Canceled) {
					t.Errorf("cancelled after %d reads: %v", after, err)
				}
				if late.Load() > 100 {
					t.Errorf("cancelled after %d reads, %d more were begun", after, late.Load())
				}
			}
		})
	}
}

// The node cache keeps to a budget of few nodes on images of many, walks decode nodes hardly more than once, and lookups do not
// decode again and again what they need all the time.
func TestTinyBudget(t *testing.T) {
	for _, name := range golden.Some(t, 1, []string{"btree-deep", "newer/v1.39-btree-64k"}) {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			paths := find(t, name).Unpack(t)
			const budget = 1 << 20
			fs := mustOpen(t, paths, Options{NodeCacheBytes: budget})
			keys, nodes := 0, 0
			for _, id := range fs.Reader.Btrees() {
				for _, err := range fs.Reader.Nodes(t.Context(), id) {
					if err != nil {
						t.Fatal(err)
					}
					nodes++
				}
			}
			before := fs.Reader.Stats()
			for _, id := range fs.Reader.Btrees() {
				for _, err := range fs.Reader.Keys(t.Context(), id, ondisk.PosMin, ondisk.SPosMax) {
					if err != nil {
						t.Fatal(err)
					}
					if keys++; keys%100 == 0 {
						if s := fs.Reader.Stats(); s.Bytes > budget || s.Budget != budget {
							t.Fatalf("cache %+v", s)
						}
					}
				}
			}
			walked := fs.Reader.Stats()
			if n := walked.Misses - before.Misses; n > int64(nodes)*3/2 {
				t.Errorf("a walk over %d nodes decoded %d", nodes, n)
			}
			if walked.Evictions == 0 {
				t.Error("nothing had to go: the image is too small for this test")
			}
			lookups := int64(0)
			for k, err := range fs.Reader.Keys(t.Context(), ondisk.BtreeInodes, ondisk.PosMin, ondisk.SPosMax) {
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := fs.Reader.Lookup(t.Context(), ondisk.BtreeInodes, k.Pos); err != nil {
					t.Fatal(err)
				}
				lookups++
			}
			s := fs.Reader.Stats()
			if n := s.Misses - walked.Misses; n > int64(nodes) {
				t.Errorf("%d lookups in order decoded %d nodes", lookups, n)
			}
			t.Logf("%d keys in %d nodes; walk: %d decoded; %d lookups: %d decoded; cache %+v", keys, nodes, walked.Misses-before.Misses,
				lookups, s.Misses-walked.Misses, s)
		})
	}
}
