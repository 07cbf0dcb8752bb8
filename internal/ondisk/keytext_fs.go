package ondisk

import "encoding/binary"

var inodeFlagNames = []string{"sync", "immutable", "append", "nodump", "noatime", "i_size_dirty", "i_sectors_dirty", "unlinked",
	"backptr_untrusted", "has_child_snapshot", "has_case_insensitive", "31bit_dirent_offset", "has_inode_opts", "has_access_acl",
	"has_default_acl"}

var strHashNames = []string{"crc32c", "crc64", "siphash_old", "siphash"}

var dirTypeNames = map[uint8]string{DTUnknown: "unknown", DTFifo: "fifo", DTChr: "chr", DTDir: "dir", DTBlk: "blk", DTReg: "reg",
	DTLnk: "lnk", DTSock: "sock", DTWhiteout: "whiteout", DTSubvol: "subvol"}

// DirTypeName returns the name of a type of directory entries.
func DirTypeName(t uint8) string {
	if s, ok := dirTypeNames[t]; ok {
		return s
	}
	return "(bad d_type)"
}

func (t *text) inode(k *Key) {
	in, err := DecodeInode(*k)
	if err != nil {
		t.str("(unpack error)")
		return
	}
	t.line()
	t.printf("mode=%o (%s)", in.Mode, DirTypeName(in.Type()))
	t.inodeFlags(&in)
	t.field("journal_seq=", in.JournalSeq)
	t.line()
	t.printf("hash_seed=%x", binary.LittleEndian.Uint64(in.HashSeed[:]))
	t.line()
	t.str("hash_type=")
	t.choice(strHashNames, "str_hash_type", uint64(in.HashType))
	t.inodeFields(&in, ifCasefold)
}

func (t *text) inodeFlags(in *Inode) {
	t.line()
	t.str("flags=")
	t.bitflags(inodeFlagNames, uint64(in.Flags))
	t.printf("(%x)", uint32(in.Flags)|uint32(in.HashType)<<inodeHashShift)
}

// inodeFields prints the sizes and the packed fields up to the last.
func (t *text) inodeFields(in *Inode, last inodeField) {
	t.field("bi_size=", in.Size)
	t.field("bi_sectors=", in.Sectors)
	t.field("bi_version=", in.Version)
	for _, f := range inodeFieldsV3[:last+1] {
		t.line()
		t.str(inodeFieldNames[f])
		t.num("=", in.field(f))
	}
}

func (t *text) dirent(k *Key) {
	d, err := DecodeDirent(*k)
	if err != nil {
		t.str("(invalid, dirent name overruns value)")
		return
	}
	t.b = append(t.b, d.Name...)
	if d.Casefold {
		t.str(" (casefold ")
		t.b = append(t.b, d.CfName...)
		t.str(")")
	}
	if d.Type == DTSubvol {
		t.printf(" -> %d -> %d", d.ParentSubvol, d.ChildSubvol)
	} else {
		t.num(" -> ", d.Inum)
	}
	t.str(" type ")
	t.str(DirTypeName(d.Type))
}

func (t *text) xattr(k *Key) {
	// What reaches over the end is cut off: the key may be invalid.
	typ, body := XattrType(k.Val[0]), k.Val[xattrHead:]
	name := body[:min(int(k.Val[1]), len(body))]
	val := body[len(name):]
	val = val[:min(int(binary.LittleEndian.Uint16(k.Val[2:])), len(val))]
	switch {
	case typ >= NumXattrTypes:
		t.printf("(unknown type %d)", typ)
	case typ.IsACL():
		t.printf("(type %d)", typ)
	default:
		t.str(typ.Prefix())
	}
	t.b = append(t.b, name...)
	t.str(":")
	t.b = append(t.b, val...)
	if typ.IsACL() {
		t.str(" ")
		t.acl(val)
	}
}

var aclTagNames = map[uint16]string{ACLUserObj: "user_obj", ACLUser: "user", ACLGroupObj: "group_obj", ACLGroup: "group",
	ACLMask: "mask", ACLOther: "other"}

func (t *text) acl(v []byte) {
	acl, err := DecodeACL(v)
	if err != nil {
		return
	}
	for i, e := range acl {
		t.flag(" ", i > 0)
		t.str(aclTagNames[e.Tag])
		switch e.Tag {
		case ACLUser:
			t.num(" uid ", uint64(e.ID))
		case ACLGroup:
			t.num(" gid ", uint64(e.ID))
		}
		t.printf(" %o", e.Perm)
	}
}

var snapshotFlagNames = []string{"will_delete", "subvol", "deleted", "no_keys"}

func (t *text) subvolume(k *Key) {
	s, _ := DecodeSubvolume(*k)
	t.printf("root %d snapshot id %d", s.Inode, s.Snapshot)
	if s.Size > 16 {
		t.printf(" creation_parent %d fs_parent %d", s.CreationParent, s.FSPathParent)
	}
	t.flag(" ro", s.Flags&SubvolumeRO != 0)
	t.flag(" snapshot", s.Flags&SubvolumeSnap != 0)
	unlinked := bit(s.Flags&SubvolumeUnlinked != 0)
	switch {
	case s.State == 0:
		t.printf(" %v (not upgraded, unlinked_obsolete=%d)", s.EffectiveState(), unlinked)
	case !s.State.Valid():
		t.printf(" state %#x invalid (unlinked_obsolete=%d)", uint32(s.State), unlinked)
	default:
		t.printf(" %v", s.State)
		if (unlinked != 0) != (s.State != SubvolumeStateLive) {
			t.num(" unlinked_obsolete=", unlinked)
		}
	}
}

// shadowFlags returns the flags that writers of 1.39 set beside the state.
func (s *Snapshot) shadowFlags() SnapshotFlags {
	switch s.State {
	case SnapshotStateWillDelete:
		return SnapshotWillDelete
	case SnapshotStateNoKeys:
		return SnapshotNoKeys
	case SnapshotStateDeleted:
		return SnapshotDeleted
	}
	if s.Subvol != 0 {
		return SnapshotSubvol
	}
	return 0
}

func (t *text) snapshot(k *Key) {
	s, _ := DecodeSnapshot(*k)
	t.printf("parent %10d children %10d %10d subvol %d tree %d", s.Parent, s.Children[0], s.Children[1], s.Subvol, s.Tree)
	t.printf(" depth %d skiplist %d %d %d", s.Depth, s.Skip[0], s.Skip[1], s.Skip[2])
	switch {
	case s.State == 0:
		t.printf(" %v (not upgraded, flags %#x:", s.EffectiveState(), uint32(s.Flags))
		t.bitflags(snapshotFlagNames, uint64(s.Flags))
		t.str(")")
	case !s.State.Valid():
		t.printf(" state %#x invalid (flags %#x:", uint32(s.State), uint32(s.Flags))
		t.bitflags(snapshotFlagNames, uint64(s.Flags))
		t.str(")")
	default:
		t.printf(" %v", s.State)
		differ := s.Flags ^ s.shadowFlags()
		for i, name := range snapshotFlagNames {
			if differ>>i&1 != 0 {
				t.printf(" %s_obsolete=%d", name, s.Flags>>i&1)
			}
		}
	}
}
