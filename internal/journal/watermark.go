package journal

// Watermark says how deep into the reserves of journal and allocator somebody may go (enum bch_watermark). When the journal runs low
// only those with WatermarkReclaim and above get space, as they are what frees it.
type Watermark uint8

// Watermarks in rising order.
const (
	WatermarkStripe Watermark = iota
	WatermarkNormal
	WatermarkCopygc
	WatermarkBtree
	WatermarkBtreeCopygc
	WatermarkReclaim
	WatermarkInteriorUpdates
	NumWatermarks
)

var watermarkNames = [NumWatermarks]string{"stripe", "normal", "copygc", "btree", "btree_copygc", "reclaim", "interior_updates"}

func (w Watermark) String() string {
	if w < NumWatermarks {
		return watermarkNames[w]
	}
	return "(unknown watermark)"
}
