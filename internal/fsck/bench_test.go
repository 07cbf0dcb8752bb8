package fsck_test

import (
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/fsck"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// BenchmarkCheck makes all checks of an image with deep btrees. cold includes opening it and reading its nodes; warm has them in the cache.
func BenchmarkCheck(b *testing.B) {
	img := golden.Find(b, "btree-deep")
	run := func(b *testing.B, fs fsck.Filesystem) (keys uint64) {
		r, err := fsck.Check(b.Context(), fs, fsck.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if !r.Clean() {
			b.Fatal(r.Findings[0])
		}
		return r.Passes[2].Keys // those of check_topology: every key once
	}
	b.Run("cold", func(b *testing.B) {
		b.ReportAllocs()
		keys := uint64(0)
		for b.Loop() {
			fs := openGolden(b, img)
			keys += run(b, fsck.Of(fs))
		}
		b.ReportMetric(float64(keys)/b.Elapsed().Seconds(), "keys/s")
	})
	b.Run("warm", func(b *testing.B) {
		b.ReportAllocs()
		fs := openGolden(b, img)
		keys := uint64(0)
		for b.Loop() {
			keys += run(b, fsck.Of(fs))
		}
		b.ReportMetric(float64(keys)/b.Elapsed().Seconds(), "keys/s")
	})
}
