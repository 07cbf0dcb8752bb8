package main

import (
	"fmt"
	"strconv"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

const sizeUnits = "KMGTPE"

// humanSize prints a size in bytes with up to three digits and the letter of a binary unit, as ls and du do: 512, 4.00K.
func humanSize(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10)
	}
	v := float64(n)
	unit := -1
	for v >= 1023.5 && unit < len(sizeUnits)-1 {
		v /= 1024
		unit++
	}
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f%c", v, sizeUnits[unit])
	case v < 99.95:
		return fmt.Sprintf("%.1f%c", v, sizeUnits[unit])
	}
	return fmt.Sprintf("%.0f%c", v, sizeUnits[unit])
}

// unitSize prints a size in bytes with up to three digits and a binary unit, as the reference tools do: 512 B, 4.00 KiB.
func unitSize(n uint64) string {
	s := humanSize(n)
	if n < 1024 {
		return s + " B"
	}
	return s[:len(s)-1] + " " + s[len(s)-1:] + "iB"
}

// shortSize is humanSize with a B behind bytes, as the reference prints the sizes of subvolumes.
func shortSize(n uint64) string {
	if n < 1024 {
		return humanSize(n) + "B"
	}
	return humanSize(n)
}

// size prints n bytes exactly or in human form.
func size(n uint64, human bool) string {
	if human {
		return humanSize(n)
	}
	return strconv.FormatUint(n, 10)
}

// parseSize reads a size in bytes: 4096, 4k, 512M, 1.5T, with or without a following iB or B; units are binary.
func parseSize(s string) (int64, error) { return ondisk.ParseSize(s) }
