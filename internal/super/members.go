package super

import (
	"errors"
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// ErrNotMember means that a device belongs to another filesystem than the others given.
var ErrNotMember = errors.New("not a member of the same filesystem")

// versionMemberSeq is the first version whose superblocks record for each member when it was last written.
const versionMemberSeq = 1<<10 | 4

// Candidate is a device that may be a member of a filesystem.
type Candidate struct {
	Name string
	SB   *ondisk.Superblock
}

// Newer reports whether c was written after o.
func (c Candidate) Newer(o Candidate) bool {
	return c.SB.Seq > o.SB.Seq || c.SB.Seq == o.SB.Seq && c.SB.WriteTime > o.SB.WriteTime
}

// Judge decides whether c is a member of the filesystem of best, the newest of all candidates, whose members are table. It
// returns a reason not to use the device, or an error if it must not even have been given.
func (c Candidate) Judge(best Candidate, table []ondisk.Member, noSplitBrainCheck bool) (reason string, err error) {
	slot := int(c.SB.DevIdx)
	switch {
	case c.SB == best.SB:
		return "", nil
	case c.SB.UUID != best.SB.UUID:
		return "", fmt.Errorf("%s: %w: it has uuid %v, %s has %v", c.Name, ErrNotMember, c.SB.UserUUID, best.Name, best.SB.UserUUID)
	case slot >= len(table) || !table[slot].Alive():
		return "it was removed from the filesystem", nil
	case c.SB.BlockSize != best.SB.BlockSize:
		return "", fmt.Errorf("%s: block size of %d sectors, %s has %d", c.Name, c.SB.BlockSize, best.Name, best.SB.BlockSize)
	case c.SB.Version < versionMemberSeq || best.SB.Version < versionMemberSeq || noSplitBrainCheck:
		return "", nil
	case c.SB.Seq == best.SB.Seq && c.SB.WriteTime != best.SB.WriteTime:
		return fmt.Sprintf("split brain: it and %s were both written as number %d, at different times", best.Name, c.SB.Seq), nil
	case table[slot].Seq != 0 && table[slot].Seq < c.SB.Seq:
		return fmt.Sprintf("split brain: it was written as number %d, %s knows of it up to %d", c.SB.Seq, best.Name,
			table[slot].Seq), nil
	}
	return "", nil
}

// clone copies a superblock with all its sections.
func clone(sb *ondisk.Superblock) *ondisk.Superblock {
	c := *sb
	c.Sections = slices.Clone(sb.Sections)
	for i := range c.Sections {
		c.Sections[i].Data = slices.Clone(c.Sections[i].Data)
	}
	return &c
}
