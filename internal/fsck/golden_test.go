package fsck_test

import (
	"context"
	"regexp"
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
	for _, img := range golden.Sample(t) {
		if img.Damaged() {
			continue
		}
		t.Run(img.String(), func(t *testing.T) {
			t.Parallel()
			if testing.Short() && img.Passphrase != "" && img.Name != "encrypted" {
				t.Skip("deriving keys takes long: in short mode one encrypted image is enough")
			}
			r := check(t, openGolden(t, img), fsck.Options{})
			for i, f := range r.Findings {
				if i == 30 {
					t.Errorf("… %d in all", r.Total)
					break
				}
				t.Errorf("%s: %v", f.Pass, &f)
			}
			if len(r.Passes) != len(fsck.PassNames()) {
				t.Errorf("%d passes ran", len(r.Passes))
			}
			for _, n := range r.Notes {
				if !expectedNote(n) {
					t.Error(n)
				}
			}
		})
	}
}

// expectedNote reports whether a note is one that sound images may give: everything else was checked.
func expectedNote(n string) bool {
	return notes.MatchString(n)
}

var notes = regexp.MustCompile(`^superblock: the superblock (counts|asks for)|^superblock: .*: its superblock was written as number` +
	`|^journal: the filesystem was formatted but never mounted` +
	`|^check_allocations: counters of type reconcile_work of version 1.39 were not checked` +
	`|^check_allocations: version 1\.[0-8] keeps its counters in the journal`)
