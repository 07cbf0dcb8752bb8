package foreign

// A signature is a magic number at one of several places.
type signature struct {
	offsets  []int64 // in bytes; from the end if negative
	magic    string
	what     string
	todo     string
	labelAt  int64
	labelLen int64 // 0: no label is looked for
}

func at(offsets ...int64) []int64 { return offsets }

const (
	unpackRaw = "make it a raw one first: qemu-img convert -O raw"
	kib       = 1 << 10
	mib       = 1 << 20
	gib       = 1 << 30
)

// signatures are looked for in this order: what leaves others' traces behind comes first.
var signatures = []signature{
	{at(0), "\x28\xb5\x2f\xfd", "a file compressed with zstd", "unpack it first: zstd -d --sparse", 0, 0},
	{at(0), "\x1f\x8b", "a file compressed with gzip", "unpack it first: gzip -d", 0, 0},
	{at(0), "\xfd7zXZ\x00", "a file compressed with xz", "unpack it first: xz -d", 0, 0},
	{at(0), "BZh", "a file compressed with bzip2", "unpack it first: bzip2 -d", 0, 0},
	{at(0), "QFI\xfb", "a qcow2 image", unpackRaw, 0, 0},
	{at(0), "KDMV", "a VMDK image", unpackRaw, 0, 0},
	{at(0), "vhdxfile", "a VHDX image", unpackRaw, 0, 0},
	{at(0), "LUKS\xba\xbe", "a LUKS container", "open it first: cryptsetup open", 0, 0},
	{at(0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000, 0x200000, 0x400000), "SKUL\xba\xbe",
		"the second header of a LUKS container", "open it first: cryptsetup open", 0, 0},
	{at(0, 512, 1024, 1536), "LABELONE", "a physical volume of LVM", "give the logical volume", 0, 0},
	{at(0), "bluestore block device", "a Ceph BlueStore device", "", 0, 0},
	{at(516, 4612), "!Stra0tis\x86\xff\x02^\x41rh", "a Stratis pool device", "", 0, 0},
	{at(0x10040, 64*mib+0x40, 256*gib+0x40), "_BHRfS_M", "a btrfs filesystem", "", 0x1012b, 256},
	{at(0), "XFSB", "an XFS filesystem", "", 108, 12},
	{at(3), "NTFS    ", "an NTFS filesystem", "", 0, 0},
	{at(3), "EXFAT   ", "an exFAT filesystem", "", 0, 0},
	{at(3), "ReFS\x00\x00\x00\x00", "a ReFS filesystem", "", 0, 0},
	{at(0x438), "\x53\xef", "an ext2, ext3 or ext4 filesystem", "", 0x478, 16},
	{at(0x400, 0x1400), "\x10\x20\xf5\xf2", "an F2FS filesystem", "", 0, 0},
	{at(0x400), "\xe2\xe1\xf5\xe0", "an EROFS filesystem", "", 0x440, 16},
	{at(0), "hsqs", "a SquashFS filesystem", "", 0, 0},
	{at(0x8001), "CD001", "an ISO 9660 filesystem", "", 0x8028, 32},
	{at(0x8801, 0x9001), "NSR0", "a UDF filesystem", "", 0, 0},
	{at(0x8000), "JFS1", "a JFS filesystem", "", 0x8098, 16},
	{at(0x10034, 0x2034), "ReIsEr", "a ReiserFS filesystem", "", 0x10064, 16},
	{at(0x10000), "\x01\x16\x19\x70", "a GFS2 filesystem", "", 0, 0},
	{at(0x400, 0x800, 0x1000, 0x2000), "OCFSV2", "an OCFS2 filesystem", "", 0, 0},
	{at(0x400), "H+\x00\x04", "an HFS+ filesystem", "", 0, 0},
	{at(0x400), "HX\x00\x05", "an HFS+ filesystem", "", 0, 0},
	{at(32), "NXSB", "an APFS container", "", 0, 0},
	{at(4*kib-10, 8*kib-10, 16*kib-10, 64*kib-10), "SWAPSPACE2", "swap space", "", 0x41c, 16},
	{at(4*kib-10, 8*kib-10, 16*kib-10, 64*kib-10), "SWAP-SPACE", "swap space", "", 0, 0},
	{at(0x36), "FAT", "a FAT filesystem", "", 0x2b, 11},
	{at(0x52), "FAT", "a FAT filesystem", "", 0x47, 11},
}
