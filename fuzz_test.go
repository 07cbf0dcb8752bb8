package bcachefs_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/fuzzing"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// fuzzImages are what is mutated. Inputs name them by their place: append only. The first four are in testdata, inputs about others
// are passed over if the full set is not at hand.
var fuzzImages = []string{"damage-base", "damage-base-dirty", "v1.39-snapshots", "v1.39-casefold",
	"damage-base-nocsum", "v1.39-ec", "v1.39-ec-raid6", "encrypted-no-passphrase", "v1.39-compress-lz4", "v1.31-compress-gzip",
	"v1.39-compress-zstd", "v1.39-poisoned", "v1.31-unwritten", "mkfs-old-upgraded", "v1.39-multi-dirty", "dirty-light", "reflink"}

// Limits of one run. A sound image takes some 50 ms and less than 50 MiB; the race detector and busy machines are slow.
const (
	fuzzDeadline  = 60 * time.Second
	fuzzHeapLimit = 384 << 20
)

// FuzzImage opens and reads all of images in which a few structures were changed, their checksums being right. Errors are
// welcome; panics, hangs and memory without bound are not.
//
// An input is the number of an image, a byte of options, then mutations (see package fuzzing).
func FuzzImage(f *testing.F) {
	images := fuzzImageSet{loaded: map[int]*fuzzing.Image{}}
	for i := range fuzzImages {
		if (testing.Short() || golden.Race) && i >= 4 {
			break // inputs of testdata are about the others, too
		}
		f.Add([]byte{byte(i), 0})
		f.Add(randomInput(uint64(i), byte(i), 1))
		f.Add(randomInput(uint64(i)+100, byte(i), 3))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) < 2 {
			return
		}
		img := images.get(t, int(input[0])%len(fuzzImages))
		if img == nil {
			t.Skip("the image is only in the full set")
		}
		devices, err := img.Changed(t.Context(), img.Mutate(mutationsOf(input[2:])))
		if err != nil {
			t.Fatal(err)
		}
		defer watch(t)()
		readEverything(t, img, devices, input[1])
	})
}

// mutationsOf decodes what follows the first two bytes of an input. More than a few say nothing more.
func mutationsOf(b []byte) (all []fuzzing.Mutation) {
	for len(b) >= fuzzing.MutationSize && len(all) < 16 {
		all = append(all, fuzzing.DecodeMutation(b))
		b = b[fuzzing.MutationSize:]
	}
	return all
}

// randomInput makes an input of n mutations, most of them of nodes and within what a writer might write.
func randomInput(seed uint64, image byte, n int) []byte {
	rnd := rand.New(rand.NewPCG(seed, 0))
	b := []byte{image, byte(rnd.Uint32() & rnd.Uint32())}
	for range n {
		m := fuzzing.Mutation{Kind: fuzzing.Node, Part: uint16(rnd.Uint32()), Op: uint8(rnd.IntN(10)), Index: uint16(rnd.Uint32()),
			Off: uint8(rnd.IntN(64)), Width: uint8(rnd.IntN(4)), Value: rnd.Uint64() >> rnd.IntN(64)}
		switch rnd.IntN(8) {
		case 0:
			m.Kind = fuzzing.Kind(rnd.IntN(int(fuzzing.NumKinds)))
		case 1:
			m.Kind = fuzzing.Jset
		case 2:
			m.Value = -m.Value
		case 3:
			m.Value = uint64(rnd.IntN(16))
		}
		b = m.Append(b)
	}
	return b
}

var (
	mutatedRuns = flag.Int("mutated", 200, "how many mutated images TestMutatedImages reads")
	mutatedSeed = flag.Uint64("mutated-seed", 0, "first seed of TestMutatedImages")
)

// TestMutatedImages is FuzzImage with random mutations, without a fuzzer's guidance and several times as fast. A failing run is
// repeated by its seed: -mutated 1 -mutated-seed N.
func TestMutatedImages(t *testing.T) {
	images := fuzzImageSet{loaded: map[int]*fuzzing.Image{}}
	runs := golden.FlagTimes(t, "mutated", *mutatedRuns, 40)
	if testing.Short() {
		runs = min(runs, 20)
	}
	for i := range runs {
		seed := *mutatedSeed + uint64(i)
		n := 4 // of testdata; a short test does not load more
		if runs > 1000 || *mutatedSeed > 0 {
			n = len(fuzzImages)
		}
		input := randomInput(seed, byte(seed%uint64(n)), 1+int(seed%5))
		img := images.get(t, int(input[0]))
		if img == nil {
			continue
		}
		devices, err := img.Changed(t.Context(), img.Mutate(mutationsOf(input[2:])))
		if err != nil {
			t.Fatal(err)
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			defer watch(t)()
			readEverything(t, img, devices, input[1])
		})
	}
}

// fuzzImageSet loads images once.
type fuzzImageSet struct {
	mu     sync.Mutex
	loaded map[int]*fuzzing.Image
	all    []golden.Image
}

func (s *fuzzImageSet) get(t testing.TB, i int) *fuzzing.Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	if img, ok := s.loaded[i]; ok {
		return img
	}
	if s.all == nil {
		s.all = golden.Images(t)
	}
	var img *fuzzing.Image
	for _, g := range s.all {
		if g.Name != fuzzImages[i] {
			continue
		}
		var err error
		if img, err = fuzzing.Load(context.Background(), g.Name, g.Unpack(t), g.Passphrase); err != nil {
			panic(err)
		}
	}
	s.loaded[i] = img
	return img
}

// watch looks after a run until the function that it returns is called: one that takes too long, or too much memory, ends the
// process with the stacks of all goroutines, which is how a fuzzer learns of it.
func watch(t testing.TB) (done func()) {
	// Garbage is collected long before it makes half of the limit: what is above that is in use.
	old := debug.SetMemoryLimit(fuzzHeapLimit / 2)
	start, before := time.Now(), heapBytes()
	stop, stopped := make(chan struct{}), make(chan struct{})
	var peak uint64
	go func() {
		defer close(stopped)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			now := heapBytes()
			peak = max(peak, now)
			switch {
			case time.Since(start) > fuzzDeadline:
				die("the run takes longer than %v", fuzzDeadline)
			case now > before+fuzzHeapLimit:
				runtime.GC()
				if now = heapBytes(); now > before+fuzzHeapLimit {
					die("%d MiB of heap, %d MiB at the start", now>>20, before>>20)
				}
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
		debug.SetMemoryLimit(old)
		if peak > before && testing.Verbose() {
			t.Logf("%v, %d MiB of heap more than at the start", time.Since(start), (peak-before)>>20)
		}
	}
}

func heapBytes() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func die(format string, args ...any) {
	buf := make([]byte, 1<<20)
	fmt.Fprintf(os.Stderr, "%s\n", buf[:runtime.Stack(buf, true)])
	panic(fmt.Sprintf(format, args...))
}

// Options of a run, the second byte of an input.
const (
	fuzzSalvage = 1 << iota
	fuzzNoRecovery
	fuzzVeryDegraded
	fuzzFewDevices // without the last device

	fuzzSmallCache = 3 << 4 // both bits: it is slow
)

// readEverything opens a filesystem and reads what there is, as far as a budget lasts: an inode may claim any size, and a
// directory may be in itself.
func readEverything(t testing.TB, img *fuzzing.Image, devices []*blockdev.Memory, options byte) {
	ctx := t.Context()
	opts := &bcachefs.OpenOptions{NoScan: true, OpenDevice: img.Opener(devices), Salvage: options&fuzzSalvage != 0,
		NoRecovery: options&fuzzNoRecovery != 0, VeryDegraded: options&fuzzVeryDegraded != 0, NodeCacheBytes: 32 << 20,
		ExtentCacheBytes: 8 << 20,
		Passphrase:       func(context.Context) ([]byte, error) { return nil, bcachefs.ErrPassphraseNeeded }}
	if options&fuzzSmallCache == fuzzSmallCache {
		opts.NodeCacheBytes, opts.ExtentCacheBytes = 1, 1
	}
	names := img.Names()
	if options&fuzzFewDevices != 0 && len(names) > 1 {
		names = names[:len(names)-1]
	}
	fsys, err := bcachefs.Open(ctx, names, opts)
	if err != nil {
		checkError(t, err)
		return
	}
	r := reading{t: t, ctx: ctx, fs: fsys, entries: 300, bytes: 2 << 20, keys: 20000}
	if options&fuzzSmallCache == fuzzSmallCache {
		r.entries /= 8
	}
	r.tree(fsys.Root().RootInode(), 0)
	r.subvolumes()
	r.allKeys()
	r.usage()
	r.journal()
	for _, m := range fsys.Messages() {
		if len(m) > 4096 {
			t.Errorf("message of %d bytes: %.200s", len(m), m)
		}
	}
	if err := fsys.Close(); err != nil {
		t.Error(err)
	}
}

// reading is the state of reading everything.
type reading struct {
	t   testing.TB
	ctx context.Context
	fs  *bcachefs.FS

	entries, bytes, keys int // that may still be read
	buf                  []byte
}

// check makes sure that an error is one that a user can read and that says nothing of a broken invariant.
func (r *reading) check(err error) {
	if err != nil {
		checkError(r.t, err)
	}
}

func checkError(t testing.TB, err error) {
	t.Helper()
	if s := err.Error(); s == "" || len(s) > 4096 {
		t.Errorf("error of %d bytes: %.200s", len(s), s)
	}
	_ = bcachefs.ErrnoOf(err)
}

func (r *reading) tree(id bcachefs.InodeID, depth int) {
	if r.entries--; r.entries < 0 || depth > 50 {
		return
	}
	st, err := r.fs.Stat(r.ctx, id)
	if err != nil {
		r.check(err)
		return
	}
	r.xattrs(id)
	_, err = r.fs.Path(r.ctx, id)
	r.check(err)
	switch {
	case st.Mode.IsDir():
		_, err := r.fs.Parent(r.ctx, id)
		r.check(err)
		r.dir(id, depth)
	case st.Mode.IsRegular():
		r.file(id)
	default:
		_, err := r.fs.Readlink(r.ctx, id)
		r.check(err)
	}
}

func (r *reading) dir(id bcachefs.InodeID, depth int) {
	var children []bcachefs.InodeID
	errs := 0
	for e, err := range r.fs.ReadDir(r.ctx, id, 0) {
		if err != nil {
			r.check(err)
			if errs++; errs > 1000 {
				break
			}
			continue
		}
		_, err := r.fs.Lookup(r.ctx, id, e.Name)
		r.check(err)
		if children = append(children, e.ID); len(children) > r.entries {
			break
		}
	}
	for _, c := range children {
		r.tree(c, depth+1)
	}
}

func (r *reading) xattrs(id bcachefs.InodeID) {
	names, err := r.fs.ListXattr(r.ctx, id)
	r.check(err)
	for _, name := range names {
		_, err := r.fs.GetXattr(r.ctx, id, name)
		r.check(err)
	}
}

// file reads the start and the end of a file and what lies behind its first holes.
func (r *reading) file(id bcachefs.InodeID) {
	f, err := r.fs.OpenInode(r.ctx, id)
	if err != nil {
		r.check(err)
		return
	}
	defer f.Close()
	if r.buf == nil {
		r.buf = make([]byte, 256<<10)
	}
	buf := r.buf[:min(len(r.buf), max(r.bytes, 0))]
	read := func(off int64) int {
		n, err := f.ReadAtContext(r.ctx, buf, off)
		r.bytes -= n
		if err != io.EOF {
			r.check(err)
		}
		return n
	}
	read(0)
	read(max(f.Size()-4096, 0))
	read(1000)
	off := int64(0)
	for range 20 {
		start, end, err := f.NextData(r.ctx, off)
		if err != nil {
			r.check(err)
			return
		}
		if start < off || end < start {
			r.t.Fatalf("data behind %d at %d - %d", off, start, end)
		}
		buf = buf[:min(len(buf), 4096)]
		if off = end; end > start {
			read(start)
		}
	}
}

func (r *reading) subvolumes() {
	subvols, err := r.fs.Subvolumes(r.ctx)
	r.check(err)
	for _, s := range subvols {
		v, err := r.fs.SubvolumeByID(s.ID)
		if r.check(err); err == nil {
			r.tree(v.RootInode(), 48)
		}
	}
	snaps, err := r.fs.Snapshots(r.ctx)
	r.check(err)
	for i, s := range snaps {
		if i > 100 {
			break
		}
		v, err := r.fs.SnapshotView(s.ID)
		if r.check(err); err == nil {
			r.tree(v.RootInode(), 48)
		}
	}
}

// allKeys lists and prints the keys of all btrees.
func (r *reading) allKeys() {
	env := ondisk.TextEnv{Version: r.fs.Engine().SB.Version, ExtentTypeU64s: r.fs.Engine().SB.ExtentTypeU64s()}
	var text []byte
	for id := range ondisk.NumBtrees {
		errs := 0
		for k, err := range r.fs.Keys(r.ctx, id.String(), ondisk.PosMin, ondisk.SPosMax) {
			if r.keys--; r.keys < 0 {
				return
			}
			if err != nil {
				r.check(err)
				if errs++; errs > 1000 {
					break
				}
				continue
			}
			if text = ondisk.AppendKeyText(text[:0], id, &k, &env); len(text) > 1<<20 {
				r.t.Errorf("%d bytes of text for key %v", len(text), k.Pos)
			}
		}
	}
}

func (r *reading) usage() {
	_, err := r.fs.Usage(r.ctx)
	r.check(err)
	_, err = r.fs.StatFS(r.ctx)
	r.check(err)
	r.check(r.fs.Engine().SB.Text(io.Discard, ondisk.TextOptions{All: true, Layout: true, Location: time.UTC}))
}

// journal reads and prints every entry of the journal, whether it counts or not.
func (r *reading) journal() {
	cfg := r.fs.Engine().JournalConfig()
	cfg.All = true
	found, err := journal.Scan(r.ctx, &cfg)
	if err != nil {
		r.check(err)
		return
	}
	_, err = journal.Load(r.ctx, &cfg, journal.Select(found.Candidates, cfg.Blacklist, cfg.Degraded), nil)
	if err != nil && !errors.Is(err, ondisk.ErrIncompatible) {
		r.check(err)
	}
	for _, c := range found.Candidates {
		at := c.Copies[0]
		buf := make([]byte, at.Bytes)
		r.check(cfg.Members[at.Member].Device.ReadAt(r.ctx, buf, at.Offset))
		if j, _, err := ondisk.DecodeJset(buf, cfg.Params); err == nil {
			j.Validate(nil)
			r.records(j)
		}
	}
}

func (r *reading) records(j *ondisk.Jset) {
	for i := range j.Entries {
		text := j.Entries[i].AppendText(nil, func(dst []byte, id ondisk.BtreeID, _ uint8, k *ondisk.Key) []byte {
			return ondisk.AppendKeyText(dst, id, k, nil)
		})
		if len(text) > 16<<20 {
			r.t.Errorf("%d bytes of text for record %d of entry %d", len(text), i, j.Seq)
		}
	}
}
