//go:build linux

package fusefs

import (
	"encoding/binary"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/go-bcachefs/bcachefs"
)

// Inode numbers. The kernel wants one 64-bit number for each inode of a mount, the same at every mount; bcachefs numbers
// inodes within a subvolume. The mapping is arithmetic wherever it can be, so that nothing need be remembered for it and a
// file handle that NFS keeps stays good over remounts:
//
//	subvolume 1                         the inode's own number (below 2^63)
//	subvolume < 2^22, inode that fits   10 | subvolume (22 bits) | upper (6 bits) and lower (34 bits) part of the inode
//	anything else                       11 | hash of view and inode (62 bits), remembered while the kernel knows it
//
// The driver gives inodes numbers of which the upper bits say which processor made them (shard_inode_numbers), so that those in
// between are zero: bits 57 to 62 and 0 to 33 are kept.
//
// Numbers below 4096 are no inodes of bcachefs: 1 is the root of the mount in the kernel's numbering, and
// the others are the virtual directory of snapshots.
const (
	inoSubvol     = uint64(1) << 63
	inoHashed     = uint64(3) << 62
	inoSubvolBits = 22
	inoInumBits   = 40
	inoLowBits    = 34
	inoShardShift = 57
	inoFirstReal  = 4096

	inoLowMask = uint64(1)<<inoLowBits - 1
	inoFits    = (uint64(1)<<(63-inoShardShift)-1)<<inoShardShift | inoLowMask
)

// packIno returns the number for id, or false where only a hash will do.
func packIno(id bcachefs.InodeID) (uint64, bool) {
	switch {
	case id.Subvol == 1 && id.Inum < inoSubvol && id.Inum >= inoFirstReal:
		return id.Inum, true
	case id.Subvol > 1 && id.Subvol < 1<<inoSubvolBits && id.Inum&^inoFits == 0:
		return inoSubvol | uint64(id.Subvol)<<inoInumBits | id.Inum>>inoShardShift<<inoLowBits | id.Inum&inoLowMask, true
	}
	return 0, false
}

// inoTable remembers the inodes whose number is a hash, counting the kernel's references to them. Safe for concurrent use.
type inoTable struct {
	// live tells that ids have no snapshot, as the filesystem is open for writing.
	live bool
	// snapshots holds the snapshot of each subvolume met (uint32 to uint32): a packed number has no room for it.
	snapshots sync.Map

	mu    sync.Mutex
	byIno map[uint64]*hashedIno
	byID  map[bcachefs.InodeID]*hashedIno
}

type hashedIno struct {
	ino     uint64
	id      bcachefs.InodeID
	lookups uint64
}

func newInoTable(live bool) *inoTable {
	return &inoTable{live: live, byIno: map[uint64]*hashedIno{}, byID: map[bcachefs.InodeID]*hashedIno{}}
}

// ref returns the number of id and adds n references to it.
func (t *inoTable) ref(id bcachefs.InodeID, n uint64) uint64 {
	if ino, ok := packIno(id); ok {
		if t.live {
			return ino
		}
		if _, known := t.snapshots.Load(id.Subvol); !known {
			t.snapshots.Store(id.Subvol, id.Snapshot)
		}
		return ino
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.byID[id]
	if h == nil {
		h = &hashedIno{ino: t.free(id), id: id}
		if n == 0 {
			return h.ino // only to be shown, as by readdir: nothing will come back under it
		}
		t.byIno[h.ino], t.byID[id] = h, h
	}
	h.lookups += n
	return h.ino
}

// free finds a number for id that no other inode has: the hash, or the next one that is free.
func (t *inoTable) free(id bcachefs.InodeID) uint64 {
	ino := hashID(id) | inoHashed
	for t.byIno[ino] != nil {
		ino = (ino + 1) | inoHashed
	}
	return ino
}

// forget drops n references to the number.
func (t *inoTable) forget(ino, n uint64) {
	if ino < inoHashed {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.byIno[ino]
	if h == nil {
		return
	}
	if h.lookups -= min(n, h.lookups); h.lookups == 0 {
		delete(t.byIno, ino)
		delete(t.byID, h.id)
	}
}

// lookup finds the inode behind a number; false if the number is none that ref gave out.
func (t *inoTable) lookup(ino uint64) (bcachefs.InodeID, bool) {
	switch {
	case ino < inoFirstReal:
		return bcachefs.InodeID{}, false
	case ino < inoSubvol:
		return t.unpack(1, ino)
	case ino < inoHashed:
		inum := ino & (1<<inoInumBits - 1)
		return t.unpack(uint32(ino>>inoInumBits&(1<<inoSubvolBits-1)), inum>>inoLowBits<<inoShardShift|inum&inoLowMask)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.byIno[ino]; h != nil {
		return h.id, true
	}
	return bcachefs.InodeID{}, false
}

// unpack completes an id with the subvolume's snapshot.
func (t *inoTable) unpack(subvol uint32, inum uint64) (bcachefs.InodeID, bool) {
	if t.live {
		return bcachefs.InodeID{Subvol: subvol, Inum: inum}, true
	}
	s, ok := t.snapshots.Load(subvol)
	if !ok {
		return bcachefs.InodeID{}, false
	}
	return bcachefs.InodeID{Subvol: subvol, Snapshot: s.(uint32), Inum: inum}, true
}

// hashID mixes an id into 64 bits, the same in every run (so not by maphash, whose seed is random).
func hashID(id bcachefs.InodeID) uint64 {
	var b [16]byte
	binary.LittleEndian.PutUint32(b[:], id.Subvol)
	binary.LittleEndian.PutUint32(b[4:], id.Snapshot)
	binary.LittleEndian.PutUint64(b[8:], id.Inum)
	return xxhash.Sum64(b[:])
}
