package blockdev

import "math/rand/v2"

// Keep chooses which sectors of an operation survive a power cut. It sets
// those that do; at first none is set.
type Keep func(r *Record, sectors []bool)

// KeepAll keeps everything: the disk had written all that it was given.
func KeepAll(_ *Record, sectors []bool) {
	for i := range sectors {
		sectors[i] = true
	}
}

// KeepNone keeps nothing that was not flushed.
func KeepNone(*Record, []bool) {}

// KeepSubset keeps the operations of which pick says so, each as a whole.
func KeepSubset(pick func(r *Record) bool) Keep {
	return func(r *Record, sectors []bool) {
		if pick(r) {
			KeepAll(r, sectors)
		}
	}
}

// KeepRandom keeps whole operations, none or parts of them, as the generator has
// it. It is for one goroutine, as rng is.
func KeepRandom(rng *rand.Rand) Keep {
	return func(r *Record, sectors []bool) {
		switch rng.IntN(4) {
		case 0:
			KeepAll(r, sectors)
		case 1:
		case 2: // the head was written
			KeepAll(r, sectors[:rng.IntN(len(sectors)+1)])
		case 3: // any were
			for i := range sectors {
				sectors[i] = rng.IntN(2) == 0
			}
		}
	}
}
