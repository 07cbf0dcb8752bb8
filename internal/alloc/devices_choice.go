package alloc

import "math/bits"

// choiceClock spreads what a write point writes over devices in proportion to the space that they have: each allocation moves the clock
// of its device on, by more the fuller it is, and the device whose clock is behind is next (spec/04 §10.7).
type choiceClock struct{ next []uint64 }

// order appends the devices of the set to buf in the order in which they are to be tried.
func (c *choiceClock) order(buf []uint8, set DevSet) []uint8 {
	n := len(buf)
	for i, w := range set {
		for ; w != 0; w &= w - 1 {
			dev := uint8(i*64 + bits.TrailingZeros64(w))
			buf = append(buf, dev)
			for j := len(buf) - 1; j > n && c.at(dev) < c.at(buf[j-1]); j-- {
				buf[j], buf[j-1] = buf[j-1], buf[j]
			}
		}
	}
	return buf
}

func (c *choiceClock) at(dev uint8) uint64 {
	if int(dev) >= len(c.next) {
		return 0
	}
	return c.next[dev]
}

// took moves the clock of a device on that has available buckets left, and all clocks back so that they stay small.
func (c *choiceClock) took(dev uint8, available int64) {
	for int(dev) >= len(c.next) {
		c.next = append(c.next, 0)
	}
	step := uint64(1) << 48
	if available > 0 {
		step /= uint64(available)
	}
	scale := c.next[dev] / 4
	if sum := c.next[dev] + step; sum >= step {
		c.next[dev] = sum
	} else {
		c.next[dev] = ^uint64(0)
	}
	for i := range c.next {
		c.next[i] -= min(c.next[i], scale)
	}
}
