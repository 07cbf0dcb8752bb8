package fstest

import (
	"testing"
)

// What is listed can be done, and there is as much as there should be.
func TestACE(t *testing.T) {
	fs := quick{dirs(t)["disk"]}
	for _, c := range []struct{ ops, want int }{{1, 151}, {2, 64146}} {
		n := 0
		seen := map[string]bool{}
		for w := range (ACE{Ops: c.ops}).All() {
			n++
			if n%7999 == 0 || c.ops == 1 {
				runACE(t, fs, w)
			}
			if c.ops > 1 {
				continue
			}
			if s := w.String(); seen[s] {
				t.Fatalf("twice: %v", w)
			} else {
				seen[s] = true
			}
		}
		if n != c.want {
			t.Errorf("%d workloads of %d operations, want %d", n, c.ops, c.want)
		}
	}
	for w := range (ACE{Ops: 3}).Sample(*seed, 30) {
		runACE(t, fs, w)
	}
}

// quick is a filesystem that never waits for the disk.
type quick struct{ OS }

func (quick) Sync() error          { return nil }
func (quick) SyncDir(string) error { return nil }

func runACE(t *testing.T, fs FS, w Workload) {
	t.Helper()
	if err := fs.Mkdir("ace", 0o755); err != nil {
		t.Fatal(err)
	}
	defer RemoveAll(fs, "ace")
	m := NewModel(0o755, 0, 0)
	m.Block = 4096
	rec, err := w.Run(Sub{fs, "ace"}, m, Compare{}, nil)
	if err != nil {
		t.Fatalf("%v\n%v", err, w)
	}
	got, err := Observe(Sub{fs, "ace"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rec.Check(1<<60, got); err != nil {
		t.Fatalf("%v\n%v", err, w)
	}
	if diff := (Compare{}).Diff(m.Tree(), got); len(diff) > 0 {
		t.Fatalf("%v\n%v", diff, w)
	}
}
