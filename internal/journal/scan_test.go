package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

const (
	testBucket = 64 << 10
	testBlock  = 4096
	testMagic  = 0xabcdef
)

var ctx = context.Background()

// counted counts the bytes read.
type counted struct {
	blockdev.Device
	read atomic.Int64
}

func (c *counted) ReadAt(ctx context.Context, p []byte, off int64) error {
	c.read.Add(int64(len(p)))
	return c.Device.ReadAt(ctx, p, off)
}

func testParams() ondisk.JsetParams {
	return ondisk.JsetParams{Magic: testMagic, BlockBytes: testBlock}
}

// testEntry encodes an entry with one key at offset seq in the inodes btree and a root of it.
func testEntry(t testing.TB, seq, last uint64, flush bool, pad int) []byte {
	t.Helper()
	k := ondisk.Key{Type: ondisk.KeyCookie, Pos: ondisk.Pos{Offset: seq % 100}, Version: ondisk.Version{Lo: seq}, Val: make([]byte, 8)}
	binary.LittleEndian.PutUint64(k.Val, seq)
	root := (&ondisk.BtreePtr{V2: true, Seq: seq, SectorsWritten: 8, Max: ondisk.SPosMax,
		Ptrs: ondisk.AppendNodeAddr(nil, ondisk.NodeAddr{Sector: 8})}).Key()
	j := ondisk.Jset{Magic: testMagic, Seq: seq, LastSeq: last, Version: uint32(ondisk.VersionDefault), Flags: 1,
		Entries: []ondisk.JsetEntry{
			{Type: ondisk.JsetBtreeKeys, BtreeID: ondisk.BtreeInodes, Data: ondisk.AppendKey(nil, k)},
			{Type: ondisk.JsetBtreeRoot, BtreeID: ondisk.BtreeInodes, Data: ondisk.AppendKey(nil, root)},
			{Type: ondisk.JsetLog, Level: 1, Data: make([]byte, pad/8*8)},
		}}
	if !flush {
		j.Flags |= 1 << 5
		j.LastSeq = 0
	}
	b, err := j.Encode(testParams())
	if err != nil {
		t.Fatal(err)
	}
	return append(b, make([]byte, (testBlock-len(b)%testBlock)%testBlock)...)
}

// testJournal makes a member of a description of its buckets: entries separated by spaces, buckets by "|". An entry is as in
// candidates, with more letters behind it: "x" flips a bit in it, "z" zeroes it,
// "l" has it claim to be as long as can be.
func testJournal(t testing.TB, desc string) (*counted, []uint64) {
	t.Helper()
	d := blockdev.NewMemory(64 * testBucket)
	var buckets []uint64
	for i, bucket := range strings.Split(desc, "|") {
		b := uint64(3 + 2*i)
		buckets = append(buckets, b)
		off := int64(b) * testBucket
		for _, f := range strings.Fields(bucket) {
			damage := ""
			if n := len(f) - 1; strings.ContainsRune("xzl", rune(f[n])) {
				f, damage = f[:n], f[n:]
			}
			c := candidates(t, f)[0]
			e := testEntry(t, c.Seq, c.LastSeq, c.Flush, 0)
			switch damage {
			case "x":
				e[90] ^= 0x10
			case "z":
				clear(e)
			case "l":
				binary.LittleEndian.PutUint32(e[jsetU64sAt:], math.MaxUint32)
			}
			if err := d.WriteAt(ctx, e, off); err != nil {
				t.Fatal(err)
			}
			off += int64(len(e))
		}
	}
	return &counted{Device: d}, buckets
}

func testConfig(t testing.TB, descs ...string) (*Config, []*counted) {
	cfg := &Config{Params: testParams(), BlockSize: testBlock}
	var devs []*counted
	for i, desc := range descs {
		d, buckets := testJournal(t, desc)
		devs = append(devs, d)
		cfg.Members = append(cfg.Members, Member{Index: uint8(i), Device: d, BucketBytes: testBucket, Buckets: buckets})
	}
	return cfg, devs
}

func TestScan(t *testing.T) {
	for _, tt := range []struct {
		name    string
		devs    []string
		replay  string
		flush   uint64
		highest uint64
	}{
		{"empty", []string{"||"}, "", 0, 0},
		{"one bucket", []string{"|1f1 2n 3f2"}, "2 3", 3, 3},
		{"several", []string{"1f1 2f1|3f1 4f1|5f3 6f3|"}, "3 4 5 6", 6, 6},
		{"around the ring", []string{"7f5 8f5|3f1 4f1|5f5 6f5"}, "5 6 7 8", 8, 8},
		{"remains of an older lap in a bucket", []string{"9f9 2f1 3f1|4f4 5f4|6f4 7f4 8f4"}, "9", 9, 9},
		{"torn last entry", []string{"1f1 2f1|3f1 4f1x"}, "1 2 3", 3, 4},
		{"zeroed last entry", []string{"1f1 2f1|3f1 4f1z"}, "1 2 3", 3, 3},
		{"damaged in the middle, more behind it", []string{"1f1 2f1x 3f1"}, "1 3", 3, 3},
		{"first of the bucket damaged", []string{"1f1|2f1x 3f1|4f1"}, "1 3 4", 4, 4},
		{"damaged length", []string{"1f1 2f1l 3f1"}, "1 3", 3, 3},
		{"two members", []string{"1f1 3f1|5f2", "2f1 4f1|"}, "2 3 4 5", 5, 5},
		{"two members, copies", []string{"1f1 2f1|3f1x", "1f1x 2f1|3f1"}, "1 2 3", 3, 3},
		{"newest on the other member", []string{"1f1 2f1", "3f1 4n"}, "1 2 3", 3, 4},
		{"ring out of order", []string{"5f1|1f1|4f1|2f1|3f1"}, "1 2 3 4 5", 5, 5},
		{"only no-flush", []string{"1n 2n|3n"}, "3", 3, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, _ := testConfig(t, tt.devs...)
			found, err := Scan(ctx, cfg)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range found.Candidates {
				for _, at := range c.Copies {
					if at.Bytes > testBucket-int(at.Offset%testBucket) {
						t.Errorf("entry %d of %d bytes at %d reaches beyond its bucket", c.Seq, at.Bytes, at.Offset)
					}
				}
			}
			s := Select(found.Candidates, nil, false)
			var replay []string
			for _, c := range s.Replay {
				replay = append(replay, fmt.Sprint(c.Seq))
			}
			got := []any{strings.Join(replay, " "), s.Flush, s.Highest}
			if d := cmp.Diff([]any{tt.replay, tt.flush, tt.highest}, got); d != "" {
				t.Errorf("%q: -want +got (replay, flush, highest):\n%s%v %v", tt.devs, d, found.Problems, s.Problems)
			}
			c, err := Load(ctx, cfg, s, nil)
			if err != nil || len(c.Problems) != 0 {
				t.Fatal(err, c.Problems)
			}
			if c.Overlay.Len() != len(s.Replay) {
				t.Errorf("overlay of %d keys, want %d", c.Overlay.Len(), len(s.Replay))
			}
			if r, ok := c.Roots[ondisk.BtreeInodes]; tt.flush != 0 && (!ok || binary.LittleEndian.Uint64(r.Key.Val[8:]) != tt.flush) {
				t.Errorf("root is not the one of entry %d", tt.flush)
			}
		})
	}
}

// A device that cannot be read is no error if another one has the entries.
func TestScanBadDevice(t *testing.T) {
	cfg, _ := testConfig(t, "1f1 2f1|3f1", "1f1 2f1|3f1")
	cfg.Members[0].Device = blockdev.NewFaulter(cfg.Members[0].Device, blockdev.Rule{Ops: blockdev.OpRead})
	found, err := Scan(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if s := Select(found.Candidates, nil, false); len(s.Replay) != 3 || len(found.Problems) == 0 {
		t.Errorf("%d entries, problems %q", len(s.Replay), found.Problems)
	}
}

func TestScanNewerVersion(t *testing.T) {
	cfg, devs := testConfig(t, "1f1 2f1")
	e := testEntry(t, 3, 1, true, 0)
	binary.LittleEndian.PutUint32(e[32:], 2<<10)
	off := int64(cfg.Members[0].Buckets[0]) * testBucket
	at := off + 2*testBlock
	if err := devs[0].WriteAt(ctx, e, at); err != nil {
		t.Fatal(err)
	}
	// Its checksum is wrong now: it is a damaged entry like others.
	if _, err := Scan(ctx, cfg); err != nil {
		t.Errorf("damaged version: %v", err)
	}
	j, _, err := ondisk.DecodeJset(testEntry(t, 3, 1, true, 0), testParams())
	if err != nil {
		t.Fatal(err)
	}
	j.Version = 2 << 10
	e, err = j.Encode(testParams())
	if err != nil {
		t.Fatal(err)
	}
	if err := devs[0].WriteAt(ctx, e, at); err != nil {
		t.Fatal(err)
	}
	if _, err := Scan(ctx, cfg); !errors.Is(err, ondisk.ErrIncompatible) {
		t.Errorf("entry of version 2.0: %v", err)
	}
}

// Of a long ring only what matters is read, and it makes no difference to reading everything.
func TestScanIsLazy(t *testing.T) {
	for seed := range uint64(10) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		const buckets = 25
		desc := make([]string, buckets)
		head := rnd.IntN(buckets)
		seq := uint64(100)
		for i := range buckets {
			var es []string
			for range 1 + rnd.IntN(6) {
				last := max(seq-uint64(rnd.IntN(8)), 100)
				kind := fmt.Sprintf("%df%d", seq, last)
				if rnd.IntN(3) == 0 {
					kind = fmt.Sprintf("%dn", seq)
				}
				if rnd.IntN(40) == 0 {
					kind += "x"
				}
				es = append(es, kind)
				seq++
			}
			desc[(head+i)%buckets] = strings.Join(es, " ")
		}
		selection := func(messy bool) (seqs []uint64, read int64) {
			cfg, devs := testConfig(t, strings.Join(desc, "|"))
			if messy {
				cfg.Members[0].Buckets = slices.Clone(cfg.Members[0].Buckets)
				slices.Reverse(cfg.Members[0].Buckets)
			}
			found, err := Scan(ctx, cfg)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range Select(found.Candidates, nil, false).Replay {
				seqs = append(seqs, c.Seq)
			}
			return seqs, devs[0].read.Load()
		}
		lazy, few := selection(false)
		full, all := selection(true)
		if d := cmp.Diff(full, lazy); d != "" {
			t.Errorf("seed %d: %v: -all +lazy:\n%s", seed, desc, d)
		}
		if few > all/2 {
			t.Errorf("seed %d: %d bytes read of %d", seed, few, all)
		}
	}
}

// Flush entries that are blacklisted do not keep what is needed without them from being read.
func TestScanBlacklisted(t *testing.T) {
	cfg, _ := testConfig(t, "1f1 2f1|3f2 4f2|5f5 6f6|")
	cfg.Blacklist = NewBlacklist(ondisk.SeqRange{Start: 5, End: 100})
	found, err := Scan(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	var replay []uint64
	s := Select(found.Candidates, cfg.Blacklist, false)
	for _, c := range s.Replay {
		replay = append(replay, c.Seq)
	}
	if d := cmp.Diff([]uint64{2, 3, 4}, replay); d != "" || len(s.Problems) != 2 {
		t.Errorf("replay: -want +got:\n%s%q", d, s.Problems)
	}
}

// A scan ends soon after its context did, also within a read.
func TestScanCancelled(t *testing.T) {
	cfg, _ := testConfig(t, "1f1 2f1|3f1 4f1", "1f1 2f1|3f1 4f1")
	for after := range 8 {
		ctx, cancel := context.WithCancel(ctx)
		var reads atomic.Int64
		before := runtime.NumGoroutine()
		slow := *cfg
		slow.Members = slices.Clone(cfg.Members)
		for i := range slow.Members {
			slow.Members[i].Device = blockdev.NewDelayer(cfg.Members[i].Device, func(ctx context.Context, _ blockdev.Op, _, _ int64) error {
				if reads.Add(1) > int64(after) {
					cancel()
					<-ctx.Done()
				}
				return ctx.Err()
			})
		}
		if found, err := Scan(ctx, &slow); !errors.Is(err, context.Canceled) {
			t.Errorf("after %d reads: %v, %v", after, found, err)
		}
		if n := runtime.NumGoroutine(); n > before+1 { // one may be ending yet
			t.Errorf("%d goroutines, %d before", n, before)
		}
		cancel()
	}
}

// FuzzScan: no journal makes reading it panic or hang.
func FuzzScan(f *testing.F) {
	d, buckets := testJournal(f, "1f1 2n|3f1 4f1x")
	for _, b := range buckets {
		p := make([]byte, 3*testBlock)
		if err := d.ReadAt(ctx, p, int64(b)*testBucket); err != nil {
			f.Fatal(err)
		}
		f.Add(p, uint8(1))
	}
	f.Fuzz(func(t *testing.T, data []byte, split uint8) {
		mem := blockdev.NewMemory(8 * testBucket)
		for i, off := 0, int64(testBucket); i < len(data) && off < 7*testBucket; off += testBucket {
			n := min(len(data)-i, 1+int(split)*512, testBucket)
			if err := mem.WriteAt(ctx, data[i:i+n], off); err != nil {
				t.Fatal(err)
			}
			i += n
		}
		cfg := &Config{Params: testParams(), BlockSize: testBlock, Members: []Member{{Device: mem, BucketBytes: testBucket,
			Buckets: []uint64{1, 2, 3, 4, 5, 6}}}}
		found, err := Scan(ctx, cfg)
		if err != nil {
			return
		}
		if _, err := Load(ctx, cfg, Select(found.Candidates, nil, false), nil); err != nil {
			t.Fatal(err)
		}
	})
}
