package fsck

import "github.com/go-bcachefs/bcachefs/internal/ondisk"

// targetGroups is the first code of a target that is a disk group; from 1 on they are devices.
const targetGroups = 257

// targets tells which devices belong to a target.
type targets struct {
	groups map[int][4]uint64 // by index: the devices in it and in the groups below
	rw     [4]uint64         // devices that take file data
}

func newTargets(sb *ondisk.Superblock, devices []Device) targets {
	t := targets{groups: map[int][4]uint64{}}
	groups, err := sb.DiskGroups()
	if err != nil {
		groups = nil
	}
	for i := range devices {
		d := &devices[i]
		if d.State() == ondisk.MemberRW && d.DataAllowed()>>ondisk.DataUser&1 != 0 {
			t.rw[d.Index/64] |= 1 << (d.Index % 64)
		}
		g, ok := d.Group()
		for n := 0; ok && g >= 0 && g < len(groups) && n <= len(groups); n++ {
			set := t.groups[g]
			set[d.Index/64] |= 1 << (d.Index % 64)
			t.groups[g] = set
			g = groups[g].Parent
		}
	}
	return t
}

// has reports whether a device belongs to a target.
func (t *targets) has(target uint16, dev uint8) bool {
	if target < targetGroups {
		return uint16(dev) == target-1
	}
	set := t.groups[int(target)-targetGroups]
	return set[dev/64]>>(dev%64)&1 != 0
}

// acceptsData reports whether some device of the target takes file data.
func (t *targets) acceptsData(target uint16) bool {
	for dev := range 256 {
		if t.rw[dev/64]>>(dev%64)&1 != 0 && t.has(target, uint8(dev)) {
			return true
		}
	}
	return false
}
