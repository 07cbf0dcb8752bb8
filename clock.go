package bcachefs

import (
	"time"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// clock converts times as inodes have them: counts of some nanoseconds from a base that is in the superblock.
type clock struct {
	unit int64 // nanoseconds
	base int64 // units
}

func newClock(sb *ondisk.Superblock) clock {
	unit := int64(sb.TimePrecision)
	if unit <= 0 {
		unit = 1
	}
	return clock{unit: unit, base: int64(sb.TimeBase) / unit}
}

func (c clock) time(t int64) time.Time {
	perSecond := max(int64(time.Second)/c.unit, 1)
	// The sum of two counts may not fit into one; seconds always do.
	sec := t/perSecond + c.base/perSecond
	rest := t%perSecond + c.base%perSecond
	return time.Unix(sec, rest*c.unit)
}
