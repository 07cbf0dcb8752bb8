package alloc

import "github.com/go-bcachefs/bcachefs/internal/ondisk"

var _ Claims = (*Allocator)(nil)

// Claim implements [Claims].
func (a *Allocator) Claim(dev uint8, b ondisk.Bucket) Claim {
	a.open.mu.Lock()
	defer a.open.mu.Unlock()
	switch ob := a.open.find(ondisk.DevBucket(uint16(dev), b)); {
	case ob == nil:
		return NotClaimed
	case ob.filled:
		return ClaimFilled
	}
	return ClaimFresh
}

// Filled implements [Claims]: the bucket stops to count as a free one that is open.
func (a *Allocator) Filled(dev uint8, b ondisk.Bucket) {
	a.open.mu.Lock()
	ob := a.open.find(ondisk.DevBucket(uint16(dev), b))
	first := ob != nil && !ob.filled
	if ob != nil && ob.emptied {
		ob.emptied = false
		ob.dev.held.Add(-1)
	}
	if first {
		ob.filled = true
		ob.dev.opened.Add(-1)
	}
	a.open.mu.Unlock()
	if first {
		// In the moment between the accounting, which counted the bucket as used, and this one, it was counted twice.
		a.freed.signal(true)
	}
}

// Emptied implements [Claims]. What becomes of a bucket that is open is seen to when it is closed.
func (a *Allocator) Emptied(dev uint8, b ondisk.Bucket, seq uint64) {
	if seq != 0 {
		a.waiting.set(ondisk.DevBucket(uint16(dev), b), seq, a.cfg.Engine.Durable())
	}
	a.open.mu.Lock()
	if ob := a.open.find(ondisk.DevBucket(uint16(dev), b)); ob != nil && !ob.emptied {
		ob.emptied = true
		ob.dev.held.Add(1)
	}
	a.open.mu.Unlock()
}

// Became is for [TriggerConfig.Became]: it is called in the atomic part of a commit that changes what is in a bucket, and wakes who
// waits for that. It never blocks.
func (a *Allocator) Became(_ uint8, _ ondisk.Bucket, _, now ondisk.DataType) {
	switch now {
	case ondisk.DataFree:
		a.freed.signal(true)
	case ondisk.DataNeedDiscard, ondisk.DataNeedGCGens, ondisk.DataCached:
		a.reclaim.kick()
	}
}
