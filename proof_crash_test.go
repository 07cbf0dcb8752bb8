package bcachefs_test

import (
	"flag"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/crashtest"
	"github.com/go-bcachefs/bcachefs/internal/fstest"
)

var (
	aceFull   = flag.Bool("ace.full", false, "run all workloads of two operations, which takes an hour or so, and not a sample")
	aceSample = flag.Int("ace.sample", 15, "workloads of two and of three operations each that are run")
	aceStates = flag.Int("ace.states", 4, "power cuts that are tried for each workload, about")
)

// aceBase is a small filesystem that was mounted once, and is empty.
func aceBase(t *testing.T) []*blockdev.Memory {
	t.Helper()
	w := newWorld(t, proofKind{name: "ace", mib: 16}, 1)
	root := w.fs.Root()
	for _, err := range []error{root.RemoveAll("lost+found"), root.Chmod(".", 0o755), w.fs.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w.fs = nil
	return w.mems
}

// openOn opens a filesystem on devices that stay open.
func openOn[D blockdev.Device](devs []D, write bool) (*bcachefs.FS, error) {
	byName := map[string]bcachefs.Device{}
	var names []string
	for i, d := range devs {
		name := fmt.Sprint("device-", i)
		names = append(names, name)
		byName[name] = stayOpen{d}
	}
	return bcachefs.Open(ctx, names, &bcachefs.OpenOptions{Write: write, NoScan: true, NodeCacheBytes: 1 << 20,
		OpenDevice: func(name string) (bcachefs.Device, error) { return byName[name], nil }})
}

// aceRun runs workloads on copies of a filesystem and cuts the power.
type aceRun struct {
	base          []*blockdev.Memory
	states        atomic.Int64
	workloads     atomic.Int64
	seed          uint64
	wantedOfState int
}

// run runs one workload, and looks at what power cuts leave of it.
func (a *aceRun) run(w fstest.Workload) error {
	log := blockdev.NewLog()
	fs, err := openOn(crashtest.Record(log, crashtest.Clone(a.base)), true)
	if err != nil {
		return err
	}
	m := fstest.NewModel(0o755, 0, 0)
	m.Block = 4096
	rec, err := w.Run(library{fs, fs.Root()}, m, fstest.Compare{NoTimes: true}, log.Ticks)
	if err != nil {
		fs.Abandon()
		return err
	}
	end := log.Ticks()
	fs.Abandon()
	n := a.workloads.Add(1)
	start := rec.Start()
	s := crashtest.Sweep{From: start, To: end, Every: max(1, (end-start)*2/a.wantedOfState), Whole: true, Random: 1, Seed: a.seed + uint64(n)}
	s.Offset = int(n) % s.Every
	s.Visit(log, func(st crashtest.State) bool {
		if err = a.check(rec, st); err != nil {
			err = fmt.Errorf("power cut at tick %d (of %d to %d), keeping %s: %w", st.Tick, start, end, st.How, err)
		}
		return err == nil
	})
	return err
}

// check looks at what a power cut left: before and after recovery, and once in a while with fsck.
func (a *aceRun) check(rec *fstest.Recording, st crashtest.State) error {
	n := a.states.Add(1)
	if n%3 == 0 {
		if err := a.look(rec, st, false); err != nil {
			return fmt.Errorf("before recovery: %w", err)
		}
	}
	return a.look(rec, st, true)
}

func (a *aceRun) look(rec *fstest.Recording, st crashtest.State, write bool) error {
	fs, err := openOn(st.Devices, write)
	if err != nil {
		return err
	}
	got, err := fstest.Observe(library{fs, fs.Root()})
	if err == nil {
		_, err = rec.Check(st.Tick, got)
	}
	if !write {
		fs.Close()
		return err
	}
	if err != nil || a.states.Load()%4 != 0 {
		fs.Abandon()
		return err
	}
	if err := fs.Close(); err != nil {
		return err
	}
	return fsckOf(st.Devices)
}

// fsckOf says what our check finds on devices.
func fsckOf(mems []*blockdev.Memory) error {
	fs, err := crashtest.Open(ctx, crashtest.DevicesOf(mems), nil)
	if err != nil {
		return err
	}
	defer fs.Close()
	return crashtest.Fsck(ctx, fs)
}

// Power is cut at any moment of short sequences of operations on files: what is found is what there was after one of them, and not before the last that
// was made durable.
func TestProofACE(t *testing.T) {
	a := &aceRun{base: aceBase(t), seed: *proofSeed, wantedOfState: *aceStates}
	work := make(chan fstest.Workload)
	var wg sync.WaitGroup
	start := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for w := range work {
				if t.Failed() {
					continue
				}
				if err := a.run(w); err != nil {
					t.Errorf("%v\n%v", err, w)
				}
			}
		})
	}
	for w := range (fstest.ACE{Ops: 1}).All() {
		work <- w
	}
	if *aceFull {
		for w := range (fstest.ACE{Ops: 2}).All() {
			work <- w
		}
	} else {
		for w := range (fstest.ACE{Ops: 2}).Sample(*proofSeed, *aceSample) {
			work <- w
		}
	}
	for w := range (fstest.ACE{Ops: 3}).Sample(*proofSeed, *aceSample) {
		work <- w
	}
	close(work)
	wg.Wait()
	t.Logf("%d workloads, %d states in %v", a.workloads.Load(), a.states.Load(), time.Since(start).Round(time.Millisecond))
}
