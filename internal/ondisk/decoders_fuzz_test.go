package ondisk

import (
	"bytes"
	"io"
	"testing"
	"time"
)

// FuzzEveryDecoder gives one value to the decoders of all types, whether it is of theirs or not, and to the checks and
// printers of all btrees.
func FuzzEveryDecoder(f *testing.F) {
	for typ := range NumKeyTypes {
		f.Add(uint8(typ), make([]byte, 64), uint64(1), uint64(2), uint32(3), uint32(8))
	}
	f.Add(uint8(KeyInodeV3), hexVal(f, rootInodeVal), uint64(0), uint64(4096), uint32(1), uint32(0))
	f.Add(uint8(KeyExtent), hexVal(f, extentZstd), uint64(4096), uint64(8), uint32(1), uint32(8))
	f.Add(uint8(KeyStripe), hexVal(f, stripeVal), uint64(0), uint64(1), uint32(0), uint32(0))
	f.Fuzz(func(t *testing.T, typ uint8, val []byte, inode, offset uint64, snapshot, size uint32) {
		if len(val) > MaxValSize {
			return
		}
		k := Key{Type: KeyType(typ), Pos: Pos{inode, offset, snapshot}, Size: size, Val: val}
		decodeAll(k)
		for id := range NumBtrees + 2 {
			for level := range uint8(2) {
				ctx := ValidateContext{Version: VersionMax}
				_ = ValidateKey(id, level, &k, &ctx)
			}
			if s := KeyText(id, &k, testTextEnv()); len(s) > 64<<10 {
				t.Fatalf("%d bytes of text", len(s))
			}
		}
	})
}

func decodeAll(k Key) {
	DecodeACL(k.Val)
	ACLToXattr(k.Val)
	ACLFromXattr(k.Val)
	DecodeAccountingPos(k.Pos, VersionMax)
	DecodeAlloc(k)
	DecodeBucketGens(k)
	_ = DecodeLRUPos(k.Pos)
	DecodeFreespace(&k)
	_ = DecodeNeedDiscard(k.Pos, VersionMax)
	DecodeBackpointer(k)
	if p, err := DecodeBtreePtr(k); err == nil {
		for range p.Addrs() {
		}
	}
	DecodeDirent(k)
	DecodeInode(k)
	DecodeInodeGeneration(k)
	DecodeLoggedOpTruncate(k)
	DecodeLoggedOpFinsert(k)
	DecodeLoggedOpStripeUpdate(k)
	DecodeInodeAllocCursor(k)
	DecodeCookie(k)
	DecodeError(k)
	DecodeReservation(k)
	DecodeDamage(k)
	DecodeQuota(k)
	DecodeReflinkP(k)
	DecodeIndirect(k)
	DecodeSnapshot(k)
	DecodeSnapshotTree(k)
	DecodeStripe(k)
	DecodeSubvolume(k)
	DecodeXattr(k)
	AppendExtentPtrs(nil, &k, nil)
}

// FuzzACL: what decodes encodes to the same, in both encodings.
func FuzzACL(f *testing.F) {
	f.Add(EncodeACL([]ACLEntry{{ACLUserObj, 6, ACLUndefinedID}, {ACLUser, 7, 1000}, {ACLMask, 7, ACLUndefinedID}, {ACLOther, 4, ACLUndefinedID}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if acl, err := DecodeACL(b); err == nil && !bytes.Equal(EncodeACL(acl), b) {
			t.Fatal("encodes to other bytes")
		}
		x, err := ACLToXattr(b)
		if err != nil {
			ACLFromXattr(b)
			return
		}
		if back, err := ACLFromXattr(x); err != nil || !bytes.Equal(back, b) {
			t.Fatalf("as an attribute and back it differs: %v", err)
		}
	})
}

// FuzzParse: what is parsed prints to what parses to the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"1:2:3", "POS_MIN", "SPOS_MAX", "4096:U64_MAX:U32_MAX", "extents", "1.13", "user.x", "members_v2",
		"c68573f6-66ce-90a9-d96a-60cf803df7ef"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParsePos(s); err == nil {
			if again, err := ParsePos(p.String()); err != nil || again != p {
				t.Fatalf("%q is %v, which is %v, %v", s, p, again, err)
			}
		}
		if id, err := ParseBtreeID(s); err == nil {
			if again, err := ParseBtreeID(id.String()); err != nil || again != id {
				t.Fatalf("%q is btree %v, %v", s, again, err)
			}
		}
		if u, err := ParseUUID(s); err == nil {
			if again, err := ParseUUID(u.String()); err != nil || again != u {
				t.Fatalf("%q is %v, %v", s, u, err)
			}
		}
		if v, err := ParseVersion(s); err == nil {
			if again, err := ParseVersion(v.String()); err != nil || again != v {
				t.Fatalf("%q is version %v, %v", s, v, err)
			}
		}
		ParseXattrName(s)
		_, _ = ParseSectionType(s)
		_, _ = ParseErrorID(s)
		_, _ = ParsePassID(s)
	})
}

// FuzzSection puts other bytes in place of a section of a sound superblock, then validates, prints and decodes everything.
func FuzzSection(f *testing.F) {
	sound, err := DecodeSuperblock(sample(f))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range sound.Sections {
		f.Add(uint8(s.Type), s.Data, uint64(0), uint8(0))
	}
	for typ := range 20 {
		f.Add(uint8(typ), make([]byte, 128), uint64(1)<<typ, uint8(typ))
	}
	f.Fuzz(func(t *testing.T, typ uint8, data []byte, flags uint64, word uint8) {
		if len(data) > 1<<16 {
			return
		}
		sb, err := DecodeSuperblock(sound.Encode())
		if err != nil {
			t.Fatal(err)
		}
		sb.SetSection(SectionType(typ), data[:len(data)&^7])
		sb.Flags[word%uint8(len(sb.Flags))] ^= flags
		for _, mode := range []ValidateMode{ValidateRead, ValidateWrite} {
			_ = sb.Validate(mode)
		}
		var text bytes.Buffer
		if err := sb.Text(&text, TextOptions{All: true, Layout: true, Location: time.UTC}); err == nil && text.Len() > 64<<10+256*len(data) {
			t.Fatalf("%d bytes of text of %d", text.Len(), len(data))
		}
		if sealed, err := sb.Seal(); err == nil {
			again, err := DecodeSuperblock(sealed)
			if err != nil {
				return
			}
			if !bytes.Equal(again.Encode(), sealed) {
				t.Fatal("decoded and encoded it differs")
			}
			_ = again.Text(io.Discard, TextOptions{All: true, Location: time.UTC})
		}
		for _, o := range Options(sb.Version) {
			sb.OptionText(o)
		}
		sb.Journal()
		sb.Crypt()
		sb.Clean()
		sb.Replicas()
		sb.Blacklist()
		sb.Counters()
		sb.Errors()
		sb.Ext()
		sb.Downgrades()
		sb.RecoveryPasses()
		sb.ExtentTypeU64s()
		sb.Quota()
		sb.DiskGroups()
		for i := range 8 {
			sb.GroupPath(i)
			sb.MemberLabel(i)
		}
		sb.CheckSupported()
	})
}

// FuzzLayout: a layout that decodes has its copies apart from each other, and encodes to the same bytes.
func FuzzLayout(f *testing.F) {
	l, err := DecodeSuperblock(sample(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(l.Layout.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := DecodeLayout(b)
		if err != nil {
			return
		}
		if !bytes.Equal(l.Encode(), b[:LayoutSize]) {
			t.Fatal("encodes to other bytes")
		}
		for i, s := range l.Sectors() {
			if i > 0 && s <= l.Sectors()[i-1] {
				t.Fatalf("copies at %v", l.Sectors())
			}
		}
		_ = l.Text(io.Discard)
	})
}

// FuzzJsetRecord validates and prints a record of any type.
func FuzzJsetRecord(f *testing.F) {
	for typ := range 20 {
		f.Add(uint8(typ), uint8(typ), uint8(0), make([]byte, 8*(typ%5)))
	}
	f.Fuzz(func(t *testing.T, typ, btree, level uint8, data []byte) {
		if len(data) > 16<<10 {
			return
		}
		e := JsetEntry{Type: JsetEntryType(typ), BtreeID: BtreeID(btree), Level: level, Data: data[:len(data)&^7]}
		check := func(id BtreeID, level uint8, k *Key) error {
			return ValidateKey(id, level, k, &ValidateContext{Version: VersionMax})
		}
		print := func(dst []byte, id BtreeID, _ uint8, k *Key) []byte { return AppendKeyText(dst, id, k, testTextEnv()) }
		e.AppendText(nil, print)
		e.Root()
		e.Blacklist()
		e.Clock()
		e.Usage()
		e.Rewind()
		e.RewindLimit()
		e.DataUsage()
		e.DevUsage()
		e.Log()
		e.Datetime()
		j := Jset{Version: uint32(VersionMax), Entries: []JsetEntry{e}}
		j.Validate(check)
		for i := range j.Entries {
			j.Entries[i].AppendText(nil, print)
			for _, err := range j.Entries[i].Keys() {
				if err != nil {
					t.Fatalf("%v after validation", err)
				}
			}
		}
	})
}

// FuzzKey: an unpacked key that decodes encodes to the same bytes.
func FuzzKey(f *testing.F) {
	f.Add(AppendKey(nil, Key{Type: KeySet, Pos: Pos{1, 2, 3}}))
	f.Add(AppendKey(nil, Key{Type: KeyCookie, Pos: Pos{1, 2, 3}, Size: 5, Version: Version{6, 7}, Val: make([]byte, 8)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, n, err := DecodeKey(b)
		if err != nil {
			return
		}
		if n > len(b) || n != KeySize+len(k.Val) {
			t.Fatalf("key of %d bytes, value of %d, in %d", n, len(k.Val), len(b))
		}
		again, _, err := DecodeKey(AppendKey(nil, k))
		if err != nil || again.Pos != k.Pos || again.Type != k.Type || again.Size != k.Size || again.Version != k.Version || !bytes.Equal(again.Val, k.Val) {
			t.Fatalf("%+v encodes to %+v, %v", k, again, err)
		}
	})
}
