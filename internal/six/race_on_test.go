//go:build race

package six

const race = true // the race detector allocates
