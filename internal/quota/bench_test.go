package quota_test

import (
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// takeAndGiveBack returns a transaction that asks for sectors and is given up.
func takeAndGiveBack(w *world) func() {
	for typ, id := range []uint32{1, 2, 2} {
		w.must(w.q.Set(w.Context(), ondisk.QuotaType(typ), id, ondisk.Quota{Space: ondisk.QuotaLimit{Hard: 1 << 40}}))
	}
	f := dataID(w.file("f", 1))
	in := ondisk.Inode{UID: 1, GID: 2, Project: 3}
	var at uint32
	w.must(w.rw.Store.View(w.Context(), func(tx *trans.Tx) error {
		a, err := w.names.Inode(tx, w.root, 0)
		at = a.ID.Snapshot
		return err
	}))
	hook := w.q.Data()
	fn := func(tx *trans.Tx) error { return hook.Change(tx, f, at, &in, 8) }
	return func() {
		if err := w.rw.Store.View(w.Context(), fn); err != nil {
			w.Fatal(err)
		}
	}
}

// BenchmarkChange is what it costs a transaction that its sectors count for a user, a group and a project.
func BenchmarkChange(b *testing.B) {
	run := takeAndGiveBack(newWorld(b, allTypes))
	b.ReportAllocs()
	for b.Loop() {
		run()
	}
}

// TestAllocations checks that counting takes no memory of its own.
func TestAllocations(t *testing.T) {
	if golden.Race {
		t.Skip("under the race detector pools forget things at random; the plain run counts")
	}
	run := takeAndGiveBack(newWorld(t, allTypes))
	run()
	if n := testing.AllocsPerRun(1000, run); n >= 1 {
		t.Errorf("%v allocations", n)
	}
}
