//go:build linux

package fusefs_test

func serverPart() {}
