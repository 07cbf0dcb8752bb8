package engine_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/crashtest"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
)

var (
	crashEvery  = flag.Int("crash.every", 0, "try power cuts at each n-th tick; 0: as many as make a quick test")
	crashRandom = flag.Int("crash.random", 1, "random subsets of what was not flushed, at each tick")
	crashSeed   = flag.Uint64("crash.seed", 1, "first seed of the crash tests")
	crashRuns   = flag.Int("crash.runs", 1, "how many runs of each crash test are recorded")
	crashTxs    = flag.Int("crash.txs", 300, "transactions of a recorded run")
	crashDriver = flag.Int("crash.driver", 2, "power cuts of which the real driver judges what is left, at most 12")
	crashDump   = flag.String("crash.dump", "", "directory that gets the devices of states that fail")
)

// crashRun is a recorded run with all that is known of it.
type crashRun struct {
	t       *testing.T
	seed    uint64
	log     *blockdev.Log
	mems    []*blockdev.Memory
	devs    []blockdev.Device
	files   crashtest.Files
	history crashtest.History
	write   engine.WriteOptions
}

func newCrashRun(t *testing.T, seed uint64, mems []*blockdev.Memory) *crashRun {
	r := &crashRun{t: t, seed: seed, log: blockdev.NewLog(), mems: mems}
	r.files = crashtest.Files{Count: 60, MaxSectors: 40, FlushEvery: 8, Log: r.log, Workers: 3}
	r.devs = crashtest.Record(r.log, mems)
	return r
}

func format(t *testing.T, g crashtest.Geometry) []*blockdev.Memory {
	t.Helper()
	mems, err := g.Format(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return mems
}

// session opens, makes transactions, and shuts down.
func (r *crashRun) session(txs int) {
	r.t.Helper()
	ctx := r.t.Context()
	rw, err := crashtest.OpenRW(ctx, r.devs, r.write, r.t.Logf)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.files.Run(ctx, rw, &r.history, r.seed, txs); err != nil {
		rw.Abandon()
		r.t.Fatal(err)
	}
	if err := rw.Close(ctx); err != nil {
		r.t.Fatal(err)
	}
	r.history.AcknowledgedAll(r.log.Ticks())
}

// sweep tries power cuts, about quick of them unless more were asked for, and returns the state of one of them, recovered, and where it stands.
func (r *crashRun) sweep(quick int) {
	r.t.Helper()
	start := time.Now()
	s := crashtest.Sweep{Every: *crashEvery, Whole: true, Random: *crashRandom, Seed: r.seed}
	if s.Every == 0 {
		s.Every = max(1, r.log.Ticks()*2/golden.Times(r.t, quick, quick/4))
		s.Offset = int(r.seed) % s.Every
	}
	rec := crashtest.Recovery{Timeline: r.history.End(), Write: r.write, Nested: 16, NestedStates: 4, Seed: r.seed}
	r.visit(s, func(st crashtest.State) error { return rec.Check(r.t.Context(), st) })
	r.t.Logf("seed %d: %d transactions, %d ticks: %d states in %v", r.seed, r.history.Len(), r.log.Ticks(), rec.Tried.Load(),
		time.Since(start).Round(time.Millisecond))
}

// visit checks states, several at once.
func (r *crashRun) visit(s crashtest.Sweep, check func(crashtest.State) error) {
	states := make(chan crashtest.State)
	ctx, fail := context.WithCancel(r.t.Context())
	defer fail()
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for st := range states {
				before := crashtest.Clone(st.Devices)
				if err := check(st); err != nil {
					r.t.Errorf("seed %d: %v%s", r.seed, err, dump(r.t, before, fmt.Sprintf("%d-%d", r.seed, st.Tick)))
					fail()
				}
			}
		})
	}
	s.Visit(r.log, func(st crashtest.State) bool {
		select {
		case states <- st:
			return true
		case <-ctx.Done():
			return false
		}
	})
	close(states)
	wg.Wait()
}

// dump writes devices into files, if that was asked for, and says where.
func dump(t *testing.T, mems []*blockdev.Memory, name string) string {
	if *crashDump == "" {
		return ""
	}
	return "\n" + strings.Join(toFiles(t, mems, *crashDump, name), "\n")
}

// toFiles writes devices into files.
func toFiles(t *testing.T, mems []*blockdev.Memory, dir, name string) (paths []string) {
	t.Helper()
	for i, m := range mems {
		path := filepath.Join(dir, fmt.Sprintf("%s.%d.img", name, i))
		b := make([]byte, m.Size())
		err := m.ReadAt(context.Background(), b, 0)
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			t.Error(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// Power is cut at any moment of the first mount and of what follows, up to the end of a clean shutdown.
func TestCrashFirstMount(t *testing.T) {
	for i := range uint64(*crashRuns) {
		r := newCrashRun(t, *crashSeed+i, format(t, crashtest.Small))
		r.session(0)
		r.sweep(40)
	}
}

// The devices held a filesystem with the same UUID, whose journal must not be taken for the new one's.
func TestCrashFormattedAgain(t *testing.T) {
	for i := range uint64(*crashRuns) {
		r := newCrashRun(t, *crashSeed+i, format(t, crashtest.Small))
		r.session(50)
		mems := crashtest.Clone(r.mems)
		if err := crashtest.Small.FormatOn(t.Context(), mems); err != nil {
			t.Fatal(err)
		}
		r = newCrashRun(t, *crashSeed+i, mems)
		r.session(50)
		r.sweep(40)
	}
}

// Power is cut while files are changed on a filesystem that exists.
func TestCrashWork(t *testing.T) {
	for i := range uint64(*crashRuns) {
		r := newCrashRun(t, *crashSeed+i, format(t, crashtest.Small))
		r.session(*crashTxs / 2)
		r.session(*crashTxs / 2)
		r.sweep(100)
	}
}

// The real driver recovers what a power cut left, and finds nothing wrong with what we made of the same.
func TestCrashDriver(t *testing.T) {
	kernelvm.Available(t)
	r := newCrashRun(t, *crashSeed, format(t, crashtest.Small))
	r.session(*crashTxs / 2)
	first := r.log.Ticks()
	r.session(*crashTxs / 2)
	tl := r.history.End()
	rng := rand.New(rand.NewPCG(*crashSeed, 0))
	rec := crashtest.Recovery{Timeline: tl}
	dir := t.TempDir()
	var crashed, recovered [][]string
	for i := range *crashDriver {
		st := crashtest.State{Tick: first/4 + rng.IntN(r.log.Ticks()-first/4), How: "random"}
		st.Devices = r.log.Crash(st.Tick, blockdev.KeepRandom(rng))
		crashed = append(crashed, toFiles(t, st.Devices, dir, fmt.Sprint("crashed-", i)))
		if err := rec.Check(t.Context(), st); err != nil {
			t.Fatal(err)
		}
		recovered = append(recovered, toFiles(t, st.Devices, dir, fmt.Sprint("recovered-", i)))
	}
	for i, r := range kernelvm.Check(t, slices.Concat(crashed, recovered), kernelvm.CheckOptions{ReadWrite: true}) {
		told := r.Status == 0
		for line := range strings.Lines(r.Log) {
			if !strings.HasPrefix(line, "E") {
				continue
			}
			// A journal entry may be torn that was being written when power was cut: it is dropped.
			if told = true; i >= len(crashed) || !strings.Contains(line, "journal checksum error") {
				t.Errorf("%v: the driver says: %s", slices.Concat(crashed, recovered)[i], line)
			}
		}
		if r.Status > 1 || !told {
			t.Errorf("%v: the driver says: %s\n%s", slices.Concat(crashed, recovered)[i], r.Why, r.Log)
		}
	}
}
