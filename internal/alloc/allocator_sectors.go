package alloc

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Request says what space is wanted.
type Request struct {
	Sectors uint32 // as many as wanted, in whole blocks; fewer may be got, see Min
	// Min is how many must be got in one piece; 0 means one block.
	Min        uint32
	DataType   ondisk.DataType // btree, journal, user
	WritePoint WritePoint
	Replicas   int // durability wanted: the sum of the devices'
	Required   int // durability without which the request fails; 0 means 1
	Target     uint16
	// OnlySpecified keeps to the devices of Target; otherwise others are taken if these are full.
	OnlySpecified bool
	Have          DevSet // devices that have a copy already
	Cached        bool   // all pointers are to be cached ones
	Watermark     Watermark
	// Keep is how many buckets of each device are left to others, beside those that the watermark leaves.
	Keep int64
	// Nonblocking makes the request fail rather than wait for buckets to become free.
	Nonblocking bool
	Owner       Owner // for messages
	// Tx makes claims part of a transaction of the caller, which keeps their slots locked until it ends. Such requests do not wait. What
	// they got is the caller's even if the transaction has to run again: it keeps it, or calls Done.
	// nil: claims have transactions of their own, so that the caller must not hold locks of btrees.
	Tx Tx
}

// Allocation is space that was got: the same number of sectors at each of its pointers. Its zero value is none. It is used by one
// goroutine at a time.
type Allocation struct {
	a       *Allocator
	ptrs    [MaxOpenPerWrite]ondisk.ExtentPtr
	obs     [MaxOpenPerWrite]*OpenBucket // each with a reference
	n       int
	Sectors uint32
	// Durability is the sum of the devices'.
	Durability int
}

// Ptrs returns where to write: pointers that may go into a key as they are. The slice is valid until Done.
func (al *Allocation) Ptrs() []ondisk.ExtentPtr { return al.ptrs[:al.n] }

// Done gives up the buckets: it is called after the commit that adds pointers to what was written, or if nothing was
// written or nothing refers to it (I2). ctx is for hooks only, it may be done. Further calls do nothing.
func (al *Allocation) Done(ctx context.Context) {
	for _, ob := range al.obs[:al.n] {
		if ob != nil {
			al.a.put(ctx, ob)
		}
	}
	clear(al.obs[:al.n])
	al.n = 0
}

func (req *Request) check(block uint32) error {
	switch {
	case req.Sectors == 0:
		return errors.New("allocation of no sectors")
	case req.Sectors%block != 0 || req.Min%block != 0:
		return fmt.Errorf("allocation of %d sectors, %d in one piece: blocks are of %d", req.Sectors, req.Min, block)
	case req.Min > req.Sectors:
		return fmt.Errorf("allocation of %d sectors, %d of them in one piece", req.Sectors, req.Min)
	case req.Replicas < 1 || req.Replicas > MaxOpenPerWrite:
		return fmt.Errorf("allocation of %d replicas", req.Replicas)
	case req.Required > req.Replicas:
		return fmt.Errorf("allocation of %d replicas, %d required", req.Replicas, req.Required)
	case req.DataType != ondisk.DataUser && req.DataType != ondisk.DataBtree && req.DataType != ondisk.DataJournal:
		return fmt.Errorf("allocation of data of type %v", req.DataType)
	}
	return nil
}

// AllocSectors gets space. The buckets are the caller's until [Allocation.Done], which must be called after the
// commit that refers to them; *out must not hold an allocation.
//
// Unless the request is nonblocking, it waits until buckets become free; if none can, which is also so while no workers run
// ([Allocator.Start]), the error is [ErrNoSpace]. If fewer devices may
// be written to than replicas are wanted, but enough for those required, fewer are got; if not enough, the error is
// [ErrInsufficientDevices].
func (a *Allocator) AllocSectors(ctx context.Context, req *Request, out *Allocation) error {
	if err := req.check(a.cfg.BlockSectors); err != nil {
		return err
	}
	gen := a.freed.generation()
	_, err := a.try(ctx, req, out)
	if err == nil || !isFull(err) || req.Nonblocking || req.Tx != nil {
		return err
	}
	return a.allocSlow(ctx, req, out, gen)
}

// try gets space that can be had at once. It also returns the journal sequence number that buckets wait for that were passed over.
func (a *Allocator) try(ctx context.Context, req *Request, out *Allocation) (needSeq uint64, err error) {
	wp := a.lockPoint(req)
	defer a.unlockPoint(ctx, wp, req)
	err = a.choose(ctx, wp, req)
	a.settle(ctx, wp, err == nil)
	if err != nil {
		return wp.sel.br.needSeq, err
	}
	a.take(ctx, wp, req, out)
	return 0, nil
}

// take takes sectors from all buckets of a write point, which is locked.
func (a *Allocator) take(ctx context.Context, wp *writePoint, req *Request, out *Allocation) {
	free := uint32(math.MaxUint32)
	for _, ob := range wp.obs[:wp.n] {
		free = min(free, ob.sectorsFree)
	}
	sectors := min(free, req.Sectors)
	sectors -= sectors % a.cfg.BlockSectors
	out.a, out.n, out.Sectors, out.Durability = a, 0, sectors, 0
	kept := 0
	for _, ob := range wp.obs[:wp.n] {
		d := ob.dev
		out.ptrs[out.n] = ondisk.ExtentPtr{
			Offset: d.Sector(ob.bucket) + ondisk.Sector(d.BucketSize-ob.sectorsFree),
			Dev:    d.Index,
			Gen:    ob.gen,
			Cached: req.Cached || d.durability() == 0 && ob.dataType == ondisk.DataUser,
		}
		out.Durability += d.durability()
		out.obs[out.n] = nil
		ob.sectorsFree -= sectors
		last := ob.sectorsFree < a.cfg.BlockSectors
		switch {
		case a.broken(FaultEarlyRelease):
			if last {
				a.put(ctx, ob)
			}
		case last: // the write point's reference becomes the allocation's
			out.obs[out.n] = ob
		default:
			ob.pin()
			out.obs[out.n] = ob
		}
		if !last {
			wp.obs[kept] = ob
			kept++
		}
		out.n++
	}
	clear(wp.obs[kept:wp.n])
	wp.n = kept
}
