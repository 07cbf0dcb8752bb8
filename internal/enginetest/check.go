package enginetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// End returns the sequence number of the last journal entry that is part of a filesystem, as opening for reading found it.
func End(fs *bcachefs.FS) (uint64, error) {
	e := fs.Engine()
	if s := e.Journal.Selection.Flush; s != 0 {
		return s, nil
	}
	clean, err := e.SB.Clean()
	if err != nil {
		return 0, err
	}
	return clean.JournalSeq, nil
}

// Check compares a filesystem that was opened for reading with the history up to where its journal ends, which it returns. The journal must
// not end before durable; for most callers that is [History.Acknowledged], as it was when the devices were as they are.
func (h *History) Check(ctx context.Context, fs *bcachefs.FS, durable uint64) (end uint64, err error) {
	if end, err = End(fs); err != nil {
		return 0, err
	}
	if end < durable {
		return end, fmt.Errorf("the journal ends with entry %d, but what is in entry %d was acknowledged as durable", end, durable)
	}
	h.mu.Lock()
	s := h.stateAt(end)
	h.mu.Unlock()
	c := checker{ctx: ctx, fs: fs, s: s, foreign: h.Foreign, seen: map[uint64]bool{}, block: int64(fs.Engine().SB.BlockBytes())}
	if err := c.directory("", fs.Root().RootInode()); err != nil {
		return end, fmt.Errorf("after journal entry %d: %w", end, err)
	}
	if len(c.seen) != len(s.inodes) {
		return end, fmt.Errorf("after journal entry %d: %d inodes can be reached, the model has %d", end, len(c.seen), len(s.inodes))
	}
	return end, nil
}

// checker compares a filesystem with a state.
type checker struct {
	ctx     context.Context
	fs      *bcachefs.FS
	s       *state
	foreign []string
	seen    map[uint64]bool
	block   int64
	buf     []byte
}

func (c *checker) directory(path string, id bcachefs.InodeID) error {
	want, err := c.inode(path, id)
	if err != nil || want == nil {
		return err
	}
	var names []string
	for e, err := range c.fs.ReadDir(c.ctx, id, 0) {
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if path == "" && slices.Contains(c.foreign, e.Name) {
			continue
		}
		inum, ok := want.entries[e.Name]
		switch {
		case e.Stray:
			return fmt.Errorf("%s: %q does not lie where its hash leads", path, e.Name)
		case !ok:
			return fmt.Errorf("%s: %q is there, the model does not have it", path, e.Name)
		case inum != e.ID.Inum:
			return fmt.Errorf("%s: %q is inode %d, in the model %d", path, e.Name, e.ID.Inum, inum)
		}
		names = append(names, e.Name)
	}
	for name, inum := range want.entries {
		if !slices.Contains(names, name) {
			return fmt.Errorf("%s: %q is not there", path, name)
		}
		child := bcachefs.InodeID{Subvol: id.Subvol, Snapshot: id.Snapshot, Inum: inum}
		if c.s.inodes[inum].isDir {
			err = c.directory(path+"/"+name, child)
		} else {
			err = c.file(path+"/"+name, child)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inode compares what files and directories have in common. It returns nil if that was done before.
func (c *checker) inode(path string, id bcachefs.InodeID) (*inode, error) {
	if c.seen[id.Inum] {
		return nil, nil
	}
	c.seen[id.Inum] = true
	st, err := c.fs.Stat(c.ctx, id)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	want := c.s.inodes[id.Inum]
	links := want.links
	if want.isDir {
		links = 2
		for _, inum := range want.entries {
			if c.s.inodes[inum].isDir {
				links++
			}
		}
	}
	if path == "" {
		links += len(c.foreign)
	}
	switch {
	case st.Mode.IsDir() != want.isDir:
		return nil, fmt.Errorf("%s: inode %d: mode %v", path, id.Inum, st.Mode)
	case int(st.Nlink) != links:
		return nil, fmt.Errorf("%s: inode %d: %d links, the model has %d", path, id.Inum, st.Nlink, links)
	case st.Size != int64(want.size):
		return nil, fmt.Errorf("%s: inode %d: %d bytes, the model has %d", path, id.Inum, st.Size, want.size)
	case int64(st.Sectors) != int64(len(want.blocks))*c.block/ondisk.SectorSize:
		return nil, fmt.Errorf("%s: inode %d: %d sectors, the model has %d blocks", path, id.Inum, st.Sectors, len(want.blocks))
	}
	return want, c.xattrs(path, id, want)
}

func (c *checker) xattrs(path string, id bcachefs.InodeID, want *inode) error {
	names, err := c.fs.ListXattr(c.ctx, id)
	if err != nil {
		return fmt.Errorf("%s: inode %d: %w", path, id.Inum, err)
	}
	if all := slices.Sorted(maps.Keys(want.xattrs)); !slices.Equal(names, all) {
		return fmt.Errorf("%s: inode %d: attributes %q, the model has %q", path, id.Inum, names, all)
	}
	for _, name := range names {
		val, err := c.fs.GetXattr(c.ctx, id, name)
		if err != nil || string(val) != want.xattrs[name] {
			return fmt.Errorf("%s: inode %d: attribute %s is %q (error %v), the model has %q", path, id.Inum, name, val, err, want.xattrs[name])
		}
	}
	return nil
}

func (c *checker) file(path string, id bcachefs.InodeID) error {
	want, err := c.inode(path, id)
	if err != nil || want == nil {
		return err
	}
	f, err := c.fs.OpenInode(c.ctx, id)
	if err != nil {
		return fmt.Errorf("%s: inode %d: %w", path, id.Inum, err)
	}
	defer f.Close()
	c.buf = slices.Grow(c.buf[:0], int(want.size+uint64(c.block)))[:want.size]
	if _, err := f.ReadAtContext(c.ctx, c.buf, 0); err != nil {
		return fmt.Errorf("%s: inode %d: %w", path, id.Inum, err)
	}
	block := make([]byte, c.block)
	for off := int64(0); off < int64(want.size); off += c.block {
		clear(block)
		if content, ok := want.blocks[uint64(off/c.block)]; ok {
			fill(block, content)
		}
		n := min(c.block, int64(want.size)-off)
		if !bytes.Equal(c.buf[off:off+n], block[:n]) {
			return fmt.Errorf("%s: inode %d: block %d is not what was written last", path, id.Inum, off/c.block)
		}
	}
	return nil
}
