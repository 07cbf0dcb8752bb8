package alloc

import (
	"iter"
	"math/bits"
)

// MaxDevices bounds the indexes of devices: 255 in a pointer means that its device is gone.
const MaxDevices = 255

// DevSet is a set of device indexes.
type DevSet [4]uint64

// Devs returns the set of some devices.
func Devs(devs ...uint8) (s DevSet) {
	for _, d := range devs {
		s.Add(d)
	}
	return s
}

// Add puts a device in.
func (s *DevSet) Add(d uint8) { s[d/64] |= 1 << (d % 64) }

// Remove takes a device out.
func (s *DevSet) Remove(d uint8) { s[d/64] &^= 1 << (d % 64) }

// Has tells whether the device is in the set.
func (s *DevSet) Has(d uint8) bool { return s[d/64]>>(d%64)&1 != 0 }

// And returns what is in both sets.
func (s DevSet) And(t DevSet) DevSet {
	for i := range s {
		s[i] &= t[i]
	}
	return s
}

// Without returns what is in s and not in t.
func (s DevSet) Without(t DevSet) DevSet {
	for i := range s {
		s[i] &^= t[i]
	}
	return s
}

// Len returns the number of devices.
func (s DevSet) Len() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// All iterates over the devices in ascending order.
func (s DevSet) All() iter.Seq[uint8] {
	return func(yield func(uint8) bool) {
		for i, w := range s {
			for ; w != 0; w &= w - 1 {
				if !yield(uint8(i*64 + bits.TrailingZeros64(w))) {
					return
				}
			}
		}
	}
}
