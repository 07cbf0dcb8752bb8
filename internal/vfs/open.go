package vfs

import (
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/data"
)

// openInode is an inode that somebody holds.
type openInode struct {
	id       data.ID
	holds    uint64
	unlinked bool       // to be deleted with the last hold
	next     *openInode // of the same number in another subvolume
}

// openTable knows which inodes are held. Safe for concurrent use; its locks are taken for moments only, also while btrees are locked.
type openTable struct {
	shards [64]openShard

	mu      sync.Mutex
	subvols map[uint32]*openSubvol
}

type openShard struct {
	mu sync.Mutex
	m  map[uint64]*openInode
}

// openSubvol counts what is held of a subvolume.
type openSubvol struct {
	inodes   atomic.Int64
	unlinked atomic.Bool
	reported atomic.Bool // as to be deleted
}

// due reports whether the subvolume is to be deleted now: unlinked, with nothing held. It is true once only, though the last hold may end while the
// subvolume is unlinked: a second time, the id may be another subvolume's.
func (v *openSubvol) due() bool {
	return v.unlinked.Load() && v.inodes.Load() == 0 && v.reported.CompareAndSwap(false, true)
}

func newOpenTable() *openTable {
	t := &openTable{subvols: map[uint32]*openSubvol{}}
	for i := range t.shards {
		t.shards[i].m = map[uint64]*openInode{}
	}
	return t
}

func (t *openTable) shard(inum uint64) *openShard { return &t.shards[inum%uint64(len(t.shards))] }

func (t *openTable) subvol(id uint32) *openSubvol {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.subvols[id]
	if s == nil {
		s = new(openSubvol)
		t.subvols[id] = s
	}
	return s
}

// find returns the entry of an inode, nil if it is not held. The shard is locked.
func (s *openShard) find(id data.ID) *openInode {
	o := s.m[id.Inum]
	for o != nil && o.id != id {
		o = o.next
	}
	return o
}

// hold counts n holds more.
func (t *openTable) hold(id data.ID, n uint64) {
	if n == 0 {
		return
	}
	s := t.shard(id.Inum)
	s.mu.Lock()
	o := s.find(id)
	isNew := o == nil
	if isNew {
		o = &openInode{id: id, next: s.m[id.Inum]}
		s.m[id.Inum] = o
	}
	o.holds += n
	s.mu.Unlock()
	if isNew {
		t.subvol(id.Subvol).inodes.Add(1)
	}
}

// release counts n holds less, and reports whether the inode, or its subvolume, is to be deleted now.
func (t *openTable) release(id data.ID, n uint64) (inode, subvol bool) {
	s := t.shard(id.Inum)
	s.mu.Lock()
	o := s.find(id)
	if o == nil {
		s.mu.Unlock()
		return false, false
	}
	if o.holds -= min(n, o.holds); o.holds > 0 {
		s.mu.Unlock()
		return false, false
	}
	at := s.m[id.Inum]
	if at == o {
		if s.m[id.Inum] = o.next; o.next == nil {
			delete(s.m, id.Inum)
		}
	} else {
		for at.next != o {
			at = at.next
		}
		at.next = o.next
	}
	s.mu.Unlock()
	v := t.subvol(id.Subvol)
	v.inodes.Add(-1)
	return o.unlinked, v.due()
}

// unlink notes whether an inode has lost its last name. It reports whether nobody holds it, so that it is to be deleted at once.
func (t *openTable) unlink(id data.ID, unlinked bool) (free bool) {
	s := t.shard(id.Inum)
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.find(id)
	if o != nil {
		o.unlinked = unlinked
	}
	return o == nil && unlinked
}

// unnamed reports whether an inode is held that has no name.
func (t *openTable) unnamed(id data.ID) bool {
	s := t.shard(id.Inum)
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.find(id)
	return o != nil && o.unlinked
}

// unlinkSubvol notes that a subvolume is to be deleted, and reports whether nobody holds anything of it.
func (t *openTable) unlinkSubvol(id uint32) (free bool) {
	v := t.subvol(id)
	v.unlinked.Store(true)
	return v.due()
}

// forgetSubvol forgets a subvolume that was deleted: its id may be given to another one.
func (t *openTable) forgetSubvol(id uint32) {
	t.mu.Lock()
	delete(t.subvols, id)
	t.mu.Unlock()
}

// holders calls fn for the subvolumes in which an inode number is held, until it returns true, and returns that.
func (t *openTable) holders(inum uint64, fn func(subvol uint32) bool) bool {
	s := t.shard(inum)
	s.mu.Lock()
	defer s.mu.Unlock()
	for o := s.m[inum]; o != nil; o = o.next {
		if fn(o.id.Subvol) {
			return true
		}
	}
	return false
}
