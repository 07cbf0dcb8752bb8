//go:build !race

package golden

// Race says whether the race detector is on.
const Race = false
