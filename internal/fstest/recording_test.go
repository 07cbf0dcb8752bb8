package fstest

import (
	"strings"
	"testing"
)

// record does operations on a model alone and returns what there was after each.
func record(t *testing.T, c Compare, ops []Op) (*Recording, []Tree) {
	t.Helper()
	m := NewModel(0o755, 0, 0)
	tick := 0
	rec := NewRecording(m, c, func() int { return tick })
	trees := []Tree{m.Tree()}
	for i := range ops {
		tick += 10
		began := rec.Began()
		if out := m.Do(&ops[i]); out.Errno != 0 {
			t.Fatalf("%v: %v", ops[i], out.Errno)
		}
		tick++
		m.clean(&ops[i])
		rec.Done(&ops[i], began, m, true)
		trees = append(trees, m.Clone().Tree())
	}
	return rec, trees
}

// What may be found after a crash, and what may not.
func TestRecording(t *testing.T) {
	rec, trees := record(t, Compare{NoTimes: true}, []Op{
		{Kind: OpCreate, Path: "a", Mode: 0o600},            // 1, begins at 10
		{Kind: OpWrite, Path: "a", N: 5000, Tag: 1},         // 2, at 21
		{Kind: OpCreate, Path: "b", Mode: 0o600},            // 3, at 32
		{Kind: OpFsync, Path: "a"},                          // 4, at 43, promises 2 from 44 on
		{Kind: OpRename, Path: "a", Path2: "c"},             // 5, at 54
		{Kind: OpWrite, Path: "b", N: 3000, Tag: 2},         // 6, at 65
		{Kind: OpFsync, Path: "b"},                          // 7, at 76, promises 6 from 77 on
		{Kind: OpWrite, Path: "b", Off: 1000, N: 9, Tag: 3}, // 8, at 87
	})
	partly := *trees[6]["b"]
	partly.Data, partly.Size = partly.Data[:1234], 1234
	torn := Tree{".": trees[6]["."], "c": trees[6]["c"], "b": &partly}
	for _, c := range []struct {
		name string
		tick int
		got  Tree
		ok   bool
	}{
		{"nothing was done", 5, trees[0], true},
		{"nothing is promised yet", 43, trees[0], true},
		{"what was to come", 31, trees[3], false},
		{"promised", 44, trees[2], true},
		{"what was promised is lost", 44, trees[1], false},
		{"what followed in memory only", 44, trees[3], true},
		{"old name", 60, trees[4], true},
		{"new name", 60, trees[5], true},
		{"neither name", 60, Tree{".": trees[5]["."], "b": trees[5]["b"]}, false},
		{"both names", 60, Tree{".": trees[5]["."], "a": trees[4]["a"], "c": trees[5]["c"], "b": trees[5]["b"]}, false},
		{"a write in part", 70, torn, true},
		{"a write in part that was promised", 77, torn, false},
		{"the promise of one file is that of all before", 77, trees[4], false},
		{"the end", 100, trees[8], true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := rec.Check(c.tick, c.got)
			if (err == nil) != c.ok {
				t.Fatalf("error %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), "none of the states") {
				t.Errorf("error %v", err)
			}
			if err == nil && len((Compare{NoTimes: true}).Diff(m.Tree(), c.got)) > 0 {
				t.Error("the model is not as what was found")
			}
		})
	}
}

// Data that only the page cache had may be lost, but not what was made durable.
func TestRecordingCached(t *testing.T) {
	rec, trees := record(t, Compare{NoTimes: true, Cached: true}, []Op{
		{Kind: OpCreate, Path: "a", Mode: 0o600},
		{Kind: OpWrite, Path: "a", N: 5000, Tag: 1},
		{Kind: OpFsync, Path: "a"},
		{Kind: OpCreate, Path: "b", Mode: 0o600},
		{Kind: OpWrite, Path: "b", N: 5000, Tag: 2},
		{Kind: OpSync},
		{Kind: OpWrite, Path: "a", N: 5000, Tag: 3},
	})
	empty := *trees[5]["b"]
	empty.Data, empty.Size = nil, 0
	lost := Tree{".": trees[5]["."], "a": trees[5]["a"], "b": &empty}
	if _, err := rec.Check(54, lost); err != nil {
		t.Errorf("before the sync: %v", err)
	}
	if _, err := rec.Check(80, lost); err == nil {
		t.Error("what was synced is lost, and no error")
	}
	if _, err := rec.Check(80, trees[6]); err != nil {
		t.Errorf("what was not synced is lost: %v", err)
	}
}

// A synchronous write makes durable what it writes, and not what others have written to the file before.
func TestRecordingSynchronous(t *testing.T) {
	ops := []Op{
		{Kind: OpCreate, Path: "a", Mode: 0o600},
		{Kind: OpOpen, Path: "a", Slot: 1, Flags: uint32(OpenSync)},
		{Kind: OpWrite, Path: "a", N: 5000, Tag: 1},
		{Kind: OpWrite, Slot: 1, Off: 5000, N: 100, Tag: 2},
	}
	rec, trees := record(t, Compare{NoTimes: true, Cached: true}, ops)
	lost := *trees[4]["a"]
	lost.Data = append(make([]byte, 5000), lost.Data[5000:]...)
	if _, err := rec.Check(80, Tree{".": trees[4]["."], "a": &lost}); err != nil {
		t.Errorf("a write to the cache is lost: %v", err)
	}
	rec, trees = record(t, Compare{NoTimes: true, Cached: true}, append(ops[:2:2], ops[3]))
	lost = *trees[3]["a"]
	lost.Data = make([]byte, len(lost.Data))
	if _, err := rec.Check(80, Tree{".": trees[3]["."], "a": &lost}); err == nil {
		t.Error("a synchronous write is lost, and no error")
	}
}
