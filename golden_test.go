package bcachefs_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/manifest"
)

func openGolden(t testing.TB, img golden.Image, opts *bcachefs.OpenOptions) *bcachefs.FS {
	t.Helper()
	if opts == nil {
		opts = &bcachefs.OpenOptions{Salvage: os.Getenv("SALV") != ""}
	}
	opts.NoScan = true
	if img.Passphrase != "" {
		opts.Passphrase = func(context.Context) ([]byte, error) { return []byte(img.Passphrase), nil }
	}
	fsys, err := bcachefs.Open(t.Context(), img.Unpack(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fsys.Close() })
	return fsys
}

func writeManifest(t testing.TB, v *bcachefs.View) []byte {
	t.Helper()
	var got bytes.Buffer
	err := manifest.Write(context.Background(), &got, v)
	var unread *manifest.ReadErrors
	if err != nil && !errors.As(err, &unread) {
		t.Fatal(err)
	}
	return got.Bytes()
}

// TestGolden compares the manifest of every image with what the driver, or whoever made it, says is in it.
func TestGolden(t *testing.T) {
	for _, img := range golden.Images(t) {
		t.Run(img.String(), func(t *testing.T) {
			t.Parallel()
			want := img.Manifest()
			if want == nil {
				t.Skip("no manifest")
			}
			fsys := openGolden(t, img, nil)
			got := writeManifest(t, fsys.Root())
			if diff := img.Diff(got, want); len(diff) > 0 {
				const shown = 20
				t.Errorf("manifest differs in %d places:\n%s\nmessages:\n%s", len(diff),
					strings.Join(diff[:min(len(diff), shown)], "\n"), strings.Join(fsys.Messages(), "\n"))
			}
		})
	}
}
