// Package blockdev is the only way from this project to a disk.
//
// A [Device] is a flat array of bytes of a fixed size. [OpenFile] opens image
// files and block devices, [NewMemory] makes a sparse one in memory. Wrappers
// stand in for the disk in tests: [Log] records what was written so that any
// state a power cut may leave can be rebuilt, [Delayer] is slow, [Faulter]
// fails, [Tearer] loses power in the middle of a write.
//
// All devices and wrappers are safe for concurrent use. Reads and writes that
// overlap in time and place may see each other in part, as on a real disk.
//
// A write is durable once a [Device.Flush] returns that began after the write
// had returned. Until then any subset of its 512-byte sectors may survive a
// power cut.
package blockdev

// SectorSize is the unit in bytes in which bcachefs counts, and the largest
// unit that a disk is assumed to write atomically.
const SectorSize = 512
