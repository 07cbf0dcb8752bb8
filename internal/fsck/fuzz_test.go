package fsck_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/fsck"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/fuzzing"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// fuzzImages are what is mutated. Inputs name them by their place: append only. The first four are in testdata.
var fuzzImages = []string{"damage-base", "damage-base-dirty", "v1.39-snapshots", "v1.39-casefold", "v1.39-ec", "v1.31-ec", "multi-targets",
	"reflink", "v1.4-basic"}

// checkDeadline is long after a check of these images, a few milliseconds, is over.
const checkDeadline = time.Minute

type fuzzSet struct {
	mu     sync.Mutex
	loaded map[int]*fuzzing.Image
}

// get loads an image; nil if it is not at hand.
func (s *fuzzSet) get(t testing.TB, i int) *fuzzing.Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	if img, ok := s.loaded[i]; ok {
		return img
	}
	var loaded *fuzzing.Image
	for _, g := range golden.Images(t) {
		if g.Name == fuzzImages[i] {
			var err error
			if loaded, err = fuzzing.Load(context.Background(), g.Name, g.Unpack(t), g.Passphrase); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.loaded[i] = loaded
	return loaded
}

// FuzzCheck checks images in which a few structures were changed, their checksums being right: findings are welcome; panics, hangs and
// memory without bound are not. An input is the number of an image, then mutations (see package fuzzing).
func FuzzCheck(f *testing.F) {
	set := fuzzSet{loaded: map[int]*fuzzing.Image{}}
	for i := range 4 {
		f.Add([]byte{byte(i)})
		f.Add(randomMutations(rand.New(rand.NewPCG(uint64(i), 1)), byte(i), 3))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) == 0 {
			return
		}
		img := set.get(t, int(input[0])%len(fuzzImages))
		if img == nil {
			t.Skip("the image is only in the full set")
		}
		checkMutated(t, img, input[1:])
	})
}

// randomMutations makes an input of n mutations, most of them of keys.
func randomMutations(rnd *rand.Rand, image byte, n int) []byte {
	b := []byte{image}
	for range n {
		m := fuzzing.Mutation{Kind: fuzzing.Node, Part: uint16(rnd.Uint32()), Op: uint8(rnd.IntN(10)), Index: uint16(rnd.Uint32()),
			Off: uint8(rnd.IntN(64)), Width: uint8(rnd.IntN(4)), Value: rnd.Uint64() >> rnd.IntN(64)}
		if rnd.IntN(6) == 0 {
			m.Kind = fuzzing.Kind(rnd.IntN(int(fuzzing.NumKinds)))
		}
		b = m.Append(b)
	}
	return b
}

func checkMutated(t *testing.T, img *fuzzing.Image, b []byte) {
	var all []fuzzing.Mutation
	for len(b) >= fuzzing.MutationSize && len(all) < 16 {
		all = append(all, fuzzing.DecodeMutation(b))
		b = b[fuzzing.MutationSize:]
	}
	devices, err := img.Changed(t.Context(), img.Mutate(all))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), checkDeadline)
	defer cancel()
	var devs []blockdev.Device
	for _, d := range devices {
		devs = append(devs, d)
	}
	o, names := fscktest.OnDevices(devs...)
	o.Degraded = true
	o.Fsck = fsck.Options{MemoryBytes: 64 << 20, MaxFindings: 100, Parallel: 2}
	r, err := o.Run(ctx, names...)
	if ctx.Err() != nil {
		t.Fatal("the check hangs")
	}
	if err == nil && len(r.Findings) > 100 {
		t.Errorf("%d findings are kept", len(r.Findings))
	}
}

var mutated = flag.Int("mutated", 120, "how many mutated images TestMutatedImages checks")

// TestMutatedImages is FuzzCheck with random mutations.
func TestMutatedImages(t *testing.T) {
	set := fuzzSet{loaded: map[int]*fuzzing.Image{}}
	for seed := range uint64(golden.FlagTimes(t, "mutated", *mutated, 15)) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		input := randomMutations(rnd, byte(seed%uint64(len(fuzzImages))), 1+rnd.IntN(4))
		img := set.get(t, int(input[0]))
		if img == nil {
			continue
		}
		checkMutated(t, img, input[1:])
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
