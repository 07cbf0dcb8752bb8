package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// without returns all but some of the paths.
func without(paths []string, gone ...int) (left []string) {
next:
	for i, p := range paths {
		for _, g := range gone {
			if i == g {
				continue next
			}
		}
		left = append(left, p)
	}
	return left
}

// Whatever members are missing: either everything can be read, and a message says who is missing; or opening is refused with one
// line that says who is missing and what that costs, and goes on if asked.
func TestMissingMembers(t *testing.T) {
	for _, tt := range []struct {
		image string
		spare int // how many may be missing, whichever
		cost  func(gone []int) []string
	}{
		{"multi-replicas", 1, nil},
		{"newer/v1.4-multi-replicas", 1, nil},
		{"newer/v1.39-multi-replicas", 1, nil},
		{"dirty-multi", 1, nil},
		{"newer/v1.39-multi-dirty", 1, func([]int) []string { return []string{"btree on devices "} }},
		{"multi-targets", 0, func(gone []int) []string { return []string{fmt.Sprint("user on device ", gone[0])} }},
		{"multi-mixed-compress", 0, func(gone []int) []string { return []string{fmt.Sprint("user on device ", gone[0])} }},
		{"newer/v1.39-multi-targets", 0, func([]int) []string { return []string{" on device"} }},
		{"newer/v1.31-ec", 1, func([]int) []string { return []string{"user on devices 0, 1, 2, 3, 4"} }},
		{"newer/v1.39-ec", 1, func([]int) []string { return []string{" on devices "} }},
		{"newer/v1.39-ec-raid6", 2, func([]int) []string { return []string{" on devices "} }},
	} {
		t.Run(tt.image, func(t *testing.T) {
			paths := find(t, tt.image).Unpack(t)
			for _, gone := range subsets(len(paths), 3) {
				left := without(paths, gone...)
				if len(left) == 0 {
					continue
				}
				fs, err := Open(t.Context(), left, Options{OpenDevice: openUnwritable})
				if err == nil {
					checkMissing(t, fs, gone, "everything can be read")
				}
				if len(gone) <= tt.spare {
					if err != nil {
						t.Errorf("without %v: %v", gone, err)
					}
					continue
				}
				if err == nil {
					t.Errorf("opens without %v: %q", gone, fs.Messages())
					continue
				}
				checkRefusal(t, err, paths, gone, tt.cost(gone))
				fs = mustOpen(t, left, Options{VeryDegraded: true})
				checkMissing(t, fs, gone, "cannot be read")
			}
		})
	}
}

// subsets returns the sets of 1 … most of n things.
func subsets(n, most int) (all [][]int) {
	for mask := 1; mask < 1<<n; mask++ {
		var s []int
		for i := range n {
			if mask>>i&1 != 0 {
				s = append(s, i)
			}
		}
		if len(s) <= most {
			all = append(all, s)
		}
	}
	return all
}

func checkMissing(t *testing.T, fs *FS, gone []int, what string) {
	t.Helper()
	missing := fs.Missing()
	if len(missing) != len(gone) {
		t.Fatalf("without %v: missing %v", gone, missing)
	}
	for i, m := range missing {
		if int(m.Index) != gone[i] || !hasMessage(fs, "missing", fmt.Sprintf("device %d (uuid %v", gone[i], m.UUID), what) {
			t.Errorf("without %v: no message that device %d is missing and %q: %q", gone, m.Index, what, fs.Messages())
		}
	}
	fs.Close()
}

func checkRefusal(t *testing.T, err error, paths []string, gone []int, cost []string) {
	t.Helper()
	if !errors.Is(err, ErrDegraded) || strings.Contains(err.Error(), "\n") {
		t.Errorf("without %v: not refused in one line: %v", gone, err)
	}
	for _, i := range gone {
		sb, _, err2 := ReadSuperblock(context.Background(), paths[i], Options{})
		if err2 != nil {
			t.Fatal(err2)
		}
		table, err2 := sb.Members()
		if err2 != nil {
			t.Fatal(err2)
		}
		cost = append(cost, fmt.Sprintf("device %d (uuid %v", i, table[i].UUID))
	}
	for _, part := range cost {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("without %v: %q does not say %q", gone, err, part)
		}
	}
}

// If the table of where data is cannot be read, it is not known whether a missing device matters.
func TestMissingMemberUnknownCost(t *testing.T) {
	paths := find(t, "newer/v1.39-multi-replicas").Unpack(t)
	fs := mustOpen(t, paths[:1], Options{})
	root, ok := fs.Reader.Root(ondisk.BtreeAccounting)
	if !ok {
		t.Fatal("no accounting btree")
	}
	ptr, err := ondisk.DecodeBtreePtr(root.Key)
	if err != nil {
		t.Fatal(err)
	}
	var rules []blockdev.Rule
	for a := range ptr.Addrs() {
		if a.Dev == 0 {
			rules = append(rules, blockdev.Rule{Ops: blockdev.OpRead, Off: int64(a.Sector) * ondisk.SectorSize, Len: ondisk.SectorSize})
		}
	}
	open := func(path string) (blockdev.Device, error) {
		d, err := openUnwritable(path)
		if err != nil {
			return nil, err
		}
		return blockdev.NewFaulter(d, rules...), nil
	}
	_, err = Open(t.Context(), paths[:1], Options{OpenDevice: open})
	if !errors.Is(err, ErrDegraded) || !strings.Contains(err.Error(), "not known") {
		t.Errorf("error %v, want %v as it is not known", err, ErrDegraded)
	}
	fs = mustOpen(t, paths[:1], Options{OpenDevice: open, VeryDegraded: true})
	if hasMessage(fs, "everything can be read") || hasMessage(fs, "nothing is on it") || !hasMessage(fs, "missing", "not known") {
		t.Errorf("messages %q", fs.Messages())
	}
	// It is nothing to do with the accounting if all members are there.
	if _, err := Open(t.Context(), paths, Options{OpenDevice: open}); err != nil {
		t.Errorf("with all members: %v", err)
	}
}

// What a missing device held fails to be read, and says which device that is.
func TestAbsentMetadata(t *testing.T) {
	paths := find(t, "newer/v1.39-multi-targets").Unpack(t)
	fs := mustOpen(t, paths[1:], Options{VeryDegraded: true})
	failed := 0
	for _, id := range fs.Reader.Btrees() {
		for _, err := range fs.Reader.Keys(t.Context(), id, ondisk.PosMin, ondisk.SPosMax) {
			if err == nil {
				continue
			}
			failed++
			scanned := hasMessage(fs, fmt.Sprintf("btree %v: ", id), "scanning") && errors.Is(err, btree.ErrGap)
			if !scanned && (!errors.Is(err, btree.ErrNoDevice) || !strings.Contains(err.Error(), "device 0")) {
				t.Errorf("%v, want %v of device 0", err, btree.ErrNoDevice)
			}
		}
	}
	if failed == 0 {
		t.Error("all metadata can be read")
	}
}
