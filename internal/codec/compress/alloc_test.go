//go:build !race

package compress

import "testing"

// The race detector makes pools forget on purpose, hence the build constraint.
func TestDecompressDoesNotAllocate(t *testing.T) {
	data := text(65536)
	for _, typ := range []Type{LZ4, Gzip, Zstd} {
		blob := make([]byte, len(data))
		n, _, _ := Compress(typ, 0, blob, data, testBlock)
		dst := make([]byte, len(data))
		// A run of the garbage collector may empty a pool, hence the tolerance.
		if allocs := testing.AllocsPerRun(50, func() {
			if err := Decompress(typ, dst, blob[:n]); err != nil {
				t.Fatal(err)
			}
		}); allocs > 1 {
			t.Errorf("%v allocates %v times", typ, allocs)
		}
	}
}
