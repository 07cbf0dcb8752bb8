package enginetest

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// kind is what a change does.
type kind uint8

const (
	kindCreate kind = iota // a file or directory, with its name
	kindLink
	kindUnlink
	kindRename
	kindWrite
	kindPunch
	kindTruncate
	kindSetXattr
	kindRemoveXattr
)

// change is what one transaction did.
type change struct {
	seq        uint64 // of its journal entry
	kind       kind
	isDir      bool
	inum, dir  uint64
	name       string
	toDir      uint64 // of renames
	toName     string
	block, end uint64 // of writes and punches
	content    uint64 // of writes: what the first block holds, see fill; the following ones count up
	size       uint64 // of files, in bytes
	value      string // of an attribute
}

// inode is a file or directory of the model.
type inode struct {
	isDir   bool
	links   int
	entries map[string]uint64 // of directories
	blocks  map[uint64]uint64 // content by number of the block; holes are absent
	size    uint64
	xattrs  map[string]string
	version int // counts changes
}

// state is what is in a filesystem.
type state struct {
	inodes map[uint64]*inode
	// files and dirs are the linked ones, to choose from; place tells where in them an inode is.
	files, dirs []uint64
	place       map[uint64]int
}

func newState() *state {
	s := &state{inodes: map[uint64]*inode{}, place: map[uint64]int{}}
	s.inodes[ondisk.RootInum] = &inode{isDir: true, links: 1, entries: map[string]uint64{"lost+found": ondisk.RootInum + 1}}
	s.inodes[ondisk.RootInum+1] = &inode{isDir: true, links: 1, entries: map[string]uint64{}}
	s.list(ondisk.RootInum)
	return s
}

func (s *state) clone() *state {
	c := &state{inodes: make(map[uint64]*inode, len(s.inodes)), files: slices.Clone(s.files), dirs: slices.Clone(s.dirs), place: maps.Clone(s.place)}
	for inum, in := range s.inodes {
		i := *in
		i.entries, i.blocks, i.xattrs = maps.Clone(in.entries), maps.Clone(in.blocks), maps.Clone(in.xattrs)
		c.inodes[inum] = &i
	}
	return c
}

func (s *state) list(inum uint64) {
	l := s.listOf(inum)
	s.place[inum] = len(*l)
	*l = append(*l, inum)
}

func (s *state) listOf(inum uint64) *[]uint64 {
	if s.inodes[inum].isDir {
		return &s.dirs
	}
	return &s.files
}

func (s *state) remove(inum uint64) {
	l, i := s.listOf(inum), s.place[inum]
	last := (*l)[len(*l)-1]
	(*l)[i], s.place[last] = last, i
	*l = (*l)[:len(*l)-1]
	delete(s.place, inum)
	delete(s.inodes, inum)
}

func (s *state) apply(c *change) {
	switch c.kind {
	case kindCreate:
		s.inodes[c.inum] = &inode{isDir: c.isDir, links: 1, entries: map[string]uint64{}, blocks: map[uint64]uint64{}, xattrs: map[string]string{}}
		s.list(c.inum)
		s.touch(c.dir).entries[c.name] = c.inum
	case kindLink:
		s.touch(c.inum).links++
		s.touch(c.dir).entries[c.name] = c.inum
	case kindUnlink:
		delete(s.touch(c.dir).entries, c.name)
		if in := s.touch(c.inum); in.links > 1 {
			in.links--
		} else {
			s.remove(c.inum)
		}
	case kindRename:
		delete(s.touch(c.dir).entries, c.name)
		s.touch(c.toDir).entries[c.toName] = c.inum
		s.touch(c.inum)
	case kindWrite:
		in := s.touch(c.inum)
		for b := c.block; b < c.end; b++ {
			in.blocks[b] = c.content + b - c.block
		}
		in.size = max(in.size, c.size)
	case kindPunch, kindTruncate:
		in := s.touch(c.inum)
		maps.DeleteFunc(in.blocks, func(b, _ uint64) bool { return c.block <= b && b < c.end })
		if c.kind == kindTruncate {
			in.size = c.size
		}
	case kindSetXattr:
		s.touch(c.inum).xattrs[c.name] = c.value
	case kindRemoveXattr:
		delete(s.touch(c.inum).xattrs, c.name)
	}
}

func (s *state) touch(inum uint64) *inode {
	in := s.inodes[inum]
	in.version++
	return in
}

// History is what was done to a filesystem. Its methods are safe for concurrent use.
type History struct {
	// Foreign are the names of directories in the root that others have made: nothing is known of what is in them. It is set before use.
	Foreign []string

	mu      sync.Mutex
	start   *state   // what every state from now on stands on; nil: a filesystem that was just made
	gone    int      // changes that led there
	base    []change // since then, in the order of commits
	live    *state
	inum    uint64 // the greatest that was used
	content uint64 // the next that was not
	durable atomic.Uint64
}

// NewHistory returns the history of a filesystem that was just made.
func NewHistory() *History { return &History{live: newState()} }

// committed is called within a commit.
func (h *History) committed(c change, seq uint64) {
	c.seq = seq
	h.mu.Lock()
	h.base = append(h.base, c)
	h.inum = max(h.inum, c.inum)
	if c.kind == kindWrite {
		h.content = max(h.content, c.content+c.end-c.block)
	}
	h.live.apply(&c)
	h.mu.Unlock()
}

// Acknowledge notes that everything up to a sequence number is durable.
func (h *History) Acknowledge(seq uint64) {
	for {
		old := h.durable.Load()
		if seq <= old || h.durable.CompareAndSwap(old, seq) {
			return
		}
	}
}

// Acknowledged returns the sequence number up to which everything was acknowledged to be durable.
func (h *History) Acknowledged() uint64 { return h.durable.Load() }

// Len returns how many transactions there were.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone + len(h.base)
}

// Recovered forgets all transactions behind a sequence number, as a crash undid them. What is left cannot be undone any more.
func (h *History) Recovered(seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.base = slices.DeleteFunc(h.base, func(c change) bool { return c.seq > seq })
	h.live = h.stateAt(seq)
	h.start, h.gone, h.base = h.live.clone(), h.gone+len(h.base), nil
	h.durable.Store(seq)
}

// stateAt returns what is in the filesystem after the transactions up to a sequence number. h.mu is held.
func (h *History) stateAt(seq uint64) *state {
	s := newState()
	if h.start != nil {
		s = h.start.clone()
	}
	for i := range h.base {
		if h.base[i].seq <= seq {
			s.apply(&h.base[i])
		}
	}
	return s
}

// At returns an independent copy of the history, for a check beside further work.
func (h *History) At() *History {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &History{Foreign: h.Foreign, start: h.start, gone: h.gone, base: slices.Clone(h.base), inum: h.inum, content: h.content}
	c.live = c.stateAt(^uint64(0))
	c.durable.Store(h.durable.Load())
	return c
}

// leaf returns a directory that holds something and the names there that can be removed at once; none if nothing is left.
func (h *History) leaf() (dir uint64, names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, dir := range h.live.dirs {
		for name, inum := range h.live.inodes[dir].entries {
			if len(h.live.inodes[inum].entries) == 0 && inum != ondisk.RootInum+1 {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			slices.Sort(names)
			return dir, names
		}
	}
	return 0, nil
}
