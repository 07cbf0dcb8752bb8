package journal

import (
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Ring is where in a member's ring of buckets writing goes on, and what the buckets hold.
type Ring struct {
	Head int   // index of the bucket written last
	Used int64 // bytes of it
	// Newest has for each bucket the highest sequence number in it, or one that is higher; nil if nothing in them is needed.
	Newest []uint64
}

// FreshRing is the ring of a journal that was never written to.
func FreshRing(bucketBytes int64) Ring { return Ring{Used: bucketBytes} }

// RingAt is the ring of a journal that was shut down at a position, and was not read. A position that makes no sense is that of a
// fresh ring, of which the buckets may hold anything.
func RingAt(bucket, offsetSectors uint32, buckets int, bucketBytes int64) Ring {
	r := FreshRing(bucketBytes)
	if int64(bucket) < int64(buckets) {
		r.Head = int(bucket)
		if n := int64(offsetSectors) * ondisk.SectorSize; n <= bucketBytes {
			r.Used = n
		}
	}
	return r
}

// member is a device and its ring of buckets. Going around the ring from behind the bucket that is being written, there are:
// buckets free to be used, up to discard; then those to be discarded, up to dirtyOndisk; then those that a recovery would need as
// long as the next flush entry is not on disk, up to dirty; then those that are needed.
type member struct {
	index       uint8
	dev         blockdev.Device
	bucketBytes int64
	buckets     []uint64
	durability  int
	preferred   bool
	canDiscard  bool

	// Guarded by Writer.mu.
	readOnly    bool
	newest      []uint64 // highest sequence number in each bucket
	cur         int
	free        int64 // bytes left in bucket cur
	discard     int
	discarding  bool // bucket discard, without the lock
	dirtyOndisk int
	dirty       int
	written     int64 // bytes
}

func newMember(d *WriterDevice) (*member, error) {
	m := &member{index: d.Index, dev: d.Device, bucketBytes: d.BucketBytes, buckets: slices.Clone(d.Buckets),
		durability: d.Durability, preferred: d.Preferred, canDiscard: d.Discard, readOnly: d.ReadOnly}
	if d.Index >= 64 {
		return nil, fmt.Errorf("journal: member %d", d.Index)
	}
	if len(d.Buckets) == 0 {
		return m, nil
	}
	fail := func(format string, args ...any) (*member, error) {
		return nil, fmt.Errorf("%s: journal: "+format, append([]any{d.Device.Name()}, args...)...)
	}
	n := len(d.Buckets)
	switch r := &d.Ring; {
	case d.BucketBytes <= 0 || d.BucketBytes%ondisk.SectorSize != 0:
		return fail("buckets of %d bytes", d.BucketBytes)
	case r.Head < 0 || r.Head >= n || r.Used < 0 || r.Used > d.BucketBytes:
		return fail("position %d in bucket %d of %d", r.Used, r.Head, n)
	case r.Newest != nil && len(r.Newest) != n:
		return fail("%d of %d buckets are known", len(r.Newest), n)
	default:
		m.newest = append(make([]uint64, 0, n), r.Newest...)[:n]
		m.cur, m.free = r.Head, d.BucketBytes-r.Used
	}
	for _, b := range d.Buckets {
		if b == 0 || int64(b) > d.Device.Size()/d.BucketBytes-1 {
			return fail("bucket %d is not on the device", b)
		}
	}
	m.discard = m.next(m.cur)
	m.dirtyOndisk, m.dirty = m.discard, m.discard
	return m, nil
}

func (m *member) next(i int) int { return (i + 1) % len(m.buckets) }

// usable reports whether entries may be written here.
func (m *member) usable() bool { return !m.readOnly && len(m.buckets) > 0 && m.durability > 0 }

// advance moves the marks of the ring over what is not needed any more.
func (m *member) advance(lastSeq, lastSeqOndisk uint64) {
	for m.dirty != m.cur && m.newest[m.dirty] < lastSeq {
		m.dirty = m.next(m.dirty)
	}
	for m.dirtyOndisk != m.dirty && m.newest[m.dirtyOndisk] < lastSeqOndisk {
		m.dirtyOndisk = m.next(m.dirtyOndisk)
	}
	if !m.canDiscard {
		m.discard = m.dirtyOndisk
	}
}

// available is the number of buckets that are free up to a mark. The last one is kept for an entry whose writing frees another.
func (m *member) available(mark int) int {
	n := len(m.buckets)
	free := (mark - m.cur - 1 + n) % n
	if free > 0 && m.dirtyOndisk == m.dirty {
		free--
	}
	return free
}

// space is how much can be written, in bytes.
type space struct {
	next  int64 // largest entry
	total int64
}

// Kinds of space, each including the one before.
const (
	spaceDiscarded   = iota // at once
	spaceCleanOndisk        // after discards
	spaceClean              // after the next flush entry
	spaceTotal              // of an empty journal
	numSpaces
)

// space returns what a member has, beside the entries that have no place yet.
func (m *member) space(kind int, pending []int64) space {
	mark := 0
	switch kind {
	case spaceTotal:
		return space{m.bucketBytes, m.bucketBytes * int64(len(m.buckets))}
	case spaceDiscarded:
		mark = m.discard
	case spaceCleanOndisk:
		mark = m.dirtyOndisk
	case spaceClean:
		mark = m.dirty
	}
	buckets, left := m.available(mark), m.free
	for _, n := range pending {
		if n > m.bucketBytes {
			continue
		}
		if n > left {
			if buckets == 0 {
				left = 0
				break
			}
			buckets--
			left = m.bucketBytes
		}
		left -= n
	}
	if left < m.bucketBytes && buckets > 0 {
		buckets--
		left = m.bucketBytes
	}
	return space{left, left + int64(buckets)*m.bucketBytes}
}

// updateSpace finds out how much can be written, and who may reserve it. The caller holds mu.
func (w *Writer) updateSpace() {
	lastSeq := w.pins.front.Load()
	var pending []int64
	var scratch [maxInFlight]int64
	pending = scratch[:0]
	for seq := w.seqOndisk.Load() + 1; seq <= w.cur.Load(); seq++ {
		if n := w.buf(seq).account; n > 0 {
			pending = append(pending, n)
		}
	}
	online := 0
	w.canDiscard = false
	for _, m := range w.members {
		if m.usable() {
			online++
			m.advance(lastSeq, w.lastNeeded)
			w.canDiscard = w.canDiscard || m.discard != m.dirtyOndisk
		}
	}
	for kind := range w.space {
		w.space[kind] = w.nthSpace(kind, min(online, w.cfg.Replicas), pending)
	}
	clean, ondisk, total := w.space[spaceClean].total, w.space[spaceCleanOndisk].total, w.space[spaceTotal].total
	w.maySkip = w.space[spaceCleanOndisk].next < ondisk && clean-ondisk <= total/8 && 2*ondisk > clean
	wm := WatermarkStripe
	if 4*clean <= total || w.pins.free() < w.pins.limit/4 || w.blocked {
		wm = WatermarkReclaim
	}
	if old := Watermark(w.watermark.Swap(uint32(wm))); old < wm {
		w.kickReclaim()
	}
}

// nthSpace is the space of that member of which n-1 have more: entries are written to n of them.
func (w *Writer) nthSpace(kind, n int, pending []int64) space {
	var scratch [8]space
	all := scratch[:0]
	for _, m := range w.members {
		if !m.usable() {
			continue
		}
		if s := m.space(kind, pending); s.next > 0 {
			all = append(all, s)
		}
	}
	if n == 0 || len(all) < n {
		return space{}
	}
	slices.SortFunc(all, func(a, b space) int {
		switch {
		case a.total > b.total:
			return -1
		case a.total < b.total:
			return 1
		}
		return 0
	})
	return all[n-1]
}

// place is where a copy of an entry is written.
type place struct {
	m      *member
	off    int64
	failed bool
}

// allocate chooses places for an entry until its copies, those in places that did not fail included, are enough. It returns how many copies they
// count for. The caller holds mu.
func (w *Writer) allocate(b *entryBuf) (copies int) {
	for i := range b.places {
		if !b.places[i].failed {
			copies += b.places[i].m.durability
		}
	}
	for _, preferred := range []bool{true, false} {
		candidates := w.candidates(preferred)
		for _, newBucket := range []bool{false, true} {
			for _, m := range candidates {
				if copies < w.cfg.Replicas && !b.isOn(m) && m.makeRoom(int64(b.bytes), newBucket) {
					b.places = append(b.places, m.place(b))
					copies += m.durability
				}
			}
		}
	}
	return copies
}

// makeRoom reports whether n bytes can be written behind what was written last or, with newBucket, in the next bucket, which is
// then begun.
func (m *member) makeRoom(n int64, newBucket bool) bool {
	if n <= m.free {
		return true
	}
	if !newBucket || n > m.bucketBytes || m.available(m.discard) == 0 {
		return false
	}
	m.cur = m.next(m.cur)
	m.free = m.bucketBytes
	return true
}

// place takes the space for an entry, which there is.
func (m *member) place(b *entryBuf) place {
	p := place{m: m, off: int64(m.buckets[m.cur])*m.bucketBytes + m.bucketBytes - m.free}
	m.free -= int64(b.bytes)
	m.written += int64(b.bytes)
	m.newest[m.cur] = b.seq
	return p
}

// candidates lists the members to choose from, those first of which the smallest part was written.
func (w *Writer) candidates(preferred bool) []*member {
	var list []*member
	for _, m := range w.members {
		if m.usable() && (m.preferred || !preferred) {
			list = append(list, m)
		}
	}
	slices.SortStableFunc(list, func(a, b *member) int {
		x := float64(a.written) / float64(int64(len(a.buckets))*a.bucketBytes)
		y := float64(b.written) / float64(int64(len(b.buckets))*b.bucketBytes)
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return list
}

// isOn reports whether a copy is, or was tried to be, written to m.
func (b *entryBuf) isOn(m *member) bool {
	return slices.ContainsFunc(b.places, func(p place) bool { return p.m == m })
}

// SetReadOnly says whether a member can be written to. One that cannot gets no new entries and is not flushed any more; what it holds
// may still be needed until [Writer.FlushMember] has returned. The journal halts if too few are left.
func (w *Writer) SetReadOnly(index uint8, readOnly bool) {
	w.mu.Lock()
	for _, m := range w.members {
		if m.index == index {
			m.readOnly = readOnly
		}
	}
	w.updateSpace()
	w.wake()
	n := w.usableMembers()
	w.mu.Unlock()
	if n < w.cfg.ReplicasRequired {
		w.Halt(fmt.Errorf("%w: %d, %d needed", ErrNoDevices, n, w.cfg.ReplicasRequired))
	}
}

// SetBlocked says whether only those may reserve who help to reclaim, for instance as the write buffer is full.
func (w *Writer) SetBlocked(blocked bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.blocked != blocked {
		w.blocked = blocked
		w.updateSpace()
		w.wake()
	}
}
