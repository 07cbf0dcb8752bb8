package blockdev

import "golang.org/x/sys/unix"

func (d *File) blockSizes() (physical, usual int64) {
	control(d.f, func(fd int) error {
		if d.block {
			n, err := unix.IoctlGetInt(fd, unix.BLKPBSZGET)
			if err == nil {
				physical, usual = int64(n), int64(n)
			}
			return err
		}
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		if err == nil {
			usual = int64(st.Blksize)
		}
		return err
	})
	return physical, usual
}
