package quota

import (
	"context"
	"math"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// count is a count in progress, under Quotas.mu. What is committed meanwhile is added if the count was there before, else the count will come to it: it
// has locked what it counts.
type count struct {
	next uint64 // the first inode that was not counted yet
	sums [ondisk.NumQuotaTypes]map[uint32]*amount
}

func (n *count) add(c *change) {
	for i := range c.entries[:c.n] {
		e := &c.entries[i]
		sum := n.sums[e.typ][e.id]
		if sum == nil {
			sum = new(amount)
			n.sums[e.typ][e.id] = sum
		}
		for k, v := range e.n {
			sum[k] += v
		}
	}
}

// countedAtOnce is how many inodes are counted, and locked, in one transaction; more only if one has more versions.
const countedAtOnce = 256

// Recount counts anew what everybody has, while the filesystem is used. It is called after the main subvolume of a tree of snapshots was deleted, whose inodes
// nobody has any more, and those of another count in their place.
func (q *Quotas) Recount(ctx context.Context) error {
	if q.cfg.Enabled == 0 {
		return nil
	}
	q.counting.Lock()
	defer q.counting.Unlock()
	n := new(count)
	for i := range n.sums {
		n.sums[i] = map[uint32]*amount{}
	}
	q.mu.Lock()
	q.count = n
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.count = nil
	}()
	for more := true; more; {
		err := q.cfg.Store.View(ctx, func(tx *trans.Tx) (err error) {
			more, err = q.countSome(tx, n)
			return err
		})
		if err != nil {
			return err
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.cfg.Now()
	for i := range q.tables {
		q.tables[i].replace(n.sums[i], now)
	}
	return nil
}

// countSome counts the next inodes. Its last step, which cannot fail, is to take note: until the transaction ends nobody changes them.
func (q *Quotas) countSome(tx *trans.Tx, n *count) (more bool, err error) {
	var changes []change
	trees := map[uint32]uint32{} // the snapshot of each one's main subvolume
	decided := map[uint32]bool{} // trees, of the inode at hand
	var inum, next uint64        // at hand; where to go on
	it := tx.Iter(ondisk.BtreeInodes, ondisk.Pos{Offset: n.next}, trans.AllSnapshots)
	for keys := 0; ; keys++ {
		k, ok, err := it.Peek()
		if err != nil {
			return false, err
		}
		if !ok {
			next = math.MaxUint64
			break
		}
		if k.Pos.Offset != inum {
			if keys >= countedAtOnce {
				next, more = k.Pos.Offset, true
				break
			}
			inum = k.Pos.Offset
			clear(decided)
		}
		it.Advance()
		// Those nearest to the leaves come first.
		in, ok, err := q.seen(tx, &k, trees, decided)
		if err != nil {
			return false, err
		}
		if ok {
			changes = append(changes, q.transfer(inum, nil, &in))
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range changes {
		n.add(&changes[i])
	}
	n.next = next
	return more, nil
}

// seen returns an inode if its key is the one that the main subvolume of its tree sees.
func (q *Quotas) seen(tx *trans.Tx, k *ondisk.Key, trees map[uint32]uint32, decided map[uint32]bool) (in ondisk.Inode, ok bool, err error) {
	node, ok := q.cfg.Snapshots.Get(k.Pos.Snapshot)
	if !ok || decided[node.Tree] {
		return in, false, nil
	}
	at, known := trees[node.Tree]
	if !known {
		if _, at, err = mainOf(tx, node.Tree); err != nil {
			return in, false, err
		}
		trees[node.Tree] = at
	}
	if at == 0 || !q.cfg.Snapshots.IsAncestor(k.Pos.Snapshot, at) {
		return in, false, nil
	}
	decided[node.Tree] = true
	switch k.Type {
	case ondisk.KeyInode, ondisk.KeyInodeV2, ondisk.KeyInodeV3:
		in, err = ondisk.DecodeInode(*k)
		return in, err == nil, err
	}
	return in, false, nil // a whiteout, or the generation of one that was deleted
}

// replace sets usage to what was counted.
func (t *table) replace(sums map[uint32]*amount, now int64) {
	for id := range sums {
		t.get(id)
	}
	for id, a := range t.accounts {
		sum := sums[id]
		if sum == nil {
			sum = new(amount)
		}
		for i := range a {
			a[i].used = sum[i]
			a[i].settle(t.grace[i], now)
		}
		if a.empty() {
			delete(t.accounts, id)
		}
	}
}

// setGrace sets how long soft limits may be exceeded.
func (q *Quotas) setGrace(all []ondisk.QuotaLimits) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.tables {
		for c, seconds := range all[i].TimeLimits {
			q.tables[i].grace[c] = time.Duration(seconds) * time.Second
		}
	}
}
