package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/codec/strhash"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/super"
)

// ErrPassphrase means that an encrypted filesystem cannot be opened for want of the right passphrase.
var ErrPassphrase = crypt.ErrPassphrase

// Open opens the filesystem on the given devices, for reading only. Each string is a path, several joined by colons, or
// UUID= and the external UUID of the filesystem. One member is enough if the others can be found, see [Options].
func Open(ctx context.Context, devices []string, opts Options) (*FS, error) {
	if opts.NodeCacheBytes <= 0 {
		opts.NodeCacheBytes = DefaultNodeCacheBytes
	}
	fs := &FS{opts: opts}
	if err := fs.open(ctx, devices); err != nil {
		return nil, errors.Join(err, fs.Close())
	}
	return fs, nil
}

func (fs *FS) open(ctx context.Context, devices []string) error {
	if err := fs.openMembers(ctx, devices); err != nil {
		return err
	}
	if err := fs.checkMissing(); err != nil {
		return err
	}
	if err := fs.unlock(ctx); err != nil {
		return err
	}
	contents, err := fs.contents(ctx)
	if err != nil {
		return err
	}
	fs.Journal = contents
	for _, p := range contents.Problems {
		fs.message("%s", p)
	}
	fs.makeReader(contents)
	if err := fs.checkRoots(ctx); err != nil {
		return err
	}
	if err := fs.checkAccounting(ctx); err != nil {
		return err
	}
	if err := fs.readSnapshots(ctx); err != nil {
		return err
	}
	return fs.checkSubvolumes(ctx)
}

// openMembers opens the given devices and finds the others.
func (fs *FS) openMembers(ctx context.Context, devices []string) error {
	paths, err := splitDevices(devices, fs.opts.exists)
	if err != nil {
		return err
	}
	if fs.found, err = openAll(ctx, paths, &fs.opts); err != nil {
		return err
	}
	best := newest(fs.found)
	if fs.incomplete(best) {
		more, err := discover(ctx, fs.found, &fs.opts, func(sb *super.Found) bool { return sb.UUID == best.sb.UUID })
		if err != nil {
			return err
		}
		for _, f := range more {
			fs.message("found another member: %s", f.path)
		}
		fs.found = append(fs.found, more...)
		best = newest(fs.found)
	}
	for _, f := range fs.found {
		for _, p := range f.sb.Problems {
			fs.message("%s: %s", f.path, p)
		}
	}
	members, ignored, err := choose(fs.found, best, fs.opts.NoSplitBrainCheck)
	if err != nil {
		return err
	}
	for _, f := range fs.found {
		if reason, ok := ignored[f]; ok {
			fs.message("%s: left out: %s", f.path, reason)
		}
	}
	fs.SB = best.sb.Superblock
	if err := fs.SB.CheckSupported(); err != nil {
		return fmt.Errorf("%s: %w", best.path, err)
	}
	fs.validate = ondisk.ValidateContext{Version: fs.SB.Version, ExtentTypeU64s: fs.SB.ExtentTypeU64s()}
	return fs.addMembers(members)
}

// incomplete reports whether some member of best's filesystem was not given.
func (fs *FS) incomplete(best *found) bool {
	table, err := best.sb.Members()
	if err != nil {
		return false
	}
	for i := range table {
		if table[i].Alive() && !slices.ContainsFunc(fs.found, func(f *found) bool { return int(f.sb.DevIdx) == i }) {
			return true
		}
	}
	return false
}

// unlock gets the key of an encrypted filesystem. Older parts may be encrypted also if encryption is off now.
func (fs *FS) unlock(ctx context.Context) error {
	c, err := fs.SB.Crypt()
	if err != nil || c == nil {
		return err
	}
	var passphraseKey *crypt.Key
	if c.Key.Encrypted() {
		if fs.opts.Passphrase == nil {
			return fmt.Errorf("%w: the filesystem is encrypted and no passphrase was given", ErrPassphrase)
		}
		passphrase, err := fs.opts.Passphrase(ctx)
		if err != nil {
			return fmt.Errorf("passphrase: %w", err)
		}
		k, err := crypt.DeriveKey(passphrase, c.KDF)
		clear(passphrase)
		if err != nil {
			return err
		}
		passphraseKey = &k
	}
	key, err := c.Key.Unwrap(passphraseKey, fs.SB.UUID)
	if err != nil {
		return err
	}
	fs.Key = &key
	return nil
}

// contents reads the clean section or the journal.
func (fs *FS) contents(ctx context.Context) (*journal.Contents, error) {
	clean, err := fs.SB.Clean()
	switch {
	case !fs.SB.Initialized():
		return fs.neverMounted(), nil
	case fs.SB.IsClean() && err == nil && clean != nil:
		return journal.FromClean(clean.Entries, fs.checkKey), nil
	case fs.SB.IsClean() && err != nil:
		fs.message("superblock: %v: the journal is read instead", err)
	case fs.SB.IsClean():
		fs.message("the filesystem is marked clean, but the clean section is missing: the journal is read instead")
	}
	return fs.readJournal(ctx)
}

// neverMounted makes up what the first mount would write.
func (fs *FS) neverMounted() *journal.Contents {
	fs.message("the filesystem was formatted but never mounted: its empty root directory exists in memory only")
	f := fresh{hash: strhash.Type(fs.SB.DirentHash()), uuid: fs.SB.UUID}
	return &journal.Contents{Overlay: f.overlay()}
}

// JournalConfig says where the journal is and how it is read.
func (fs *FS) JournalConfig() journal.Config {
	cfg := journal.Config{
		Params:    ondisk.JsetParams{Magic: ondisk.JsetMagic(fs.SB.UUID), Key: fs.Key, BlockBytes: fs.SB.BlockBytes()},
		BlockSize: fs.SB.BlockBytes(),
		Blacklist: fs.blacklist(),
		Degraded:  len(fs.Missing()) > 0,
	}
	for _, m := range fs.Members {
		if m.Device == nil {
			continue
		}
		buckets, err := fs.journalBuckets(m)
		if err != nil {
			fs.message("%s: journal: %v", m.Path, err)
			continue
		}
		if len(buckets) > 0 {
			cfg.Members = append(cfg.Members, journal.Member{Index: m.Index, Device: m.Device,
				BucketBytes: int64(m.BucketSize) * ondisk.SectorSize, Buckets: buckets})
		}
	}
	return cfg
}

// readJournal chooses among the journal entries of all members and loads those that count.
func (fs *FS) readJournal(ctx context.Context) (*journal.Contents, error) {
	cfg := fs.JournalConfig()
	scan, err := journal.Scan(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	for _, p := range scan.Problems {
		fs.message("%s", p)
	}
	fs.rings = map[uint8]journal.Ring{}
	for i, r := range scan.Rings {
		fs.rings[cfg.Members[i].Index] = r
	}
	sel := journal.Select(scan.Candidates, cfg.Blacklist, cfg.Degraded)
	for _, p := range sel.Problems {
		fs.message("%s", p)
	}
	switch {
	case scan.Unread != nil:
		fs.unusable = fmt.Errorf("the journal cannot be read in full, and what is missing would be lost: %w", scan.Unread)
	case sel.Lost || len(sel.Replay) == 0:
		fs.unusable = errors.New("the journal lacks entries that are needed: the filesystem has to be repaired before it is written to")
	case fs.opts.NoRecovery:
		fs.unusable = errors.New("what the journal holds would be lost, as no recovery was asked for")
	}
	if len(sel.Replay) == 0 {
		fs.message("the filesystem was not shut down properly and its journal holds nothing usable: no btree has a root")
		return &journal.Contents{Selection: sel}, nil
	}
	what := "are applied in memory"
	if fs.opts.NoRecovery {
		what = "are used for the roots of the btrees only, as no recovery was asked for"
	}
	fs.message("not shut down properly: the journal's entries %d-%d %s", sel.LastSeq, sel.Flush, what)
	contents, err := journal.Load(ctx, &cfg, sel, fs.checkKey)
	if err == nil && len(contents.Problems) > 0 && fs.unusable == nil {
		fs.unusable = fmt.Errorf("the journal is damaged (%s): the filesystem has to be repaired before it is written to", contents.Problems[0])
	}
	if err == nil && fs.opts.NoRecovery {
		contents.Overlay = nil
	}
	return contents, err
}

// journalBuckets returns the ring of a member's journal, without buckets that are not on the device.
func (fs *FS) journalBuckets(m *Member) ([]uint64, error) {
	ranges, err := m.SB.Journal()
	if err != nil {
		return nil, err
	}
	var buckets []uint64
	for _, r := range ranges {
		for b := r.Start; b < r.End && b < m.NBuckets && len(buckets) <= journal.MaxBuckets; b++ {
			buckets = append(buckets, b)
		}
	}
	return buckets, nil
}

// blacklist is the superblock's list of journal sequence numbers that never happened.
func (fs *FS) blacklist() journal.Blacklist {
	ranges, err := fs.SB.Blacklist()
	if err != nil {
		fs.message("superblock: %v", err)
	}
	return journal.NewBlacklist(ranges...)
}

// makeReader wires devices, roots and overlay.
func (fs *FS) makeReader(c *journal.Contents) {
	blacklist := append(slices.Clone(fs.blacklist()), c.Blacklist...)
	if sel := c.Selection; sel.Flush != 0 {
		// What nodes say of entries behind the last one that counts never happened either.
		blacklist = append(blacklist, ondisk.SeqRange{Start: sel.Flush + 1, End: ^uint64(0)})
	}
	blacklist = journal.NewBlacklist(blacklist...)
	blacklisted := func(seq uint64) bool {
		first := fs.writtenFrom.Load()
		return (first == 0 || seq < first) && blacklist.Contains(seq)
	}
	fs.want = ondisk.NodeWant{
		Magic:        ondisk.NodeMagic(fs.SB.UUID),
		BlockSectors: uint(fs.SB.BlockSize),
		NodeSize:     fs.SB.BtreeNodeSize(),
		VersionMin:   fs.SB.VersionMin,
		Key:          fs.Key,
		Blacklisted:  blacklisted,
		Salvage:      fs.opts.Salvage,
	}
	roots := map[ondisk.BtreeID]btree.Root{}
	for id, r := range c.Roots {
		roots[id] = btree.Root{Key: r.Key, Level: r.Level, Lost: r.Lost}
	}
	fs.Reader = btree.NewReader(btree.Config{
		Device: fs.Device, Want: fs.want, CheckKey: fs.checkKey, CacheBytes: fs.opts.NodeCacheBytes, Roots: roots, ExtentTypeU64s: fs.validate.ExtentTypeU64s,
		Overlay: c.Overlay, OnProblem: fs.nodeProblem,
	})
}

func (fs *FS) nodeProblem(id ondisk.BtreeID, n *ondisk.Node, p ondisk.NodeProblem) {
	fs.message("btree %v level %d: node for %v - %v: %v", id, n.Level, n.Min, n.Max, p)
}

// checkKey judges keys of nodes and of the journal.
func (fs *FS) checkKey(id ondisk.BtreeID, level uint8, k *ondisk.Key) error {
	return ondisk.ValidateKey(id, level, k, &fs.validate)
}
