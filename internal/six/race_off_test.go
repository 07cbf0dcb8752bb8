//go:build !race

package six

const race = false
