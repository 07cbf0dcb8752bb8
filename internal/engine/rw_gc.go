package engine

import (
	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// background is what is done to a filesystem without anybody asking for it.
type background struct {
	nocow  data.NocowLocks
	copygc *data.CopyGC
	kickGC func() // asks for a round of copygc
}

// makeBackground makes what works in the background. The allocator starts copygc, and stops it: it is one of those that make buckets free.
func (rw *RW) makeBackground(sb *ondisk.Superblock) {
	rw.copygc = data.NewCopyGC(data.CopyGCConfig{
		Writer: data.NewWriter(rw.DataConfig()),
		Usage:  func(dev uint8) [ondisk.NumDataTypes]alloc.DevUsage { return rw.Accounting.Device(dev) },
		Clock:  rw.clocks[1].Load, NodeSectors: uint32(sb.BtreeNodeSize() / ondisk.SectorSize), Logf: rw.message,
	})
	rw.kickGC = rw.Alloc.AddReclaimer("copygc", rw.copygc.Round)
}

// CopyGC tells how moving data to make buckets free fares.
func (rw *RW) CopyGC() data.CopyGCStats { return rw.copygc.Stats() }

// wrote advances the clock of writes. As much as has to be written makes copygc start.
func (rw *RW) wrote(sectors uint64) {
	if now := rw.clocks[1].Add(sectors); rw.copygc != nil && rw.copygc.Due(now) {
		rw.kickGC()
	}
}
