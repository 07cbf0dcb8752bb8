package bcachefs_test

import (
	"math/rand/v2"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/fstest"
)

// The workload of generic/113, with both allocators.
func TestProofGeneric113(t *testing.T) {
	forKinds(t, func(t *testing.T, k proofKind) {
		k.mib = 256
		forSeeds(t, func(t *testing.T, seed uint64) {
			w := newWorld(t, k, seed)
			for _, a := range fstest.Generic113(w.lib(), ".", seed, 20, false) {
				if err := a.Run(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	})
}

// Many goroutines do everything at once.
func TestProofMix(t *testing.T) {
	forKinds(t, func(t *testing.T, k proofKind) {
		forSeeds(t, func(t *testing.T, seed uint64) {
			w := newWorld(t, k, seed)
			x := fstest.Mix{FS: w.lib(), Seed: seed, Ops: ops(250), Block: blockOf(k), Allow: otherError, Logf: t.Logf}
			if err := x.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// cuts has the power cut at some moments of what was recorded since a tick, and looks at what is left.
func (w *world) cuts(from, n int, verify func(fs fstest.FS, tick int) error) {
	w.t.Helper()
	rng := rand.New(rand.NewPCG(w.rng.Uint64(), 6))
	for i := range n {
		tick := from + rng.IntN(w.log.Ticks()-from+1)
		keep := []blockdev.Keep{blockdev.KeepAll, blockdev.KeepNone, blockdev.KeepRandom(rng)}[i%3]
		mems := w.log.Crash(tick, keep)
		for _, write := range []bool{false, true} {
			fs, err := openOn(mems, write)
			if err == nil {
				err = verify(library{fs, fs.Root()}, tick)
				if cerr := fs.Close(); err == nil {
					err = cerr
				}
			}
			if err == nil && write {
				err = fsckOf(mems)
			}
			if err != nil {
				w.t.Fatalf("power cut at tick %d of %d to %d, written to %v: %v", tick, from, w.log.Ticks(), write, err)
			}
		}
	}
}

// The power is cut under a database.
func TestProofDatabase(t *testing.T) {
	forKinds(t, func(t *testing.T, k proofKind) {
		forSeeds(t, func(t *testing.T, seed uint64) {
			w := newWorld(t, k, seed)
			from := w.log.Ticks()
			d := &fstest.Database{FS: w.lib(), Dir: "db", Seed: seed, Pages: 24, Clock: w.log.Ticks}
			if err := d.Run(ops(120)); err != nil {
				t.Fatal(err)
			}
			if err := d.Verify(w.lib(), -1); err != nil {
				t.Fatal(err)
			}
			w.cuts(from, 9, d.Verify)
		})
	})
}

// The power is cut while mail is delivered.
func TestProofMail(t *testing.T) {
	forKinds(t, func(t *testing.T, k proofKind) {
		forSeeds(t, func(t *testing.T, seed uint64) {
			w := newWorld(t, k, seed)
			m := &fstest.Mail{FS: w.lib(), Dir: "mail", Seed: seed, Clock: w.log.Ticks}
			if err := m.Run(t.Context(), ops(120)); err != nil {
				t.Fatal(err)
			}
			if err := m.Verify(w.lib(), -1); err != nil {
				t.Fatal(err)
			}
			w.cuts(m.Start, 9, m.Verify)
		})
	})
}

// Space comes back, however it was used up: each kind of filesystem is filled in another way.
func TestProofRefill(t *testing.T) {
	for i, k := range proofKinds {
		if *proofOnly != "" && *proofOnly != k.name {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			k.mib = 24
			w := newWorld(t, k, *proofSeed)
			x := fstest.Refill{FS: w.lib(), Dir: "refill", Seed: *proofSeed + uint64(i), Rounds: ops(1), Logf: t.Logf, Settle: func() error { return w.fs.WaitDeleted(ctx) },
				Slack: 6 << 20, Used: w.userBytes}
			if err := x.Run(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// userBytes is the space that the content of files takes.
func (w *world) userBytes() (n int64, err error) {
	u, err := w.fs.Usage(ctx)
	if err != nil {
		return 0, err
	}
	for _, r := range u.Replicas {
		if r.DataType == "user" {
			n += int64(r.Bytes)
		}
	}
	return n, nil
}
