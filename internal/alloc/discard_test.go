package alloc

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// discards is a disk that notes what is discarded, and can fail.
type discards struct {
	*blockdev.Memory
	ranges [][2]int64
	err    error
}

func (d *discards) Discard(_ context.Context, off, n int64) error {
	d.ranges = append(d.ranges, [2]int64{off, n})
	return d.err
}

// emptied makes an allocator with bucket 0 of its device emptied.
func emptied(t *testing.T, flags uint64) (*Allocator, *testEngine, *discards) {
	t.Helper()
	a, e := newTestAllocator(t, testConfig{devs: []testDevice{{buckets: 64, size: 64, flags: flags, first: 1}}})
	disk := &discards{Memory: blockdev.NewMemory(64 * 64 * ondisk.SectorSize)}
	a.DevSpace(0).disk = disk
	var al Allocation
	if err := a.AllocSectors(t.Context(), userRequest(64), &al); err != nil {
		t.Fatal(err)
	}
	if err := e.commit(t.Context(), 1, 64, &al); err != nil {
		t.Fatal(err)
	}
	al.Done(t.Context())
	if err := e.remove(t.Context(), 1, 64); err != nil {
		t.Fatal(err)
	}
	return a, e, disk
}

const discardFlag = 1 << 14 // of members

// TestDiscardIssued: the device is told of exactly the bucket, if it is to be told at all.
func TestDiscardIssued(t *testing.T) {
	a, _, disk := emptied(t, discardFlag)
	if n, err := a.DiscardRound(t.Context(), false); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if want := [2]int64{64 * 512, 64 * 512}; len(disk.ranges) != 1 || disk.ranges[0] != want {
		t.Errorf("discarded %v, want %v", disk.ranges, want)
	}
	a, _, disk = emptied(t, 0)
	if n, err := a.DiscardRound(t.Context(), false); n != 1 || err != nil || len(disk.ranges) != 0 {
		t.Errorf("without the flag: %d, %v, discarded %v", n, err, disk.ranges)
	}
}

// TestDiscardFails: the bucket stays as it is and is tried again.
func TestDiscardFails(t *testing.T) {
	a, e, disk := emptied(t, discardFlag)
	disk.err = errors.New("cannot")
	if n, err := a.DiscardRound(t.Context(), false); n != 0 || !errors.Is(err, disk.err) || !strings.Contains(err.Error(), "device 0 bucket 1") {
		t.Errorf("%d, %v", n, err)
	}
	e.failing.Store(true)
	disk.err = nil
	if n, err := a.DiscardRound(t.Context(), false); n != 0 || !errors.Is(err, errTestEngine) {
		t.Errorf("%d, %v", n, err)
	}
	e.failing.Store(false)
	if got := e.alloc(t, 0, 1); got.DataType != ondisk.DataNeedDiscard {
		t.Errorf("%+v", got)
	}
	if n, err := a.DiscardRound(t.Context(), false); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if err := e.check(a); err != nil {
		t.Error(err)
	}
}

// TestDiscardWithoutSpace: what makes buckets free goes on where there are none for its own nodes.
func TestDiscardWithoutSpace(t *testing.T) {
	a, e, _ := emptied(t, 0)
	e.full.Store(true)
	if n, err := a.DiscardRound(t.Context(), false); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if got := e.alloc(t, 0, 1); got.DataType != ondisk.DataFree {
		t.Errorf("%+v", got)
	}
}

// TestDiscardContradictions: what is in need_discard and in use is an error, and never discarded.
func TestDiscardContradictions(t *testing.T) {
	for name, al := range map[string]ondisk.Alloc{
		"in use":          {DataType: ondisk.DataUser, DirtySectors: 3},
		"free":            {},
		"counting":        {DataType: ondisk.DataNeedDiscard, NeedDiscard: true, DirtySectors: 3},
		"counting cached": {DataType: ondisk.DataNeedDiscard, NeedDiscard: true, CachedSectors: 3},
	} {
		t.Run(name, func(t *testing.T) {
			a, e, disk := emptied(t, discardFlag)
			al = al.Upgrade()
			e.fs.SetKey(ondisk.BtreeAlloc, ondisk.Key{Type: ondisk.KeyAllocV4, Pos: allocPos(0, 1), Val: al.Encode()})
			var be *BucketError
			if n, err := a.DiscardRound(t.Context(), true); n != 0 || !errors.As(err, &be) || be.Bucket != 1 || len(e.reported) != 1 {
				t.Errorf("%d, %v", n, err)
			}
			if a.SetTrusted(false); !strings.HasPrefix(name, "counting") {
				if n, err := a.DiscardRound(t.Context(), true); n != 0 || err != nil {
					t.Errorf("not trusted: %d, %v", n, err)
				}
			}
			if len(disk.ranges) != 0 {
				t.Errorf("discarded %v", disk.ranges)
			}
		})
	}
}
