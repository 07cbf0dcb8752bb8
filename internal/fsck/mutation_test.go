package fsck_test

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/fsck"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

type found = map[string]int

// mutation is a single change of a sound image; change returns all that is to be found then.
type mutation struct {
	name   string
	image  string
	change func(p *patched) found
}

// mutations are those of allocation information.
var mutations = []mutation{
	{"dirty sectors", "basic", func(p *patched) found {
		pos, a := p.full()
		a.DirtySectors += 8
		p.putAlloc(pos, a)
		return found{"alloc_key_dirty_sectors_wrong": 1}
	}},
	{"dirty sectors of a bucket that is not full", "basic", func(p *patched) found {
		pos, a := p.bucket(func(a *ondisk.Alloc) bool {
			return a.DataType == ondisk.DataUser && a.FragmentationLRU(uint32(p.devices[0].BucketSize)) > 0
		})
		a.DirtySectors--
		p.putAlloc(pos, a)
		return found{"alloc_key_dirty_sectors_wrong": 1, "lru_entry_bad": 1, "alloc_key_to_missing_lru_entry": 1}
	}},
	{"cached sectors", "multi-targets", func(p *patched) found {
		pos, a := p.bucket(func(a *ondisk.Alloc) bool { return a.CachedSectors > 1 })
		a.CachedSectors--
		p.putAlloc(pos, a)
		return found{"alloc_key_cached_sectors_wrong": 1}
	}},
	{"stripe sectors", "v1.39-ec", func(p *patched) found {
		pos, a := p.bucket(func(a *ondisk.Alloc) bool { return a.StripeSectors == uint32(p.devices[0].BucketSize) })
		a.StripeSectors += 8
		p.putAlloc(pos, a)
		return found{"alloc_key_stripe_sectors_wrong": 1}
	}},
	{"stripe", "v1.31-ec", func(p *patched) found {
		pos, a := p.bucket(func(a *ondisk.Alloc) bool { return a.Stripe != 0 })
		a.Stripe += 1000
		p.putAlloc(pos, a)
		return found{"alloc_key_stripe_wrong": 1}
	}},
	{"stripe redundancy", "v1.31-ec", func(p *patched) found {
		pos, a := p.bucket(func(a *ondisk.Alloc) bool { return a.Stripe != 0 })
		a.StripeRedundancy++
		p.putAlloc(pos, a)
		return found{"alloc_key_stripe_redundancy_wrong": 1}
	}},
	{"data type", "basic", func(p *patched) found {
		pos, a := p.full()
		a.DataType = ondisk.DataBtree
		p.putAlloc(pos, a)
		return found{"alloc_key_data_type_wrong": 1}
	}},
	{"generation of an empty bucket", "basic", func(p *patched) found {
		pos, a := p.bucket(func(a *ondisk.Alloc) bool { return a.DataType.IsEmpty() })
		a.Gen++
		a.OldestGen++
		p.putAlloc(pos, a)
		return found{"bucket_gens_key_wrong": 1}
	}},
	{"generation of a bucket in use", "basic", func(p *patched) found {
		pos, a := p.full()
		a.Gen++
		p.putAlloc(pos, a)
		n := p.inBucket(pos)
		// Its pointers do not count, so neither do the extents: counters of snapshots, inodes, replicas, and of the device are wrong.
		return found{"stale_dirty_ptr": n, "bucket_gens_key_wrong": 1, "alloc_key_data_type_wrong": 1, "alloc_key_dirty_sectors_wrong": 1,
			"accounting_mismatch": some}
	}},
	{"alloc key missing", "basic", func(p *patched) found {
		pos, _ := p.bucket(func(a *ondisk.Alloc) bool {
			return a.DataType == ondisk.DataBtree && a.Gen == 0 && a.DirtySectors == uint32(p.devices[0].BucketSize)
		})
		p.delete(ondisk.BtreeAlloc, pos)
		n := p.inBucket(pos)
		return found{"ptr_to_missing_alloc_key": 1, "alloc_key_data_type_wrong": 1, "alloc_key_dirty_sectors_wrong": 1, "freespace_hole_missing": 1,
			"backpointer_to_missing_alloc": n}
	}},
	{"alloc key of no bucket", "basic", func(p *patched) found {
		_, a := p.full()
		p.putAlloc(ondisk.Pos{Offset: p.devices[0].NBuckets + 3}, a)
		return found{"alloc_key_to_missing_dev_bucket": 1}
	}},
	{"alloc key of no device", "basic", func(p *patched) found {
		_, a := p.full()
		p.putAlloc(ondisk.Pos{Inode: 7, Offset: 1}, a)
		return found{"alloc_key_to_missing_dev_bucket": 1}
	}},

	{"backpointer missing", "basic", func(p *patched) found {
		k := p.first(ondisk.BtreeBackpointers, func(*ondisk.Key) bool { return true })
		p.delete(ondisk.BtreeBackpointers, k.Pos)
		return found{"ptr_to_missing_backpointer": 1}
	}},
	{"backpointer of a root missing", "basic", func(p *patched) found {
		k := p.first(ondisk.BtreeBackpointers, func(k *ondisk.Key) bool {
			b, err := ondisk.DecodeBackpointer(*k)
			return err == nil && b.Level > 0 && b.Pos == ondisk.SPosMax
		})
		p.delete(ondisk.BtreeBackpointers, k.Pos)
		return found{"ptr_to_missing_backpointer": 1}
	}},
	{"backpointer changed", "basic", func(p *patched) found {
		p.changeBackpointer(func(b *ondisk.Backpointer) { b.Pos.Offset += 8 })
		return found{"ptr_to_missing_backpointer": 1, "backpointer_to_missing_ptr": 1}
	}},
	{"backpointer of other length", "v1.39-basic", func(p *patched) found {
		p.changeBackpointer(func(b *ondisk.Backpointer) { b.BucketLen++ })
		return found{"ptr_to_missing_backpointer": 1, "backpointer_to_missing_ptr": 1}
	}},
	{"backpointer elsewhere in its bucket", "basic", func(p *patched) found {
		p.changeBackpointer(func(b *ondisk.Backpointer) { b.SetBucketOffset(b.BucketOffset() + 8<<10) })
		return found{"ptr_to_missing_backpointer": 1, "backpointer_to_missing_ptr": 1, "backpointer_bucket_offset_wrong": 1}
	}},
	{"backpointer of other generation", "v1.31-basic", func(p *patched) found {
		p.changeBackpointer(func(b *ondisk.Backpointer) { b.BucketGen++ })
		return found{"ptr_to_missing_backpointer": 1, "backpointer_to_missing_ptr": 1}
	}},
	{"backpointer without pointer", "v1.31-basic", func(p *patched) found {
		k := p.first(ondisk.BtreeBackpointers, func(k *ondisk.Key) bool { return true })
		k.Pos.Offset++
		p.put(ondisk.BtreeBackpointers, k)
		return found{"backpointer_to_missing_ptr": 1}
	}},
	{"backpointer in a free bucket", "v1.31-basic", func(p *patched) found {
		k := p.first(ondisk.BtreeBackpointers, func(k *ondisk.Key) bool { return true })
		k.Pos, _ = p.bpRange(p.hole())
		p.put(ondisk.BtreeBackpointers, k)
		return found{"backpointer_to_missing_alloc": 1, "backpointer_to_missing_ptr": 1}
	}},
	{"backpointer of no device", "basic", func(p *patched) found {
		k := p.first(ondisk.BtreeBackpointers, func(k *ondisk.Key) bool { return true })
		k.Pos.Inode = 9
		p.put(ondisk.BtreeBackpointers, k)
		return found{"backpointer_to_missing_device": 1}
	}},
	{"backpointer of no bucket", "v1.31-basic", func(p *patched) found {
		k := p.first(ondisk.BtreeBackpointers, func(k *ondisk.Key) bool { return true })
		k.Pos, _ = p.bpRange(ondisk.Pos{Offset: p.devices[0].NBuckets})
		p.put(ondisk.BtreeBackpointers, k)
		return found{"backpointer_to_missing_device": 1, "backpointer_to_missing_ptr": 1}
	}},

	{"lru entry missing", "basic", func(p *patched) found {
		k := p.first(ondisk.BtreeLRU, func(*ondisk.Key) bool { return true })
		p.delete(ondisk.BtreeLRU, k.Pos)
		return found{"alloc_key_to_missing_lru_entry": 1}
	}},
	{"lru entry too many", "v1.39-basic", func(p *patched) found {
		k := p.first(ondisk.BtreeLRU, func(*ondisk.Key) bool { return true })
		k.Pos.Inode++
		p.put(ondisk.BtreeLRU, k)
		return found{"lru_entry_bad": 1}
	}},
	{"lru entry of no bucket", "basic", func(p *patched) found {
		p.put(ondisk.BtreeLRU, ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.LRUPos{Time: 1, Offset: ondisk.DevBucket(4, 1)}.Pos()})
		return found{"lru_entry_to_invalid_bucket": 1}
	}},
	{"lru entry at time 0", "basic", func(p *patched) found {
		p.put(ondisk.BtreeLRU, ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.Pos{Offset: 20}})
		return found{"lru_entry_at_time_0": 1}
	}},
	{"read lru entry missing", "multi-targets", func(p *patched) found {
		k := p.first(ondisk.BtreeLRU, func(k *ondisk.Key) bool { return ondisk.DecodeLRUPos(k.Pos).ID < 64 })
		p.delete(ondisk.BtreeLRU, k.Pos)
		return found{"alloc_key_to_missing_lru_entry": 1}
	}},
	{"cached bucket without time", "multi-targets", func(p *patched) found {
		pos, a := p.bucket(func(a *ondisk.Alloc) bool { return a.DataType == ondisk.DataCached })
		a.IOTime[0] = 0
		p.putAlloc(pos, a)
		return found{"alloc_key_cached_but_read_time_zero": 1, "lru_entry_bad": 1}
	}},
	{"stripe lru entry missing", "v1.39-ec", func(p *patched) found {
		k := p.first(ondisk.BtreeLRU, func(k *ondisk.Key) bool { return ondisk.DecodeLRUPos(k.Pos).ID == ondisk.LRUStripeFragmentation })
		p.delete(ondisk.BtreeLRU, k.Pos)
		return found{"alloc_key_to_missing_lru_entry": 1}
	}},
	{"stripe lru entry too many", "v1.39-ec", func(p *patched) found {
		p.put(ondisk.BtreeLRU, ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.LRUPos{ID: ondisk.LRUStripeFragmentation, Time: 5, Offset: 1}.Pos()})
		return found{"lru_entry_bad": 1}
	}},

	{"freespace missing for a hole", "basic", func(p *patched) found {
		k := p.last(ondisk.BtreeFreespace)
		p.delete(ondisk.BtreeFreespace, k.Pos)
		k.Pos.Offset--
		k.Size--
		p.put(ondisk.BtreeFreespace, k)
		return found{"freespace_hole_missing": 1}
	}},
	{"freespace missing for a bucket", "basic", func(p *patched) found {
		at, _ := p.bucket(func(a *ondisk.Alloc) bool { return a.DataType == ondisk.DataFree })
		p.cutFreespace(at.Offset)
		return found{"freespace_key_wrong": 1}
	}},
	{"freespace of a bucket in use", "basic", func(p *patched) found {
		pos, _ := p.full()
		p.putFree(pos.Inode, pos.Offset)
		return found{"freespace_key_wrong": 1}
	}},
	{"freespace of no bucket", "basic", func(p *patched) found {
		p.putFree(0, p.devices[0].NBuckets+1)
		return found{"need_discard_freespace_key_to_invalid_dev_bucket": 1}
	}},
	{"freespace of no device", "basic", func(p *patched) found {
		p.putFree(3, 30)
		return found{"need_discard_freespace_key_to_invalid_dev_bucket": 1}
	}},
	{"freespace of other generations", "basic", func(p *patched) found {
		p.putFree(0, 2<<56|p.hole().Offset)
		return found{"need_discard_freespace_key_bad": 1}
	}},
	{"free bucket of far generations", "basic", func(p *patched) found {
		at, a := p.bucket(func(a *ondisk.Alloc) bool { return a.DataType == ondisk.DataFree })
		a.OldestGen = a.Gen - 40
		p.putAlloc(at, a)
		return found{"freespace_key_wrong": 2} // one is there, the other is not
	}},

	{"need_discard missing", "basic", func(p *patched) found {
		k := p.first(ondisk.BtreeNeedDiscard, func(*ondisk.Key) bool { return true })
		p.delete(ondisk.BtreeNeedDiscard, k.Pos)
		return found{"need_discard_key_wrong": 1}
	}},
	{"need_discard too many", "basic", func(p *patched) found {
		pos, _ := p.full()
		p.put(ondisk.BtreeNeedDiscard, ondisk.Key{Type: ondisk.KeySet, Pos: pos})
		return found{"need_discard_key_wrong": 1}
	}},
	{"need_discard for a hole", "basic", func(p *patched) found {
		p.put(ondisk.BtreeNeedDiscard, ondisk.Key{Type: ondisk.KeySet, Pos: p.hole()})
		return found{"need_discard_freespace_key_bad": 1}
	}},
	{"need_discard of no bucket", "basic", func(p *patched) found {
		p.put(ondisk.BtreeNeedDiscard, ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.Pos{Offset: p.devices[0].NBuckets}})
		return found{"need_discard_freespace_key_to_invalid_dev_bucket": 1}
	}},
	{"need_discard missing, by entries", "v1.39-basic", func(p *patched) found {
		k := p.first(ondisk.BtreeNeedDiscard, func(*ondisk.Key) bool { return true })
		p.delete(ondisk.BtreeNeedDiscard, k.Pos)
		return found{"need_discard_key_wrong": 1}
	}},
	{"need_discard too many, by entries", "v1.39-basic", func(p *patched) found {
		k := p.first(ondisk.BtreeNeedDiscard, func(*ondisk.Key) bool { return true })
		k.Pos.Inode++
		p.put(ondisk.BtreeNeedDiscard, k)
		return found{"need_discard_freespace_key_bad": 1}
	}},

	{"bucket_gens", "basic", func(p *patched) found {
		pos, _ := p.full()
		p.changeGens(pos)
		return found{"bucket_gens_key_wrong": 1}
	}},
	{"bucket_gens of a hole", "basic", func(p *patched) found {
		p.changeGens(p.hole())
		return found{"bucket_gens_hole_wrong": 1}
	}},
	{"bucket_gens of no bucket", "small-buckets", func(p *patched) found {
		p.changeGens(ondisk.Pos{Offset: p.devices[0].NBuckets&^255 + 300})
		return found{"bucket_gens_to_invalid_buckets": 1}
	}},
	{"bucket_gens of no device", "basic", func(p *patched) found {
		p.changeGens(ondisk.Pos{Inode: 2})
		return found{"bucket_gens_to_invalid_dev": 1}
	}},

	{"counter of replicas", "basic", countWrong(ondisk.AccountingReplicas)},
	{"counter of buckets", "basic", countWrong(ondisk.AccountingDevDataType)},
	{"counter of inodes", "basic", countWrong(ondisk.AccountingNrInodes)},
	{"counter of compression", "compress-lz4", countWrong(ondisk.AccountingCompression)},
	{"counter of a snapshot", "snapshots", countWrong(ondisk.AccountingSnapshot)},
	{"counter of a snapshot, by btrees", "v1.39-snapshots", countWrong(ondisk.AccountingSnapshot)},
	{"counter of a btree", "v1.39-basic", countWrong(ondisk.AccountingBtree)},
	{"counter of reservations", "v1.39-unwritten", countWrong(ondisk.AccountingPersistentReserved)},
	{"counter missing", "v1.31-basic", func(p *patched) found {
		p.delete(ondisk.BtreeAccounting, p.counter(ondisk.AccountingBtree).Pos)
		return found{"accounting_mismatch": 1}
	}},
	{"counter of no device", "basic", func(p *patched) found {
		a := ondisk.AccountingPos{Type: ondisk.AccountingDevDataType, Dev: 5, DataType: ondisk.DataUser}
		p.putCounter(&a, 1, 8, 0)
		return found{"accounting_to_invalid_device": 1, "accounting_mismatch": 1}
	}},
	{"counter of replicas not listed", "multi-replicas", func(p *patched) found {
		a := ondisk.AccountingPos{Type: ondisk.AccountingReplicas, DataType: ondisk.DataParity, NrDevs: 2, NrRequired: 1}
		a.Devs[1] = 1
		p.putCounter(&a, 8)
		return found{"accounting_replicas_not_marked": 1, "accounting_mismatch": 1}
	}},
	{"counter with more behind it", "basic", func(p *patched) found {
		k := p.counter(ondisk.AccountingNrInodes)
		k.Pos.Inode |= 1 << 63
		p.put(ondisk.BtreeAccounting, k)
		return found{"accounting_key_junk_at_end": 1}
	}},

	{"refcount", "reflink", func(p *patched) found {
		k := p.first(ondisk.BtreeReflink, func(k *ondisk.Key) bool { return true })
		binary.LittleEndian.PutUint64(k.Val, binary.LittleEndian.Uint64(k.Val)+1)
		p.put(ondisk.BtreeReflink, k)
		return found{"reflink_v_refcount_wrong": 1}
	}},
	{"reference to nothing", "reflink", func(p *patched) found {
		k := p.first(ondisk.BtreeExtents, func(k *ondisk.Key) bool { return k.Type == ondisk.KeyReflinkP })
		v, err := ondisk.DecodeReflinkP(k)
		if err != nil {
			p.t.Fatal(err)
		}
		v.Idx += 1 << 40
		k.Val = v.Encode()
		p.put(ondisk.BtreeExtents, k)
		return found{"reflink_p_to_missing_reflink_v": 1, "reflink_v_refcount_wrong": 1}
	}},
	{"key version", "basic", func(p *patched) found {
		k := p.first(ondisk.BtreeExtents, func(k *ondisk.Key) bool { return k.Type == ondisk.KeyExtent })
		k.Version.Lo = 1 << 40
		p.put(ondisk.BtreeExtents, k)
		return found{"bkey_version_in_future": 1}
	}},
	{"btree bitmap", "basic", func(p *patched) found {
		p.devices[0].BtreeBitmap = 0
		n := p.count(ondisk.BtreeBackpointers, ondisk.PosMin, ondisk.SPosMax) - p.leafBackpointers()
		return found{"btree_bitmap_not_marked": n}
	}},

	{"sectors of a stripe's block", "v1.39-ec", func(p *patched) found {
		k := p.first(ondisk.BtreeStripes, func(k *ondisk.Key) bool { return true })
		s, err := ondisk.DecodeStripe(k)
		if err != nil {
			p.t.Fatal(err)
		}
		n, _ := s.BlockCount(0)
		if n == 0 {
			p.t.Fatal("want a block in use")
		}
		binary.LittleEndian.PutUint16(s.Counts, n+1)
		k.Val = s.Encode()
		p.put(ondisk.BtreeStripes, k)
		return found{"stripe_sector_count_wrong": 1}
	}},
	{"bucket_to_stripe missing", "v1.39-ec", func(p *patched) found {
		k := p.first(ondisk.BtreeBucketToStripe, func(k *ondisk.Key) bool { return true })
		p.delete(ondisk.BtreeBucketToStripe, k.Pos)
		return found{"alloc_key_stripe_refcount_wrong": 1, "stripe_to_missing_bucket_ref": 1}
	}},
	{"bucket_to_stripe of no stripe", "v1.39-ec", func(p *patched) found {
		k := p.first(ondisk.BtreeBucketToStripe, func(k *ondisk.Key) bool { return true })
		k.Pos.Offset = 1 << 20
		p.put(ondisk.BtreeBucketToStripe, k)
		return found{"alloc_key_stripe_refcount_wrong": 1, "bucket_stripe_ref_to_missing_stripe": 1}
	}},
	{"bucket_to_stripe of another stripe", "v1.39-ec", func(p *patched) found {
		k := p.first(ondisk.BtreeBucketToStripe, func(k *ondisk.Key) bool { return true })
		k.Pos.Inode = ondisk.DevBucket(0, 0)
		p.put(ondisk.BtreeBucketToStripe, k)
		return found{"alloc_key_stripe_refcount_wrong": 1, "bucket_stripe_ref_to_incorrect_stripe": 1}
	}},
}

// some stands for a number of findings that is not 0.
const some = -1

// countWrong changes a counter of a type by one.
func countWrong(t ondisk.AccountingType) func(p *patched) found {
	return func(p *patched) found {
		k := p.counter(t)
		binary.LittleEndian.PutUint64(k.Val, binary.LittleEndian.Uint64(k.Val)+1)
		p.put(ondisk.BtreeAccounting, k)
		return found{"accounting_mismatch": 1}
	}
}

// Counters of inodes that are wrong or missing are worth a note only.
func TestCountersOfInodes(t *testing.T) {
	p := patch(t, "basic")
	countWrong(ondisk.AccountingInum)(p)
	q := patch(t, "v1.31-basic")
	q.delete(ondisk.BtreeAccounting, q.counter(ondisk.AccountingInum).Pos)
	for _, p := range []*patched{p, q} {
		r, err := fsck.Check(t.Context(), p, fsck.Options{})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, found{})
		if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "1 inodes, the first of them ") }) {
			t.Errorf("notes are %q", r.Notes)
		}
	}
}

func TestMutations(t *testing.T) { testMutations(t, mutations) }

func testMutations(t *testing.T, all []mutation) {
	for i, m := range all {
		t.Run(m.name, func(t *testing.T) {
			golden.OneIn(t, 6, i)
			t.Parallel()
			p := patch(t, m.image)
			want := m.change(p)
			r, err := fsck.Check(t.Context(), p, fsck.Options{Parallel: 2})
			if err != nil {
				t.Fatal(err)
			}
			expect(t, r, want)
		})
	}
}

// expect wants exactly these findings.
func expect(t *testing.T, r *fsck.Report, want found) {
	t.Helper()
	got := found{}
	for _, f := range r.Findings {
		got[f.Name()]++
	}
	want = maps.Clone(want)
	for name, n := range want {
		if n == some && got[name] > 0 {
			want[name] = got[name]
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
		for i, f := range r.Findings {
			if i < 10 {
				t.Logf("%s: %v", f.Pass, &f)
			}
		}
	}
}

// changeBackpointer changes the first backpointer of an extent.
func (p *patched) changeBackpointer(change func(b *ondisk.Backpointer)) {
	var b ondisk.Backpointer
	k := p.first(ondisk.BtreeBackpointers, func(k *ondisk.Key) bool {
		var err error
		b, err = ondisk.DecodeBackpointer(*k)
		return err == nil && b.Level == 0
	})
	change(&b)
	k.Val = b.Encode()
	p.put(ondisk.BtreeBackpointers, k)
}

// leafBackpointers counts the backpointers of extents.
func (p *patched) leafBackpointers() (n int) {
	for k := range p.Keys(p.t.Context(), ondisk.BtreeBackpointers, 0, ondisk.PosMin, ondisk.SPosMax) {
		if b, err := ondisk.DecodeBackpointer(k); err == nil && b.Level == 0 {
			n++
		}
	}
	return n
}

func (p *patched) last(id ondisk.BtreeID) (last ondisk.Key) {
	for k := range p.Keys(p.t.Context(), id, 0, ondisk.PosMin, ondisk.SPosMax) {
		last = k.Clone()
	}
	return last
}

// putFree says that a bucket is free.
func (p *patched) putFree(dev, at uint64) {
	p.put(ondisk.BtreeFreespace, ondisk.Key{Type: ondisk.KeySet, Size: 1, Pos: ondisk.Pos{Inode: dev, Offset: at + 1}})
}

// cutFreespace says that a bucket of the first device is not free.
func (p *patched) cutFreespace(b uint64) {
	k := p.first(ondisk.BtreeFreespace, func(k *ondisk.Key) bool { return k.Start().Offset <= b && b < k.Pos.Offset })
	p.delete(ondisk.BtreeFreespace, k.Pos)
	for at := k.Start().Offset; at < k.Pos.Offset; at++ {
		if at != b {
			p.putFree(0, at)
		}
	}
}

// changeGens changes the generation of a bucket where they are kept together.
func (p *patched) changeGens(bucket ondisk.Pos) {
	at, i := ondisk.BucketGensPos(bucket.Inode, ondisk.Bucket(bucket.Offset))
	var gens ondisk.BucketGens
	if k, ok, err := p.Get(p.t.Context(), ondisk.BtreeBucketGens, at); err != nil {
		p.t.Fatal(err)
	} else if ok {
		if gens, err = ondisk.DecodeBucketGens(k); err != nil {
			p.t.Fatal(err)
		}
	}
	gens[i]++
	p.put(ondisk.BtreeBucketGens, ondisk.Key{Type: ondisk.KeyBucketGens, Pos: at, Val: gens.Encode()})
}

func (p *patched) putCounter(a *ondisk.AccountingPos, counters ...int64) {
	p.put(ondisk.BtreeAccounting, ondisk.Key{Type: ondisk.KeyAccounting, Version: ondisk.Version{Lo: 1}, Pos: a.Pos(p.Superblock().Version),
		Val: ondisk.EncodeAccounting(counters...)})
}
