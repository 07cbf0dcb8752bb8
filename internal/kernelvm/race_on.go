//go:build race

package kernelvm

const race = true
