// Package engine is one open filesystem: it finds the members, decides whether they suffice, unlocks, reads the journal, and
// wires the layers below it together.
//
// # Opening
//
//  1. The given devices are opened for reading only, without any lock, and of each the best superblock is chosen: of all
//     valid copies the one written last.
//  2. Of the superblocks the newest tells who belongs to the filesystem. Members that were not given are looked for. Devices
//     that were removed, or that went on without the others (split brain), are left out. If data or metadata would be
//     absent for the lack of a member, opening fails unless that was asked for.
//  3. The key is unwrapped with the passphrase.
//  4. A clean filesystem's roots come from the superblock. Else the journal is read: its newest flush entry tells the roots, and the
//     keys of all entries still needed become an overlay in memory.
//  5. The snapshot table is read.
//
// Nothing is ever written. Damage that leaves something to be read does not keep a filesystem from being opened: it is told
// in [FS.Messages] and met again where it hurts.
//
// # Concurrency
//
// Whatever opening found is fixed from then on and read without a lock; what changes later is the node cache, which has its own
// locks, and the messages, which FS.mu protects. [FS.Close] waits for reads in the background, not for callers.
package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// DefaultNodeCacheBytes bounds the memory of decoded btree nodes if nothing else is asked for.
const DefaultNodeCacheBytes = 256 << 20

// Options say how to open a filesystem. The zero value is fine for most.
type Options struct {
	// Passphrase is asked for the passphrase of an encrypted filesystem, without newline. nil: such ones fail with
	// [ErrPassphrase].
	Passphrase func(ctx context.Context) ([]byte, error)
	// Degraded allows that members are missing if all data and metadata can be read; for reading that is always
	// allowed, so it only says that it is no news.
	Degraded bool
	// VeryDegraded allows that data or metadata is absent.
	VeryDegraded bool
	// Write opens the devices for writing, and for this program alone, so that [FS.GoReadWrite] may follow. Nothing is written before.
	Write bool
	// NoRecovery ignores the journal of a filesystem that was not shut down properly, as far as that is possible: the
	// newest entry's roots are used, without the keys. What is seen is old and may not fit together.
	NoRecovery bool
	// Salvage looks for btree nodes that nothing points to if a btree's upper part is damaged, however long it takes,
	// and makes use of intact parts of damaged nodes.
	Salvage bool
	// NodeCacheBytes bounds the memory of decoded btree nodes; 0 is [DefaultNodeCacheBytes].
	NodeCacheBytes int64
	// Logf, if set, is told messages as they arise, beside their being kept in [FS.Messages]. It may be called from
	// several goroutines.
	Logf func(format string, args ...any)
	// OpenDevice opens devices instead of [blockdev.OpenFile]; for tests.
	OpenDevice func(path string) (blockdev.Device, error)
	// ScanDirs are files, devices and directories of them where missing members are looked for; none: all block devices.
	ScanDirs []string
	// NoScan keeps from looking for members that were not given.
	NoScan bool
	// SBSector reads the superblock at this sector and no other.
	SBSector ondisk.Sector
	// NoSplitBrainCheck accepts members that were written without the others.
	NoSplitBrainCheck bool
}

// Member is a device slot of the filesystem.
type Member struct {
	Index uint8
	ondisk.Member
	Label  string // of its disk group path, "" if none
	Path   string
	Device blockdev.Device    // nil if it is missing
	SB     *ondisk.Superblock // its own; nil if it is missing
}

// Name is how messages call the member.
func (m *Member) Name() string {
	s := fmt.Sprintf("device %d (uuid %v", m.Index, m.UUID)
	if m.Label != "" {
		s += ", label " + m.Label
	}
	return s + ")"
}

// FS is an open filesystem. Its methods are safe for concurrent use.
type FS struct {
	SB        *ondisk.Superblock
	Members   []*Member // all slots in use, by index
	Reader    *btree.Reader
	Snapshots *Snapshots
	Journal   *journal.Contents // what the journal, or the clean section, said
	Key       *crypt.Key        // nil if the filesystem is not encrypted

	opts  Options
	rings map[uint8]journal.Ring // where the journal of each member ends, if it was read
	want  ondisk.NodeWant
	// writtenFrom is the first journal entry that was written since the filesystem was opened, 0 if none is: from there on nothing that nodes say
	// of entries can be of such that a crash lost.
	writtenFrom atomic.Uint64
	unusable    error // why the journal is no base to write on, though it may do for reading; nil if it is
	validate    ondisk.ValidateContext
	byIndex     [256]*Member
	found       []*found
	fallback    map[uint32]ondisk.Subvolume // if the subvolumes btree is lost

	mu         sync.Mutex
	messages   []string
	told       map[string]bool // nodes that are read again are no news
	suppressed int
}

// maxMessages bounds what a hopeless filesystem has us remember.
const maxMessages = 1000

func (fs *FS) message(format string, args ...any) {
	m := fmt.Sprintf(format, args...)
	if fs.keep(m) && fs.opts.Logf != nil {
		fs.opts.Logf("%s", m)
	}
}

// Note adds a message to those that [FS.Messages] returns.
func (fs *FS) Note(format string, args ...any) { fs.message(format, args...) }

// keep remembers m unless it is known already or too many are.
func (fs *FS) keep(m string) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	switch {
	case fs.told[m]:
		return false
	case len(fs.messages) >= maxMessages:
		fs.suppressed++
		return false
	case fs.told == nil:
		fs.told = map[string]bool{}
	}
	fs.told[m] = true
	fs.messages = append(fs.messages, m)
	return true
}

// Messages returns what is worth knowing of how the filesystem was found, in the order it was noticed.
func (fs *FS) Messages() []string {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	m := slices.Clone(fs.messages)
	if fs.suppressed > 0 {
		m = append(m, fmt.Sprintf("%d more messages", fs.suppressed))
	}
	return m
}

// Device returns the device of a member, nil if it is missing or there is no such member.
func (fs *FS) Device(index uint8) blockdev.Device {
	if m := fs.byIndex[index]; m != nil {
		return m.Device
	}
	return nil
}

// SuperblockProblems returns, by member, what ails the copies of superblocks that were not used, in words.
func (fs *FS) SuperblockProblems() map[uint8][]string {
	problems := map[uint8][]string{}
	for _, f := range fs.found {
		if m := fs.byIndex[f.sb.DevIdx]; m != nil && m.Device == f.dev {
			problems[m.Index] = f.sb.Problems
		}
	}
	return problems
}

// Member returns a slot, nil if it is not in use.
func (fs *FS) Member(index uint8) *Member { return fs.byIndex[index] }

// Missing returns the members that are not there.
func (fs *FS) Missing() []*Member {
	return slices.DeleteFunc(slices.Clone(fs.Members), func(m *Member) bool { return m.Device != nil })
}

// Close waits for reads in the background and closes the devices. The filesystem must not be in use any more.
func (fs *FS) Close() error {
	if fs.Reader != nil {
		fs.Reader.Close()
	}
	return closeAll(fs.found)
}

// ErrNoSubvolume means that there is no subvolume of a given id.
var ErrNoSubvolume = errors.New("no such subvolume")

// Subvolume returns a subvolume by its id.
func (fs *FS) Subvolume(ctx context.Context, id uint32) (ondisk.Subvolume, error) {
	k, ok, err := fs.Reader.Lookup(ctx, ondisk.BtreeSubvolumes, ondisk.Pos{Offset: uint64(id)})
	if err == nil && ok {
		return ondisk.DecodeSubvolume(k)
	}
	if s, ok := fs.fallback[id]; ok {
		return s, nil
	}
	if err == nil {
		err = fmt.Errorf("subvolume %d: %w", id, ErrNoSubvolume)
	}
	return ondisk.Subvolume{}, err
}
