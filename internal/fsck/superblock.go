package fsck

import (
	"context"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkSuperblock looks at what opening found of the superblocks, and at what they say of earlier troubles.
//
// A copy that cannot be used is an error only on a filesystem that was shut down properly: power may fail while copies are written, and
// the other copies are there for that. Upstream has no numbers for these.
func (c *checker) checkSuperblock(_ context.Context) error {
	for i := range c.devices {
		d := &c.devices[i]
		for _, p := range d.Problems {
			if c.sb.IsClean() {
				c.nowhere(NoID, "write the superblock anew", "%s: %s", d.Name, p)
			} else {
				c.note("%s: %s", d.Name, p)
			}
		}
		switch {
		case d.SB == nil:
			c.note("%s is missing: its superblock and journal were not checked", d.Name)
		case c.sb.IsClean() && d.SB.Seq != c.sb.Seq:
			c.note("%s: its superblock was written as number %d, the newest as %d", d.Name, d.SB.Seq, c.sb.Seq)
		}
	}
	c.checkExt()
	for _, e := range c.sb.Errors() {
		c.note("the superblock counts %v %d times", ondisk.ErrorID(e.ID), e.Count)
	}
	return nil
}

// checkExt tells what the superblock asks for at the next mount.
func (c *checker) checkExt() {
	ext, err := c.sb.Ext()
	if err != nil {
		c.nowhere(NoID, "write the superblock anew", "superblock: %v", err)
		return
	}
	if ext == nil {
		return
	}
	if set := ondisk.PassSet(ext.PassesRequired); set != (ondisk.PassSet{}) {
		c.note("the superblock asks for these passes: %s", set.Text(c.version))
	}
	var lost []string
	for id := range ondisk.NumBtrees {
		if ext.BtreesLostData>>id&1 != 0 {
			lost = append(lost, id.String())
		}
	}
	if len(lost) > 0 {
		c.note("the superblock says that these btrees lost data: %s", strings.Join(lost, ", "))
	}
}
