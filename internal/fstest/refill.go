package fstest

import (
	"fmt"
	"path"
	"time"
)

// Refill fills a filesystem in several ways until there is no space, deletes everything, and fills it again: there must be as much space as before each time.
type Refill struct {
	FS     FS
	Dir    string // of its own; made and removed each time
	Seed   uint64
	Rounds int // 0: 6
	// Settle waits until what was deleted has given its space back; nil: Sync is enough.
	Settle func() error
	// Slack is how many bytes of free space may be missing in the end: nodes of btrees that were needed once, and stay.
	Slack int64
	// Used, if set, is how many bytes the content of files takes: as many as before after each round.
	Used func() (int64, error)
	// Slowest is how long one operation may take; 0: 30 s.
	Slowest time.Duration
	Logf    func(format string, args ...any)

	start int64 // free bytes in the beginning
}

// fillers are the ways to fill a filesystem. Each does a little more, until there is ENOSPC.
var fillers = []struct {
	name string
	step func(x *Refill, i int) error
}{
	{"large files", func(x *Refill, i int) error { return x.file(i, 1<<20, 64<<10) }},
	{"small files", func(x *Refill, i int) error { return x.file(i, 3000, 3000) }},
	{"one file that grows", func(x *Refill, i int) error { return x.grow(int64(i)<<17, 128<<10) }},
	{"a file with holes", func(x *Refill, i int) error { return x.grow(int64(i)<<16, 4096) }},
	{"files of all sizes", func(x *Refill, i int) error { return x.file(i, 1+int64(mix(x.Seed+uint64(i))%200000), 50000) }},
	{"allocated files", func(x *Refill, i int) error { return x.allocate(i) }},
	{"directories and names", func(x *Refill, i int) error {
		return x.FS.Mkdir(path.Join(x.Dir, fmt.Sprintf("%0200d", i)), 0o755)
	}},
	{"a file that is written over", func(x *Refill, i int) error { return x.grow(int64(mix(uint64(i))%64)<<18+int64(i)<<14, 16<<10) }},
}

// Run does the rounds.
func (x Refill) Run() error {
	set(&x.Rounds, 6)
	set(&x.Slowest, 30*time.Second)
	if x.Logf == nil {
		x.Logf = func(string, ...any) {}
	}
	if x.Settle == nil {
		x.Settle = x.FS.Sync
	}
	start, err := x.FS.Statfs()
	if err != nil {
		return err
	}
	x.start = start.Free
	for i := range x.Rounds {
		f := fillers[(int(x.Seed)+i)%len(fillers)]
		if err := x.round(f.name, f.step); err != nil {
			return fmt.Errorf("refill, seed %d, round %d, %s: %w", x.Seed, i, f.name, err)
		}
	}
	return nil
}

func (x *Refill) round(name string, step func(*Refill, int) error) error {
	before, err := x.FS.Statfs()
	if err != nil {
		return err
	}
	used, err := x.used()
	if err != nil {
		return err
	}
	if err := x.FS.Mkdir(x.Dir, 0o755); err != nil {
		return err
	}
	n, full := 0, 0
	start := time.Now()
	slowest := time.Duration(0)
	for full < 20 {
		began := time.Now()
		err := step(x, n)
		if took := time.Since(began); took > slowest {
			slowest = took
		}
		switch ErrnoOf(err) {
		case 0:
		case ENOSPC:
			full++
		case EFBIG:
			full = 20
		default:
			return fmt.Errorf("step %d: %w", n, err)
		}
		n++
	}
	if slowest > x.Slowest {
		return fmt.Errorf("one step took %v", slowest)
	}
	atFull, err := x.FS.Statfs()
	if err != nil {
		return err
	}
	if err := RemoveAll(x.FS, x.Dir); err != nil {
		return fmt.Errorf("deleting: %w", err)
	}
	if err := x.Settle(); err != nil {
		return fmt.Errorf("settling: %w", err)
	}
	after, err := x.FS.Statfs()
	if err != nil {
		return err
	}
	x.Logf("refill: %s: %d steps in %v, slowest %v; free %d before, %d when full, %d after", name, n, time.Since(start).Round(time.Millisecond),
		slowest.Round(time.Millisecond), before.Free, atFull.Free, after.Free)
	if after.Free < x.start-x.Slack {
		return fmt.Errorf("of %d free bytes %d are left, %d have not come back", x.start, after.Free, x.start-after.Free)
	}
	if got, err := x.used(); err != nil || got != used {
		return fmt.Errorf("files took %d bytes before, now %d (%w)", used, got, orDone(err))
	}
	if after.Files > before.Files {
		return fmt.Errorf("there were %d inodes, now there are %d", before.Files, after.Files)
	}
	return nil
}

func (x *Refill) used() (int64, error) {
	if x.Used == nil {
		return 0, nil
	}
	return x.Used()
}

// file writes a new file.
func (x *Refill) file(i int, size, piece int64) error {
	f, err := x.FS.Open(path.Join(x.Dir, fmt.Sprintf("d%d", i%7), fmt.Sprintf("f%d", i)), OpenCreate, 0o600)
	if ErrnoOf(err) == ENOENT {
		if err := x.FS.Mkdir(path.Join(x.Dir, fmt.Sprintf("d%d", i%7)), 0o755); err != nil {
			return err
		}
		return x.file(i, size, piece)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for off := int64(0); off < size; off += piece {
		if err := writeFull(f, pattern(uint64(i), off, min(piece, size-off)), off); err != nil {
			return err
		}
	}
	return x.maybeSync(f, i)
}

// maybeSync has what is in a page cache reach the filesystem, which knows only then that it is full.
func (x *Refill) maybeSync(f File, i int) error {
	if i%8 == 0 {
		return f.Sync()
	}
	return nil
}

// grow writes into the one file.
func (x *Refill) grow(off, n int64) error {
	f, err := x.FS.Open(path.Join(x.Dir, "file"), OpenCreate, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := writeFull(f, pattern(uint64(off), off, n), off); err != nil {
		return err
	}
	return x.maybeSync(f, int(off>>14))
}

func (x *Refill) allocate(i int) error {
	f, err := x.FS.Open(path.Join(x.Dir, fmt.Sprintf("f%d", i)), OpenCreate, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Allocate(AllocExtend, 0, 300_000)
}
