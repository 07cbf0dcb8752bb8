package blockdev

import (
	"context"
	"testing"
)

func TestFlushTracker(t *testing.T) {
	ctx := context.Background()
	f := NewFaulter(NewMemory(1 << 20))
	d := NewFlushTracker(f)
	p := make([]byte, 512)
	step := func(what string, err error, wantErr, want bool) {
		t.Helper()
		if (err != nil) != wantErr || d.Unflushed() != want {
			t.Errorf("%s: error %v, unflushed %v", what, err, d.Unflushed())
		}
	}
	step("new", nil, false, false)
	step("read", d.ReadAt(ctx, p, 0), false, false)
	step("write", d.WriteAt(ctx, p, 0), false, true)
	f.SetRules(Rule{Ops: OpFlush})
	step("failed flush", d.Flush(ctx), true, true)
	f.SetRules()
	step("flush", d.Flush(ctx), false, false)
	step("flush again", d.Flush(ctx), false, false)
	step("discard", d.Discard(ctx, 0, 512), false, true)
	step("flush after discard", d.Flush(ctx), false, false)
	f.SetRules(Rule{Ops: OpWrite})
	step("failed write", d.WriteAt(ctx, p, 0), true, true) // any part of it may have been written
}

// A write that ends while a flush is running is not covered by it.
func TestFlushTrackerOverlap(t *testing.T) {
	ctx := context.Background()
	var d *FlushTracker
	d = NewFlushTracker(NewDelayer(NewMemory(1<<20), func(ctx context.Context, op Op, _, _ int64) error {
		if op == OpFlush {
			return d.WriteAt(ctx, make([]byte, 512), 0)
		}
		return nil
	}))
	if err := d.WriteAt(ctx, make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	if err := d.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if !d.Unflushed() {
		t.Error("a write during the flush counts as flushed")
	}
}
