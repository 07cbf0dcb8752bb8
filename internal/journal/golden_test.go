package journal_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/super"
)

// image is a filesystem whose devices are in memory.
type image struct {
	sb      *ondisk.Superblock
	members []ondisk.Member // with a journal, as in cfg
	cfg     journal.Config
}

func openInMemory(t *testing.T, img golden.Image) *image {
	t.Helper()
	var out image
	var newest uint64
	for _, path := range img.Unpack(t) {
		dev, err := blockdev.LoadMemory(path)
		if err != nil {
			t.Fatal(err)
		}
		sb, err := super.Read(t.Context(), dev, 0)
		if err != nil {
			t.Fatal(err)
		}
		members, err := sb.Members()
		if err != nil {
			t.Fatal(err)
		}
		m := members[sb.DevIdx]
		ranges, err := sb.Journal()
		if err != nil {
			t.Fatal(err)
		}
		jm := journal.Member{Index: uint8(sb.DevIdx), Device: dev, BucketBytes: int64(m.BucketSize) * ondisk.SectorSize}
		for _, r := range ranges {
			for b := r.Start; b < r.End; b++ {
				jm.Buckets = append(jm.Buckets, b)
			}
		}
		if !slices.EqualFunc(ranges, journal.BucketRanges(jm.Buckets), func(a, b ondisk.SeqRange) bool { return a == b }) {
			t.Errorf("buckets %v come out as %v", ranges, journal.BucketRanges(jm.Buckets))
		}
		out.cfg.Members = append(out.cfg.Members, jm)
		out.members = append(out.members, m)
		if out.sb == nil || sb.Seq > newest {
			out.sb, newest = sb.Superblock, sb.Seq
		}
	}
	out.cfg.BlockSize = out.sb.BlockBytes()
	out.cfg.Params = ondisk.JsetParams{Magic: ondisk.JsetMagic(out.sb.UUID), BlockBytes: out.sb.BlockBytes(), Key: masterKey(t, out.sb, img)}
	old, err := out.sb.Blacklist()
	if err != nil {
		t.Fatal(err)
	}
	out.cfg.Blacklist = journal.NewBlacklist(old...)
	return &out
}

// masterKey returns the key of an encrypted filesystem, nil if it is not.
func masterKey(t *testing.T, sb *ondisk.Superblock, img golden.Image) *crypt.Key {
	t.Helper()
	c, err := sb.Crypt()
	if err != nil || c == nil {
		return nil
	}
	var passphrase *crypt.Key
	if c.Key.Encrypted() {
		k, err := crypt.DeriveKey([]byte(img.Passphrase), c.KDF)
		if err != nil {
			t.Fatal(err)
		}
		passphrase = &k
	}
	key, err := c.Key.Unwrap(passphrase, sb.UUID)
	if err != nil {
		t.Fatal(err)
	}
	return &key
}

// lastEntry returns what the reference wrote last: the newest flush entry.
func lastEntry(t *testing.T, cfg *journal.Config) (*ondisk.Jset, *journal.Found, journal.Selection) {
	t.Helper()
	found, err := journal.Scan(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	sel := journal.Select(found.Candidates, cfg.Blacklist, cfg.Degraded)
	for _, p := range sel.Problems {
		t.Error(p)
	}
	for _, c := range sel.Replay {
		if c.Seq == sel.Flush {
			at := c.Copies[0]
			b := make([]byte, at.Bytes)
			if err := cfg.Members[at.Member].Device.ReadAt(t.Context(), b, at.Offset); err != nil {
				t.Fatal(err)
			}
			js, _, err := ondisk.DecodeJset(b, cfg.Params)
			if err != nil {
				t.Fatal(err)
			}
			return js, found, sel
		}
	}
	t.Fatal("no entry was flushed")
	return nil, nil, sel
}

// trailer describes the records that every entry ends with: from the first root on that only records of these kinds follow.
func trailer(js *ondisk.Jset) (roots []ondisk.JsetEntry, rest []string) {
	var from int
	for i := range js.Entries {
		switch js.Entries[i].Type {
		case ondisk.JsetBtreeRoot, ondisk.JsetDatetime, ondisk.JsetUsage, ondisk.JsetClock:
		default:
			from = i + 1
		}
	}
	for _, e := range js.Entries[from:] {
		if e.Type == ondisk.JsetBtreeRoot {
			roots = append(roots, e)
			continue
		}
		first := byte(0)
		if e.Type == ondisk.JsetClock {
			first = e.Data[0]
		}
		rest = append(rest, fmt.Sprintf("%v %d/%d %d bytes, first %d", e.Type, e.BtreeID, e.Level, len(e.Data), first))
	}
	return roots, rest
}

// On each filesystem of the reference's driver the journal is continued: behind its last entry, with entries of the same form, and
// what it held and what was added are read back.
func TestGoldenContinued(t *testing.T) {
	for _, img := range golden.Sample(t) {
		// Of images that differ in data only, not all are looked at.
		if img.Group != golden.GroupMain || strings.HasPrefix(img.Name, "compress") || slices.Contains([]string{"dirty-heavy", "snapshots",
			"btree-deep", "reflink", "nocow"}, img.Name) {
			continue
		}
		t.Run(img.String(), func(t *testing.T) {
			fs := openInMemory(t, img)
			if fs.sb.Version != ondisk.VersionDefault || !fs.sb.Initialized() {
				t.Skip("has no journal of this version")
			}
			rcfg := fs.cfg
			theirs, found, sel := lastEntry(t, &rcfg)
			wcfg := continued(t, fs, &rcfg, found)
			wcfg.Csum = theirs.CsumType()
			if !wcfg.Csum.IsEncryption() {
				wcfg.Params.Key = nil
			}
			theirRoots, theirRest := trailer(theirs)
			if fs.sb.IsClean() {
				clean, err := fs.sb.Clean()
				if err != nil {
					t.Fatal(err)
				}
				wcfg.First = clean.JournalSeq + 1
				for i := range rcfg.Members {
					m := &fs.members[i]
					at := journal.RingAt(m.LastJournalBucket, m.LastJournalOffset, len(rcfg.Members[i].Buckets), rcfg.Members[i].BucketBytes)
					if r := found.Rings[i]; r.Head != at.Head || r.Used != at.Used {
						t.Errorf("member %d: superblock says that the journal ended at %d+%d, a scan says %d+%d", rcfg.Members[i].Index, at.Head, at.Used, r.Head, r.Used)
					}
				}
			} else {
				resume := sel.Resume(rcfg.Blacklist)
				wcfg.First, wcfg.LastSeq, wcfg.Flush = resume.First, sel.LastSeq, sel.Flush
				rcfg.Blacklist = resume.Blacklist
			}
			wcfg.Roots = theirRoots
			w, err := journal.Start(wcfg)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Abort()
			var res journal.Reservation
			if err := w.TryReserve(3, journal.WatermarkReclaim, &res); err != nil {
				t.Fatal(err)
			}
			res.Append(ondisk.JsetEntry{Type: ondisk.JsetLog, Level: 1, Data: []byte("hello journal...")})
			res.Done()
			if err := w.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			ours, _, oursel := lastEntry(t, &rcfg)
			roots, rest := trailer(ours)
			if d := cmp.Diff(theirRest, rest); d != "" {
				t.Errorf("behind the roots: -theirs +ours:\n%s", d)
			}
			if d := cmp.Diff(theirRoots, roots); d != "" {
				t.Errorf("roots: -theirs +ours:\n%s", d)
			}
			if ours.Version != theirs.Version || ours.Flags != theirs.Flags || ours.Magic != theirs.Magic {
				t.Errorf("header %+v, theirs %+v", ours, theirs)
			}
			want := 1
			if wcfg.LastSeq != 0 {
				want += len(sel.Replay)
			}
			if len(oursel.Replay) != want || oursel.Flush != wcfg.First {
				t.Errorf("%d entries up to %d are replayed, want %d up to %d", len(oursel.Replay), oursel.Flush, want, wcfg.First)
			}
		})
	}
}

// continued configures a writer for the journal that was found.
func continued(t *testing.T, fs *image, rcfg *journal.Config, found *journal.Found) journal.WriterConfig {
	t.Helper()
	cfg := journal.WriterConfig{Params: rcfg.Params, Version: fs.sb.Version, ReplicasRequired: 1,
		Replicas: len(found.Candidates[len(found.Candidates)-1].Copies), Now: func() time.Time { return time.Unix(1, 0) }}
	for i, m := range rcfg.Members {
		cfg.Devices = append(cfg.Devices, journal.WriterDevice{Index: m.Index, Device: m.Device, BucketBytes: m.BucketBytes,
			Buckets: m.Buckets, Ring: found.Rings[i], Durability: 1})
	}
	return cfg
}
