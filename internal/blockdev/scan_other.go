//go:build !linux && !darwin

package blockdev

func scanSystem() ([]Candidate, error) { return nil, nil }

func describeDevice(path string) Candidate { return Candidate{Path: path, Block: true} }
