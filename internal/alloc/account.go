package alloc

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// maxCounters is the number of counters that a position of the accounting btree may have.
const maxCounters = 3

// Accounting is the accounting in memory: the totals of all counters but those of inodes, which only the btree has (spec/04 § 7). A commit
// adds its deltas when it can no longer fail. All methods are safe for concurrent use.
//
// To fill it, give all keys of the btree accounting to [Accounting.Load] and then all accounting keys of the journal entries that are to be
// replayed to [Accounting.LoadDelta], and call [Accounting.Loaded].
type Accounting struct {
	version ondisk.MetadataVersion
	shards  [32]accountingShard
	devs    [256]atomic.Pointer[devCounters]

	loadMu   sync.Mutex
	versions map[ondisk.Pos]ondisk.Version // of the keys of the btree, while loading
}

type accountingShard struct {
	mu sync.RWMutex
	m  map[ondisk.AccountingPos]*counters3
	_  [32]byte // shards do not share cache lines
}

// counters3 are the counters of a position; n of them are in use.
type counters3 struct {
	n atomic.Int32
	v [maxCounters]atomic.Int64
}

// devCounters are the counters of a device, where they are found at once.
type devCounters [ondisk.NumDataTypes]atomic.Pointer[counters3]

// NewAccounting returns an accounting in which everything is 0.
func NewAccounting(version ondisk.MetadataVersion) *Accounting {
	a := &Accounting{version: version, versions: map[ondisk.Pos]ondisk.Version{}}
	for i := range a.shards {
		a.shards[i].m = map[ondisk.AccountingPos]*counters3{}
	}
	return a
}

func (a *Accounting) shard(p *ondisk.AccountingPos) *accountingShard {
	h := uint32(p.Type)<<24 ^ uint32(p.DataType)<<20 ^ uint32(p.NrDevs)<<16 ^ uint32(p.Devs[0])<<8 ^ uint32(p.NrReplicas)<<4 ^
		uint32(p.Compression)<<2 ^ p.Dev<<12 ^ p.ID ^ p.Btree ^ uint32(p.Inum)
	h *= 0x9e3779b1
	return &a.shards[h>>27]
}

// get returns the counters of a position; nil if there are none.
func (a *Accounting) get(p *ondisk.AccountingPos) *counters3 {
	s := a.shard(p)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.m[*p]
}

// need returns the counters of a position, which it makes if there are none.
func (a *Accounting) need(p *ondisk.AccountingPos) *counters3 {
	if c := a.get(p); c != nil {
		return c
	}
	s := a.shard(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.m[*p]
	if c == nil {
		c = new(counters3)
		s.m[*p] = c
		if dt, ok := a.devCounter(p); ok {
			dt.Store(c)
		}
	}
	return c
}

// devCounter returns where the counters of a position of type dev_data_type are found fast.
func (a *Accounting) devCounter(p *ondisk.AccountingPos) (*atomic.Pointer[counters3], bool) {
	if p.Type != ondisk.AccountingDevDataType || p.DataType >= ondisk.NumDataTypes || int(p.Dev) >= len(a.devs) {
		return nil, false
	}
	d := &a.devs[p.Dev]
	for d.Load() == nil {
		d.CompareAndSwap(nil, new(devCounters))
	}
	return &d.Load()[p.DataType], true
}

// Add adds deltas to the counters of a position. It does not allocate but for positions that are new, and ignores those that are not kept in
// memory.
func (a *Accounting) Add(p *ondisk.AccountingPos, deltas ...int64) {
	if p.Type == ondisk.AccountingInum {
		return
	}
	c := a.need(p)
	n := int32(min(len(deltas), maxCounters))
	for old := c.n.Load(); old < n && !c.n.CompareAndSwap(old, n); old = c.n.Load() {
	}
	for i, d := range deltas[:n] {
		if d != 0 {
			c.v[i].Add(d)
		}
	}
}

// Get returns the counters of a position; none if it has never been counted.
func (a *Accounting) Get(p ondisk.AccountingPos) []int64 {
	c := a.get(&p)
	if c == nil {
		return nil
	}
	v := make([]int64, c.n.Load())
	for i := range v {
		v[i] = c.v[i].Load()
	}
	return v
}

// All calls fn with the counters of all positions that are not all 0, in no order. Commits go on meanwhile.
func (a *Accounting) All(fn func(p ondisk.AccountingPos, counters []int64)) {
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.RLock()
		all := make(map[ondisk.AccountingPos]*counters3, len(s.m))
		for p, c := range s.m {
			all[p] = c
		}
		s.mu.RUnlock()
		for p, c := range all {
			var v [maxCounters]int64
			for i := range v {
				v[i] = c.v[i].Load()
			}
			if v != [maxCounters]int64{} {
				fn(p, v[:c.n.Load()])
			}
		}
	}
}

// DevUsage counts what is in the buckets of a device, of one type of data.
type DevUsage struct {
	Buckets, Sectors, Fragmented int64 // Fragmented are the sectors of buckets in use that hold nothing
}

// Device returns how the buckets of a device are used. It does not allocate.
func (a *Accounting) Device(dev uint8) (u [ondisk.NumDataTypes]DevUsage) {
	d := a.devs[dev].Load()
	if d == nil {
		return u
	}
	for t := range u {
		if c := d[t].Load(); c != nil {
			u[t] = DevUsage{c.v[0].Load(), c.v[1].Load(), c.v[2].Load()}
		}
	}
	return u
}

// Buckets returns the number of buckets of a device that hold one type of data. It neither allocates nor blocks.
func (a *Accounting) Buckets(dev uint8, t ondisk.DataType) int64 {
	d := a.devs[dev].Load()
	if d == nil || t >= ondisk.NumDataTypes {
		return 0
	}
	c := d[t].Load()
	if c == nil {
		return 0
	}
	return c.v[0].Load()
}

// counters decodes the counters of an accounting key, and its position.
func (a *Accounting) counters(k *ondisk.Key) (p ondisk.AccountingPos, v []int64, err error) {
	if k.Type != ondisk.KeyAccounting {
		return p, nil, fmt.Errorf("btree accounting at %v: key of type %v", k.Pos, k.Type)
	}
	p, ok := ondisk.DecodeAccountingPos(k.Pos, a.version)
	if !ok {
		return p, nil, fmt.Errorf("btree accounting at %v: junk behind the position's structure", k.Pos)
	}
	if err := p.Validate(k); err != nil {
		return p, nil, err
	}
	n := min(ondisk.NrAccountingCounters(k), maxCounters)
	v = make([]int64, n)
	for i := range v {
		v[i] = ondisk.AccountingCounter(k, i)
	}
	return p, v, nil
}

// Load takes a key of the btree, as it is there before the journal is replayed.
func (a *Accounting) Load(k *ondisk.Key) error {
	p, v, err := a.counters(k)
	if err != nil {
		return err
	}
	a.loadMu.Lock()
	a.versions[k.Pos] = k.Version
	a.loadMu.Unlock()
	a.Add(&p, v...)
	return nil
}

// LoadDelta takes a delta from a journal entry that is to be replayed. It reports whether the delta is to be added to the btree when it is
// replayed: those that the key there has already are not.
func (a *Accounting) LoadDelta(k *ondisk.Key) (isNew bool, err error) {
	p, v, err := a.counters(k)
	if err != nil {
		return false, err
	}
	a.loadMu.Lock()
	have := a.versions[k.Pos]
	a.loadMu.Unlock()
	if !journal.VersionLess(have, k.Version) {
		return false, nil
	}
	a.Add(&p, v...)
	return true, nil
}

// Loaded ends loading: positions at which everything is 0 are forgotten.
func (a *Accounting) Loaded() {
	a.loadMu.Lock()
	a.versions = nil
	a.loadMu.Unlock()
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		for p, c := range s.m {
			if c.v[0].Load()|c.v[1].Load()|c.v[2].Load() == 0 {
				delete(s.m, p)
			}
		}
		s.mu.Unlock()
	}
}
