package fsck_test

import (
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// nowhere is an inode number that no image has.
const nowhere = 1 << 40

// fileMutations are mutations of inodes and what they hold.
var fileMutations = []mutation{
	{"key in no snapshot", "basic", func(p *patched) found {
		k := p.first(ondisk.BtreeXattrs, isType(ondisk.KeyXattr))
		k.Pos.Snapshot = 12345
		p.put(ondisk.BtreeXattrs, k)
		return found{"bkey_in_missing_snapshot": 1}
	}},
	{"inode in no snapshot", "basic", func(p *patched) found {
		in := p.file()
		in.Snapshot = 12345
		p.putInode(in)
		return found{"bkey_in_missing_snapshot": 1, "accounting_mismatch": 1}
	}},
	{"key in a deleted snapshot", "v1.39-snapshots", func(p *patched) found {
		low := p.first(ondisk.BtreeSnapshots, func(*ondisk.Key) bool { return true })
		s, err := ondisk.DecodeSnapshot(low)
		if err != nil {
			p.t.Fatal(err)
		}
		s.State, s.Flags, s.Subvol, s.Children = ondisk.SnapshotStateDeleted, 0, 0, [2]uint32{}
		low.Pos.Offset--
		low.Val = s.Encode()
		p.put(ondisk.BtreeSnapshots, low)
		k := p.first(ondisk.BtreeXattrs, isType(ondisk.KeyXattr))
		k.Pos.Snapshot = uint32(low.Pos.Offset)
		p.put(ondisk.BtreeXattrs, k)
		return found{"bkey_in_deleted_snapshot": 1, "accounting_mismatch": 1}
	}},

	{"hash seed of a version", "snapshots", func(p *patched) found {
		in := p.inode(func(in *ondisk.Inode) bool {
			return p.older(in) != nil && in.Type() == ondisk.DTReg && !p.holds(ondisk.BtreeXattrs, in.Inum)
		})
		in.HashSeed[0]++
		p.putInode(in)
		return found{"inode_snapshot_mismatch": 1}
	}},
	{"child snapshots", "snapshots", func(p *patched) found {
		in := p.inode(func(in *ondisk.Inode) bool { return in.Flags&ondisk.InodeHasChildSnapshot != 0 })
		in.Flags &^= ondisk.InodeHasChildSnapshot
		p.putInode(in)
		return found{"inode_has_child_snapshots_wrong": 1}
	}},
	{"no child snapshots", "basic", func(p *patched) found {
		in := p.file()
		in.Flags |= ondisk.InodeHasChildSnapshot
		p.putInode(in)
		return found{"inode_has_child_snapshots_wrong": 1}
	}},
	{"backpointer to nothing", "basic", func(p *patched) found {
		in := p.file()
		in.DirOffset++
		p.putInode(in)
		return found{"inode_points_to_missing_dirent": 1, "inode_wrong_backpointer": 1}
	}},
	{"backpointer to another's entry", "basic", func(p *patched) found {
		in := p.file()
		other := p.inode(func(o *ondisk.Inode) bool { return o.Inum != in.Inum && o.Type() == ondisk.DTReg && o.Dir != 0 })
		in.Dir, in.DirOffset = other.Dir, other.DirOffset
		p.putInode(in)
		return found{"inode_points_to_wrong_dirent": 1, "inode_multiple_links_but_nlink_0": 1}
	}},
	{"name missing", "basic", func(p *patched) found {
		in := p.file()
		p.delete(ondisk.BtreeDirents, p.nameOf(&in).Pos)
		return found{"inode_points_to_missing_dirent": 1, "inode_unreachable": 1}
	}},
	{"name and backpointer missing", "basic", func(p *patched) found {
		in := p.file()
		p.delete(ondisk.BtreeDirents, p.nameOf(&in).Pos)
		in.Dir, in.DirOffset = 0, 0
		p.putInode(in)
		return found{"inode_unreachable": 1}
	}},
	{"backpointer of a file missing", "basic", func(p *patched) found { // as after one of several names was removed
		in := p.file()
		in.Dir, in.DirOffset = 0, 0
		p.putInode(in)
		return found{}
	}},
	{"backpointer of a directory missing", "basic", func(p *patched) found {
		in := p.dir()
		in.Dir, in.DirOffset = 0, 0
		p.putInode(in)
		return found{"inode_dir_missing_backpointer": 1}
	}},
	{"unlinked with name", "basic", func(p *patched) found {
		in := p.file()
		in.Flags |= ondisk.InodeUnlinked
		p.putInode(in)
		return found{"inode_unlinked_but_has_dirent": 1}
	}},
	{"unlinked with name, without backpointer", "basic", func(p *patched) found {
		in := p.file()
		in.Flags |= ondisk.InodeUnlinked
		in.Dir, in.DirOffset = 0, 0
		p.putInode(in)
		p.put(ondisk.BtreeDeletedInodes, ondisk.Key{Type: ondisk.KeySet, Pos: inodePos(&in)})
		return found{"inode_unlinked_but_has_dirent": 1, "deleted_inode_but_clean": 1}
	}},
	{"unlinked, not empty", "basic", func(p *patched) found {
		in := p.inode(func(in *ondisk.Inode) bool { return in.IsDir() && in.Dir != 0 && p.holds(ondisk.BtreeDirents, in.Inum) })
		in.Flags |= ondisk.InodeUnlinked
		p.putInode(in)
		return found{"inode_unlinked_but_has_dirent": 1, "inode_dir_unlinked_but_not_empty": 1}
	}},
	{"unlinked, not on the list", "basic", func(p *patched) found {
		p.unlink()
		return found{"unlinked_inode_not_on_deleted_list": 1}
	}},
	{"unlinked, on the list after a clean shutdown", "basic", func(p *patched) found {
		p.put(ondisk.BtreeDeletedInodes, ondisk.Key{Type: ondisk.KeySet, Pos: p.unlink()})
		return found{"deleted_inode_but_clean": 1}
	}},
	{"directory unlinked", "basic", func(p *patched) found {
		p.put(ondisk.BtreeDeletedInodes, ondisk.Key{Type: ondisk.KeySet, Pos: p.unlinkDir()})
		return found{"deleted_inode_but_clean": 1}
	}},
	{"directory unlinked, not on the list", "basic", func(p *patched) found {
		p.unlinkDir()
		return found{"inode_unreachable": 1}
	}},
	{"list of the deleted: no inode", "basic", func(p *patched) found {
		p.put(ondisk.BtreeDeletedInodes, ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.Pos{Offset: nowhere, Snapshot: ^uint32(0)}})
		return found{"deleted_inode_missing": 1}
	}},
	{"list of the deleted: not deleted", "basic", func(p *patched) found {
		in := p.file()
		p.put(ondisk.BtreeDeletedInodes, ondisk.Key{Type: ondisk.KeySet, Pos: inodePos(&in)})
		return found{"deleted_inode_not_unlinked": 1}
	}},
	{"list of the deleted: directory", "basic", func(p *patched) found {
		p.put(ondisk.BtreeDeletedInodes, ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.Pos{Offset: ondisk.RootInum, Snapshot: ^uint32(0)}})
		return found{"deleted_inode_is_dir": 1}
	}},
	{"list of the deleted: child snapshots", "basic", func(p *patched) found {
		at := p.unlink()
		in := p.inode(func(in *ondisk.Inode) bool { return in.Inum == at.Offset })
		in.Flags |= ondisk.InodeHasChildSnapshot
		p.putInode(in)
		p.put(ondisk.BtreeDeletedInodes, ondisk.Key{Type: ondisk.KeySet, Pos: at})
		return found{"deleted_inode_has_child_snapshots": 1, "inode_has_child_snapshots_wrong": 1}
	}},
	{"operation unfinished", "basic", func(p *patched) found {
		op := ondisk.LoggedOpTruncate{Subvol: 1, Inum: ondisk.RootInum}
		p.put(ondisk.BtreeLoggedOps, ondisk.Key{Type: ondisk.KeyLoggedOpTruncate, Pos: ondisk.Pos{Offset: 1}, Val: op.Encode()})
		return found{"logged_op_but_clean": 1}
	}},
	{"parent subvolume of a file", "basic", func(p *patched) found {
		in := p.file()
		in.ParentSubvol = 1
		p.putInode(in)
		return found{"inode_bi_parent_nonzero": 1}
	}},
	{"subvolume of a directory missing", "basic", func(p *patched) found {
		in := p.dir()
		in.Subvol = 999
		p.putInode(in)
		return found{"inode_bi_subvol_missing": 1, "inode_points_to_missing_dirent": 1, "dirent_d_type_wrong": 1}
	}},
	{"subvolume of a directory wrong", "basic", func(p *patched) found {
		in := p.dir()
		in.Subvol = 1
		p.putInode(in)
		return found{"inode_bi_subvol_wrong": 1, "inode_points_to_missing_dirent": 1, "dirent_d_type_wrong": 1}
	}},
	{"size of a directory", "v1.31-basic", func(p *patched) found {
		in := p.dir()
		in.Size = 4096
		p.putInode(in)
		return found{"inode_dir_has_nonzero_i_size": 1}
	}},
	{"journal sequence number", "v1.31-basic", func(p *patched) found {
		in := p.file()
		in.JournalSeq = 1 << 40
		p.putInode(in)
		return found{"inode_journal_seq_in_future": 1}
	}},
	{"mark of options", "v1.39-basic", func(p *patched) found {
		in := p.file()
		in.Flags ^= ondisk.InodeHasOpts
		p.putInode(in)
		return found{"inode_has_inode_opts_flag_wrong": 1}
	}},
	{"mark of an ACL too many", "v1.39-basic", func(p *patched) found {
		in := p.inode(func(in *ondisk.Inode) bool { return in.Flags&(ondisk.InodeHasAccessACL|ondisk.InodeHasDefaultACL) == 0 })
		in.Flags |= ondisk.InodeHasAccessACL | ondisk.InodeHasDefaultACL
		p.putInode(in)
		return found{"inode_has_access_acl_flag_wrong": 1, "inode_has_default_acl_flag_wrong": 1}
	}},
	{"mark of an ACL missing", "v1.39-basic", func(p *patched) found {
		p.putACL(p.file())
		return found{"inode_has_access_acl_flag_wrong": 1, "accounting_mismatch": 1}
	}},
	{"mark of an ACL", "v1.39-basic", func(p *patched) found {
		in := p.file()
		in.Flags |= ondisk.InodeHasAccessACL
		p.putInode(in)
		p.putACL(in)
		return found{"accounting_mismatch": 1}
	}},
	{"mark of casefolding", "v1.39-casefold", func(p *patched) found {
		in := p.inode(func(in *ondisk.Inode) bool {
			return in.IsDir() && in.Dir != 0 && in.Flags&ondisk.InodeHasCaseInsensitive != 0 && p.empty(in.Inum)
		})
		in.Flags &^= ondisk.InodeHasCaseInsensitive
		p.putInode(in)
		return found{"inode_has_case_insensitive_not_set": 1}
	}},
	{"mark of casefolding below", "v1.39-casefold", func(p *patched) found {
		in := p.inode(func(in *ondisk.Inode) bool { return in.Inum == ondisk.RootInum })
		in.Flags &^= ondisk.InodeHasCaseInsensitive
		p.putInode(in)
		return found{"inode_has_case_insensitive_not_set": some, "inode_parent_has_case_insensitive_not_set": some}
	}},

	{"sectors", "basic", func(p *patched) found {
		in := p.file()
		in.Sectors += 8
		p.putInode(in)
		return found{"inode_i_sectors_wrong": 1}
	}},
	{"sectors of a version", "snapshots", func(p *patched) found {
		in := p.inode(func(in *ondisk.Inode) bool { return p.older(in) != nil && in.Sectors > 0 })
		in.Sectors -= 8
		p.putInode(in)
		return found{"inode_i_sectors_wrong": 1}
	}},
	{"sectors of a directory", "basic", func(p *patched) found {
		in := p.dir()
		in.Sectors = 8
		p.putInode(in)
		return found{"inode_i_sectors_wrong": 1}
	}},
	{"sectors that are not to be trusted", "basic", func(p *patched) found {
		in := p.file()
		in.Sectors += 8
		in.Flags |= ondisk.InodeSectorsDirty
		p.putInode(in)
		return found{}
	}},
	{"sectors of what was being deleted", "basic", func(p *patched) found {
		at := p.unlink()
		in := p.inode(func(in *ondisk.Inode) bool { return in.Inum == at.Offset })
		in.Sectors += 8
		p.putInode(in)
		return found{"unlinked_inode_not_on_deleted_list": 1}
	}},
	{"extents that overlap", "basic", func(p *patched) found {
		in := p.file()
		p.put(ondisk.BtreeExtents, ondisk.Key{Type: ondisk.KeyError, Pos: ondisk.Pos{Inode: in.Inum, Offset: 4, Snapshot: in.Snapshot}, Size: 4})
		return found{"extent_overlapping": 1, "inode_i_sectors_wrong": 1}
	}},
	{"size", "basic", func(p *patched) found {
		in := p.file()
		in.Size = 0
		p.putInode(in)
		return found{"extent_past_end_of_inode": p.count(ondisk.BtreeExtents, ondisk.Pos{Inode: in.Inum}, ondisk.Pos{Inode: in.Inum, Offset: ^uint64(0)})}
	}},
	{"reservation behind the end", "basic", func(p *patched) found {
		in := p.file()
		p.put(ondisk.BtreeExtents, ondisk.Key{Type: ondisk.KeyReservation, Pos: ondisk.Pos{Inode: in.Inum, Offset: 1 << 20, Snapshot: in.Snapshot},
			Size: 8, Val: []byte{0, 0, 0, 0, 1, 0, 0, 0}})
		in.Sectors += 8
		p.putInode(in)
		return found{"accounting_mismatch": some}
	}},
	{"extent of no inode", "basic", func(p *patched) found {
		p.put(ondisk.BtreeExtents, ondisk.Key{Type: ondisk.KeyError, Pos: ondisk.Pos{Inode: nowhere, Offset: 8, Snapshot: ^uint32(0)}, Size: 8})
		return found{"key_in_missing_inode": 1}
	}},
	{"extent of a directory", "basic", func(p *patched) found {
		in := p.dir()
		p.put(ondisk.BtreeExtents, ondisk.Key{Type: ondisk.KeyError, Pos: ondisk.Pos{Inode: in.Inum, Offset: 8, Snapshot: in.Snapshot}, Size: 8})
		return found{"key_in_wrong_inode_type": 1}
	}},

	{"links of a directory", "basic", func(p *patched) found {
		in := p.dir()
		in.NlinkRaw++
		p.putInode(in)
		return found{"inode_dir_wrong_nlink": 1}
	}},
	{"links of a file", "basic", func(p *patched) found {
		in := p.inode(func(in *ondisk.Inode) bool { return !in.IsDir() && in.NlinkRaw > 0 })
		in.NlinkRaw++
		p.putInode(in)
		return found{"inode_wrong_nlink": 1}
	}},
	{"links of a file with one", "basic", func(p *patched) found {
		in := p.file()
		in.NlinkRaw++
		p.putInode(in)
		return found{"inode_wrong_nlink": 1}
	}},
	{"second name", "basic", func(p *patched) found {
		in := p.file()
		p.putName(ondisk.RootInum, "a second name", ondisk.Dirent{Type: ondisk.DTReg, Inum: in.Inum})
		return found{"inode_multiple_links_but_nlink_0": 1}
	}},
	{"second name of a directory", "basic", func(p *patched) found {
		in := p.dir()
		p.putName(ondisk.RootInum, "a second name", ondisk.Dirent{Type: ondisk.DTDir, Inum: in.Inum})
		return found{"inode_dir_multiple_links": 1, "inode_dir_wrong_nlink": 1}
	}},
	{"type", "basic", func(p *patched) found {
		in := p.file()
		p.changeName(&in, func(d *ondisk.Dirent) { d.Type = ondisk.DTFifo })
		return found{"dirent_d_type_wrong": 1}
	}},
	{"name of nothing", "basic", func(p *patched) found {
		p.putName(ondisk.RootInum, "of nothing", ondisk.Dirent{Type: ondisk.DTReg, Inum: nowhere})
		return found{"dirent_to_missing_inode": 1}
	}},
	{"name in no directory", "basic", func(p *patched) found {
		in := p.file()
		k := p.nameOf(&in)
		k.Pos.Inode = nowhere
		p.put(ondisk.BtreeDirents, k)
		return found{"key_in_missing_inode": 1}
	}},
	{"name in a file", "basic", func(p *patched) found {
		in := p.file()
		k := p.nameOf(&in)
		k.Pos.Inode = p.inode(func(o *ondisk.Inode) bool { return o.Type() == ondisk.DTReg && o.Inum != in.Inum }).Inum
		p.put(ondisk.BtreeDirents, k)
		return found{"key_in_wrong_inode_type": 1}
	}},
	{"name before its hash", "basic", func(p *patched) found { p.moveName(^uint64(0)); return found{"hash_table_key_wrong_offset": 1} }},
	{"name behind a gap", "basic", func(p *patched) found { p.moveName(2); return found{"hash_table_key_wrong_offset": 1} }},
	{"name behind a whiteout", "basic", func(p *patched) found {
		at := p.moveName(1)
		at.Offset--
		p.put(ondisk.BtreeDirents, ondisk.Key{Type: ondisk.KeyHashWhiteout, Pos: at})
		return found{}
	}},
	{"name behind another", "basic", func(p *patched) found {
		at := p.moveName(1)
		at.Offset--
		d := ondisk.Dirent{Type: ondisk.DTReg, Inum: nowhere, Name: []byte("another")}
		p.put(ondisk.BtreeDirents, ondisk.Key{Type: ondisk.KeyDirent, Pos: at, Val: d.Encode()})
		return found{"hash_table_key_wrong_offset": some, "dirent_to_missing_inode": 1} // of the other
	}},
	{"name twice", "basic", func(p *patched) found {
		in := p.file()
		k := p.nameOf(&in)
		k.Pos.Offset++
		p.put(ondisk.BtreeDirents, k)
		return found{"hash_table_key_duplicate": 1, "inode_multiple_links_but_nlink_0": 1}
	}},
	{"casefolding of a name", "v1.39-casefold", func(p *patched) found {
		k := p.first(ondisk.BtreeDirents, func(k *ondisk.Key) bool {
			d, err := ondisk.DecodeDirent(*k)
			return err == nil && d.Casefold && slices.Equal(d.Name, d.CfName)
		})
		d, err := ondisk.DecodeDirent(k)
		if err != nil {
			p.t.Fatal(err)
		}
		d.Casefold = false
		k.Val = d.Encode()
		p.put(ondisk.BtreeDirents, k)
		return found{"dirent_casefold_mismatch": 1, "accounting_mismatch": 1}
	}},
	{"directories in each other", "basic", func(p *patched) found {
		below := p.inode(func(in *ondisk.Inode) bool { return in.IsDir() && in.Dir != 0 && in.Dir != ondisk.RootInum })
		above := p.inode(func(in *ondisk.Inode) bool { return in.Inum == below.Dir })
		p.delete(ondisk.BtreeDirents, p.nameOf(&above).Pos)
		parent := p.inode(func(in *ondisk.Inode) bool { return in.Inum == above.Dir })
		parent.NlinkRaw--
		p.putInode(parent)
		below.NlinkRaw++
		p.putInode(below)
		at := p.putName(below.Inum, "the one above", ondisk.Dirent{Type: ondisk.DTDir, Inum: above.Inum})
		above.Dir, above.DirOffset = at.Inode, at.Offset
		p.putInode(above)
		return found{"dir_loop": 1}
	}},
	{"inode missing", "v1.31-basic", func(p *patched) found {
		in := p.file()
		p.delete(ondisk.BtreeInodes, inodePos(&in))
		return found{"missing_inode_with_contents": 1, "key_in_missing_inode": some, "accounting_mismatch": some}
	}},

	{"attribute of no inode", "basic", func(p *patched) found {
		k := p.first(ondisk.BtreeXattrs, isType(ondisk.KeyXattr))
		k.Pos.Inode = nowhere
		p.put(ondisk.BtreeXattrs, k)
		return found{"key_in_missing_inode": 1}
	}},
	{"attribute at a wrong offset", "basic", func(p *patched) found {
		k := p.first(ondisk.BtreeXattrs, isType(ondisk.KeyXattr))
		p.delete(ondisk.BtreeXattrs, k.Pos)
		k.Pos.Offset++
		p.put(ondisk.BtreeXattrs, k)
		return found{"hash_table_key_wrong_offset": 1}
	}},
	{"attribute twice", "basic", func(p *patched) found {
		k := p.first(ondisk.BtreeXattrs, isType(ondisk.KeyXattr))
		k.Pos.Offset++
		p.put(ondisk.BtreeXattrs, k)
		return found{"hash_table_key_duplicate": 1}
	}},
	{"attribute without version of the inode", "v1.31-snapshots", func(p *patched) found {
		k := p.first(ondisk.BtreeXattrs, func(k *ondisk.Key) bool {
			return p.childOf(k.Pos.Snapshot, k.Pos.Inode) != 0 && k.Type == ondisk.KeyXattr
		})
		k.Pos.Snapshot = p.childOf(k.Pos.Snapshot, k.Pos.Inode)
		p.put(ondisk.BtreeXattrs, k)
		return found{"snapshot_key_missing_inode_snapshot": 1}
	}},

	{"root subvolume missing", "basic", func(p *patched) found {
		p.delete(ondisk.BtreeSubvolumes, ondisk.Pos{Offset: 1})
		return found{"root_subvol_missing": 1, "snapshot_tree_to_missing_subvol": 1, "": 1} // the snapshot's subvolume has no number
	}},
	{"root directory missing", "basic", func(p *patched) found {
		p.delete(ondisk.BtreeInodes, ondisk.Pos{Offset: ondisk.RootInum, Snapshot: ^uint32(0)})
		return found{"root_dir_missing": 1, "subvol_to_missing_root": 1, "key_in_missing_inode": some, "accounting_mismatch": 1}
	}},
	{"root is no directory", "basic", func(p *patched) found {
		in := p.inode(func(in *ondisk.Inode) bool { return in.Inum == ondisk.RootInum })
		in.Mode = ondisk.DTReg<<12 | 0o644
		p.putInode(in)
		return found{"root_inode_not_dir": 1, "key_in_wrong_inode_type": some, "inode_wrong_nlink": 1}
	}},
	{"parent of a subvolume's root", "snapshots", func(p *patched) found {
		k, d := p.subvolName()
		s := p.subvol(d.ChildSubvol)
		in := p.inode(func(in *ondisk.Inode) bool {
			return in.Subvol == d.ChildSubvol && in.Inum == s.Inode && in.Dir == k.Pos.Inode
		})
		in.ParentSubvol = d.ChildSubvol
		p.putInode(in)
		return found{"inode_bi_parent_wrong": 1, "inode_points_to_missing_dirent": 1}
	}},
	{"name of no subvolume", "snapshots", func(p *patched) found {
		p.changeSubvolName(func(d *ondisk.Dirent) { d.ChildSubvol = 999 })
		return found{"dirent_to_missing_subvol": 1, "inode_points_to_wrong_dirent": 1, "inode_unreachable": 1}
	}},
	{"name in no subvolume", "snapshots", func(p *patched) found {
		p.changeSubvolName(func(d *ondisk.Dirent) { d.ParentSubvol = 999 })
		return found{"dirent_to_missing_parent_subvol": 1, "subvol_fs_path_parent_wrong": 1, "inode_bi_parent_wrong": 1}
	}},
	{"name in another subvolume", "snapshots", func(p *patched) found {
		p.changeSubvolName(func(d *ondisk.Dirent) { d.ParentSubvol = d.ChildSubvol })
		return found{"dirent_not_visible_in_parent_subvol": 1, "subvol_fs_path_parent_wrong": 1, "inode_bi_parent_wrong": 1}
	}},
	{"path of a subvolume", "snapshots", func(p *patched) found {
		p.changePath(999)
		return found{"subvol_fs_path_parent_wrong": 1, "subvol_unreachable": 1, "subvol_children_not_set": 1, "subvol_children_bad": 1}
	}},
	{"subvolume in itself", "snapshots", func(p *patched) found {
		_, d := p.subvolName()
		p.changePath(d.ChildSubvol)
		return found{"subvol_fs_path_parent_wrong": 1, "subvol_loop": 1, "subvol_children_not_set": 1, "subvol_children_bad": 1}
	}},
	{"inode hidden below its name", "v1.31-snapshots", func(p *patched) found {
		in, child := p.shared()
		p.put(ondisk.BtreeInodes, ondisk.Key{Type: ondisk.KeyWhiteout, Pos: inodePos(&in).WithSnapshot(child)})
		return found{"dirent_to_overwritten_inode": 1}
	}},
	{"inode below its name only", "v1.39-snapshots", func(p *patched) found {
		in, child := p.shared()
		p.delete(ondisk.BtreeInodes, inodePos(&in))
		in.Snapshot = child
		in.Flags &^= ondisk.InodeHasChildSnapshot
		p.putInode(in)
		return found{"dirent_to_inode_in_descendant_snapshot": 1, "key_in_missing_inode": some, "accounting_mismatch": some, "inode_i_sectors_wrong": 1}
	}},
	{"inode above its name", "v1.39-snapshots", func(p *patched) found {
		in, child := p.shared()
		k := p.nameOf(&in)
		p.delete(ondisk.BtreeDirents, k.Pos)
		k.Pos.Snapshot = child
		p.put(ondisk.BtreeDirents, k)
		low := in
		low.Snapshot = child
		p.putInode(low)
		in.Dir, in.DirOffset = 0, 0
		in.Flags |= ondisk.InodeHasChildSnapshot
		p.putInode(in)
		return found{"inode_unreachable_dirent_in_descendant": 1, "snapshot_key_missing_inode_snapshot": 1, "accounting_mismatch": some} // the second is of the directory
	}},
	{"damage of no inode", "v1.39-basic", func(p *patched) found {
		p.put(ondisk.BtreeDamage, ondisk.Key{Type: ondisk.KeySet, Pos: ondisk.Pos{Offset: nowhere, Snapshot: ^uint32(0)}})
		return found{"damage_key_no_inode": 1, "accounting_mismatch": 1}
	}},
}

func TestFileMutations(t *testing.T) { testMutations(t, fileMutations) }
