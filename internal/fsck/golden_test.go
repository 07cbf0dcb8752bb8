package fsck_test

import (
	"context"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/fsck"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// openGolden opens an image of the set; it is closed when the test ends.
func openGolden(t testing.TB, img golden.Image) *engine.FS {
	t.Helper()
	fs, err := engine.Open(t.Context(), img.Unpack(t), engine.Options{NoScan: true, NoSplitBrainCheck: true,
		Passphrase: func(context.Context) ([]byte, error) { return []byte(img.Passphrase), nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
	})
	return fs
}

func check(t testing.TB, fs *engine.FS, opts fsck.Options) *fsck.Report {
	t.Helper()
	r, err := fsck.Check(t.Context(), fsck.Of(fs), opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestGoldenClean(t *testing.T) {
	for _, img := range golden.Images(t) {
		if img.Damaged() {
			continue
		}
		t.Run(img.String(), func(t *testing.T) {
			t.Parallel()
			r := check(t, openGolden(t, img), fsck.Options{})
			for i, f := range r.Findings {
				if i == 30 {
					t.Errorf("… %d in all", r.Total)
					break
				}
				t.Errorf("%s: %v", f.Pass, &f)
			}
			for _, n := range r.Notes {
				t.Log(n)
			}
		})
	}
}
