package data_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// pointed lists the keys that have pointers to data.
func (w *world) pointed(ctx context.Context) (all []data.Move) {
	w.Helper()
	err := w.rw.Store.View(ctx, func(tx *trans.Tx) error {
		all = all[:0]
		for _, btree := range []ondisk.BtreeID{ondisk.BtreeExtents, ondisk.BtreeReflink} {
			err := tx.Scan(btree, ondisk.PosMin, ondisk.SPosMax, 0, func(k ondisk.Key, _ ondisk.Pos) (bool, error) {
				if k.Type == ondisk.KeyExtent || k.Type == ondisk.KeyReflinkV {
					all = append(all, data.Move{Btree: btree, Key: k.Clone()})
				}
				return true, nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	w.must(err)
	return all
}

func moveOptions() *data.MoveOptions {
	return &data.MoveOptions{Point: alloc.WritePointCopygc, Watermark: alloc.WatermarkCopygc}
}

// checkSizes fails the test for data that is encoded in larger pieces than may be.
func (w *world) checkSizes() {
	w.Helper()
	for _, m := range w.pointed(w.Context()) {
		for _, p := range w.pointers(&m.Key) {
			if p.CRC.IsEncoded() && int64(p.CRC.UncompressedSize)*ondisk.SectorSize > w.rw.SB.EncodedExtentMax() {
				w.Errorf("%v: %+v", m.Key.Pos, p.CRC)
			}
		}
	}
}

// moveSome moves random pointers of random keys. alone: nobody else changes the filesystem.
func (w *world) moveSome(r *rand.Rand, alone bool) data.MoveResult {
	w.Helper()
	all := w.pointed(w.Context())
	if len(all) == 0 {
		return data.MoveResult{}
	}
	var moves []data.Move
	lo := r.IntN(len(all))
	for _, m := range all[lo:min(lo+1+r.IntN(12), len(all))] {
		if m.Ptrs = uint32(r.IntN(16)); r.IntN(2) == 0 {
			m.Ptrs = ^uint32(0)
		}
		moves = append(moves, m)
	}
	o := moveOptions()
	if r.IntN(4) == 0 {
		o.Encode = &data.Options{Compression: uint8(r.IntN(4)), Checksum: uint8(r.IntN(4))}
	}
	res, err := w.w.Move(w.Context(), moves, o)
	if err != nil || res.Failed > 0 {
		w.Fatalf("%v: %+v (%s)", err, res, w.what)
	}
	if done := res.Keys + res.Raced; done < len(moves) || o.Encode == nil && done > len(moves) || alone && res.Raced > 0 && everything(moves) {
		w.Fatalf("%d moves: %+v (%s)", len(moves), res, w.what)
	}
	return res
}

// everything reports whether all pointers are to be moved, so that each key has some.
func everything(moves []data.Move) bool {
	for i := range moves {
		if moves[i].Ptrs != ^uint32(0) {
			return false
		}
	}
	return true
}

// Whatever is moved in between, files hold what they should in each snapshot, and the filesystem is sound.
func TestMove(t *testing.T) {
	for i, s := range modelShapes() {
		t.Run(s.Name, func(t *testing.T) {
			golden.OneIn(t, 4, i)
			w := newWorld(t, s)
			r := rand.New(rand.NewPCG(*modelSeed+200, uint64(i)))
			for n := range 3 {
				w.file(fmt.Sprint("file-", n))
			}
			block := w.rw.SB.BlockBytes()
			moved := 0
			for n := range *modelOps {
				if n == 20 || n == 40 {
					w.snapshot(fmt.Sprint("snapshot-", n))
				}
				randomOp(w, r, block)
				w.what += ", then moves"
				moved += w.moveSome(r, true).Keys
				w.checkAll()
				w.noMessages()
				if n%30 == 29 {
					w.remount(n%60 == 29)
					w.checkAll()
				}
			}
			w.checkSizes()
			if moved < *modelOps/2 {
				t.Errorf("only %d keys were moved", moved)
			}
			w.end()
		})
	}
}

// What is moved while others write, cut, share and delete it becomes neither old nor lost.
func TestMoveConcurrently(t *testing.T) {
	names := []string{"plain", "nocow mirrored", "mirrored", "encrypted", "nocow"}
	if golden.Race {
		names = names[:2]
	}
	for i, s := range modelShapes() {
		if !slices.Contains(names, s.Name) {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			w := newWorld(t, s)
			r := rand.New(rand.NewPCG(*modelSeed+300, uint64(i)))
			for n := range 3 {
				w.file(fmt.Sprint("file-", n))
			}
			stop := make(chan struct{})
			var wg sync.WaitGroup
			var res [2]data.MoveResult
			for g := range 2 {
				wg.Go(func() {
					m := &world{T: t, rw: w.rw, w: w.w} // fails by itself
					r := rand.New(rand.NewPCG(*modelSeed+400, uint64(g)))
					for {
						select {
						case <-stop:
							return
						default:
						}
						got := m.moveSome(r, false)
						res[g].Keys += got.Keys
						res[g].Raced += got.Raced
						if t.Failed() {
							return
						}
					}
				})
			}
			for n := range 2 * *modelOps {
				if n == 40 || n == 90 {
					w.snapshot(fmt.Sprint("snapshot-", n))
				}
				randomOp(w, r, w.rw.SB.BlockBytes())
				if n%10 == 9 {
					w.checkAll()
				}
			}
			close(stop)
			wg.Wait()
			t.Logf("%d keys moved, %d raced", res[0].Keys+res[1].Keys, res[0].Raced+res[1].Raced)
			if res[0].Keys+res[1].Keys == 0 {
				t.Error("nothing was moved")
			}
			w.end()
		})
	}
}

// The driver reads the same of what was moved, in all snapshots, and can go on with it.
func TestMoveDriver(t *testing.T) {
	kernelvm.Available(t)
	var all [][]string
	var names []string
	dir := t.TempDir()
	for i, s := range modelShapes() {
		if !slices.Contains([]string{"plain", "encrypted", "small buckets", "no checksum", "lz4 unchecked", "mirrored", "nocow"}, s.Name) {
			continue
		}
		w := newWorld(t, s)
		r := rand.New(rand.NewPCG(*modelSeed+500, uint64(i)))
		for n := range 3 {
			w.file(fmt.Sprint("file-", n))
		}
		for n := range 120 {
			if n == 40 || n == 80 {
				w.snapshot(fmt.Sprint("snapshot-", n))
			}
			randomOp(w, r, w.rw.SB.BlockBytes())
			w.moveSome(r, true)
		}
		w.end()
		paths, err := w.disks.Save(t.Context(), dir, fmt.Sprint(i))
		w.must(err)
		all, names = append(all, paths), append(names, s.Name)
	}
	for i, r := range kernelvm.MustBeClean(t, all, kernelvm.CheckOptions{ReadWrite: true}) {
		sameManifest(t, names[i], manifestOf(t, all[i]), string(r.Manifest))
	}
}

// sameManifest compares what we list with what the driver lists, but for the root, whose times its check changes.
func sameManifest(t *testing.T, name, ours, theirs string) {
	t.Helper()
	a, b := strings.Split(ours, "\n"), strings.Split(theirs, "\n")
	if len(a) != len(b) {
		t.Errorf("%s: we list %d lines, the driver %d", name, len(a), len(b))
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] && !strings.HasPrefix(a[i], ".\t") {
			t.Errorf("%s: we list\n%s\nthe driver\n%s", name, a[i], b[i])
		}
	}
}

// Moving the same data again and again does not leave it in ever smaller pieces.
func TestMoveJoins(t *testing.T) {
	s := shape("small buckets", nil, 32)
	s.Devices[0].BucketBytes = 64 << 10
	s.Options.Options = map[string]string{"btree_node_size": "64k"}
	w := newWorld(t, s)
	f := w.file("file")
	w.write(f, random(rand.New(rand.NewPCG(3, 4)), 1<<20), 0)
	before := len(w.pointed(t.Context()))
	most := 0
	for round := range 20 {
		all := w.pointed(t.Context())
		most = max(most, len(all))
		for i := range all {
			all[i].Ptrs = 1
		}
		// Something else gets in between, so that buckets end elsewhere each time.
		w.write(w.file(fmt.Sprint("other-", round)), random(rand.New(rand.NewPCG(3, uint64(round))), 4096*(1+round%5)), 0)
		res, err := w.w.Move(t.Context(), all, moveOptions())
		if err != nil || res.Keys+res.Raced != len(all) { // copygc may have been quicker
			t.Fatalf("round %d: %+v, %v", round, res, err)
		}
	}
	t.Logf("%d keys at first, at most %d", before, most)
	if most > 3*before+20 {
		t.Errorf("%d keys became %d", before, most)
	}
	w.end()
}
