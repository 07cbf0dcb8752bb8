package namei

import "github.com/go-bcachefs/bcachefs/internal/ondisk"

// SetWidth changes how many bits numbers of new inodes have, so that they come to an end soon.
func (w *Writer) SetWidth(bits int) { w.inums.width = bits }

// InumBounds returns the first and the last inode number of a shard.
func InumBounds(only32bit bool, shards, shard int) (first, last uint64) {
	return newInumRange(only32bit, shards).bounds(shard)
}

// DirentHash is where a name belongs in a directory.
func DirentHash(dir *ondisk.Inode, name string) uint64 { return direntHash(dir, []byte(name)) }
