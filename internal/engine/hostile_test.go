package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// walkAll reads everything there is, as often as there are ways to read it.
func walkAll(ctx context.Context, fs *FS) error {
	for id := ondisk.BtreeID(0); id < ondisk.MaxBtrees; id++ {
		for _, err := range fs.Reader.Keys(ctx, id, ondisk.PosMin, ondisk.SPosMax) {
			var ne *btree.NodeError
			if err != nil && !errors.As(err, &ne) {
				return err
			}
		}
		for range fs.Reader.KeysIn(ctx, id, ondisk.PosMin, ondisk.SPosMax, ^uint32(0)) {
		}
		for range fs.Reader.Nodes(ctx, id) {
		}
	}
	_, _ = fs.Subvolume(ctx, ondisk.RootSubvol)
	return ctx.Err()
}

// mutate changes a few bytes of metadata: where the image has data at all.
func mutate(t *testing.T, d *blockdev.Memory, rnd *rand.Rand) {
	ctx := context.Background()
	block := make([]byte, 4096)
	for range 1 + rnd.IntN(8) {
		for range 1000 {
			off := rnd.Int64N(d.Size()/4096) * 4096
			if rnd.IntN(8) == 0 {
				off = 4096 // the superblock
			}
			if err := d.ReadAt(ctx, block, off); err != nil {
				t.Fatal(err)
			}
			if allZero(block) {
				continue
			}
			for range 1 + rnd.IntN(4) {
				at := rnd.IntN(len(block))
				if rnd.IntN(2) == 0 {
					at = rnd.IntN(256)
				}
				switch rnd.IntN(3) {
				case 0:
					block[at] ^= 1 << rnd.IntN(8)
				case 1:
					block[at] = byte(rnd.Uint32())
				default:
					for i := range min(8, len(block)-at) {
						block[at+i] = 0xff
					}
				}
			}
			if err := d.WriteAt(ctx, block, off); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
}

// Whatever an image holds, opening and walking it ends, without panic.
func TestMutatedImages(t *testing.T) {
	rounds := uint64(golden.Times(t, 60, 10))
	if testing.Short() {
		rounds = 10
	}
	for _, name := range []string{"csum-none", "newer/v1.39-csum-none-none", "dirty-light", "damaged/damage-base-nocsum"} {
		t.Run(name, func(t *testing.T) {
			base, err := blockdev.LoadMemory(find(t, name).Unpack(t)[0])
			if err != nil {
				t.Fatal(err)
			}
			opened := 0
			for seed := range rounds {
				d := base.Clone()
				mutate(t, d, rand.New(rand.NewPCG(seed, 7)))
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				fs, err := openOn(t, Options{Salvage: seed%2 == 0, VeryDegraded: true, NodeCacheBytes: 1 << 20}, d)
				if err == nil {
					opened++
					if err := walkAll(ctx, fs); err != nil {
						t.Errorf("seed %d: %v", seed, err)
					}
					if s := fs.Reader.Stats(); s.Bytes > s.Budget || s.Pinned != 0 {
						t.Errorf("seed %d: cache %+v", seed, s)
					}
					fs.Close()
				}
				cancel()
			}
			t.Logf("%d of %d opened", opened, rounds)
		})
	}
}
