package fsck

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// compareFindings orders the findings of one pass: goroutines share walks, reports are the same each time.
func compareFindings(a, b Finding) int {
	if a.Place != b.Place {
		return map[bool]int{true: 1, false: -1}[a.Place]
	}
	return cmp.Or(cmp.Compare(a.Btree, b.Btree), -cmp.Compare(a.Level, b.Level), a.Pos.Compare(b.Pos), cmp.Compare(a.ID, b.ID),
		strings.Compare(a.Text, b.Text))
}

// found takes in a finding, unless the superblock says to expect it.
func (c *checker) found(f Finding) {
	f.Pass = c.pass
	f.Text = strings.TrimSuffix(f.Text, " ("+f.Name()+")")
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.ID != NoID && c.silent(f.ID) {
		c.report.Silenced++
		return
	}
	c.report.Total++
	c.report.ByID[f.ID]++
	if c.kept < c.opts.MaxFindings {
		c.kept++
		c.current = append(c.current, f)
	}
}

// at is a finding at a key's place.
func (c *checker) at(id ondisk.ErrorID, btree ondisk.BtreeID, level uint8, pos ondisk.Pos, repair, format string, args ...any) {
	c.found(Finding{ID: id, Place: true, Btree: btree, Level: level, Pos: pos, Repair: repair, Text: fmt.Sprintf(format, args...)})
}

// nowhere is a finding that has no place in a btree.
func (c *checker) nowhere(id ondisk.ErrorID, repair, format string, args ...any) {
	c.found(Finding{ID: id, Repair: repair, Text: fmt.Sprintf(format, args...)})
}

// note says something that is no error, once.
func (c *checker) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	const maxNotes = 1000
	s := c.pass + ": " + fmt.Sprintf(format, args...)
	if !c.noted[s] && len(c.report.Notes) < maxNotes {
		c.noted[s] = true
		c.report.Notes = append(c.report.Notes, s)
	}
}

// looked counts keys that were looked at and tells progress.
func (c *checker) looked(keys int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys += uint64(keys)
	if c.opts.Progress != nil {
		c.opts.Progress(c.pass, c.keys)
	}
}

// tick is how many keys are looked at between two calls of looked.
const tick = 1 << 13

var trailingName = regexp.MustCompile(`\(([a-z0-9_]+)\)$`)

// idIn is the error that a message of the layers below ends with, in brackets; NoID if there is none.
func idIn(msg string) ondisk.ErrorID {
	if m := trailingName.FindStringSubmatch(msg); m != nil {
		return idOf(m[1])
	}
	return NoID
}

// idOf finds an error by its name; NoID if there is none.
func idOf(name string) ondisk.ErrorID {
	if id, err := ondisk.ParseErrorID(name); err == nil {
		return id
	}
	return NoID
}
