package fsck_test

import (
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/fsck"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// changePtr changes the first extent that has a pointer which pred is true of: its entries in order. Changed pointers no longer fit the
// buckets, counters and backpointers, so that the tests below look for one finding among others.
func (p *patched) changePtr(pred func(e []ondisk.ExtentEntry) bool, change func(e []ondisk.ExtentEntry)) {
	types := p.Superblock().ExtentTypeU64s()
	var entries []ondisk.ExtentEntry
	k := p.first(ondisk.BtreeExtents, func(k *ondisk.Key) bool {
		if k.Type != ondisk.KeyExtent {
			return false
		}
		entries = nil
		for e, err := range ondisk.ExtentEntries(k, types) {
			if err != nil {
				p.t.Fatal(err)
			}
			entries = append(entries, e)
		}
		return pred(entries)
	})
	change(entries)
	k.Val = nil
	for i := range entries {
		k.Val = ondisk.AppendExtentEntry(k.Val, &entries[i])
	}
	p.put(ondisk.BtreeExtents, k)
}

// entry is the first entry of a type.
func entry(e []ondisk.ExtentEntry, t ondisk.ExtentEntryType) *ondisk.ExtentEntry {
	for i := range e {
		if e[i].Type == t {
			return &e[i]
		}
	}
	return nil
}

func hasPtr(e []ondisk.ExtentEntry) bool { return entry(e, ondisk.EntryPtr) != nil }

func TestPointers(t *testing.T) {
	onPtr := func(change func(p *patched, e *ondisk.ExtentPtr)) func(p *patched) {
		return func(p *patched) {
			p.changePtr(hasPtr, func(e []ondisk.ExtentEntry) { change(p, &entry(e, ondisk.EntryPtr).Ptr) })
		}
	}
	for i, tt := range []struct {
		name, image string
		change      func(p *patched)
		want        string
		text        string
	}{
		{"no device", "basic", onPtr(func(_ *patched, e *ondisk.ExtentPtr) { e.Dev = 9 }), "ptr_to_invalid_device", "no such device"},
		{"behind the last bucket", "basic", onPtr(func(p *patched, e *ondisk.ExtentPtr) {
			e.Offset = ondisk.Sector(p.devices[0].NBuckets * uint64(p.devices[0].BucketSize))
		}), "ptr_to_invalid_device", "no such device or bucket"},
		{"over the end of a bucket", "basic", onPtr(func(p *patched, e *ondisk.ExtentPtr) {
			size := ondisk.Sector(p.devices[0].BucketSize)
			e.Offset = e.Offset/size*size + size - 1
		}), "ptr_spans_multiple_buckets", "of a bucket of"},
		{"newer generation", "basic", onPtr(func(_ *patched, e *ondisk.ExtentPtr) { e.Gen++ }), "ptr_gen_newer_than_bucket_gen", "newer than"},
		{"older generation", "basic", onPtr(func(_ *patched, e *ondisk.ExtentPtr) { e.Gen-- }), "stale_dirty_ptr", "the data is gone"},
		{"much older generation", "basic", onPtr(func(_ *patched, e *ondisk.ExtentPtr) { e.Gen -= 100 }), "ptr_too_stale", "has generation"},
		{"into a bucket of a btree", "basic", func(p *patched) {
			b, _ := p.bucket(func(a *ondisk.Alloc) bool { return a.DataType == ondisk.DataBtree && a.Gen == 0 })
			p.changePtr(hasPtr, func(e []ondisk.ExtentEntry) {
				entry(e, ondisk.EntryPtr).Ptr.Offset = ondisk.Sector(b.Offset * uint64(p.devices[0].BucketSize))
			})
		}, "ptr_bucket_data_type_mismatch", "but it holds"},
		{"no stripe", "v1.39-ec", func(p *patched) {
			p.changePtr(func(e []ondisk.ExtentEntry) bool { return entry(e, ondisk.EntryStripePtr) != nil }, func(e []ondisk.ExtentEntry) {
				entry(e, ondisk.EntryStripePtr).Stripe.Idx = 1 << 20
			})
		}, "ptr_to_missing_stripe", "there is no stripe 1048576"},
		{"another block of the stripe", "v1.39-ec", func(p *patched) {
			p.changePtr(func(e []ondisk.ExtentEntry) bool { return entry(e, ondisk.EntryStripePtr) != nil }, func(e []ondisk.ExtentEntry) {
				entry(e, ondisk.EntryStripePtr).Stripe.Block++
			})
		}, "ptr_to_incorrect_stripe", "does not lie in block"},
		{"given out twice", "v1.31-basic", func(p *patched) {
			k := p.first(ondisk.BtreeExtents, func(k *ondisk.Key) bool { return k.Type == ondisk.KeyExtent })
			k.Pos.Offset += 1 << 30
			p.put(ondisk.BtreeExtents, k)
		}, "ptr_to_missing_backpointer", "allocated twice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			golden.OneIn(t, 4, i)
			t.Parallel()
			p := patch(t, tt.image)
			tt.change(p)
			r, err := fsck.Check(t.Context(), p, fsck.Options{})
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, f := range r.Findings {
				if f.Name() == tt.want && strings.Contains(f.Text, tt.text) {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%d findings %s with %q, want 1; all: %v", n, tt.want, tt.text, r.ByID)
				for _, f := range r.Findings {
					t.Logf("%s: %v", f.Pass, &f)
				}
			}
		})
	}
}
