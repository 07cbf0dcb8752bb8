package quota

import (
	"time"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// table has what is known of one type, under Quotas.mu.
type table struct {
	accounts map[uint32]*account // by id; without those that have nothing and no limits
	grace    [numCounters]time.Duration
}

type account [numCounters]counter

// counter is one counter of somebody.
type counter struct {
	used    int64 // committed
	taken   int64 // by transactions in progress
	limit   ondisk.QuotaLimit
	expires int64 // when the soft limit becomes a hard one, nanoseconds since 1970; 0: it is not exceeded
}

func (a *account) empty() bool { return *a == account{} }

func (t *table) get(id uint32) *account {
	a := t.accounts[id]
	if a == nil {
		a = new(account)
		t.accounts[id] = a
	}
	return a
}

// check reports whether n more are fine.
func (c *counter) check(n, now int64) (limit uint64, hard, ok bool) {
	sum := uint64(max(c.used+c.taken+n, 0))
	switch {
	case c.limit.Hard != 0 && sum > c.limit.Hard:
		return c.limit.Hard, true, false
	case c.limit.Soft != 0 && sum > c.limit.Soft && c.expires != 0 && now >= c.expires:
		return c.limit.Soft, false, false
	}
	return 0, false, true
}

// settle keeps expires after a change.
func (c *counter) settle(grace time.Duration, now int64) {
	switch over := c.limit.Soft != 0 && c.used > 0 && uint64(c.used) > c.limit.Soft; {
	case !over:
		c.expires = 0
	case c.expires == 0:
		c.expires = max(now+int64(grace), 1)
	}
}

// owners are whom an inode counts for, by type.
type owners [ondisk.NumQuotaTypes]uint32

func ownersOf(in *ondisk.Inode) owners {
	return owners{in.UID, in.GID, max(in.Project, 1) - 1}
}

// amount is what an inode, or a part of it, counts.
type amount [numCounters]int64

// entry is one change of an account.
type entry struct {
	typ ondisk.QuotaType
	id  uint32
	n   amount
}

// change is what a transaction changes with one inode.
type change struct {
	inum    uint64
	n       int
	entries [2 * ondisk.NumQuotaTypes]entry
}

// add adds n for an owner.
func (c *change) add(typ ondisk.QuotaType, id uint32, n amount) {
	if n != (amount{}) {
		c.entries[c.n] = entry{typ, id, n}
		c.n++
	}
}

// transfer is what an inode changes that was one thing and is to be another; nil is none.
func (q *Quotas) transfer(inum uint64, old, new *ondisk.Inode) (c change) {
	c.inum = inum
	var from, to owners
	var was, is amount
	if old != nil {
		from, was = ownersOf(old), amount{int64(old.Sectors), 1}
	}
	if new != nil {
		to, is = ownersOf(new), amount{int64(new.Sectors), 1}
	}
	for typ := range ondisk.NumQuotaTypes {
		switch {
		case !q.cfg.Enabled.Has(typ):
		case old != nil && new != nil && from[typ] == to[typ]:
			c.add(typ, to[typ], amount{is[Space] - was[Space], is[Inodes] - was[Inodes]})
		default:
			c.add(typ, to[typ], is)
			c.add(typ, from[typ], amount{-was[Space], -was[Inodes]})
		}
	}
	return c
}

// taking is what a transaction has taken. Those that are done with are used again, as there is one in each transaction.
type taking struct {
	q      *Quotas
	c      change
	now    int64
	abort  func()
	commit func(seq uint64)
}

func (q *Quotas) newTaking() *taking {
	if t, ok := q.takings.Get().(*taking); ok {
		return t
	}
	t := &taking{q: q}
	t.abort = t.giveBack
	t.commit = func(uint64) { t.keep() }
	return t
}

// take makes a change part of a transaction, or refuses it.
func (q *Quotas) take(tx *trans.Tx, c *change) error {
	if c.n == 0 {
		return nil
	}
	now := q.cfg.Now()
	bound := tx.Context().Value(unlimited{}) == nil
	q.mu.Lock()
	if bound {
		if err := q.check(c, now); err != nil {
			q.mu.Unlock()
			return err
		}
	}
	for i := range c.entries[:c.n] {
		e := &c.entries[i]
		a := q.tables[e.typ].get(e.id)
		for k, n := range e.n {
			a[k].taken += max(n, 0)
		}
	}
	q.mu.Unlock()
	t := q.newTaking()
	t.c, t.now = *c, now
	tx.OnAbort(t.abort)
	tx.OnCommit(t.commit)
	return nil
}

// giveBack is for a transaction that is not committed.
func (t *taking) giveBack() {
	q, c := t.q, &t.c
	q.mu.Lock()
	for i := range c.entries[:c.n] {
		e := &c.entries[i]
		a := q.tables[e.typ].get(e.id)
		for k, n := range e.n {
			a[k].taken -= max(n, 0)
		}
	}
	q.tidy(c)
	q.mu.Unlock()
	q.takings.Put(t)
}

// keep is for a transaction that is committed.
func (t *taking) keep() {
	q, c := t.q, &t.c
	q.mu.Lock()
	for i := range c.entries[:c.n] {
		e := &c.entries[i]
		table := &q.tables[e.typ]
		a := table.get(e.id)
		for k, n := range e.n {
			a[k].taken -= max(n, 0)
			a[k].used += n
			a[k].settle(table.grace[k], t.now)
		}
	}
	if q.count != nil && c.inum < q.count.next {
		q.count.add(c)
	}
	q.tidy(c)
	q.mu.Unlock()
	q.takings.Put(t)
}

// check refuses a change that adds to what is at a limit. With mu held.
func (q *Quotas) check(c *change, now int64) error {
	for i := range c.entries[:c.n] {
		e := &c.entries[i]
		a := q.tables[e.typ].accounts[e.id]
		for k, n := range e.n {
			if a == nil || n <= 0 {
				continue
			}
			if limit, hard, ok := a[k].check(n, now); !ok {
				return &Error{Type: e.typ, ID: e.id, Counter: Counter(k), Limit: limit, Hard: hard}
			}
		}
	}
	return nil
}

// tidy forgets accounts of which nothing is left. With mu held.
func (q *Quotas) tidy(c *change) {
	for i := range c.entries[:c.n] {
		e := &c.entries[i]
		if a := q.tables[e.typ].accounts[e.id]; a != nil && a.empty() {
			delete(q.tables[e.typ].accounts, e.id)
		}
	}
}
