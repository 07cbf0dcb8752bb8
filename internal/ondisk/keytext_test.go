package ondisk

import (
	"math"
	"strings"
	"testing"
)

func testTextEnv() *TextEnv {
	return &TextEnv{
		Device: func(dev uint8) (TextDevice, bool) {
			return TextDevice{Name: "vda", BucketSize: 512, Durability: 1 + dev}, dev < 2
		},
		Label:     func(i uint16) string { return "ssd." + string(rune('a'+i)) },
		ErrorName: func(id uint16) string { return "inode_unreachable" },
	}
}

func TestKeyText(t *testing.T) {
	old := testTextEnv()
	old.Version = 1<<10 | 13
	for _, c := range []struct {
		k    Key
		env  *TextEnv
		want string
	}{
		{Key{Type: KeyDeleted, Pos: PosMin}, nil, "u64s 5 type deleted POS_MIN len 0 ver 0"},
		{Key{Type: 200, Pos: Pos{1, 2, 3}, Val: make([]byte, 8)}, nil, "u64s 6 type 200 1:2:3 len 0 ver 0: "},
		{Key{Type: KeySnapshot, Val: make([]byte, 8)}, nil, "u64s 6 type snapshot POS_MIN len 0 ver 0: (value too small: 8 < 24)"},
		{Key{Type: KeyDirent, Pos: Pos{4096, 7, math.MaxUint32}, Val: hexVal(t, "0410000000000000 08 61")}, nil,
			"u64s 7 type dirent 4096:7:U32_MAX len 0 ver 0: a -> 4100 type reg"},
		{Key{Type: KeyDirent, Pos: Pos{4096, 7, math.MaxUint32}, Val: hexVal(t, "0300000001000000 90 0000 0100 0100 41 61")}, nil,
			"u64s 8 type dirent 4096:7:U32_MAX len 0 ver 0: A (casefold a) -> 1 -> 3 type subvol"},
		{Key{Type: KeyXattr, Pos: Pos{4096, 7, 1}, Val: hexVal(t, xattrVal)}, nil,
			"u64s 8 type xattr 4096:7:1 len 0 ver 0: user.foo:val-user.foo"},
		{Key{Type: KeyXattr, Pos: Pos{4096, 7, 1}, Val: hexVal(t, "01 00 1000 01000000 01000600 02000400e8030000 20000000")[:24]}, nil,
			"u64s 8 type xattr 4096:7:1 len 0 ver 0: (type 1):\x01\x00\x00\x00\x01\x00\x06\x00\x02\x00\x04\x00\xe8\x03\x00\x00 user_obj 6 user uid 1000 4"},
		{Key{Type: KeyExtent, Pos: Pos{4099, 128, math.MaxUint32}, Size: 128, Val: hexVal(t, extentPlain)}, nil,
			"u64s 7 type extent 4099:128:U32_MAX len 128 ver 0: durability: 1 \n" +
				"  crc32: c_size 128 size 128 offset 0 nonce 0 csum crc32c 0:1b688bfd  compress none\n  ptr: 0:11264 gen 0"},
		{Key{Type: KeyExtent, Pos: Pos{4099, 128, math.MaxUint32}, Size: 8, Val: hexVal(t, "c000000000000000 3040060000000000 8900000000000107 030000000000ff00")},
			testTextEnv(), "u64s 9 type extent 4099:128:U32_MAX len 8 ver 0: durability: 3 \n" +
				"  flags: poisoned\n  stripe_ptr: idx 3 block 1\n" +
				"  ptr:    vda 1:0:8 gen 7 d=2 unwritten\n  ptr: 255:0 gen 0 cached"},
		{Key{Type: KeyReflinkP, Pos: Pos{4099, 8, 1}, Size: 8, Val: hexVal(t, "0800000000000003 04000000 02000000")}, nil,
			"u64s 7 type reflink_p 4099:8:1 len 8 ver 0: idx 8 front_pad 4 back_pad 2 error may_update_opts"},
		{Key{Type: KeyIndirectInlineData, Pos: Pos{0, 8, 0}, Size: 8, Val: hexVal(t, "0100000000000000 68656c6c6f0a")}, nil,
			"u64s 7 type indirect_inline_data 0:8:0 len 8 ver 0: refcount 1 datalen 8: 68656c6c6f0a0000"},
		{Key{Type: KeySubvolume, Pos: Pos{0, 1, 0}, Val: hexVal(t, "01000000 ffffffff 0010000000000000"+zeros(24))}, nil,
			"u64s 10 type subvolume 0:1:0 len 0 ver 0: root 4096 snapshot id 4294967295 creation_parent 0 fs_parent 0 ro live (not upgraded, unlinked_obsolete=0)"},
		{Key{Type: KeySnapshot, Pos: Pos{0, math.MaxUint32, 0}, Val: hexVal(t, "02000000"+zeros(12)+"01000000 01000000"+zeros(32)+"a2477c75")}, nil,
			"u64s 13 type snapshot 0:4294967295:0 len 0 ver 0: parent          0 children          0          0 subvol 1 tree 1 depth 0 skiplist 0 0 0 live"},
		{Key{Type: KeySnapshotTree, Pos: Pos{0, 1, 0}, Val: hexVal(t, "01000000 ffffffff")}, nil,
			"u64s 6 type snapshot_tree 0:1:0 len 0 ver 0: subvol 1 root snapshot 4294967295"},
		{Key{Type: KeyBackpointer, Pos: Pos{0, 19955712, 0}, Val: hexVal(t, "00 00 04 0080000000 80000000 ffffffff 8000000000000000 0310000000000000")}, old,
			"u64s 9 type backpointer 0:19955712:0 len 0 ver 0: bucket=0:38:0 btree=extents l=0 offset=32:0 len=128 pos=4099:128:U32_MAX"},
		{Key{Type: KeyBackpointer, Pos: Pos{9, 1025, 0}, Val: hexVal(t, "00 01 03 07 09000000 80000000"+strings.Repeat("ff", 20))}, testTextEnv(),
			"u64s 9 type backpointer 9:1025:0 len 0 ver 0: sector=9:1 btree=extents level=1 data_type=btree suboffset=1 len=128 gen=7 pos=SPOS_MAX phys stripe"},
		{Key{Type: KeyExtent, Pos: Pos{4099, 8, math.MaxUint32}, Size: 8, Val: hexVal(t, extentIncompressible)}, old,
			"u64s 7 type extent 4099:8:U32_MAX len 8 ver 0: durability: 1 crc: c_size 8 size 8 offset 0 nonce 0 csum crc32c 0:6db85414  " +
				"compress incompressible ptr: 0:27:0 gen 0"},
		{Key{Type: KeyBtreePtrV2, Pos: SPosMax, Val: hexVal(t, "0000000000000000 efbeadde00000000 0800 0100"+zeros(20)+"0108000000000007")}, old,
			"u64s 11 type btree_ptr_v2 SPOS_MAX len 0 ver 0: seq deadbeef written 8 min_key R POS_MIN durability: 1 ptr: 0:0:128 gen 7"},
		{Key{Type: KeySnapshot, Pos: Pos{0, math.MaxUint32, 0}, Val: hexVal(t, "02000000"+zeros(12)+"01000000 01000000"+zeros(32))}, old,
			"u64s 12 type snapshot 0:4294967295:0 len 0 ver 0: is_subvol 1 deleted 0 parent          0 children          0          0 subvol 1 tree 1 depth 0 skiplist 0 0 0"},
		{Key{Type: KeySubvolume, Pos: Pos{0, 1, 0}, Val: hexVal(t, "01000000 ffffffff 0010000000000000"+zeros(24))}, old,
			"u64s 10 type subvolume 0:1:0 len 0 ver 0: root 4096 snapshot id 4294967295 creation_parent 0 fs_parent 0"},
		{Key{Type: KeyStripe, Pos: Pos{0, 1, 0}, Val: hexVal(t, stripeVal)}, old, "u64s 13 type stripe 0:1:0 len 0 ver 0: " +
			"algo 0 sectors 16 blocks 2:1 csum crc32c gran 8 ptr: 0:0:128 gen 7#16 ptr: 1:0:128 gen 7 d=2#8 ptr: 2:128 gen 7"},
		{Key{Type: KeyAccounting, Version: Version{Lo: 5}, Pos: Pos{Snapshot: 0x01020302, Offset: 0x100}, Val: EncodeAccounting(-1)}, old,
			"u64s 6 type accounting 0:256:16909058 len 0 ver 5: replicas btree: 1/2 [0 1] -1"},
		{Key{Type: KeyAccounting, Pos: Pos{Inode: 0x0301000000000000}, Val: EncodeAccounting(1, 2, 3)}, nil,
			"u64s 8 type accounting 216454257090494464:0:0 len 0 ver 0: dev_data_type dev=1 data_type=free 1 2 3"},
		{Key{Type: KeyQuota, Pos: Pos{0, 1000, 0}, Val: hexVal(t, "a00f000000000000 d007000000000000 1400000000000000 0a00000000000000")}, nil,
			"u64s 9 type quota 0:1000:0 len 0 ver 0: space hardlimit 4000 softlimit 2000inodes hardlimit 20 softlimit 10"},
		{Key{Type: KeyInodeAllocCursor, Pos: Pos{1, 2, 0}, Val: hexVal(t, "3f000000 02000000 0510000000000040")}, &TextEnv{InodeShardBits: 1},
			"u64s 7 type inode_alloc_cursor 1:2:0 len 0 ver 0: min 4611686018427387904 max 9223372036854775807 consumed 4101 idx 4611686018427392005 generation 2"},
		{Key{Type: KeyStripe, Pos: Pos{0, 1, 0}, Val: hexVal(t, stripeVal)}, nil, "u64s 13 type stripe 0:1:0 len 0 ver 0: " +
			"algo 0 sectors 16 blocks 2:1 csum crc32c gran 8 label=(none)\n    0:128 gen 7#16\n    1:128 gen 7#8\n    2:128 gen 7#0"},
		{Key{Type: KeyBtreePtrV2, Pos: SPosMax, Val: hexVal(t, "0000000000000000 efbeadde00000000 0800 0100"+zeros(20)+"0108000000000007")}, nil,
			"u64s 11 type btree_ptr_v2 SPOS_MAX len 0 ver 0: \n  seq deadbeef written 8 min_key R POS_MIN durability: 1 \n  ptr: 0:128 gen 7"},
		{Key{Type: KeyError, Pos: Pos{4099, 8, 1}, Size: 8, Val: hexVal(t, "01")}, nil,
			"u64s 6 type error 4099:8:1 len 8 ver 0: device_removed"},
		{Key{Type: KeyCookie, Val: EncodeCookie(7)}, nil, "u64s 6 type cookie POS_MIN len 0 ver 0: 7"},
		{Key{Type: KeyReservation, Pos: Pos{1, 8, 1}, Size: 8, Val: hexVal(t, "0000000001")}, nil,
			"u64s 6 type reservation 1:8:1 len 8 ver 0: generation 0 replicas 1"},
	} {
		if got := KeyText(BtreeExtents, &c.k, c.env); got != c.want {
			t.Errorf("got\n%q, want\n%q", got, c.want)
		}
	}
}

func TestInodeAndAllocText(t *testing.T) {
	k := Key{Type: KeyInodeV3, Pos: Pos{0, 4096, math.MaxUint32}, Val: hexVal(t, rootInodeVal)}
	got := KeyText(BtreeInodes, &k, nil)
	for _, want := range []string{
		"u64s 17 type inode_v3 0:4096:U32_MAX len 0 ver 0: \n  mode=40755 (dir)\n  flags=(300000)\n  journal_seq=2\n",
		"\n  hash_seed=dbe193567c32d7f3\n  hash_type=siphash\n  bi_size=0\n  bi_sectors=0\n  bi_version=0\n  bi_atime=18446744073706569073\n",
		"\n  bi_nlink=2\n",
		"\n  bi_subvol=1\n",
		"\n  bi_casefold=0",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	k = Key{Type: KeyAllocV4, Pos: Pos{0, 0, 0}, Val: hexVal(t, allocVal113)}
	want := `u64s 13 type alloc_v4 POS_MIN len 0 ver 0: 
  gen 0 oldest_gen 0 data_type sb
  journal_seq_nonempty 1
  journal_seq_empty    0
  need_discard         1
  need_inc_gen         1
  dirty_sectors        512
  stripe_sectors       0
  cached_sectors       0
  stripe_refcount      0
  io_time[READ]        1
  io_time[WRITE]       1
  fragmentation     0
  bp_start          8`
	if got := KeyText(BtreeAlloc, &k, testTextEnv()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestReconcileText(t *testing.T) {
	r := Reconcile{NeedRB: ReconcileDataReplicas | ReconcileBackgroundTarget, Hipri: true, FromInode: ReconcileDataChecksum,
		DataReplicas: 2, DataChecksum: 1, BackgroundCompression: 0x33, BackgroundTarget: targetGroupStart + 1, PromoteTarget: 1, ErasureCode: true}
	k := Key{Type: KeyExtent, Val: AppendExtentEntry(nil, &ExtentEntry{Type: EntryReconcile, Reconcile: r})}
	want := "durability: 0 \nreconcile: need_rb=data_replicas,background_target hipri replicas=2 checksum=crc32c (inode) " +
		"background_compression=zstd:3 background_target=ssd.b promote_target=/dev/vda ec=1"
	if got := string(AppendValueText(nil, &k, testTextEnv())); got != want {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
	b := Rebalance{BackgroundCompression: 3, BackgroundTarget: 9, DataReplicas: 1, FromInode: RebalanceDataReplicas}
	k.Val = AppendExtentEntry(nil, &ExtentEntry{Type: EntryRebalance, Rebalance: b})
	want = "durability: 0 \nrebalance_v1: replicas=1 (inode) checksum=none background_compression=zstd background_target=invalid device 8"
	if got := string(AppendValueText(nil, &k, testTextEnv())); got != want {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
}

func FuzzKeyText(f *testing.F) {
	f.Add(uint8(KeyInodeV3), hexVal(f, rootInodeVal))
	f.Add(uint8(KeyExtent), hexVal(f, extentZstd))
	f.Add(uint8(KeyStripe), hexVal(f, stripeVal))
	f.Add(uint8(KeyXattr), hexVal(f, xattrVal))
	f.Add(uint8(KeyDamage), make([]byte, 32))
	f.Fuzz(func(t *testing.T, typ uint8, val []byte) {
		if len(val) > MaxValSize {
			return
		}
		k := Key{Type: KeyType(typ), Pos: Pos{0, 4096, 1}, Size: 8, Val: val}
		env := testTextEnv()
		env.Version = 1<<10 | MetadataVersion(typ&31)
		if s := KeyText(BtreeExtents, &k, env); len(s) > 64<<10 {
			t.Fatalf("%d bytes of text", len(s))
		}
		ctx := &ValidateContext{Version: env.Version, Commit: typ&1 != 0}
		if ValidateValue(&k, ctx) != nil {
			return
		}
		if _, err := reencode(&k); err != nil {
			t.Fatalf("%v is valid but does not decode: %v", k.Type, err)
		}
	})
}
