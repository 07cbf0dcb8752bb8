//go:build !linux

package blockdev

func (d *File) blockSizes() (physical, usual int64) { return d.align, 0 }
