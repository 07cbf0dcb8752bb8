package blockdev

// BlockSizes returns the unit that a device writes as one, below which a filesystem's blocks should not be, and the unit that
// suits it by default, both in bytes. Those of files are 512 and what the filesystem they are in prefers.
func BlockSizes(d Device) (physical, usual int64) {
	const page = 4096
	if f, ok := d.(*File); ok {
		physical, usual = f.blockSizes()
	}
	physical = max(physical, SectorSize)
	if usual < physical {
		usual = max(physical, page)
	}
	return physical, usual
}
