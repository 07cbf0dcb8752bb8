package ondisk

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// reencode decodes k's value and encodes it; nil if no encoder writes its type any more.
func reencode(k *Key) ([]byte, error) {
	encode := func(enc interface{ Encode() []byte }, err error) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		return enc.Encode(), nil
	}
	switch k.Type {
	case KeyInode, KeyInodeV2, KeyInodeV3:
		in, err := DecodeInode(*k)
		return AppendInode(nil, &in, k.Type), err
	case KeyInodeGeneration:
		v, err := DecodeInodeGeneration(*k)
		return encode(v, err)
	case KeyDirent:
		v, err := DecodeDirent(*k)
		return encode(&v, err)
	case KeyXattr:
		v, err := DecodeXattr(*k)
		return encode(&v, err)
	case KeyExtent, KeyReflinkV, KeyBtreePtr, KeyBtreePtrV2:
		b, _ := extentEntries(k)
		enc := bytes.Clone(k.Val[:len(k.Val)-len(b)])
		for e, err := range ExtentEntries(k, nil) {
			if err != nil {
				return nil, err
			}
			enc = AppendExtentEntry(enc, &e)
		}
		return enc, nil
	case KeyReflinkP:
		v, err := DecodeReflinkP(*k)
		return encode(&v, err)
	case KeyIndirectInlineData:
		v, err := DecodeIndirect(*k)
		return encode(&v, err)
	case KeyReservation:
		v, err := DecodeReservation(*k)
		return encode(&v, err)
	case KeyCookie:
		v, err := DecodeCookie(*k)
		return EncodeCookie(v), err
	case KeySnapshot:
		v, err := DecodeSnapshot(*k)
		return encode(&v, err)
	case KeySnapshotTree:
		v, err := DecodeSnapshotTree(*k)
		return encode(v, err)
	case KeySubvolume:
		v, err := DecodeSubvolume(*k)
		return encode(&v, err)
	case KeyStripe:
		v, err := DecodeStripe(*k)
		return encode(&v, err)
	case KeyAllocV4:
		v, err := DecodeAlloc(*k)
		return encode(&v, err)
	case KeyBackpointer:
		v, err := DecodeBackpointer(*k)
		return encode(&v, err)
	case KeyBucketGens:
		v, err := DecodeBucketGens(*k)
		return encode(&v, err)
	case KeyQuota:
		v, err := DecodeQuota(*k)
		return encode(&v, err)
	case KeyLoggedOpTruncate:
		v, err := DecodeLoggedOpTruncate(*k)
		return encode(&v, err)
	case KeyLoggedOpFinsert:
		v, err := DecodeLoggedOpFinsert(*k)
		return encode(&v, err)
	case KeyLoggedOpStripeUpdate:
		v, err := DecodeLoggedOpStripeUpdate(*k)
		return encode(&v, err)
	case KeyInodeAllocCursor:
		v, err := DecodeInodeAllocCursor(*k)
		return encode(&v, err)
	case KeyDamage:
		v, err := DecodeDamage(*k)
		return encode(&v, err)
	case KeyAccounting:
		var c []int64
		for i := range NrAccountingCounters(k) {
			c = append(c, AccountingCounter(k, i))
		}
		return EncodeAccounting(c...), nil
	}
	return k.Val, nil
}

// TestGoldenValues validates, prints and re-encodes every key of every btree and journal of every image.
func TestGoldenValues(t *testing.T) {
	total := map[KeyType]int{}
	forImages(t, func(t *testing.T, fs *testFS, img golden.Image) {
		ctx := &ValidateContext{Version: MetadataVersion(fs.version), NodeSize: uint32(fs.nodeSize / SectorSize)}
		ctx.Device = func(dev uint8) (DeviceBuckets, bool) {
			d := fs.devs[dev]
			if d == nil {
				return DeviceBuckets{}, false
			}
			return DeviceBuckets{NrBuckets: 1 << 40, BucketSize: uint32(d.bucketBytes / SectorSize)}, true
		}
		env := &TextEnv{Version: ctx.Version}
		var buf []byte
		problems := 0
		check := func(id BtreeID, level uint8, k *Key) {
			total[k.Type]++
			buf = AppendKeyText(buf[:0], id, k, env)
			err := ValidateKey(id, level, k, ctx)
			if err == nil {
				var enc []byte
				if enc, err = reencode(k); err == nil && !bytes.Equal(enc, k.Val) {
					t.Errorf("%s\nencodes to %x\nwant       %x", buf, enc, k.Val)
				}
			}
			if id == BtreeAccounting && level == 0 && err == nil {
				if a, ok := DecodeAccountingPos(k.Pos, ctx.Version); !ok || a.Pos(ctx.Version) != k.Pos {
					t.Errorf("%s: position encodes to %v", buf, a.Pos(ctx.Version))
				}
			}
			switch {
			case err == nil:
			case img.Damaged():
				t.Logf("%v: %v", id, err)
			default:
				if problems++; problems < 20 {
					t.Errorf("%v: %v\n%s", id, err, buf)
				}
			}
		}
		for _, r := range fs.roots(t) {
			root := r.ptr.Key()
			check(r.id, r.level+1, &root)
			fs.walk(t, r.id, r.level, r.ptr, func(w *NodeWant, _ []byte, n *Node, err error) {
				if err != nil {
					return // reported elsewhere
				}
				for i := range n.Len() {
					k := n.Key(i)
					check(w.Btree, w.Level, &k)
				}
			})
		}
		fs.jsets(t, func(j *Jset, _ []byte) {
			for i := range j.Entries {
				e := &j.Entries[i]
				if e.Type != JsetBtreeKeys && e.Type != JsetBtreeRoot {
					continue
				}
				level := e.Level
				if e.Type == JsetBtreeRoot {
					level++
				}
				for k, err := range e.Keys() {
					if err == nil {
						check(e.BtreeID, level, &k)
					}
				}
			}
		})
	})
	for typ := range NumKeyTypes {
		t.Logf("%6d %v", total[typ], typ)
	}
}

// TestGoldenText looks for keys that the driver printed in its logs of an image, and compares with how they print here.
func TestGoldenText(t *testing.T) {
	same := 0
	forImages(t, func(t *testing.T, fs *testFS, img golden.Image) {
		logs, err := filepath.Glob(filepath.Join(golden.Dir(t), img.Group, img.Name+".*log"))
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, log := range logs {
			b, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.SplitSeq(string(b), "\n") {
				if at := strings.Index(line, "u64s "); at >= 0 && strings.Contains(line, " type ") {
					lines = append(lines, line[at:])
				}
			}
		}
		if len(lines) == 0 {
			return
		}
		env := &TextEnv{Version: MetadataVersion(fs.version), Device: func(dev uint8) (TextDevice, bool) {
			d := fs.devs[dev]
			if d == nil {
				return TextDevice{}, false
			}
			return TextDevice{Name: "vda", BucketSize: uint32(d.bucketBytes / SectorSize), Durability: 1}, true
		}}
		// Texts by what comes before the value. Of a key that changed there are several.
		texts := map[string][]string{}
		add := func(id BtreeID, k *Key) {
			s, _, _ := strings.Cut(KeyText(id, k, env), "\n")
			if head, _, ok := strings.Cut(s, ": "); ok {
				texts[head] = append(texts[head], s)
			}
		}
		for _, r := range fs.roots(t) {
			fs.walk(t, r.id, r.level, r.ptr, func(w *NodeWant, _ []byte, n *Node, err error) {
				for i := 0; err == nil && i < n.Len(); i++ {
					k := n.Key(i)
					add(w.Btree, &k)
				}
			})
		}
		fs.jsets(t, func(j *Jset, _ []byte) {
			for i := range j.Entries {
				for k, err := range j.Entries[i].Keys() {
					if err == nil {
						add(j.Entries[i].BtreeID, &k)
					}
				}
			}
		})
		for _, line := range lines {
			head, _, _ := strings.Cut(line, ": ")
			switch {
			case len(texts[head]) == 0: // not in the image
			case slices.ContainsFunc(texts[head], func(s string) bool { return strings.HasPrefix(line, s) }):
				same++
			default:
				t.Errorf("the driver prints\n%s\nwe print\n%s", line, strings.Join(texts[head], "\n"))
			}
		}
	})
	t.Logf("%d texts are those of the driver", same)
}
