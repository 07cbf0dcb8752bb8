package data_test

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

var churnTimes = flag.Int("data.churn", 20, "how many times TestChurn overwrites what is in a filesystem, at most")

// churnShape is a filesystem that is full soon.
type churnShape struct {
	enginetest.Shape
	fill  float64 // share of the capacity that is used
	times int     // how many times its content is overwritten, at most
}

func churnShapes() []churnShape {
	small := func(name string, options map[string]string, mib ...int64) churnShape {
		o := map[string]string{"btree_node_size": "32k"}
		maps.Copy(o, options)
		s := shape(name, o, mib...)
		for i := range s.Devices {
			s.Devices[i].BucketBytes = 64 << 10
		}
		return churnShape{s, 0.9, 3}
	}
	plain := small("plain", nil, 16)
	plain.times = 20
	// Small pieces compress worse, so that the usage grows. And pieces cannot be divided: they are to be small beside buckets.
	compressed := small("compressed", map[string]string{"compression": "lz4", "block_size": "512", "encoded_extent_max": "16k"}, 16)
	compressed.fill = 0.7
	encrypted := small("encrypted", map[string]string{"compression": "zstd", "block_size": "512", "encoded_extent_max": "16k"}, 16)
	encrypted.fill = 0.55
	encrypted.Options.Encrypted = true
	early := small("early allocator", nil, 16)
	early.NoFreespace = true
	return []churnShape{
		plain, compressed, encrypted, small("mirrored", map[string]string{"data_replicas": "2"}, 12, 16),
		small("two devices", nil, 8, 12), small("nocow", map[string]string{"nocow": "1"}, 16), early,
	}
}

const churnBlock = 4096

// churnFill fills a block with what it has in a generation; about half of it compresses.
func churnFill(p []byte, block, gen uint64) {
	x := block<<32 | gen
	for i := 0; i < len(p); i += 8 {
		if i < len(p)/2 {
			x = x*6364136223846793005 + 1442695040888963407
		}
		binary.LittleEndian.PutUint64(p[i:], x)
	}
}

// fillUp makes a file as large as it can be until a share of the capacity is used.
func (w *world) fillUp(f *modelFile, share float64) {
	w.Helper()
	buf := make([]byte, 64<<10)
	for {
		u := w.rw.Space.Usage()
		if float64(u.Used) >= share*float64(u.Capacity) {
			return
		}
		n := len(f.content)
		for i := 0; i < len(buf); i += churnBlock {
			churnFill(buf[i:i+churnBlock], uint64(n+i)/churnBlock, 0)
		}
		w.what = fmt.Sprintf("filled up to %d bytes", n)
		w.write(f, buf, n)
	}
}

// churn overwrites random pieces of a file, times its length altogether.
func (w *world) churn(ctx context.Context, f *modelFile, r *rand.Rand, times int) {
	buf := make([]byte, 64<<10)
	total := int64(times) * int64(len(f.content))
	for done, gen := int64(0), uint64(1); done < total && ctx.Err() == nil; gen++ {
		p := buf[:churnBlock]
		if r.IntN(16) == 0 {
			p = buf
		}
		off := r.IntN((len(f.content)-len(p))/churnBlock+1) * churnBlock
		for i := 0; i < len(p); i += churnBlock {
			churnFill(p[i:i+churnBlock], uint64(off+i)/churnBlock, gen)
		}
		if n, _, err := w.w.WriteAt(ctx, f.id, p, int64(off), nil); err != nil || n != len(p) {
			w.Errorf("%s: after %d of %d bytes: %d of %d at %d: %v\n%+v\n%+v", f.name, done, total, n, len(p), off, err, w.rw.CopyGC(), w.rw.Space.Usage())
			return
		}
		copy(f.content[off:], p)
		done += int64(len(p))
	}
}

// churned makes a filesystem, fills it, and overwrites what is in it.
func churned(t *testing.T, s churnShape, seed uint64) *world {
	t.Helper()
	w := newWorld(t, s.Shape)
	times := min(*churnTimes, s.times)
	if testing.Short() {
		times = min(times, 2)
	}
	if golden.Race {
		times = 1
	}
	files := []*modelFile{w.file("first"), w.file("second")}
	w.fillUp(files[0], s.fill/2)
	w.fillUp(files[1], s.fill)
	start := time.Now()
	var wg sync.WaitGroup
	for g, f := range files {
		wg.Go(func() { w.churn(t.Context(), f, rand.New(rand.NewPCG(seed, uint64(g))), times) })
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	gc := w.rw.CopyGC()
	t.Logf("%d bytes %d times in %v: %+v", len(files[0].content)+len(files[1].content), times, time.Since(start), gc)
	if gc.Buckets == 0 && s.Name != "nocow" || gc.Failed > 0 || gc.Errors > 0 {
		t.Errorf("copygc: %+v", gc)
	}
	return w
}

// A filesystem that is 90 % full can be written to over and over, at random: space is always found.
func TestChurn(t *testing.T) {
	for i, s := range churnShapes() {
		if golden.Race && i%3 != 0 {
			continue
		}
		t.Run(s.Name, func(t *testing.T) { churned(t, s, uint64(i)).end() })
	}
}

// Without anybody writing, copygc does nothing, however little is free.
func TestCopyGCIsIdle(t *testing.T) {
	s := churnShapes()[0]
	s.times = 1
	w := churned(t, s, 77)
	// What is under way may end: it stops by itself.
	var before data.CopyGCStats
	quiet := 0
	for range 200 {
		now := w.rw.CopyGC()
		if now.Rounds == before.Rounds {
			quiet++
		} else {
			quiet = 0
		}
		if before = now; quiet == 10 {
			break
		}
		time.Sleep(30 * time.Millisecond)
	}
	if quiet < 10 {
		t.Errorf("it goes on and on: %+v", before)
	}
	w.end()
}

// Buckets that the fragmentation LRU does not list, though it should, are found all the same.
func TestCopyGCWithoutLRU(t *testing.T) {
	w := newWorld(t, churnShapes()[0].Shape)
	f := w.file("file")
	w.fillUp(f, 0.6)
	w.must(w.rw.Journal.Flush(t.Context()))
	for off := 0; off < len(f.content); off += 4 * churnBlock { // a quarter stays
		_, err := w.w.Punch(t.Context(), f.id, int64(off), 3*churnBlock, nil)
		w.must(err)
		clear(f.content[off:min(off+3*churnBlock, len(f.content))])
	}
	w.must(w.rw.Store.FlushWriteBuffer(t.Context()))
	listed := 0
	w.must(w.rw.Store.Update(t.Context(), func(tx *trans.Tx) error {
		listed = 0
		from := ondisk.LRUPos{ID: ondisk.LRUFragmentation}.Pos()
		return tx.Scan(ondisk.BtreeLRU, from, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
			listed++
			tx.UpdateBuffered(ondisk.BtreeLRU, ondisk.Key{Pos: k.Pos})
			return true, nil
		})
	}))
	gc := data.NewCopyGC(data.CopyGCConfig{Writer: w.w, Clock: func() uint64 { return 1 << 40 },
		Usage: func(dev uint8) [ondisk.NumDataTypes]alloc.DevUsage { return w.rw.Accounting.Device(dev) }, NodeSectors: 64})
	gained, err := gc.Round(t.Context(), false)
	st := gc.Stats()
	if err != nil || gained == 0 || st.Scans == 0 || st.Buckets == 0 || st.Failed > 0 {
		t.Errorf("of %d buckets that were listed: gained %d, %v, %+v", listed, gained, err, st)
	}
	w.checkAll()
}

// scattered makes a filesystem with little data in each of many buckets, on devices that can be made to fail. The filesystem's own copygc does not
// begin before something is written.
func scattered(t *testing.T) (w *world, faults []*blockdev.Faulter, all []data.Move) {
	for {
		w = newWorld(t, churnShapes()[0].Shape)
		f := w.file("file")
		w.fillUp(f, 0.6)
		for off := 0; off < len(f.content); off += 4 * churnBlock {
			_, err := w.w.Punch(t.Context(), f.id, int64(off), 3*churnBlock, nil)
			w.must(err)
		}
		faults = w.faulty() // closes the filesystem, whose copygc so much writing may have started
		all = w.pointed(t.Context())
		moved := func(m data.Move) bool { return w.pointers(&m.Key)[0].CRC.UncompressedSize == m.Key.Size }
		if !slices.ContainsFunc(all, moved) {
			return w, faults, all
		}
	}
}

// A bucket with data that cannot be read is left alone for a while, and the others are emptied.
func TestCopyGCUnreadable(t *testing.T) {
	w, faults, all := scattered(t)
	bad := w.pointers(&all[0].Key)[0]
	for i := range all { // in the bucket that comes first, as all are equally full
		if p := w.pointers(&all[i].Key)[0]; p.Offset < bad.Offset {
			bad = p
		}
	}
	faults[0].SetRules(blockdev.Rule{Ops: blockdev.OpRead, Off: int64(bad.Offset) * ondisk.SectorSize, Len: 512})
	gc := data.NewCopyGC(data.CopyGCConfig{Writer: w.w, Clock: func() uint64 { return 1 << 40 },
		Usage: func(dev uint8) [ondisk.NumDataTypes]alloc.DevUsage { return w.rw.Accounting.Device(dev) }, NodeSectors: 64})
	var first data.CopyGCStats
	for round := range 4 {
		if _, err := gc.Round(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			first = gc.Stats()
		}
	}
	// All that is under one checksum fails, once for each: what is moved is written, so that the filesystem's own copygc works, too.
	st := gc.Stats()
	own := w.rw.CopyGC()
	for end := time.Now().Add(10 * time.Second); st.Buckets+own.Buckets < 10 && time.Now().Before(end); own = w.rw.CopyGC() {
		time.Sleep(time.Millisecond)
	}
	if st.Failed+own.Failed == 0 || st.Failed > 16 || own.Failed > 16 || st.Failed != first.Failed || st.Buckets+own.Buckets < 10 {
		t.Errorf("%+v, after the first round %+v; of the filesystem itself %+v", st, first, own)
	}
	faults[0].SetRules()
	for _, m := range w.pointed(t.Context()) {
		if w.pointers(&m.Key)[0].ExtentPtr == bad.ExtentPtr {
			return
		}
	}
	t.Error("what cannot be read was moved")
}

// The real driver finds nothing wrong with filesystems that copygc has worked on, and the same in them.
func TestChurnDriver(t *testing.T) {
	kernelvm.Available(t)
	var all [][]string
	dir := t.TempDir()
	shapes := churnShapes()
	for i, s := range shapes {
		s.times = min(s.times, 3)
		w := churned(t, s, uint64(i)+10)
		w.end()
		paths, err := w.disks.Save(t.Context(), dir, fmt.Sprint(i))
		w.must(err)
		all = append(all, paths)
	}
	for i, r := range kernelvm.MustBeClean(t, all, kernelvm.CheckOptions{}) {
		sameManifest(t, shapes[i].Name, manifestOf(t, all[i]), string(r.Manifest))
	}
}
