package fsck

import (
	"context"
	"iter"

	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Engine is an open filesystem as the passes see it. With a journal that is to be replayed, they see what replaying gives.
type Engine struct{ fs *engine.FS }

// Of returns fs for [Check].
func Of(fs *engine.FS) Engine { return Engine{fs} }

// Superblock returns the newest superblock.
func (e Engine) Superblock() *ondisk.Superblock { return e.fs.SB }

// Devices returns the slots in use.
func (e Engine) Devices() []Device {
	problems := e.fs.SuperblockProblems()
	var all []Device
	for _, m := range e.fs.Members {
		name := m.Path
		if m.Device == nil {
			name = m.Name()
		}
		all = append(all, Device{Index: m.Index, Member: m.Member, Name: name, SB: m.SB, Problems: problems[m.Index]})
	}
	return all
}

// KeyVersion returns what the newest journal entry, or the clean section, records.
func (e Engine) KeyVersion() (uint64, bool) {
	return e.fs.Journal.KeyVersion, e.fs.SB.Initialized() && (len(e.fs.Journal.Roots) > 0)
}

// Root returns the root of a btree as the journal has it, be it readable or not.
func (e Engine) Root(id ondisk.BtreeID) (btree.Root, bool) { return e.fs.Reader.Root(id) }

// Keys goes over keys, see [Filesystem].
func (e Engine) Keys(ctx context.Context, id ondisk.BtreeID, level uint8, from, to ondisk.Pos) iter.Seq2[ondisk.Key, error] {
	return e.fs.Reader.KeysAt(ctx, id, level, from, to)
}

// Nodes goes over nodes, see [Filesystem].
func (e Engine) Nodes(ctx context.Context, id ondisk.BtreeID, level uint8) iter.Seq2[btree.NodeRef, error] {
	return e.fs.Reader.NodesAt(ctx, id, level)
}

// Get returns a key of a leaf.
func (e Engine) Get(ctx context.Context, id ondisk.BtreeID, pos ondisk.Pos) (ondisk.Key, bool, error) {
	return e.fs.Reader.Get(ctx, id, pos)
}

// Journal returns what was read of the journal, or of the clean section.
func (e Engine) Journal() *journal.Contents { return e.fs.Journal }

// ScanJournal looks for all entries of the journal.
func (e Engine) ScanJournal(ctx context.Context) (*journal.Found, error) {
	cfg := e.fs.JournalConfig()
	return journal.Scan(ctx, &cfg)
}

// journaled is a Filesystem that read a journal when it was opened.
type journaled interface {
	Journal() *journal.Contents
	ScanJournal(ctx context.Context) (*journal.Found, error)
}
