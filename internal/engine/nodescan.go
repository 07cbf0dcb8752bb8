package engine

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// scanned is a leaf that a scan of the devices found.
type scanned struct {
	btree      ondisk.BtreeID
	gen        uint32
	journalSeq uint64
	ptr        ondisk.BtreePtr // V2; Ptrs names all replicas found
	rank       int             // among the nodes of the btree, newest first
}

// newerThan orders nodes whose ranges overlap.
func (n *scanned) newerThan(o *scanned) int {
	if c := cmp.Compare(o.gen, n.gen); c != 0 {
		return c
	}
	return cmp.Compare(o.journalSeq, n.journalSeq)
}

// Bounds of a scan.
const (
	maxScanned   = 1 << 18
	scanParallel = 4
	// autoScanNodes is how many places may be looked at without having been asked for: at one small read each, seconds.
	autoScanNodes = 1 << 17
)

// scanPlaces calls look for each place of a member where a btree node may start.
func (fs *FS) scanPlaces(m *Member, look func(ondisk.Sector) bool) {
	node := ondisk.Sector(fs.SB.BtreeNodeSize() / ondisk.SectorSize)
	bucket := ondisk.Sector(m.BucketSize)
	if node == 0 || bucket < node {
		return
	}
	end := min(ondisk.Sector(m.NBuckets)*bucket, ondisk.Sector(m.Device.Size()/ondisk.SectorSize))
	bitmap := m.BtreeBitmap
	if fs.SB.VersionUpgradeComplete() < 1<<10|7 || bitmap == 0 {
		bitmap = ^uint64(0)
	}
	for b := ondisk.Sector(m.FirstBucket) * bucket; b+bucket <= end; b += bucket {
		if bitmap != ^uint64(0) && !marked(bitmap, m.BtreeBitmapShift, b, bucket) {
			continue
		}
		for s := b; s+node <= b+bucket; s += node {
			if bitmap != ^uint64(0) && !marked(bitmap, m.BtreeBitmapShift, s, node) {
				continue
			}
			if !look(s) {
				return
			}
		}
	}
}

// marked reports whether the bitmap has a bit for any of n sectors from s on.
func marked(bitmap uint64, shift uint8, s, n ondisk.Sector) bool {
	for bit := s >> shift; bit <= (s+n-1)>>shift; bit++ {
		if bit < 64 && bitmap>>bit&1 != 0 {
			return true
		}
	}
	return false
}

// scanNodes looks for the leaves of the given btrees on all devices, whatever points to them.
func (fs *FS) scanNodes(ctx context.Context, want map[ondisk.BtreeID]bool) (map[ondisk.BtreeID][]ondisk.Key, error) {
	sc := nodeScan{fs: fs, want: want, found: map[uint64]*scanned{}}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(scanParallel)
	for _, m := range fs.Members {
		if m.Device == nil {
			continue
		}
		const share = 4096
		var batch []ondisk.Sector
		submit := func() {
			places := batch
			batch = nil
			g.Go(func() error { return sc.look(ctx, m, places) })
		}
		fs.scanPlaces(m, func(s ondisk.Sector) bool {
			if batch = append(batch, s); len(batch) == share {
				submit()
			}
			return ctx.Err() == nil
		})
		submit()
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	byTree := map[ondisk.BtreeID][]*scanned{}
	for _, n := range sc.found {
		byTree[n.btree] = append(byTree[n.btree], n)
	}
	leaves := map[ondisk.BtreeID][]ondisk.Key{}
	for id, nodes := range byTree {
		leaves[id] = resolve(nodes)
	}
	return leaves, nil
}

type nodeScan struct {
	fs   *FS
	want map[ondisk.BtreeID]bool

	mu    sync.Mutex
	found map[uint64]*scanned // by the sequence number of the node
}

func (sc *nodeScan) look(ctx context.Context, m *Member, places []ondisk.Sector) error {
	head := make([]byte, max(sc.fs.SB.BlockBytes(), ondisk.PeekNodeSize))
	var node []byte
	for _, s := range places {
		if err := m.Device.ReadAt(ctx, head, int64(s)*ondisk.SectorSize); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		h, first, ok := ondisk.PeekNode(head, sc.fs.want.Magic, sc.fs.want.Key)
		if !ok || h.Level() != 0 || h.Btree() >= ondisk.MaxBtrees || !sc.want[ondisk.BtreeID(h.Btree())] {
			continue
		}
		if node == nil {
			node = make([]byte, sc.fs.want.NodeSize)
		}
		if err := m.Device.ReadAt(ctx, node, int64(s)*ondisk.SectorSize); err != nil {
			continue
		}
		sc.add(node, h, first, ondisk.NodeAddr{Dev: m.Index, Sector: s})
	}
	return nil
}

func (sc *nodeScan) add(b []byte, h ondisk.NodeHeader, first ondisk.BsetHeader, at ondisk.NodeAddr) {
	want := sc.fs.want
	want.Btree = ondisk.BtreeID(h.Btree())
	want.Ptr = ondisk.BtreePtr{V2: true, Seq: first.Seq, Min: h.Min, Max: h.Max}
	n, err := ondisk.DecodeNode(b, &want)
	if err != nil {
		return
	}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	old, ok := sc.found[n.Seq]
	switch {
	case ok && old.btree == n.Btree && old.ptr.Min == n.Min && old.ptr.Max == n.Max:
		const maxReplicas = 8
		if len(old.ptr.Ptrs) < maxReplicas*8 {
			old.ptr.Ptrs = ondisk.AppendNodeAddr(old.ptr.Ptrs, at)
		}
		old.ptr.SectorsWritten = max(old.ptr.SectorsWritten, uint16(n.Written/ondisk.SectorSize))
	case !ok && len(sc.found) < maxScanned:
		want.Ptr.SectorsWritten = uint16(n.Written / ondisk.SectorSize)
		want.Ptr.Ptrs = ondisk.AppendNodeAddr(nil, at)
		sc.found[n.Seq] = &scanned{btree: n.Btree, gen: n.Gen, journalSeq: n.JournalSeq, ptr: want.Ptr}
	}
}

// resolve makes of nodes that may overlap pointers that do not: newer nodes keep their whole range, older ones what is left.
func resolve(nodes []*scanned) (keys []ondisk.Key) {
	nodes = slices.DeleteFunc(nodes, func(n *scanned) bool { return n.ptr.Max.Less(n.ptr.Min) })
	slices.SortFunc(nodes, func(a, b *scanned) int {
		return cmp.Or(a.newerThan(b), a.ptr.Min.Compare(b.ptr.Min), cmp.Compare(a.ptr.Seq, b.ptr.Seq))
	})
	for i, n := range nodes {
		n.rank = i
	}
	rest := slices.Clone(nodes) // not yet come to, by their starts
	slices.SortFunc(rest, func(a, b *scanned) int { return cmp.Or(a.ptr.Min.Compare(b.ptr.Min), cmp.Compare(a.rank, b.rank)) })
	var open byRank // come to, some of them over
	for at := ondisk.PosMin; ; {
		for len(rest) > 0 && !at.Less(rest[0].ptr.Min) {
			heap.Push(&open, rest[0])
			rest = rest[1:]
		}
		for len(open) > 0 && open[0].ptr.Max.Less(at) {
			heap.Pop(&open)
		}
		if len(open) == 0 {
			if len(rest) == 0 {
				return keys
			}
			at = rest[0].ptr.Min
			continue
		}
		// The newest one counts up to its end, or up to where a newer one begins.
		n := open[0]
		end := n.ptr.Max
		for len(rest) > 0 && !end.Less(rest[0].ptr.Min) {
			if rest[0].rank < n.rank {
				end = rest[0].ptr.Min.Prev()
				break
			}
			heap.Push(&open, rest[0])
			rest = rest[1:]
		}
		p := n.ptr
		if p.Min, p.Max = at, end; p.Min != n.ptr.Min || p.Max != n.ptr.Max {
			p.Flags |= 1 // RANGE_UPDATED
		}
		keys = append(keys, p.Key())
		if end == ondisk.SPosMax {
			return keys
		}
		at = end.Next()
	}
}

// byRank is a heap, the newest node first.
type byRank []*scanned

func (h byRank) Len() int           { return len(h) }
func (h byRank) Less(i, j int) bool { return h[i].rank < h[j].rank }
func (h byRank) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byRank) Push(x any)        { *h = append(*h, x.(*scanned)) }
func (h *byRank) Pop() any {
	old := *h
	n := len(old) - 1
	x := old[n]
	old[n] = nil
	*h = old[:n]
	return x
}
