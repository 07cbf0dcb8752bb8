package fstest

import (
	"testing"
)

func TestRandom(t *testing.T) {
	for name, fs := range dirs(t) {
		t.Run(name, func(t *testing.T) {
			for i := range uint64(*seeds) {
				x := Random{FS: fs, Seed: *seed + i, Ops: 1500, Logf: t.Logf, Remount: func() (FS, error) { return fs, nil },
					Without: []OpKind{OpClone, OpCopy}}
				if name == "memory" { // which says nothing of how long its directories' times are
					x.Compare.NoTimes = false
				}
				if err := x.Run(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
