package fsck_test

import (
	"context"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/fsck"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// patched is a filesystem in which some keys are other than on the devices.
type patched struct {
	fsck.Filesystem
	t       testing.TB
	keys    map[ondisk.BtreeID]map[uint8]map[ondisk.Pos]*ondisk.Key // nil: deleted
	devices []fsck.Device

	mu     sync.Mutex
	places map[ondisk.BtreeID]map[uint8][]ondisk.Pos // of keys, in order; nil after a change
}

// patch opens a golden image to be changed in memory.
func patch(t testing.TB, image string) *patched {
	fs := fsck.Of(openGolden(t, golden.Find(t, image)))
	return &patched{Filesystem: fs, t: t, keys: map[ondisk.BtreeID]map[uint8]map[ondisk.Pos]*ondisk.Key{}, devices: fs.Devices()}
}

func (p *patched) Devices() []fsck.Device { return p.devices }

func (p *patched) set(id ondisk.BtreeID, level uint8, pos ondisk.Pos, k *ondisk.Key) {
	if p.keys[id] == nil {
		p.keys[id] = map[uint8]map[ondisk.Pos]*ondisk.Key{}
	}
	if p.keys[id][level] == nil {
		p.keys[id][level] = map[ondisk.Pos]*ondisk.Key{}
	}
	p.keys[id][level][pos] = k
	p.places = nil
}

func (p *patched) put(id ondisk.BtreeID, k ondisk.Key)      { p.set(id, 0, k.Pos, &k) }
func (p *patched) delete(id ondisk.BtreeID, pos ondisk.Pos) { p.set(id, 0, pos, nil) }

func (p *patched) Get(ctx context.Context, id ondisk.BtreeID, pos ondisk.Pos) (ondisk.Key, bool, error) {
	if k, ok := p.keys[id][0][pos]; ok {
		if k == nil {
			return ondisk.Key{}, false, nil
		}
		return *k, true, nil
	}
	return p.Filesystem.Get(ctx, id, pos)
}

func (p *patched) Keys(ctx context.Context, id ondisk.BtreeID, level uint8, from, to ondisk.Pos) iter.Seq2[ondisk.Key, error] {
	changed := p.keys[id][level]
	places := p.changes(id, level)
	first, _ := slices.BinarySearchFunc(places, from, ondisk.Pos.Compare)
	end, last := slices.BinarySearchFunc(places, to, ondisk.Pos.Compare)
	if last {
		end++
	}
	places = places[first:max(first, end)]
	return func(yield func(ondisk.Key, error) bool) {
		rest := places
		upTo := func(q ondisk.Pos, last bool) bool {
			for ; len(rest) > 0 && (last || rest[0].Less(q)); rest = rest[1:] {
				if k := changed[rest[0]]; k != nil && !yield(*k, nil) {
					return false
				}
			}
			return true
		}
		for k, err := range p.Filesystem.Keys(ctx, id, level, from, to) {
			if err == nil {
				if !upTo(k.Pos, false) {
					return
				}
				if _, ok := changed[k.Pos]; ok {
					continue
				}
			}
			if !yield(k, err) {
				return
			}
		}
		upTo(ondisk.SPosMax, true)
	}
}

// changes are the places at which keys were changed, in order.
func (p *patched) changes(id ondisk.BtreeID, level uint8) []ondisk.Pos {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.places == nil {
		p.places = map[ondisk.BtreeID]map[uint8][]ondisk.Pos{}
		for id, levels := range p.keys {
			p.places[id] = map[uint8][]ondisk.Pos{}
			for level, keys := range levels {
				p.places[id][level] = slices.SortedFunc(maps.Keys(keys), ondisk.Pos.Compare)
			}
		}
	}
	return p.places[id][level]
}

// first returns the first key of a leaf that pred is true of.
func (p *patched) first(id ondisk.BtreeID, pred func(k *ondisk.Key) bool) ondisk.Key {
	p.t.Helper()
	for k, err := range p.Keys(p.t.Context(), id, 0, ondisk.PosMin, ondisk.SPosMax) {
		if err != nil {
			p.t.Fatal(err)
		}
		if pred(&k) {
			return k.Clone()
		}
	}
	p.t.Fatalf("no such key in btree %v", id)
	panic("unreachable")
}

// bucket returns the first alloc key that pred is true of.
func (p *patched) bucket(pred func(a *ondisk.Alloc) bool) (ondisk.Pos, ondisk.Alloc) {
	p.t.Helper()
	k := p.first(ondisk.BtreeAlloc, func(k *ondisk.Key) bool {
		a, err := ondisk.DecodeAlloc(*k)
		return err == nil && pred(&a)
	})
	a, err := ondisk.DecodeAlloc(k)
	if err != nil {
		p.t.Fatal(err)
	}
	return k.Pos, a
}

func (p *patched) putAlloc(pos ondisk.Pos, a ondisk.Alloc) {
	p.put(ondisk.BtreeAlloc, ondisk.Key{Type: ondisk.KeyAllocV4, Pos: pos, Val: a.Encode()})
}

// full finds a bucket of user data in which no sector is left.
func (p *patched) full() (ondisk.Pos, ondisk.Alloc) {
	size := uint32(p.devices[0].BucketSize)
	return p.bucket(func(a *ondisk.Alloc) bool {
		return a.DataType == ondisk.DataUser && a.DirtySectors == size && a.CachedSectors == 0
	})
}

// count returns how many keys lie in a range.
func (p *patched) count(id ondisk.BtreeID, from, to ondisk.Pos) (n int) {
	for _, err := range p.Keys(p.t.Context(), id, 0, from, to) {
		if err != nil {
			p.t.Fatal(err)
		}
		n++
	}
	return n
}

// inBucket counts the backpointers of a bucket.
func (p *patched) inBucket(bucket ondisk.Pos) int {
	from, to := p.bpRange(bucket)
	return p.count(ondisk.BtreeBackpointers, from, to)
}

// bpRange is the range of the backpointers of a bucket.
func (p *patched) bpRange(bucket ondisk.Pos) (from, to ondisk.Pos) {
	shift := p.Superblock().BackpointerShift()
	size := uint64(p.devices[bucket.Inode].BucketSize)
	return ondisk.Pos{Inode: bucket.Inode, Offset: bucket.Offset * size << shift},
		ondisk.Pos{Inode: bucket.Inode, Offset: (bucket.Offset+1)*size<<shift - 1, Snapshot: ^uint32(0)}
}

// hole returns a bucket without alloc key.
func (p *patched) hole() ondisk.Pos {
	at := ondisk.Pos{}
	for k := range p.Keys(p.t.Context(), ondisk.BtreeAlloc, 0, ondisk.PosMin, ondisk.Pos{Offset: ^uint64(0)}) {
		if k.Pos.Offset != at.Offset {
			return at
		}
		at.Offset++
	}
	return at
}

// counter returns the first accounting key of a type.
func (p *patched) counter(t ondisk.AccountingType) ondisk.Key {
	p.t.Helper()
	return p.first(ondisk.BtreeAccounting, func(k *ondisk.Key) bool {
		a, ok := ondisk.DecodeAccountingPos(k.Pos, p.Superblock().Version)
		return ok && a.Type == t && ondisk.AccountingCounter(k, 0) != 0
	})
}
