package data_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// unfinished returns how many operations are noted.
func (w *world) unfinished() (n int) {
	w.Helper()
	w.must(w.rw.Store.View(w.Context(), func(tx *trans.Tx) error {
		n = 0
		return tx.Scan(ondisk.BtreeLoggedOps, ondisk.PosMin, ondisk.SPosMax, 0, func(ondisk.Key, ondisk.Pos) (bool, error) {
			n++
			return true, nil
		})
	}))
	return n
}

// Operations of many transactions that end anywhere are finished at the next mount.
func TestResume(t *testing.T) {
	type op struct {
		name string
		run  func(ctx context.Context, w *world, f *modelFile) error
		want func(p []byte) []byte
	}
	ops := []op{
		{"insert", func(ctx context.Context, w *world, f *modelFile) error {
			_, err := w.w.InsertRange(ctx, f.id, 20<<10, 12<<10, nil)
			return err
		}, func(p []byte) []byte {
			return append(p[:20<<10:20<<10], append(make([]byte, 12<<10), p[20<<10:]...)...)
		}},
		{"collapse", func(ctx context.Context, w *world, f *modelFile) error {
			_, err := w.w.CollapseRange(ctx, f.id, 20<<10, 12<<10, nil)
			return err
		}, func(p []byte) []byte { return append(p[:20<<10:20<<10], p[32<<10:]...) }},
		{"truncate", func(ctx context.Context, w *world, f *modelFile) error {
			_, err := w.w.Truncate(ctx, f.id, 5000, nil)
			return err
		}, func(p []byte) []byte { return p[:5000] }},
	}
	for _, snapshot := range []bool{false, true} {
		for _, o := range ops {
			w := newWorld(t, shape("plain", nil, 32))
			r := rand.New(rand.NewPCG(1, 1))
			f := w.file("a")
			for i := range 40 { // extents that do not merge
				w.write(f, random(r, 4096), i*8192)
			}
			if snapshot {
				w.snapshot("s")
			}
			var crashed []*enginetest.Disks
			w.w.SetBetween(func() {
				w.must(w.rw.Journal.Flush(t.Context()))
				crashed = append(crashed, w.disks.Clone())
			})
			if err := o.run(t.Context(), w, f); err != nil {
				t.Fatal(err)
			}
			f.content = o.want(f.content)
			w.end()
			if len(crashed) == 0 {
				t.Errorf("%s: no moment to crash at", o.name)
			}
			for i, d := range crashed {
				if i > 3 && i < len(crashed)-3 && i%12 != 0 {
					continue
				}
				c := &world{T: t, disks: d, files: w.files, what: fmt.Sprintf("%s, snapshot %v, crash %d", o.name, snapshot, i)}
				c.open()
				if n := c.unfinished(); n != 0 {
					t.Errorf("%s: %d operations are left after the mount", c.what, n)
				}
				c.end()
			}
		}
	}
}
