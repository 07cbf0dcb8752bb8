package engine

import (
	"crypto/sha256"
	"math"

	"github.com/go-bcachefs/bcachefs/internal/codec/strhash"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// fresh describes a filesystem that was formatted but never mounted: the driver makes its root directory only then.
type fresh struct {
	hash strhash.Type
	uuid [16]byte
	time int64 // when it was mounted first, as inodes have it; 0 is when it was formatted
}

// overlay returns the keys that the first mount would create. Nothing of it is written; it exists as long as the filesystem is open.
func (f *fresh) overlay() *journal.Overlay {
	var b journal.OverlayBuilder
	_ = f.keys(func(id ondisk.BtreeID, k ondisk.Key) error {
		b.Add(id, 0, k)
		return nil
	})
	return b.Build()
}

// keys calls fn with the keys that the first mount creates, so far as they can be seen: one subvolume with one snapshot, its
// root directory and lost+found.
func (f *fresh) keys(fn func(id ondisk.BtreeID, k ondisk.Key) error) error {
	const (
		rootSnapshot = math.MaxUint32
		lostInum     = ondisk.RootInum + 1
		dir          = ondisk.DTDir << 12
	)
	lostName := []byte("lost+found")
	// Any seed will do, but it should not change from one opening to the next.
	seed := sha256.Sum256(f.uuid[:])
	root := ondisk.Inode{HashType: uint8(f.hash), HashSeed: [8]byte(seed[:8]), Mode: dir | 0o755, NlinkRaw: 1,
		Subvol: ondisk.RootSubvol}
	lost := ondisk.Inode{HashType: uint8(f.hash), HashSeed: [8]byte(seed[8:16]), Mode: dir | 0o700,
		Dir: ondisk.RootInum, DirOffset: strhash.Dirent(f.hash, root.HashSeed, lostName, false)}
	dirent := ondisk.Dirent{Type: ondisk.DTDir, Inum: lostInum, Name: lostName}
	snapshot := ondisk.Snapshot{Flags: ondisk.SnapshotSubvol, Subvol: ondisk.RootSubvol, Tree: 1}
	subvol := ondisk.Subvolume{Snapshot: rootSnapshot, Inode: ondisk.RootInum}
	tree := ondisk.SnapshotTree{MasterSubvol: ondisk.RootSubvol, RootSnapshot: rootSnapshot}

	for _, in := range []*ondisk.Inode{&root, &lost} {
		in.Atime, in.Ctime, in.Mtime, in.Otime = f.time, f.time, f.time, f.time
	}
	var err error
	add := func(id ondisk.BtreeID, t ondisk.KeyType, p ondisk.Pos, val []byte) {
		if err == nil {
			err = fn(id, ondisk.Key{Type: t, Pos: p, Val: val})
		}
	}
	add(ondisk.BtreeSnapshotTrees, ondisk.KeySnapshotTree, ondisk.Pos{Offset: 1}, tree.Encode())
	add(ondisk.BtreeSnapshots, ondisk.KeySnapshot, ondisk.Pos{Offset: rootSnapshot}, snapshot.Encode())
	add(ondisk.BtreeSubvolumes, ondisk.KeySubvolume, ondisk.Pos{Offset: ondisk.RootSubvol}, subvol.Encode())
	add(ondisk.BtreeInodes, ondisk.KeyInodeV3, ondisk.Pos{Offset: ondisk.RootInum, Snapshot: rootSnapshot},
		ondisk.EncodeInodeV3(&root))
	add(ondisk.BtreeInodes, ondisk.KeyInodeV3, ondisk.Pos{Offset: lostInum, Snapshot: rootSnapshot},
		ondisk.EncodeInodeV3(&lost))
	add(ondisk.BtreeDirents, ondisk.KeyDirent,
		ondisk.Pos{Inode: ondisk.RootInum, Offset: lost.DirOffset, Snapshot: rootSnapshot}, dirent.Encode())
	return err
}
