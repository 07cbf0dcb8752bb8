package alloc

import (
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// BtreeNodeReserve is the number of btree nodes that a filesystem must always be able to make: two splits of all levels of a
// btree, and a bit (BTREE_NODE_RESERVE).
const BtreeNodeReserve = 28

// reserve returns how many free buckets of a device are kept back from requests of watermark w (spec/04 §10.2).
func (d *DevSpace) reserve(w Watermark) int64 {
	nodes := d.nodeReserve
	slack := int64(d.NBuckets >> 6)
	switch w {
	case WatermarkStripe:
		return 2*slack + 2*nodes
	case WatermarkNormal:
		return slack + 2*nodes
	case WatermarkCopygc:
		return 2 * nodes
	case WatermarkBtree:
		return nodes
	}
	return 0
}

// nodeReserveBuckets returns the number of buckets that BtreeNodeReserve nodes take.
func nodeReserveBuckets(bucketSectors, nodeSectors uint32) int64 {
	perBucket := max(1, bucketSectors/max(1, nodeSectors))
	return int64((BtreeNodeReserve + perBucket - 1) / perBucket)
}

// Avail returns how many buckets of the device a request of watermark w may open.
func (a *Allocator) Avail(d *DevSpace, w Watermark) int64 {
	return max(0, a.cfg.Usage.Buckets(d.Index, ondisk.DataFree)-d.opened.Load()-d.reserve(w))
}

// Available returns how many buckets of the device a request of watermark w may hope for: those of [Allocator.Avail], and those that
// can be had without moving data.
func (a *Allocator) Available(d *DevSpace, w Watermark) int64 {
	n := -d.opened.Load() - d.held.Load() - d.reserve(w)
	for _, t := range [...]ondisk.DataType{ondisk.DataFree, ondisk.DataCached, ondisk.DataNeedGCGens, ondisk.DataNeedDiscard} {
		n += a.cfg.Usage.Buckets(d.Index, t)
	}
	return max(0, n)
}

// openLimit returns the number of table entries that are kept back from requests of watermark w (spec/04 §10.1).
func openLimit(w Watermark, size int) int {
	switch w {
	case WatermarkInteriorUpdates:
		return 0
	case WatermarkReclaim:
		return size / 6
	case WatermarkBtree, WatermarkBtreeCopygc:
		return size / 4
	case WatermarkCopygc:
		return size / 3
	}
	return size / 2
}

// Watermark says how urgent a request is, and so how deep it may go into the reserves.
type Watermark = journal.Watermark

// Watermarks in ascending order.
const (
	WatermarkStripe          = journal.WatermarkStripe
	WatermarkNormal          = journal.WatermarkNormal
	WatermarkCopygc          = journal.WatermarkCopygc
	WatermarkBtree           = journal.WatermarkBtree
	WatermarkBtreeCopygc     = journal.WatermarkBtreeCopygc
	WatermarkReclaim         = journal.WatermarkReclaim
	WatermarkInteriorUpdates = journal.WatermarkInteriorUpdates
)
