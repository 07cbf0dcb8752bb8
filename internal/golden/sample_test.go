package golden

import (
	"testing"
)

// TestSample checks that the part of the images that is tested under the race detector is small and has everything in it.
func TestSample(t *testing.T) {
	if !Full() {
		t.Skip("is about the full set of images, which is not here: a sample of the few in testdata says nothing")
	}
	all := Images(t)
	some := sample(all)
	if n := len(some); n < len(all)/8 || n > len(all)/3 {
		t.Errorf("%d of %d images", n, len(all))
	}
	have := map[string]bool{}
	properties := func(img *Image, fn func(string)) {
		fn("kind " + img.kind())
		fn("version " + img.Version)
		fn("group " + img.Group)
		for name, is := range map[string]bool{"dirty": img.Dirty, "damaged": img.Damaged(), "multi": img.Multi(), "no manifest": img.Manifest() == nil, "small blocks": img.BlockSize < 4096} {
			if is {
				fn(name)
			}
		}
	}
	for i := range some {
		properties(&some[i], func(s string) { have[s] = true })
	}
	for i := range all {
		if all[i].kind() == largeTrees {
			continue
		}
		properties(&all[i], func(s string) {
			if !have[s] {
				t.Errorf("none of the sample has: %s", s)
				have[s] = true
			}
		})
	}
	names := ""
	for i := range some {
		names += " " + some[i].String()
	}
	t.Logf("%d images:%s", len(some), names)
}
