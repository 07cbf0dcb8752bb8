package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/engine"
)

// A signature tells what else a file may be than a device with bcachefs on it.
type signature struct {
	offset int64 // in bytes
	magic  string
	what   string
	todo   string
}

// signatures are looked for in this order: what leaves others' traces behind comes first.
var signatures = []signature{
	{0, "\x28\xb5\x2f\xfd", "a file compressed with zstd", "unpack it first: zstd -d --sparse"},
	{0, "\x1f\x8b", "a file compressed with gzip", "unpack it first: gzip -d"},
	{0, "\xfd7zXZ\x00", "a file compressed with xz", "unpack it first: xz -d"},
	{0, "BZh", "a file compressed with bzip2", "unpack it first: bzip2 -d"},
	{0, "QFI\xfb", "a qcow2 image", "make it a raw one first: qemu-img convert -O raw"},
	{0, "KDMV", "a VMDK image", "make it a raw one first: qemu-img convert -O raw"},
	{0, "LUKS\xba\xbe", "a LUKS container", "open it first: cryptsetup open"},
	{512, "LABELONE", "a physical volume of LVM", "give the logical volume"},
	{0x10040, "_BHRfS_M", "a btrfs filesystem", ""},
	{0, "XFSB", "an XFS filesystem", ""},
	{3, "NTFS    ", "an NTFS filesystem", ""},
	{0x438, "\x53\xef", "an ext2, ext3 or ext4 filesystem", ""},
	{4086, "SWAPSPACE2", "swap space", ""},
	{0x36, "FAT", "a FAT filesystem", ""},
	{0x52, "FAT", "a FAT filesystem", ""},
	{512, "EFI PART", "a disk with a partition table", "give the partition, as /dev/sda2; of an image: losetup -P"},
	{510, "\x55\xaa", "a disk with a partition table", "give the partition, as /dev/sda2; of an image: losetup -P"},
}

// recognize returns what a file looks like, and what to do about that; nothing if it is not known.
func recognize(path string) (what, todo string) {
	f, err := os.Open(path)
	if err != nil {
		return "", ""
	}
	defer f.Close()
	return recognizeReader(f)
}

func recognizeReader(r io.ReaderAt) (what, todo string) {
	for _, s := range signatures {
		b := make([]byte, len(s.magic))
		if _, err := r.ReadAt(b, s.offset); err == nil && bytes.Equal(b, []byte(s.magic)) {
			return s.what, s.todo
		}
	}
	return "", ""
}

// noSuperblock is the error of doing what at where, one of whose devices has no superblock.
func noSuperblock(what, where string, devices []string, err error) error {
	for _, d := range devices {
		if len(devices) > 1 && !strings.HasPrefix(err.Error(), d+": ") {
			continue
		}
		if kind, todo := recognize(d); kind != "" {
			return failedTodo(what, d, fmt.Errorf("%w: it looks like %s", engine.ErrNoSuperblock, kind), todo)
		}
		if st, serr := os.Stat(d); serr == nil && st.Mode().IsRegular() && st.Size() < minDevice {
			return failedTodo(what, d, fmt.Errorf("%w: the file has %d bytes", engine.ErrNoSuperblock, st.Size()),
				"check that it is the right file, and whole")
		}
	}
	return failedTodo(what, where, err, "check that it is the right device or image, and whole")
}

// minDevice is less than any filesystem takes, in bytes.
const minDevice = 64 << 10
