package crashtest

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
)

func newRand(a, b, c uint64) *rand.Rand { return rand.New(rand.NewPCG(a, mix(b)^c)) }

// mix is a good hash of a word (splitmix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Item is one thing in a filesystem of which it is known what it must be.
type Item struct {
	Kind          ItemKind
	Inode, Offset uint64
}

// ItemKind says what an item is.
type ItemKind uint8

// Kinds of items.
const (
	ItemInode ItemKind = iota
	ItemDirent
	ItemXattr
	ItemSector // of data
)

func (i Item) String() string {
	return fmt.Sprintf("%s %d:%d", [...]string{"inode", "dirent", "xattr", "sector"}[i.Kind], i.Inode, i.Offset)
}

// Content is the items in a filesystem with what they hold, as a number.
type Content map[Item]uint64

// Digest is a sum over a content: what was added can be taken away again.
type Digest [2]uint64

func (d *Digest) add(i Item, v uint64) {
	h := mix(mix(mix(uint64(i.Kind)+1)+i.Inode)+i.Offset) + v
	d[0] += mix(h)
	d[1] += mix(h ^ 0x5555555555555555)
}

func (d *Digest) sub(i Item, v uint64) {
	var x Digest
	x.add(i, v)
	d[0] -= x[0]
	d[1] -= x[1]
}

// Digest returns the sum over a content.
func (c Content) Digest() (d Digest) {
	for i, v := range c {
		d.add(i, v)
	}
	return d
}

// change makes a content what a commit makes of it. A value of 0 means that the item is gone.
func (c Content) change(ch []Change, d *Digest) {
	for _, x := range ch {
		if old, ok := c[x.Item]; ok {
			d.sub(x.Item, old)
			delete(c, x.Item)
		}
		if x.Value != 0 {
			d.add(x.Item, x.Value)
			c[x.Item] = x.Value
		}
	}
}

// Change is what a transaction does to an item.
type Change struct {
	Item
	Value uint64 // 0: it is gone
}

// commit is a transaction that was committed.
type commit struct {
	seq     uint64
	order   int
	changes []Change
}

// ack is a promise: what was committed up to entry seq is durable from a tick on.
type ack struct {
	tick int
	seq  uint64
}

// History is what was committed on a filesystem, from a known content on. Its methods are safe for concurrent use.
type History struct {
	Base Content

	mu      sync.Mutex
	commits []commit
	acks    []ack
}

// Committed notes what a transaction did. It is called from its commit, while what it changed is locked.
func (h *History) Committed(seq uint64, changes []Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.commits = append(h.commits, commit{seq, len(h.commits), changes})
}

// Acknowledged notes that everything up to entry seq was promised to be durable, at a tick.
func (h *History) Acknowledged(tick int, seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acks = append(h.acks, ack{tick, seq})
}

// AcknowledgedAll notes that everything was promised to be durable.
func (h *History) AcknowledgedAll(tick int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := uint64(0)
	for i := range h.commits {
		last = max(last, h.commits[i].seq)
	}
	h.acks = append(h.acks, ack{tick, last})
}

// Len is how many transactions were committed.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.commits)
}

// Point is a moment of a history: after all transactions of an entry and those before it.
type Point struct {
	Seq    uint64 // 0: before the first
	Next   uint64 // entry of the next transaction; ^0: there is none
	Digest Digest
}

// Timeline is a history that has ended.
type Timeline struct {
	Points []Point
	h      *History
	acks   []ack
	found  map[Digest][]int
}

// End returns what happened. Nothing may be added any more.
func (h *History) End() *Timeline {
	h.mu.Lock()
	defer h.mu.Unlock()
	slices.SortFunc(h.commits, func(a, b commit) int { return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.order, b.order)) })
	t := &Timeline{h: h, acks: slices.Clone(h.acks), found: map[Digest][]int{}}
	slices.SortStableFunc(t.acks, func(a, b ack) int { return cmp.Compare(a.tick, b.tick) })
	for i := 1; i < len(t.acks); i++ {
		t.acks[i].seq = max(t.acks[i].seq, t.acks[i-1].seq)
	}
	c := maps.Clone(h.Base)
	if c == nil {
		c = Content{}
	}
	at := Point{Digest: c.Digest()}
	for _, x := range h.commits {
		if x.seq != at.Seq {
			at.Next = x.seq
			t.add(at)
			at.Seq = x.seq
		}
		c.change(x.changes, &at.Digest)
	}
	at.Next = ^uint64(0)
	t.add(at)
	return t
}

func (t *Timeline) add(p Point) {
	t.found[p.Digest] = append(t.found[p.Digest], len(t.Points))
	t.Points = append(t.Points, p)
}

// Durable is the entry up to which everything was promised to be durable by a tick.
func (t *Timeline) Durable(tick int) uint64 {
	n, _ := slices.BinarySearchFunc(t.acks, tick+1, func(a ack, tick int) int { return cmp.Compare(a.tick, tick) })
	if n == 0 {
		return 0
	}
	return t.acks[n-1].seq
}

// Last is the newest entry with a transaction, 0 if there is none.
func (t *Timeline) Last() uint64 { return t.Points[len(t.Points)-1].Seq }

// ContentAt returns what there is at a point.
func (t *Timeline) ContentAt(p int) Content {
	c := maps.Clone(t.h.Base)
	if c == nil {
		c = Content{}
	}
	var d Digest
	for _, x := range t.h.commits {
		if x.seq > t.Points[p].Seq {
			break
		}
		c.change(x.changes, &d)
	}
	return c
}

// Match returns at which points of a timeline a content was found, or an error if at none where all up to entry durable has happened: something
// was lost, or done in part.
func (t *Timeline) Match(got Content, durable uint64) ([]int, error) {
	var at []int
	for _, p := range t.found[got.Digest()] {
		if t.Points[p].Next > durable {
			at = append(at, p)
		}
	}
	if len(at) > 0 {
		return at, nil
	}
	for _, p := range t.found[got.Digest()] {
		return nil, fmt.Errorf("what was promised is lost: found entry %d, promised was %d", t.Points[p].Seq, durable)
	}
	return nil, t.explain(got, durable)
}

// explain says how a content that never was differs from the one that is most like it.
func (t *Timeline) explain(got Content, durable uint64) error {
	var d Digest
	c := maps.Clone(t.h.Base)
	if c == nil {
		c = Content{}
	}
	best, bestSeq := []string(nil), uint64(0)
	next := 0
	for i, p := range t.Points {
		for ; next < len(t.h.commits) && t.h.commits[next].seq <= p.Seq; next++ {
			c.change(t.h.commits[next].changes, &d)
		}
		if diff := compare(c, got); i == 0 || len(diff) <= len(best) {
			best, bestSeq = diff, p.Seq
		}
	}
	n := len(best)
	return fmt.Errorf("a state that never was (durable: entry %d); like that after entry %d, but for %d items: %q", durable, bestSeq, n, best[:min(n, 20)])
}

// compare lists how two contents differ.
func compare(want, got Content) (diff []string) {
	for i, v := range want {
		if g := got[i]; g != v {
			diff = append(diff, fmt.Sprintf("%v: want %#x, got %#x", i, v, g))
		}
	}
	for i, g := range got {
		if _, ok := want[i]; !ok {
			diff = append(diff, fmt.Sprintf("%v: want none, got %#x", i, g))
		}
	}
	slices.Sort(diff)
	return diff
}
