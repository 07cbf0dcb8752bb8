package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/codec/strhash"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// makeJournals chooses the buckets of the journals of a filesystem that was never mounted, and lists them in the superblocks. It returns the
// sequence number of the first entry.
//
// What an earlier attempt left in them, one that power was cut in, or a filesystem with the same UUID, must not be taken for ours: our
// entries are newer than all that are found there. They are not wiped, since a power cut while that is done would leave some that no
// scan finds, and that may follow seamlessly behind what is written over those before.
func (rw *RW) makeJournals(ctx context.Context) (first uint64, err error) {
	lists := map[int][]ondisk.SeqRange{}
	cfg := rw.JournalConfig()
	cfg.Members = nil
	for _, m := range rw.Members {
		buckets, err := newJournal(m)
		if err != nil {
			return 0, err
		}
		cfg.Members = append(cfg.Members, journal.Member{Index: m.Index, Device: m.Device, BucketBytes: m.BucketBytes(), Buckets: buckets})
		lists[int(m.Index)] = journal.BucketRanges(buckets)
	}
	old, err := journal.Scan(ctx, &cfg)
	if err != nil {
		return 0, err
	}
	first = 1
	if sel := journal.Select(old.Candidates, nil, true); sel.Highest > 0 {
		first = sel.Resume(nil).First
	}
	return first, rw.Super.Update(ctx, func(sb *ondisk.Superblock) error {
		sb.MarkCurrent()
		// There is no index of free buckets, whatever an earlier attempt had made.
		return rw.eachMember(sb, func(m *ondisk.Member) { m.SetFreespaceInitialized(false) })
	}, func(index int, own *ondisk.Superblock) error {
		if r := lists[index]; r != nil {
			own.SetJournal(r)
		}
		return nil
	})
}

// newJournal chooses the buckets of a member's journal: the first ones that no superblock is in.
func newJournal(m *Member) ([]uint64, error) {
	dev := alloc.NewDevice(m.Index, &m.Member)
	taken := map[uint64]bool{}
	for _, s := range alloc.MetadataBuckets(dev, &m.SB.Layout, nil) {
		taken[uint64(s.Bucket)] = true
	}
	want := journal.NewBuckets(m.NBuckets, uint64(m.BucketSize))
	var buckets []uint64
	for b := uint64(m.FirstBucket); b < m.NBuckets && uint64(len(buckets)) < want; b++ {
		if !taken[b] {
			buckets = append(buckets, b)
		}
	}
	if uint64(len(buckets)) < want {
		return nil, fmt.Errorf("%s: %d buckets are too few for a journal", m.Path, m.NBuckets)
	}
	return buckets, nil
}

// run runs transactions for package alloc.
func (rw *RW) run(ctx context.Context, fn func(tx alloc.Tx) error) error {
	return rw.Store.UpdateAt(ctx, journal.WatermarkBtree, func(tx *trans.Tx) error { return fn(tx) })
}

// initialise makes what the first mount makes: the accounting of the devices, the index of free buckets, the first subvolume with
// its root directory and lost+found.
func (rw *RW) initialise(ctx context.Context) error {
	err := rw.run(ctx, func(tx alloc.Tx) error {
		for dev := range rw.Devices.All() {
			alloc.InitDeviceCounters(tx, dev)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range rw.Members {
		own := rw.Super.Own(int(m.Index))
		ranges, err := own.Journal()
		if err != nil {
			return err
		}
		if err := alloc.MarkMetadata(ctx, rw.run, rw.Devices.Get(m.Index), &own.Layout, ranges); err != nil {
			return err
		}
	}
	if err := rw.initFreespace(ctx); err != nil {
		return err
	}
	if err := rw.makeRoot(ctx); err != nil {
		return err
	}
	if err := rw.Journal.Flush(ctx); err != nil {
		return err
	}
	return rw.Super.Update(ctx, func(sb *ondisk.Superblock) error { sb.SetInitialized(); return nil }, nil)
}

// initFreespace fills the index of free buckets for devices that it does not cover yet. From then on it is trusted.
func (rw *RW) initFreespace(ctx context.Context) error {
	if rw.wopts.NoFreespace {
		return nil
	}
	changed := false
	for dev := range rw.Devices.All() {
		if dev.FreespaceInitialized() {
			continue
		}
		if err := rw.Triggers.InitFreespace(ctx, rw.run, dev, dev.FirstBucket, dev.NBuckets); err != nil {
			return fmt.Errorf("device %d: index of free buckets: %w", dev.Index, err)
		}
		changed = true
	}
	if changed {
		if err := rw.Journal.Flush(ctx); err != nil {
			return err
		}
		err := rw.Super.Update(ctx, func(sb *ondisk.Superblock) error {
			return rw.eachMember(sb, func(m *ondisk.Member) { m.SetFreespaceInitialized(true) })
		}, nil)
		if err != nil {
			return err
		}
		for dev := range rw.Devices.All() {
			dev.SetFreespaceInitialized(true)
		}
	}
	rw.trusted.Store(true)
	rw.Alloc.SetTrusted(true)
	return nil
}

// makeRoot makes the first subvolume.
func (rw *RW) makeRoot(ctx context.Context) error {
	f := fresh{hash: strhash.Type(rw.SB.DirentHash()), uuid: rw.SB.UUID, time: rw.diskTime(rw.now())}
	return rw.Store.Update(ctx, func(tx *trans.Tx) error {
		return f.keys(func(id ondisk.BtreeID, k ondisk.Key) error { return tx.Update(id, k, 0) })
	})
}

// diskTime is a time as inodes have it: in the superblock's units since its base.
func (rw *RW) diskTime(t time.Time) int64 {
	return (t.UnixNano() - int64(rw.SB.TimeBase)) / int64(max(rw.SB.TimePrecision, 1))
}
