// Package super finds, makes, changes and writes the superblocks of a filesystem.
//
// Each device has several copies of its superblock, at places that its layout names. [Read] chooses among them. [Build] makes
// those of a new filesystem. A [Set] is the superblocks of all devices of a filesystem that is to be changed: it applies a
// change to what they have in common and writes it to every copy on every device.
//
// # The order of writes
//
// All superblocks of a filesystem carry the same sequence number, which each write increments. The first copies of all devices
// are written and flushed, then the second ones, and so on: whenever the power goes, at most one copy of each device is torn,
// and of the others each is a whole superblock, old or new. A device that was not reached has a lower number than the others
// record for it, which counts as stale, never as a split brain.
//
// # Concurrency
//
// A Set has a lock of its own and may be used by several goroutines; all else is functions of their arguments.
package super
