package fstest

import (
	"context"
	"encoding/binary"
	"fmt"
	"path"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
)

// AIODIO is the workload of xfstests' generic/113, ltp/aio-stress: several files, each written and read in records of 64 KiB, up to 64 of them at once,
// in stages: write, read, write at random, read at random. Here the requests are goroutines, and all that is read is verified: each sector says to which file
// and place it belongs and by which write it came, and no write is seen any more once a later one of the same place has ended.
type AIODIO struct {
	Name   string
	FS     FS
	Dir    string
	Seed   uint64
	Files  int   // each with a thread of its own
	Size   int64 // of each file
	Record int64 // 0: 64 KiB
	Depth  int   // requests at once for each file; 0: 64
	Direct bool  // O_DIRECT
	Sync   bool  // O_SYNC
	// Stages are those that are gone through; nil: all four.
	Stages []Stage
}

// Stage is a part of a run of [AIODIO].
type Stage uint8

// Stages, with the numbers of aio-stress' option -o.
const (
	StageWrite Stage = iota
	StageRead
	StageRandomWrite
	StageRandomRead
)

var stageNames = [...]string{"write", "read", "random write", "random read"}

// Generic113 lists the five runs of the test, with files so many times smaller than there (120 MiB in one file, or 10 MiB in each of 20).
func Generic113(fs FS, dir string, seed uint64, smaller int64, direct bool) []AIODIO {
	const mib = 1 << 20
	size := func(n int64) int64 { return max(n*mib/smaller, mib/4) &^ (64<<10 - 1) }
	runs := []AIODIO{
		{Name: "1: -s 120m", Files: 1, Size: size(120)},
		{Name: "2: -t 20 -s 10m", Files: 20, Size: size(10)},
		{Name: "3: -t 20 -s 10m -O", Files: 20, Size: size(10), Direct: direct},
		{Name: "4: -t 20 -s 10m -O -S", Files: 20, Size: size(10), Direct: direct, Sync: true},
		{Name: "5: -t 20 -s 10m -O -S -o 2", Files: 20, Size: size(10), Direct: direct, Sync: true, Stages: []Stage{StageRandomWrite}},
	}
	for i := range runs {
		runs[i].FS, runs[i].Dir, runs[i].Seed = fs, dir, seed+uint64(i)
	}
	return runs
}

// FioJobs are the same workloads for fio(1), which are to be run in the directory of a mount: with libaio, direct, and verified.
func FioJobs(smaller int64) string {
	const head = "[global]\nioengine=libaio\nbs=64k\niodepth=64\nverify=crc32c\nverify_fatal=1\ndo_verify=1\ngroup_reporting\nthread\nfallocate=none\n"
	var b strings.Builder
	b.WriteString(head)
	job := func(name string, numjobs int, mib int64, lines ...string) {
		fmt.Fprintf(&b, "\n[%s]\nstonewall\nnumjobs=%d\nsize=%dk\n%s\n", name, numjobs, max(mib*1024/smaller, 256)&^63, strings.Join(lines, "\n"))
	}
	job("default", 1, 120, "rw=write")
	job("threads", 20, 10, "rw=write")
	job("direct", 20, 10, "rw=write", "direct=1")
	job("direct-sync", 20, 10, "rw=write", "direct=1", "sync=1")
	job("direct-sync-random", 20, 10, "rw=randwrite", "direct=1", "sync=1")
	return b.String()
}

// aioFile is a file on the way.
type aioFile struct {
	*AIODIO
	id   uint64
	path string
	f    File

	mu      sync.Mutex
	next    uint64      // number of the next write
	records []aioRecord // what may be found in each unit of the file
	size    int64
}

// aioUnit is the size of what is written as one and verified as one: random writes are aligned to it, records are several of it.
const aioUnit = 4096

// aioRecord is what is known of a unit. Writes that overlap in time may end in any order.
type aioRecord struct {
	oldest  uint64 // the least number of a write that may be found
	pending int    // writes under way
	first   uint64 // the first of those that are, and of those that were beside them
}

// Run does the stages and removes the files.
func (a AIODIO) Run(ctx context.Context) error {
	set(&a.Record, 64<<10)
	set(&a.Depth, 64)
	if a.Stages == nil {
		a.Stages = []Stage{StageWrite, StageRead, StageRandomWrite, StageRandomRead}
	}
	g, ctx := errgroup.WithContext(ctx)
	for i := range a.Files {
		f := &aioFile{AIODIO: &a, id: uint64(i), path: path.Join(a.Dir, fmt.Sprintf("aiostress.%d.%d", a.Seed, i)), records: make([]aioRecord, a.Size/aioUnit)}
		g.Go(func() error { return f.run(ctx) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("aio, %q, seed %d: %w", a.Name, a.Seed, err)
	}
	return nil
}

func (f *aioFile) run(ctx context.Context) (err error) {
	flags := OpenCreate | OpenTruncate
	if f.Direct {
		flags |= OpenDirect
	}
	if f.Sync {
		flags |= OpenSync
	}
	if f.f, err = f.FS.Open(f.path, flags, 0o600); err != nil {
		return err
	}
	defer func() {
		if cerr := f.f.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = f.FS.Unlink(f.path)
		}
	}()
	for _, s := range f.Stages {
		if err := f.stage(ctx, s); err != nil {
			return fmt.Errorf("%s, %s: %w", f.path, stageNames[s], err)
		}
		// As aio-stress does after each stage.
		if err := f.f.Sync(); err != nil {
			return err
		}
	}
	return f.stage(ctx, StageRead)
}

// stage has as many requests as records are in the file, so many at once.
func (f *aioFile) stage(ctx context.Context, s Stage) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(f.Depth)
	rng := newRand(f.Seed, f.id<<8|uint64(s))
	for i := range f.Size / f.Record {
		if ctx.Err() != nil {
			break
		}
		off := i * f.Record
		if s >= StageRandomWrite {
			off = rng.Int64N((f.Size-f.Record)/aioUnit+1) * aioUnit
		}
		if s == StageWrite || s == StageRandomWrite {
			g.Go(func() error { return f.write(off) })
		} else {
			g.Go(func() error { return f.read(off) })
		}
	}
	return g.Wait()
}

// write writes a record.
func (f *aioFile) write(off int64) error {
	units := f.records[off/aioUnit:][:f.Record/aioUnit]
	f.mu.Lock()
	f.next++
	n := f.next
	for i := range units {
		if units[i].pending == 0 {
			units[i].first = n
		}
		units[i].pending++
	}
	f.mu.Unlock()
	p := blockdev.AlignedBuffer(int(f.Record))
	for at := int64(0); at < f.Record; at += 512 {
		f.stamp(p[at:at+512], off+at, n)
	}
	if err := writeFull(f.f, p, off); err != nil {
		return fmt.Errorf("at %#x: %w", off, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size = max(f.size, off+f.Record)
	for i := range units {
		units[i].pending--
		units[i].oldest = units[i].first
	}
	return nil
}

// stamp makes the content of a sector.
func (f *aioFile) stamp(p []byte, off int64, n uint64) {
	fill(p, mix(f.id)^mix(n)<<1, off)
	binary.LittleEndian.PutUint64(p, f.id)
	binary.LittleEndian.PutUint64(p[8:], uint64(off))
	binary.LittleEndian.PutUint64(p[16:], n)
}

// read reads a record and verifies it.
func (f *aioFile) read(off int64) error {
	units := f.records[off/aioUnit:][:f.Record/aioUnit]
	oldest := make([]uint64, len(units))
	f.mu.Lock()
	size := f.size
	for i := range units {
		oldest[i] = units[i].oldest
	}
	f.mu.Unlock()
	p := blockdev.AlignedBuffer(int(f.Record))
	n, err := readFull(f.f, p, off)
	if err != nil {
		return fmt.Errorf("at %#x: %w", off, err)
	}
	if want := min(max(size-off, 0), f.Record); int64(n) < want {
		return fmt.Errorf("at %#x: read %#x of %#x bytes", off, n, want)
	}
	f.mu.Lock()
	newest := f.next
	f.mu.Unlock()
	for at := 0; at+512 <= n; at += 512 {
		if err := f.verify(p[at:at+512], off+int64(at), oldest[at/aioUnit], newest); err != nil {
			return fmt.Errorf("at %#x: %w", off+int64(at), err)
		}
	}
	return nil
}

// verify says what is wrong with a sector.
func (f *aioFile) verify(p []byte, off int64, oldest, newest uint64) error {
	n := binary.LittleEndian.Uint64(p[16:])
	if isZero(p) {
		if oldest > 0 {
			return fmt.Errorf("zeros, where write %d or a later one should be", oldest)
		}
		return nil
	}
	want := make([]byte, 512)
	f.stamp(want, off, n)
	if string(want) != string(p) {
		return fmt.Errorf("what is there was not written there: it says it is of file %d, at %#x, by write %d (here: file %d)", binary.LittleEndian.Uint64(p),
			binary.LittleEndian.Uint64(p[8:]), n, f.id)
	}
	if n < oldest || n > newest {
		return fmt.Errorf("found write %d, want %d to %d", n, oldest, newest)
	}
	return nil
}

func isZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
