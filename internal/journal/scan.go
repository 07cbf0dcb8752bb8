package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Layout of the part of struct jset that is never encrypted, in bytes.
const (
	jsetMagicAt   = 16
	jsetSeqAt     = 24
	jsetU64sAt    = 40
	jsetHeadBytes = ondisk.JsetHeaderSize
	// MaxBuckets bounds the journal buckets of one member that are looked at.
	MaxBuckets = 1 << 20
)

const (
	readPiece    = 1 << 20 // bytes read at once
	maxParallel  = 8       // reads at once, each with its own buffer
	maxScanWords = 100     // problems remembered
)

// Found is what a scan of all journals found.
type Found struct {
	Candidates []*Candidate
	Rings      []Ring // of each member: where writing may go on
	Problems   []string
	// Unread is the first error of a device that kept a part of a journal from being read; nil if there was none.
	Unread error
}

// Scan reads the journals of all members as far as needed. Errors of single devices are problems, not errors: another member
// may have a copy. The error is ctx's, or an entry of an unsupported version ([ondisk.ErrIncompatible]).
func Scan(ctx context.Context, cfg *Config) (*Found, error) {
	s := scanner{cfg: cfg, bySeq: map[uint64]*Candidate{}}
	for i := range cfg.Members {
		m := &cfg.Members[i]
		buckets := m.Buckets
		if len(buckets) > MaxBuckets {
			s.problem("%s: journal of %d buckets, only the first %d are read", m.Device.Name(), len(buckets), MaxBuckets)
			buckets = buckets[:MaxBuckets]
		}
		s.rings = append(s.rings, &ring{member: i, buckets: make([]peeked, len(buckets))})
	}
	if err := s.peekAll(ctx); err != nil {
		return nil, err
	}
	for {
		todo := s.wanted()
		if len(todo) == 0 {
			break
		}
		if err := s.scanBuckets(ctx, todo); err != nil {
			return nil, err
		}
	}
	found := &Found{Problems: s.problems, Unread: s.unread}
	for _, c := range s.bySeq {
		found.Candidates = append(found.Candidates, c)
	}
	for i, r := range s.rings {
		found.Rings = append(found.Rings, r.state(&cfg.Members[i]))
	}
	return found, nil
}

// ring is the journal of one member.
type ring struct {
	member  int
	buckets []peeked
	messy   bool // sequence numbers do not grow along the ring: read everything
}

// peeked is what the first block of a bucket tells.
type peeked struct {
	used    bool // it begins with an entry
	scanned bool
	seq     uint64
	newest  uint64 // highest sequence number found, once scanned
	end     int64  // bytes up to the end of the last good entry, once scanned
}

type bucketRef struct{ ring, bucket int }

type scanner struct {
	cfg   *Config
	rings []*ring

	mu       sync.Mutex // protects what follows
	bySeq    map[uint64]*Candidate
	problems []string
	unread   error
}

func (s *scanner) problem(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.problems) < maxScanWords {
		s.problems = append(s.problems, fmt.Sprintf(format, args...))
	}
}

func (s *scanner) peekAll(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxParallel)
	for ri, r := range s.rings {
		const share = 256
		for from := 0; from < len(r.buckets); from += share {
			g.Go(func() error {
				block := make([]byte, max(s.cfg.BlockSize, jsetHeadBytes))
				for i := from; i < min(from+share, len(r.buckets)); i++ {
					if err := s.peek(ctx, ri, i, block); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, r := range s.rings {
		r.messy = s.cfg.All || r.descents() > 1
	}
	return nil
}

func (s *scanner) peek(ctx context.Context, ri, i int, block []byte) error {
	r := s.rings[ri]
	m := &s.cfg.Members[r.member]
	off := int64(m.Buckets[i]) * m.BucketBytes
	switch err := m.Device.ReadAt(ctx, block, off); {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		s.cannotRead(err)
		s.problem("journal bucket %d: %v", m.Buckets[i], err)
	case s.isEntry(block):
		r.buckets[i].used = true
		r.buckets[i].seq = binary.LittleEndian.Uint64(block[jsetSeqAt:])
	}
	return nil
}

func (s *scanner) isEntry(b []byte) bool {
	return len(b) >= jsetHeadBytes && binary.LittleEndian.Uint64(b[jsetMagicAt:]) == s.cfg.Params.Magic
}

// descents counts where the sequence number does not grow from one used bucket to the next around the ring: once, behind the
// head, in a sound journal.
func (r *ring) descents() int {
	n := 0
	var first, last *peeked
	for i := range r.buckets {
		b := &r.buckets[i]
		if !b.used {
			continue
		}
		if first == nil {
			first = b
		} else if b.seq <= last.seq {
			n++
		}
		last = b
	}
	if first != nil && first != last && first.seq <= last.seq {
		n++
	}
	return n
}

// state is where writing goes on: behind the last entry. What was not scanned is older than anything that counts.
func (r *ring) state(m *Member) Ring {
	out := FreshRing(m.BucketBytes)
	out.Newest = make([]uint64, len(m.Buckets))
	following := r.following()
	var highest uint64
	for i := range r.buckets {
		b := &r.buckets[i]
		switch {
		case b.scanned:
			out.Newest[i] = b.newest
		case b.used:
			out.Newest[i] = max(b.seq, following[i]-1)
		}
		if b.scanned && b.newest > highest {
			highest = b.newest
			out.Head, out.Used = i, b.end
		}
	}
	return out
}

// wanted lists the buckets to read next: those that may hold an entry at or behind the oldest one needed, as far as is known.
// While no flush entry is known these are the newest bucket of each member, then the next.
func (s *scanner) wanted() []bucketRef {
	var oldest uint64
	known := false
	for _, c := range s.bySeq {
		if c.ends(s.cfg.Blacklist) && c.Seq >= oldest {
			known = true
			oldest = max(oldest, c.Seq)
		}
	}
	if known {
		oldest = min(s.bySeq[oldest].LastSeq, oldest)
	}
	var todo []bucketRef
	for ri, r := range s.rings {
		todo = append(todo, r.wanted(ri, known, oldest)...)
	}
	return todo
}

func (r *ring) wanted(ri int, known bool, oldest uint64) (todo []bucketRef) {
	newest := -1
	next := r.following()
	for i := range r.buckets {
		b := &r.buckets[i]
		switch {
		case !b.used || b.scanned:
		case r.messy:
			todo = append(todo, bucketRef{ri, i})
		case known:
			if next[i] <= b.seq || next[i] > oldest { // the head, or needed
				todo = append(todo, bucketRef{ri, i})
			}
		case newest < 0 || b.seq > r.buckets[newest].seq:
			newest = i
		}
	}
	if newest >= 0 {
		todo = append(todo, bucketRef{ri, newest})
	}
	return todo
}

// following returns for each used bucket the sequence number at the start of the next used one around the ring, its own if
// it is the only one.
func (r *ring) following() []uint64 {
	next := make([]uint64, len(r.buckets))
	var seq uint64
	for range 2 { // the second time with what follows the last one
		for i := len(r.buckets) - 1; i >= 0; i-- {
			if next[i] = seq; r.buckets[i].used {
				seq = r.buckets[i].seq
			}
		}
	}
	return next
}

func (s *scanner) scanBuckets(ctx context.Context, todo []bucketRef) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxParallel)
	for _, ref := range todo {
		s.rings[ref.ring].buckets[ref.bucket].scanned = true
		g.Go(func() error {
			r := s.rings[ref.ring]
			m := &s.cfg.Members[r.member]
			w := window{m: m, start: int64(m.Buckets[ref.bucket]) * m.BucketBytes}
			w.end = w.start + m.BucketBytes
			return s.scanBucket(ctx, r.member, &w, &r.buckets[ref.bucket])
		})
	}
	return g.Wait()
}

// scanBucket adds the entries of one bucket. It stops where the entries of the current lap of the ring end.
func (s *scanner) scanBucket(ctx context.Context, member int, w *window, bucket *peeked) error {
	var newest uint64
	sawBad := false
	for off := w.start; off+jsetHeadBytes <= w.end; {
		b, err := w.at(ctx, off, int64(s.cfg.BlockSize))
		if err != nil {
			return s.readError(ctx, err)
		}
		if !s.isEntry(b) {
			if !sawBad {
				return nil
			}
			off += int64(s.cfg.BlockSize)
			continue
		}
		seq := binary.LittleEndian.Uint64(b[jsetSeqAt:])
		if seq < newest {
			return nil
		}
		bucket.newest = max(bucket.newest, seq)
		size := jsetHeadBytes + 8*int64(binary.LittleEndian.Uint32(b[jsetU64sAt:]))
		var entry *ondisk.Jset
		if size <= w.end-off && size <= ondisk.MaxJsetBytes {
			if b, err = w.at(ctx, off, size); err != nil {
				return s.readError(ctx, err)
			}
			entry, _, err = ondisk.DecodeJset(b[:size], s.cfg.Params)
		} else {
			err = fmt.Errorf("entry of %d bytes is longer than its bucket", size)
			size = min(w.end-off, ondisk.MaxJsetBytes)
		}
		c := Candidate{Seq: seq, Copies: []Location{{member, off, int(size)}}}
		switch {
		case errors.Is(err, ondisk.ErrIncompatible) && s.isIntact(entry, b[:size]):
			return fmt.Errorf("journal entry %d at %s sector %d: %w", seq, w.m.Device.Name(), off/ondisk.SectorSize, err)
		case err != nil:
			s.problem("journal entry %d at %s sector %d: %v", seq, w.m.Device.Name(), off/ondisk.SectorSize, err)
			sawBad = true
			off += int64(s.cfg.BlockSize) // its size is not to be trusted
		default:
			newest = seq
			c.Good, c.Flush, c.LastSeq = true, !entry.NoFlush(), entry.LastSeq
			off += (size + int64(s.cfg.BlockSize) - 1) / int64(s.cfg.BlockSize) * int64(s.cfg.BlockSize)
			bucket.end = off - w.start
		}
		s.add(c)
	}
	return nil
}

// isIntact tells an entry of an unsupported version, which nobody must go on with, from a damaged one.
func (s *scanner) isIntact(entry *ondisk.Jset, b []byte) bool {
	sum, err := checksum.Compute(entry.CsumType(), s.cfg.Params.Key, crypt.JournalNonceOf(entry.Seq), b[jsetMagicAt:])
	return err == nil && sum == entry.Csum
}

// readError drops errors of the device: they end the bucket, as another member may have the entries.
func (s *scanner) readError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.cannotRead(err)
	s.problem("journal: %v", err)
	return nil
}

func (s *scanner) cannotRead(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unread == nil {
		s.unread = err
	}
}

// add merges a copy of an entry with those found before: good ones win over bad ones.
func (s *scanner) add(c Candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.bySeq[c.Seq]
	switch {
	case !ok:
		s.bySeq[c.Seq] = &c
	case c.Good && !old.Good:
		*old = c
	case c.Good:
		old.Copies = append(old.Copies, c.Copies...)
	}
}

// window is a piece of a bucket in memory.
type window struct {
	m          *Member
	start, end int64 // of the bucket, bytes
	buf        []byte
	off        int64 // of buf
}

// at returns at least n bytes from off on, or what is left of the bucket.
func (w *window) at(ctx context.Context, off, n int64) ([]byte, error) {
	n = min(n, w.end-off)
	if off >= w.off && off+n <= w.off+int64(len(w.buf)) {
		return w.buf[off-w.off:], nil
	}
	n = min(max(n, readPiece), w.end-off)
	if int64(cap(w.buf)) < n {
		w.buf = make([]byte, n)
	}
	w.buf, w.off = w.buf[:n], off
	if err := w.m.Device.ReadAt(ctx, w.buf, off); err != nil {
		w.buf = nil
		return nil, err
	}
	return w.buf, nil
}
