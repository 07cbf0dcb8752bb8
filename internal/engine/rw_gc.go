package engine

import (
	"context"
	"fmt"
	"sync"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// background is what is done to a filesystem without anybody asking for it.
type background struct {
	nocow  data.NocowLocks
	errors memberErrors
	copygc *data.CopyGC
	kickGC func() // asks for a round of copygc
	repair *data.Repair

	stopWork context.CancelFunc
	work     sync.WaitGroup
}

// makeBackground makes what works in the background. The allocator starts copygc, and stops it: it is one of those that make buckets free.
func (rw *RW) makeBackground(sb *ondisk.Superblock) {
	rw.errors.wake = make(chan struct{}, 1)
	w := data.NewWriter(rw.DataConfig())
	rw.copygc = data.NewCopyGC(data.CopyGCConfig{
		Writer: w,
		Usage:  func(dev uint8) [ondisk.NumDataTypes]alloc.DevUsage { return rw.Accounting.Device(dev) },
		Clock:  rw.clocks[1].Load, NodeSectors: uint32(sb.BtreeNodeSize() / ondisk.SectorSize), Logf: rw.message,
	})
	rw.kickGC = rw.Alloc.AddReclaimer("copygc", rw.copygc.Round)
	rw.repair = data.NewRepair(w, rw.message)
}

// startBackground starts what the allocator does not.
func (rw *RW) startBackground() {
	interval := errorsInterval
	if rw.wopts.ErrorsInterval > 0 {
		interval = rw.wopts.ErrorsInterval
	}
	ctx, cancel := context.WithCancel(rw.ctx)
	rw.stopWork = cancel
	rw.work.Go(func() { rw.repair.Run(ctx) })
	rw.work.Go(func() { rw.storeErrors(ctx, interval) })
}

// stopBackground ends what startBackground has started, and waits for it.
func (rw *RW) stopBackground() {
	if rw.stopWork != nil {
		rw.stopWork()
	}
	rw.work.Wait()
}

// CopyGC tells how moving data to make buckets free fares.
func (rw *RW) CopyGC() data.CopyGCStats { return rw.copygc.Stats() }

// Repairs tells how replicas fare that were found damaged.
func (rw *RW) Repairs() data.RepairStats { return rw.repair.Stats() }

// badReplica has a replica repaired that was found damaged.
func (rw *RW) badReplica(b data.BadReplica) {
	if rw.repair != nil {
		rw.repair.Add(b)
	}
}

// writeError takes note of data that could not be written to a member.
func (rw *RW) writeError(dev uint8, err error) {
	rw.errors.note(dev, errorsWrite)
	rw.message("device %d: %v", dev, fmt.Errorf("data was not written: %w", err))
}

// wrote advances the clock of writes. As much as has to be written makes copygc start.
func (rw *RW) wrote(sectors uint64) {
	if now := rw.clocks[1].Add(sectors); rw.copygc != nil && rw.copygc.Due(now) {
		rw.kickGC()
	}
}
