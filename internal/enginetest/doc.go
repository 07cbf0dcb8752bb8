// Package enginetest puts filesystems that are open for writing to work, and knows afterwards what must be in them.
//
// # What is there
//
// [Format] makes a filesystem in memory or in files, [Disks.Open] opens it for writing. A [Volume] is a small file layer of plain
// transactions over it: directories, files, hard links, extents, extended attributes, as the real driver keeps them, so that its fsck
// finds nothing. [Volume.Run] does random things with it from several goroutines.
//
// # What must be in it
//
// A [History] is told of each transaction at the moment it commits, with its journal sequence number. As a crash loses a tail of
// the journal and nothing else, what a filesystem holds afterwards is exactly the transactions up to the entry that recovery ended with,
// which must not be before what was acknowledged as durable: [History.Check] opens a filesystem for reading, asks it for the
// one and compares every directory, file and attribute. A history goes on over reopenings and crashes ([History.Recovered]).
package enginetest
