package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Root is the root of a btree as a journal entry or the clean section tells it.
type Root struct {
	Key   ondisk.Key
	Level uint8
	Lost  bool // it was known to be unreadable when this was written
}

// Contents is what the entries to be replayed, or the clean section, say.
type Contents struct {
	Roots   map[ondisk.BtreeID]Root
	Overlay *Overlay
	// Blacklist are ranges that entries recorded; they add to the superblock's.
	Blacklist  []ondisk.SeqRange
	KeyVersion uint64
	Problems   []string

	// Of a journal that was read; zero else.
	Selection Selection
}

// maxProblems bounds what damaged contents make us remember.
const maxProblems = 100

// KeyCheck judges keys of the journal, as of nodes; nil accepts all.
type KeyCheck func(btree ondisk.BtreeID, level uint8, k *ondisk.Key) error

// Load reads the selected entries again and returns what they say. Entries that fail now become problems; the error is ctx's.
func Load(ctx context.Context, cfg *Config, s Selection, check KeyCheck) (*Contents, error) {
	b := contentsBuilder{check: check}
	b.Selection = s
	b.Roots = map[ondisk.BtreeID]Root{}
	const batch = maxParallel
	for rest := s.Replay; len(rest) > 0; {
		n := min(batch, len(rest))
		var sets [batch]*ondisk.Jset
		var errs [batch]error
		g, gctx := errgroup.WithContext(ctx)
		for i, c := range rest[:n] {
			g.Go(func() error {
				sets[i], errs[i] = reread(gctx, cfg, c)
				return gctx.Err()
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		for i, c := range rest[:n] {
			if errs[i] != nil {
				b.problem("journal entry %d: %v", c.Seq, errs[i])
				continue
			}
			b.entries(sets[i].Entries, fmt.Sprintf("journal entry %d", c.Seq))
		}
		rest = rest[n:]
	}
	b.Overlay = b.overlay.Build()
	return &b.Contents, nil
}

// reread returns an entry from the first copy that is still good.
func reread(ctx context.Context, cfg *Config, c *Candidate) (*ondisk.Jset, error) {
	var last error
	for _, at := range c.Copies {
		buf := make([]byte, at.Bytes)
		m := &cfg.Members[at.Member]
		if last = m.Device.ReadAt(ctx, buf, at.Offset); last != nil {
			continue
		}
		var js *ondisk.Jset
		if js, _, last = ondisk.DecodeJset(buf, cfg.Params); last == nil {
			if js.Seq == c.Seq {
				return js, nil
			}
			last = errors.New("changed while it was read")
		}
	}
	return nil, last
}

// FromClean returns what the clean section says.
func FromClean(entries []ondisk.JsetEntry, check KeyCheck) *Contents {
	b := contentsBuilder{check: check}
	b.Roots = map[ondisk.BtreeID]Root{}
	b.entries(entries, "clean section")
	b.Overlay = b.overlay.Build()
	return &b.Contents
}

type contentsBuilder struct {
	Contents
	overlay OverlayBuilder
	check   KeyCheck
}

func (b *contentsBuilder) problem(format string, args ...any) {
	if len(b.Problems) < maxProblems {
		b.Problems = append(b.Problems, fmt.Sprintf(format, args...))
	}
}

// entries takes in the records of one entry. What is invalid is left out, as the reference does.
func (b *contentsBuilder) entries(entries []ondisk.JsetEntry, where string) {
	for i := range entries {
		e := &entries[i]
		switch e.Type {
		case ondisk.JsetBtreeKeys, ondisk.JsetWriteBufferKeys:
			b.keys(e, where)
		case ondisk.JsetBtreeRoot:
			b.root(e, where)
		case ondisk.JsetBlacklist:
			if len(e.Data) == 8 {
				seq := binary.LittleEndian.Uint64(e.Data)
				b.Blacklist = append(b.Blacklist, ondisk.SeqRange{Start: seq, End: seq + 1})
			}
		case ondisk.JsetBlacklistV2:
			if len(e.Data) == 16 { // the end is inclusive here
				start, end := binary.LittleEndian.Uint64(e.Data), binary.LittleEndian.Uint64(e.Data[8:])
				b.Blacklist = append(b.Blacklist, ondisk.SeqRange{Start: start, End: max(end, end+1)})
			}
		case ondisk.JsetUsage:
			const keyVersion = 2 // kind of usage, in the place of the btree id
			if e.BtreeID == keyVersion && len(e.Data) >= 8 {
				b.KeyVersion = binary.LittleEndian.Uint64(e.Data)
			}
		}
	}
}

func (b *contentsBuilder) keys(e *ondisk.JsetEntry, where string) {
	for k, err := range e.Keys() {
		if err == nil && b.check != nil && k.Type != ondisk.KeyDeleted {
			err = b.check(e.BtreeID, e.Level, &k)
		}
		if err != nil {
			b.problem("%s: btree %v level %d: key left out: %v", where, e.BtreeID, e.Level, err)
			continue
		}
		b.overlay.Add(e.BtreeID, e.Level, k)
	}
}

func (b *contentsBuilder) root(e *ondisk.JsetEntry, where string) {
	if e.BtreeID >= ondisk.MaxBtrees {
		b.problem("%s: root of impossible btree %d", where, e.BtreeID)
		return
	}
	if len(e.Data) == 0 {
		b.Roots[e.BtreeID] = Root{Level: e.Level, Lost: true}
		return
	}
	k, n, err := ondisk.DecodeKey(e.Data)
	if err == nil && n != len(e.Data) {
		err = fmt.Errorf("%d bytes behind the key", len(e.Data)-n)
	}
	if err == nil {
		_, err = ondisk.DecodeBtreePtr(k)
	}
	if err != nil {
		b.problem("%s: root of btree %v: %v", where, e.BtreeID, err)
		b.Roots[e.BtreeID] = Root{Level: e.Level, Lost: true}
		return
	}
	b.Roots[e.BtreeID] = Root{Key: k, Level: e.Level}
}
