package enginetest_test

import (
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
)

// A workload ends with what the model says, and fsck is content.
func TestWorkload(t *testing.T) {
	ctx := t.Context()
	d, err := enginetest.Format(ctx, &enginetest.Shape{})
	if err != nil {
		t.Fatal(err)
	}
	rw, err := d.Open(ctx, engine.Options{Logf: t.Logf}, engine.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer rw.Abandon()
	h := enginetest.NewHistory()
	v, err := enginetest.NewVolume(ctx, rw, h)
	if err != nil {
		t.Fatal(err)
	}
	done, err := v.Run(ctx, enginetest.Work{Seed: 1, Goroutines: 2, Ops: 500, SyncEvery: 20, Verify: true})
	t.Logf("%+v, %d transactions", done, h.Len())
	if err != nil {
		t.Fatal(err)
	}
	if err := rw.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Check(ctx, h, h.Acknowledged()); err != nil {
		t.Error(err)
	}
	fscktest.MustBeCleanMemory(t, d.Devices...)
}
