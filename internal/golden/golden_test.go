package golden

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/golden/sparse"
)

// TestImages checks that the notes of every image could be understood.
func TestImages(t *testing.T) {
	images := Images(t)
	if len(images) == 0 {
		t.Fatal("no images")
	}
	seen := make(map[string]bool)
	for _, img := range images {
		if seen[img.Name] {
			t.Errorf("%s: name is not unique", img)
		}
		seen[img.Name] = true
		if len(img.Sizes) != len(img.Paths()) {
			t.Errorf("%s: %d sizes noted, %d devices", img, len(img.Sizes), len(img.Paths()))
		}
		if img.BlockSize < 512 || img.BlockSize&(img.BlockSize-1) != 0 {
			t.Errorf("%s: block size %d", img, img.BlockSize)
		}
		if img.Format == "" || img.Summary == "" || len(img.Checks) == 0 {
			t.Errorf("%s: notes lack format (%q), summary (%q) or checks (%q)", img, img.Format, img.Summary, img.Checks)
		}
		if m := img.Manifest(); m == nil && !img.Damaged() || m != nil && !bytes.HasPrefix(m, []byte("# bcachefs-manifest 1\n")) {
			t.Errorf("%s: no manifest", img)
		}
		if img.Computed != (img.Group == GroupNewer) {
			t.Errorf("%s: computed %v", img, img.Computed)
		}
	}
}

// TestFacts checks some images of the full set against their notes.
func TestFacts(t *testing.T) {
	cases := []struct {
		name, passphrase, version string
		devices, blockSize        int
		dirty, synced, degraded   bool
	}{
		{name: "basic", version: "1.13", devices: 1, blockSize: 4096},
		{name: "block-512", version: "1.13", devices: 1, blockSize: 512},
		{name: "btree-deep", version: "1.13", devices: 1, blockSize: 512},
		{name: "encrypted", version: "1.13", devices: 1, blockSize: 4096, passphrase: "correct horse battery staple"},
		{name: "encrypted-no-passphrase", version: "1.13", devices: 1, blockSize: 4096},
		{name: "multi-replicas", version: "1.13", devices: 2, blockSize: 4096, degraded: true},
		{name: "dirty-multi", version: "1.13", devices: 2, blockSize: 4096, dirty: true, synced: true},
		{name: "v1.39-multi-dirty", version: "1.39", devices: 3, blockSize: 512, dirty: true},
		{name: "v1.39-encrypted-wide-zstd", version: "1.39", devices: 1, blockSize: 4096, passphrase: "päss wörd"},
		{name: "v1.4-encrypted-lz4", version: "1.4", devices: 1, blockSize: 4096, passphrase: "old passphrase"},
		{name: "damage-base", version: "1.13", devices: 1, blockSize: 4096},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			img := Find(t, c.name)
			if img.Passphrase != c.passphrase || img.Version != c.version || len(img.Sizes) != c.devices ||
				img.BlockSize != c.blockSize || img.Dirty != c.dirty ||
				(img.SyncedManifest() != nil) != c.synced || (img.DegradedManifest() != nil) != c.degraded {
				t.Errorf("got %+v", img)
			}
		})
	}
}

// TestUnpack unpacks at the same time from several goroutines into a fresh
// cache, then changes a copy.
func TestUnpack(t *testing.T) {
	t.Setenv("BCACHEFS_GOLDEN_CACHE", t.TempDir())
	img := Find(t, "damage-base")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			path, err := unpack(img.Paths()[0], img.Group)
			if err != nil {
				t.Error(err)
				return
			}
			if fi, err := os.Stat(path); err != nil || fi.Size() != img.Sizes[0] {
				t.Errorf("unpacked to %v, %v", fi, err)
			}
		})
	}
	wg.Wait()
	shared, own := img.Unpack(t)[0], img.UnpackCopy(t)[0]
	if err := os.WriteFile(own, []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(shared); err != nil || fi.Size() != img.Sizes[0] {
		t.Errorf("the shared image changed too: %v, %v", fi, err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(shared), "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left in the cache: %q, %v", left, err)
	}
}

func TestSparseCopy(t *testing.T) {
	const block = 4096
	data := make([]byte, 600*block+100)
	for _, i := range []int{1, 2, 63, 64, 300, 599, 600} {
		data[i*block+7] = byte(i)
	}
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	for _, size := range []int{0, 1, block, 64 * block, 64*block + 1, len(data)} {
		if err := os.WriteFile(src, data[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := sparse.Copy(dst, src); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(dst)
		if err != nil || !bytes.Equal(got, data[:size]) {
			t.Errorf("copy of %d bytes differs (%v)", size, err)
		}
	}
}
