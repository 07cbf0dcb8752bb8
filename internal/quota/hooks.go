package quota

import (
	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Names returns the hook for [namei.WriterConfig]: inodes that come, go, or belong to others. It is nil if nothing is counted.
func (q *Quotas) Names() namei.Quota {
	if q.cfg.Enabled == 0 {
		return nil
	}
	return func(tx *trans.Tx, id namei.ID, old, new *ondisk.Inode) error {
		if id.Snapshot != 0 { // else it is a root of a subvolume to be, the main one of a tree
			if ok, err := q.counts(tx, id.Subvol, id.Snapshot, id.Inum); err != nil || !ok {
				return err
			}
		}
		c := q.transfer(id.Inum, old, new)
		return q.take(tx, &c)
	}
}

// Data returns the hook for [data.WriterConfig]: sectors of files. It is nil if nothing is counted.
func (q *Quotas) Data() data.Quota {
	if q.cfg.Enabled == 0 {
		return nil
	}
	return sectors{q}
}

type sectors struct{ q *Quotas }

// Change makes more or fewer sectors of an inode part of a transaction.
func (s sectors) Change(tx *trans.Tx, id data.ID, snapshot uint32, in *ondisk.Inode, n int64) error {
	if ok, err := s.q.counts(tx, id.Subvol, snapshot, id.Inum); err != nil || !ok {
		return err
	}
	c := s.q.more(id.Inum, in, n)
	return s.q.take(tx, &c)
}

// Room tells whether an inode may get so many sectors now.
func (s sectors) Room(tx *trans.Tx, id data.ID, snapshot uint32, in *ondisk.Inode, n uint64) error {
	if tx.Context().Value(unlimited{}) != nil {
		return nil
	}
	if ok, err := s.q.counts(tx, id.Subvol, snapshot, id.Inum); err != nil || !ok {
		return err
	}
	c := s.q.more(id.Inum, in, int64(n))
	s.q.mu.Lock()
	defer s.q.mu.Unlock()
	return s.q.check(&c, s.q.cfg.Now())
}

// more is a change of an inode's sectors.
func (q *Quotas) more(inum uint64, in *ondisk.Inode, n int64) (c change) {
	c.inum = inum
	for typ, id := range ownersOf(in) {
		if typ := ondisk.QuotaType(typ); q.cfg.Enabled.Has(typ) {
			c.add(typ, id, amount{Space: n})
		}
	}
	return c
}

// counts reports whether a version of an inode counts: the main subvolume of its tree sees it. A subvolume sees what is changed in it; with
// subvol 0 what is changed is the version that is in exactly this snapshot.
func (q *Quotas) counts(tx *trans.Tx, subvol, snapshot uint32, inum uint64) (bool, error) {
	node, ok := q.cfg.Snapshots.Get(snapshot)
	if !ok {
		return false, nil
	}
	main, at, err := mainOf(tx, node.Tree)
	switch {
	case err != nil || main == 0:
		return false, err
	case subvol != 0:
		return subvol == main, nil
	case snapshot == at || !q.cfg.Snapshots.IsAncestor(snapshot, at):
		return snapshot == at, nil
	}
	k, ok, err := tx.Lookup(ondisk.BtreeInodes, ondisk.Pos{Offset: inum, Snapshot: at}, 0)
	return ok && k.Pos.Snapshot == snapshot, err
}

// mainOf returns the main subvolume of a tree of snapshots, and the snapshot that it has now; 0 if there is none.
func mainOf(tx *trans.Tx, tree uint32) (subvol, snapshot uint32, err error) {
	k, ok, err := tx.Get(ondisk.BtreeSnapshotTrees, ondisk.Pos{Offset: uint64(tree)}, 0)
	if err != nil || !ok {
		return 0, 0, err
	}
	t, err := ondisk.DecodeSnapshotTree(k)
	if err != nil || t.MasterSubvol == 0 {
		return 0, 0, err
	}
	if k, ok, err = tx.Get(ondisk.BtreeSubvolumes, ondisk.Pos{Offset: uint64(t.MasterSubvol)}, 0); err != nil || !ok {
		return 0, 0, err
	}
	s, err := ondisk.DecodeSubvolume(k)
	return t.MasterSubvol, s.Snapshot, err
}
