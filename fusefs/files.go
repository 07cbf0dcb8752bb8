//go:build linux

package fusefs

import (
	"container/list"
	"context"
	"sync"

	"github.com/go-bcachefs/bcachefs"
)

// maxCachedFiles bounds the open files that are kept for coming reads.
const maxCachedFiles = 256

// fileCache keeps the files read last open: since the kernel does not tell of open and release, a read comes with nothing but
// the inode. A file pushed out while a read is using it stays good until the read is through. Safe for concurrent use.
type fileCache struct {
	fsys *bcachefs.FS
	max  int

	mu   sync.Mutex
	byID map[bcachefs.InodeID]*list.Element // of *cachedFile
	lru  list.List                          // most recent first
}

type cachedFile struct {
	id bcachefs.InodeID
	f  *bcachefs.File
}

func newFileCache(fsys *bcachefs.FS, limit int) *fileCache {
	return &fileCache{fsys: fsys, max: limit, byID: map[bcachefs.InodeID]*list.Element{}}
}

// get returns the open file of an inode. It must not be closed by the caller.
func (c *fileCache) get(ctx context.Context, id bcachefs.InodeID) (*bcachefs.File, error) {
	c.mu.Lock()
	if e := c.byID[id]; e != nil {
		c.lru.MoveToFront(e)
		c.mu.Unlock()
		return e.Value.(*cachedFile).f, nil
	}
	c.mu.Unlock()
	f, err := c.fsys.OpenInode(ctx, id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byID[id]; e != nil { // somebody else was quicker
		return e.Value.(*cachedFile).f, nil
	}
	c.byID[id] = c.lru.PushFront(&cachedFile{id, f})
	for c.lru.Len() > c.max {
		old := c.lru.Remove(c.lru.Back()).(*cachedFile)
		delete(c.byID, old.id)
	}
	return f, nil
}

// close lets go of all files.
func (c *fileCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.byID)
	c.lru.Init()
}
