package main

import (
	"cmp"
	"context"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// byteRange is a part of a device: start ≤ offset < end.
type byteRange struct{ start, end int64 }

type byteRanges []byteRange

// merged sorts ranges and joins those that touch.
func (rs byteRanges) merged() []byteRange {
	slices.SortFunc(rs, func(a, b byteRange) int { return cmp.Compare(a.start, b.start) })
	var out []byteRange
	for _, r := range rs {
		if n := len(out); n > 0 && r.start <= out[n-1].end {
			out[n-1].end = max(out[n-1].end, r.end)
			continue
		}
		out = append(out, r)
	}
	return out
}

// metadata finds where the metadata of a filesystem lies.
type metadata struct {
	fs        *engine.FS
	noJournal bool // but for buckets with what is to be replayed
	ranges    map[uint8]byteRanges
}

func newMetadata(f *engine.FS, noJournal bool) *metadata {
	return &metadata{fs: f, noJournal: noJournal, ranges: map[uint8]byteRanges{}}
}

// add adds a range, as far as it is on the device.
func (m *metadata) add(dev uint8, start, n int64) {
	d := m.fs.Device(dev)
	if d == nil || start < 0 || start >= d.Size() || n <= 0 {
		return
	}
	m.ranges[dev] = append(m.ranges[dev], byteRange{start, start + min(n, d.Size()-start)})
}

// collect finds everything. damage is told of what cannot be followed.
func (m *metadata) collect(ctx context.Context, damage func(ondisk.BtreeID, error)) error {
	for _, mem := range m.fs.Members {
		if mem.Device != nil {
			m.superblocks(mem)
		}
	}
	if err := m.journal(ctx); err != nil {
		return err
	}
	return m.btrees(ctx, damage)
}

// superblocks adds what is before the first superblock, and all copies.
func (m *metadata) superblocks(mem *engine.Member) {
	block := int64(m.fs.SB.BlockBytes())
	size := (int64(len(mem.SB.Encode())) + block - 1) / block * block
	m.add(mem.Index, ondisk.LayoutSector*ondisk.SectorSize, ondisk.LayoutSize)
	for _, at := range mem.SB.Layout.Sectors() {
		m.add(mem.Index, int64(at)*ondisk.SectorSize, size)
	}
}

func (m *metadata) journal(ctx context.Context) error {
	cfg := m.fs.JournalConfig()
	if !m.noJournal {
		for _, mem := range cfg.Members {
			for _, bucket := range mem.Buckets {
				m.add(mem.Index, int64(bucket)*mem.BucketBytes, mem.BucketBytes)
			}
		}
		return nil
	}
	found, err := journal.Scan(ctx, &cfg)
	if err != nil {
		return err
	}
	for _, c := range journal.Select(found.Candidates, cfg.Blacklist, cfg.Degraded).Replay {
		for _, at := range c.Copies {
			// Whole buckets: entries are found by following them from the start of theirs.
			mem := &cfg.Members[at.Member]
			m.add(mem.Index, at.Offset/mem.BucketBytes*mem.BucketBytes, mem.BucketBytes)
		}
	}
	return nil
}

// btrees adds all nodes of all btrees: those that something points to, whether they can be read or not.
func (m *metadata) btrees(ctx context.Context, damage func(ondisk.BtreeID, error)) error {
	for _, id := range m.fs.Reader.Btrees() {
		root, ok := m.fs.Reader.Root(id)
		if !ok {
			continue
		}
		m.node(root.Key)
		for _, k := range root.Leaves {
			m.node(k)
		}
		for level := min(root.Level, btree.MaxRootLevel); level > 0; level-- {
			for k, err := range m.fs.Reader.KeysAt(ctx, id, level, ondisk.PosMin, ondisk.SPosMax) {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					damage(id, err)
					continue
				}
				m.node(k)
			}
		}
	}
	return ctx.Err()
}

// node adds the replicas of the node that a key points to.
func (m *metadata) node(k ondisk.Key) {
	ptr, err := ondisk.DecodeBtreePtr(k)
	if err != nil {
		return
	}
	for a := range ptr.Addrs() {
		m.add(a.Dev, int64(a.Sector)*ondisk.SectorSize, int64(m.fs.SB.BtreeNodeSize()))
	}
}
