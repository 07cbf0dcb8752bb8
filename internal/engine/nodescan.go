package engine

import (
	"cmp"
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
		sc.found[n.Seq] = &scanned{n.Btree, n.Gen, n.JournalSeq, want.Ptr}
	}
}

// resolve makes of nodes that may overlap pointers that do not: newer nodes keep their whole range, older ones what is left.
func resolve(nodes []*scanned) []ondisk.Key {
	slices.SortFunc(nodes, func(a, b *scanned) int {
		if c := a.newerThan(b); c != 0 {
			return c
		}
		if c := a.ptr.Min.Compare(b.ptr.Min); c != 0 {
			return c
		}
		return cmp.Compare(a.ptr.Seq, b.ptr.Seq)
	})
	var taken []ondisk.BtreePtr // disjoint, ascending
	for _, n := range nodes {
		pieces := uncovered(n.ptr, taken)
		for _, p := range pieces {
			if p.Min != n.ptr.Min || p.Max != n.ptr.Max {
				p.Flags |= 1 // RANGE_UPDATED
			}
			at, _ := slices.BinarySearchFunc(taken, p.Min, func(t ondisk.BtreePtr, q ondisk.Pos) int { return t.Min.Compare(q) })
			taken = slices.Insert(taken, at, p)
		}
	}
	keys := make([]ondisk.Key, len(taken))
	for i := range taken {
		keys[i] = taken[i].Key()
	}
	return keys
}

// uncovered returns n cut to the parts of its range that none of taken covers.
func uncovered(n ondisk.BtreePtr, taken []ondisk.BtreePtr) (pieces []ondisk.BtreePtr) {
	from := n.Min
	piece := func(to ondisk.Pos) {
		p := n
		p.Min, p.Max = from, to
		pieces = append(pieces, p)
	}
	i, _ := slices.BinarySearchFunc(taken, from, func(t ondisk.BtreePtr, p ondisk.Pos) int { return t.Max.Compare(p) })
	for ; ; i++ {
		if i == len(taken) || n.Max.Less(taken[i].Min) {
			piece(n.Max)
			return pieces
		}
		if from.Less(taken[i].Min) {
			piece(taken[i].Min.Prev())
		}
		if !taken[i].Max.Less(n.Max) {
			return pieces
		}
		from = taken[i].Max.Next()
	}
}
