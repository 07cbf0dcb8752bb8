package bcachefs

import "time"

// SubvolumeInfo describes a subvolume.
type SubvolumeInfo struct {
	ID             uint32
	Snapshot       uint32 // its current snapshot
	RootInum       uint64
	Path           string // from the root of the filesystem, "" for the root subvolume; "?" in place of what cannot be found
	Parent         uint32 // subvolume in which its directory entry is; 0 for the root subvolume
	CreationParent uint32 // subvolume that it is a snapshot of; 0 if none
	ReadOnly       bool
	IsSnapshot     bool
	Unlinked       bool
	Created        time.Time
}

// SnapshotInfo describes a node of a tree of snapshots.
type SnapshotInfo struct {
	ID       uint32
	Parent   uint32 // 0 at the root of a tree
	Children []uint32
	Subvol   uint32 // 0 for interior nodes
	Tree     uint32
	Depth    uint32
	Deleted  bool // dead: waiting to be removed or a tombstone
	NoKeys   bool
	Created  time.Time
}
