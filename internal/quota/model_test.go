package quota_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

var (
	modelSeed = flag.Uint64("quota.seed", 1, "first seed of TestTogether")
	modelRuns = flag.Int("quota.runs", 6, "how many runs TestTogether makes")
	modelOps  = flag.Int("quota.ops", 120, "operations of each goroutine and run")
)

// worker is a goroutine that changes things in a directory of its own.
type worker struct {
	w    *world
	ctx  context.Context
	rnd  *rand.Rand
	dir  namei.ID
	made int
	have map[string]namei.ID
}

func (k *worker) some() (name string, id namei.ID) {
	for name, id = range k.have { // whichever comes first
		return name, id
	}
	return "", namei.ID{}
}

// step does something. It may be refused for want of quota.
func (k *worker) step() error {
	w, rnd := k.w, k.rnd
	op := rnd.IntN(10)
	name, id := k.some()
	if name == "" {
		op = 0
	}
	user := func() uint32 { return uint32(rnd.IntN(3)) }
	switch op {
	case 0, 1:
		name := fmt.Sprint(k.made)
		k.made++
		id, err := w.create(k.ctx, k.dir, name, user(), user(), fileMode)
		if err == nil {
			k.have[name] = id
		}
		return err
	case 2:
		delete(k.have, name)
		return w.remove(k.ctx, k.dir, name, namei.File)
	case 3:
		return w.chown(k.ctx, id, user(), user())
	case 4:
		return w.project(k.ctx, id, user())
	case 5:
		_, err := w.data.Truncate(k.ctx, dataID(id), rnd.Int64N(20*block), nil)
		return err
	case 6:
		_, err := w.data.Punch(k.ctx, dataID(id), rnd.Int64N(20*block), 1+rnd.Int64N(10*block), nil)
		return err
	case 7:
		_, other := k.some()
		if other == id {
			return nil
		}
		_, _, err := w.data.CopyRange(k.ctx, dataID(other), 0, dataID(id), 0, 8*block, nil)
		return err
	default:
		return w.write(k.ctx, id, rnd.IntN(20), 1+rnd.IntN(6))
	}
}

// Several goroutines change files while snapshots are taken and deleted, subvolumes come and go with all they hold, and everything is counted again and again.
// Some are at their limits. At the end what was counted all along is what there is.
func TestTogether(t *testing.T) {
	for i := range golden.FlagTimes(t, "quota.runs", *modelRuns, 2) {
		seed := *modelSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, allTypes)
			w.limit(2, ondisk.QuotaLimit{Hard: 500}, ondisk.QuotaLimit{Hard: 30})
			for round := range 3 {
				runTogether(w, seed, round)
				if s, err := w.q.Get(ondisk.QuotaUser, 2); err != nil || s.Sectors > 500 || s.Inodes > 30 {
					t.Errorf("%+v, %v", s, err)
				}
				w.checkCount()
				if t.Failed() {
					return
				}
			}
		})
	}
}

func runTogether(w *world, seed uint64, round int) {
	ctx := w.Context()
	const workers = 4
	var all []*worker
	sub, err := w.subvolume(ctx, w.root, fmt.Sprint("sub-", round), 1)
	w.must(err)
	for i := range workers {
		parent := w.root
		if i%2 == 1 {
			parent = sub
		}
		dir, err := w.create(ctx, parent, fmt.Sprint("dir-", round, "-", i), 0, 0, dirMode)
		w.must(err)
		all = append(all, &worker{w: w, ctx: ctx, rnd: rand.New(rand.NewPCG(seed, uint64(10*round+i))), dir: dir, have: map[string]namei.ID{}})
	}
	var wg sync.WaitGroup
	for _, k := range all {
		wg.Go(func() {
			for range *modelOps {
				if err := k.step(); err != nil && !errors.Is(err, syscall.EDQUOT) {
					w.Error(err)
					return
				}
			}
		})
	}
	rnd := rand.New(rand.NewPCG(seed, uint64(10*round+9)))
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		default:
		}
		name := fmt.Sprint("snap-", round, "-", i)
		err := changeVolumes(w, rnd, sub, name)
		if err != nil {
			w.Error(err)
			<-done
			return
		}
	}
}

// changeVolumes takes a snapshot, uses it, and deletes it or what it was taken of.
func changeVolumes(w *world, rnd *rand.Rand, sub namei.ID, name string) error {
	ctx := w.Context()
	source, kept := sub.Subvol, rnd.IntN(8) == 0
	if rnd.IntN(2) == 0 {
		source = ondisk.RootSubvol
	}
	own := rnd.IntN(3) == 0
	if own { // a subvolume of which a snapshot takes the place
		s, err := w.subvolume(ctx, w.root, name+"-of", 0)
		if err != nil {
			return err
		}
		f, err := w.create(ctx, s, "f", 0, 0, fileMode)
		if err != nil {
			return err
		}
		if err := w.write(ctx, f, 0, 1+rnd.IntN(9)); err != nil {
			return err
		}
		source = s.Subvol
	}
	snap, err := w.snapshot(ctx, source, w.root, name)
	if err != nil {
		return err
	}
	if _, err := w.create(ctx, snap, "in a snapshot", 1, 1, fileMode); err != nil {
		return err
	}
	if own {
		if err := w.remove(ctx, w.root, name+"-of", namei.SubvolumeRoot); err != nil {
			return err
		}
	}
	if err := w.q.Recount(ctx); err != nil || kept {
		return err
	}
	return w.remove(ctx, w.root, name, namei.SubvolumeRoot)
}
