package bcachefs_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/manifest"
)

// openGolden opens an image. Its devices refuse to be written to.
func openGolden(t testing.TB, img golden.Image, opts bcachefs.OpenOptions, devices ...string) *bcachefs.FS {
	t.Helper()
	opts.NoScan = true
	if img.Passphrase != "" {
		opts.Passphrase = func(context.Context) ([]byte, error) { return []byte(img.Passphrase), nil }
	}
	if devices == nil {
		devices = img.Unpack(t)
	}
	fsys, err := bcachefs.Open(t.Context(), devices, &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fsys.Close(); err != nil {
			t.Error(err)
		}
	})
	return fsys
}

// writeManifest returns the manifest of a view and how many things could not be read.
func writeManifest(t testing.TB, v *bcachefs.View) (text []byte, unread int) {
	t.Helper()
	var got bytes.Buffer
	err := manifest.Write(t.Context(), &got, v)
	var errs *manifest.ReadErrors
	switch {
	case errors.As(err, &errs):
		unread = errs.Count
	case err != nil:
		t.Fatal(err)
	}
	return got.Bytes(), unread
}

// A deviation says in what and why we show something else than the manifest of an image.
type deviation struct {
	why   string
	allow *regexp.Regexp // of the differences
	quiet bool           // nothing can be said of it without checking the whole filesystem
}

// What the manifests of damaged images were made of is not what is on disk but what the driver's fsck made of it in memory before
// it was listed.
var (
	// Lost nodes: what was in them is named as unreadable or is missing, nothing that is shown is wrong.
	lostNode = deviation{why: "the driver goes on with a node whose checksum is wrong, or makes an empty one in its place",
		allow: regexp.MustCompile(`: (is missing|2 fields, want 18|(nlink|mtime|ctime) is .*|(data|xattrs) is !5, want .*)$`)}
	reattached = deviation{why: "the driver's fsck attached what nothing leads to in lost+found, and counted links anew",
		allow: regexp.MustCompile(`^(lost\+found/.*: is missing|.*: nlink is .*)$`), quiet: true}
	times = deviation{why: "the driver created the root directory when it was asked for the manifest",
		allow: regexp.MustCompile(`: [amcb]time is `)}
)

var deviations = map[string]deviation{
	"mkfs-uninitialized":                     times,
	"mkfs-old-uninitialized":                 times,
	"damaged/damaged-xattrs":                 lostNode,
	"damaged/damaged-subvolumes":             lostNode,
	"damaged/damaged-snapshots":              lostNode,
	"damaged/damaged-reflink":                lostNode,
	"damaged/damaged-inodes":                 lostNode,
	"damaged/damaged-inodes-last":            lostNode,
	"damaged/damaged-extents":                lostNode,
	"damaged/damaged-dirents":                lostNode,
	"damaged/damaged-dirents-last":           lostNode,
	"newer/v1.39-damaged-extents":            lostNode,
	"newer/v1.39-damaged-dirents":            lostNode,
	"damaged/damaged-nocsum-dirent-type":     reattached,
	"damaged/damaged-nocsum-dirent-loop":     reattached,
	"damaged/damaged-nocsum-dirent-dangling": reattached,
	"damaged/damaged-journal-oldest-zero": {why: "as reattached; without the oldest entry directories have no names",
		allow: regexp.MustCompile(`: (is missing|nlink is .*)$`)},
	"damaged/damaged-journal-oldest": {why: "the driver replays the entry although its checksum is wrong",
		allow: regexp.MustCompile(`: (is missing|(nlink|mtime|ctime) is .*)$`)},
	"damaged/damaged-nocsum-inodes": {why: "without checksums it is guesswork which of the keys behind the damage count",
		allow: regexp.MustCompile(`: (is missing|is not in the manifest|(2|18) fields, want .*|(nlink|size|data|xattrs|sectors|[amcb]time) is .*)$`)},
	"newer/v1.39-damaged-dirent-missing": {why: "the manifest has the name that was removed",
		allow: regexp.MustCompile(`^m/007: is missing$`), quiet: true},
}

// TestGolden compares the manifest of every image with what the driver, or whoever made it, says is in it.
func TestGolden(t *testing.T) {
	for _, img := range golden.Sample(t) {
		t.Run(img.String(), func(t *testing.T) {
			t.Parallel()
			want := img.Manifest()
			if want == nil {
				testUnlisted(t, img)
				return
			}
			fsys := openGolden(t, img, bcachefs.OpenOptions{})
			checkGolden(t, fsys, img, want)
		})
	}
}

func checkGolden(t *testing.T, fsys *bcachefs.FS, img golden.Image, want []byte) {
	t.Helper()
	want = bytes.ReplaceAll(want, []byte("\t!EIO\t"), []byte("\t!5\t"))
	got, unread := writeManifest(t, fsys.Root())
	diff := img.Diff(got, want)
	d, deviates := deviations[img.String()]
	if deviates {
		if len(diff) == 0 {
			t.Errorf("is no longer a deviation (%s)", d.why)
		}
		if !d.quiet && unread == 0 && len(fsys.Messages()) == 0 {
			t.Error("something is missing, and nothing was said of it")
		}
		kept := diff[:0]
		for _, line := range diff {
			if !d.allow.MatchString(line) {
				kept = append(kept, line)
			}
		}
		diff = kept
	}
	if len(diff) > 0 {
		const shown = 20
		t.Errorf("manifest differs in %d places:\n%s\nmessages:\n%s", len(diff),
			strings.Join(diff[:min(len(diff), shown)], "\n"), strings.Join(fsys.Messages(), "\n"))
	}
}

// testUnlisted reads images that the driver could not mount: whatever comes out of it, it ends and does not panic.
func testUnlisted(t *testing.T, img golden.Image) {
	fsys, err := bcachefs.Open(t.Context(), img.Unpack(t), &bcachefs.OpenOptions{NoScan: true})
	if err != nil {
		t.Logf("cannot be opened: %v", err)
		return
	}
	defer fsys.Close()
	got, unread := writeManifest(t, fsys.Root())
	t.Logf("%d lines, %d things unread", bytes.Count(got, []byte("\n"))-2, unread)
}

// TestGoldenSynced checks that what had been synced before a power cut is there.
func TestGoldenSynced(t *testing.T) {
	for _, img := range golden.Sample(t) {
		want := img.SyncedManifest()
		if want == nil {
			continue
		}
		t.Run(img.String(), func(t *testing.T) {
			fsys := openGolden(t, img, bcachefs.OpenOptions{})
			got, _ := writeManifest(t, fsys.Root())
			lines := map[string]bool{}
			for line := range strings.Lines(string(got)) {
				lines[line] = true
			}
			missing := 0
			for line := range strings.Lines(string(want)) {
				// The manifest's root is the directory that was synced: compare what is below by content alone.
				if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ".\t") && !hasSuffixLine(lines, line) {
					if missing++; missing < 10 {
						t.Errorf("lost: %s", strings.TrimSpace(line))
					}
				}
			}
		})
	}
}

// hasSuffixLine looks for a line whose path ends with that of line.
func hasSuffixLine(lines map[string]bool, line string) bool {
	for _, prefix := range []string{"", "synced/", "stable/", "base/", "t/", "tree/"} {
		if lines[prefix+line] {
			return true
		}
	}
	return false
}

// TestGoldenMissingDevice hides each device in turn of images that can spare one, or two.
func TestGoldenMissingDevice(t *testing.T) {
	spares := map[string]int{"multi-replicas": 1, "v1.31-multi-replicas": 1, "v1.39-multi-replicas": 1, "v1.4-multi-replicas": 1, "v1.31-ec": 1, "v1.39-ec": 1,
		"v1.39-ec-raid6": 2}
	for _, name := range golden.Some(t, 2, slices.Sorted(maps.Keys(spares))) {
		spare := spares[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := golden.Find(t, name)
			paths := img.Unpack(t)
			for a := range paths {
				for b := a; b < len(paths); b++ {
					if spare == 1 && b != a {
						break
					}
					var left []string
					for i, p := range paths {
						if i != a && i != b {
							left = append(left, p)
						}
					}
					fsys := openGolden(t, img, bcachefs.OpenOptions{}, left...)
					want := img.Manifest()
					if d := img.DegradedManifest(); d != nil {
						want = d
					}
					if got, _ := writeManifest(t, fsys.Root()); len(img.Diff(got, want)) > 0 {
						t.Errorf("without devices %d and %d: %d differences, such as %s", a, b, len(img.Diff(got, want)), img.Diff(got, want)[0])
					}
				}
			}
		})
	}
}

// TestGoldenFailingDevice has every read of one device fail once the filesystem is open.
func TestGoldenFailingDevice(t *testing.T) {
	for _, name := range golden.Some(t, 2, []string{"multi-replicas", "v1.39-ec", "v1.39-ec-raid6"}) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := golden.Find(t, name)
			paths := img.Unpack(t)
			var sick *sickDevice
			fsys := openGolden(t, img, bcachefs.OpenOptions{OpenDevice: func(path string) (blockdev.Device, error) {
				d, err := blockdev.OpenFile(path, blockdev.FileOptions{ReadOnly: true})
				if err == nil && path == paths[1] {
					sick = &sickDevice{Device: d}
					return sick, nil
				}
				return d, err
			}}, paths...)
			sick.fail.Store(true)
			got, _ := writeManifest(t, fsys.Root())
			if diff := img.Diff(got, img.Manifest()); len(diff) > 0 {
				t.Errorf("%d differences, such as %s", len(diff), diff[0])
			}
		})
	}
}
