// Package bcachefs reads and writes bcachefs filesystems in user space: no kernel module, no cgo.
//
// [Open] takes the devices of one filesystem. What is in it can then be reached on two levels:
//
//   - A [View] is one subvolume or snapshot as an io/fs.FS: fs.WalkDir, fs.ReadFile, http.FS and the like work on it. Its methods that
//     change something are those of package os: OpenFile, Mkdir, Rename, Remove, Symlink, Chtimes; and Snapshot.
//   - Methods of [FS] that take an [InodeID] are what front ends such as FUSE need: Lookup, Stat, ReadDir, Readlink, OpenInode,
//     extended attributes; MakeInode, RemoveName, WriteInode. An InodeID names an inode of any subvolume, and lookups cross into subvolumes.
//
// Tools look below both with [FS.Keys].
//
// # Reading only
//
// Without [OpenOptions].Write devices are opened for reading only and nothing is written to them. A filesystem that was not unmounted cleanly is
// shown as the driver would recover it: its journal is replayed in memory.
//
// # Writing
//
// With [OpenOptions].Write the devices belong to this program alone until [FS.Close], which must be called. Changes are seen at once, and durable after
// [File.Sync], [FS.SyncInode] or [FS.Sync], in the order in which they were made: a crash loses the last ones at most, and whoever opens the filesystem next
// recovers it. When nothing can be written any more reading goes on, and [FS.Writable] says why.
//
// # Damage
//
// Bytes whose checksum fails are never returned. A read that no replica and no stripe can serve fails with a [*ReadError] that
// names device, sector, inode and offset; what else the file or directory holds stays readable. [ErrnoOf] maps any error of this
// package to the number that the Linux driver would return.
//
// # Concurrency
//
// An FS, its Views and its Files may be used by many goroutines at once, except that the position of one [File] (Read, Seek,
// ReadDir) is guarded by a lock and so is shared among them. Close an FS only when nothing uses it any more.
package bcachefs
