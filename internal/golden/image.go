package golden

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Image is one filesystem of the set, on one device or several.
type Image struct {
	Name  string
	Group string // GroupMain, GroupNewer or GroupDamaged

	Passphrase string   // "" if none is needed
	BlockSize  int      // in bytes; 4096 where the notes do not know
	Sizes      []int64  // of the devices as noted, in bytes
	Format     string   // arguments of the reference's format command
	Version    string   // on-disk version, such as "1.13"
	Summary    string   // the notes' paragraph on content and making
	Checks     []string // the notes' lines on what the driver or its fsck found

	// Dirty says that it was not cleanly unmounted: there is a journal to replay.
	Dirty bool
	// Computed says that the manifest was made from what was written and not
	// by listing the image: compare only fields that are not "-".
	Computed bool

	dir   string
	files []string // compressed images in order of the devices
}

// String returns the name with its group.
func (img Image) String() string {
	if img.Group == GroupMain {
		return img.Name
	}
	return img.Group + "/" + img.Name
}

// Paths returns the compressed images, NAME.img.zst or NAME.0.img.zst and so
// on, in the order of the devices.
func (img Image) Paths() []string { return img.files }

// Multi says whether the filesystem is on several devices.
func (img Image) Multi() bool { return len(img.files) > 1 }

// Damaged says whether something in it was made wrong on purpose.
func (img Image) Damaged() bool {
	return strings.Contains(img.Name, "damaged-") || strings.Contains(img.Name, "poisoned")
}

// Manifest returns what is in the image, in the format of the set's README:
// what the driver lists, recovered in memory if the image is dirty. It is nil
// if there is none, as for what the driver could not mount.
func (img Image) Manifest() []byte { return img.manifest("manifest") }

// SyncedManifest returns, of some dirty images, what had been synced before the
// power cut and not changed after; else nil.
func (img Image) SyncedManifest() []byte { return img.manifest("synced.manifest") }

// RepairedManifest returns, of some damaged images, what the driver lists
// after repairing it; else nil.
func (img Image) RepairedManifest() []byte { return img.manifest("repaired.manifest") }

// DegradedManifest returns, of some images on several devices, what the driver
// lists with only the first; else nil.
func (img Image) DegradedManifest() []byte { return img.manifest("degraded.manifest") }

// manifest reads NAME.suffix or NAME.suffix.zst. One that cannot be read comes
// back as its error, which then is in the message of the test that compares it.
func (img Image) manifest(suffix string) []byte {
	path := filepath.Join(img.dir, img.Name+"."+suffix)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b, err = readZstd(path + ".zst")
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	if err != nil {
		return fmt.Appendf(nil, "unreadable manifest: %v\n", err)
	}
	return b
}

// Log returns a log of the set by its suffix, such as "kernel-log", "repair-log" or
// "fsck-log", or "" if there is none.
func (img Image) Log(suffix string) string {
	b, err := os.ReadFile(filepath.Join(img.dir, img.Name+"."+suffix))
	if err != nil {
		return ""
	}
	return string(b)
}

func readZstd(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	zr, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer zr.Close()
	return io.ReadAll(zr)
}

// load finds the files of an image and parses its notes.
func load(dir, group, name string) (Image, error) {
	img := Image{Name: name, Group: group, dir: dir}
	if single := filepath.Join(dir, name+".img.zst"); exists(single) {
		img.files = []string{single}
	}
	for i := 0; ; i++ {
		part := filepath.Join(dir, fmt.Sprintf("%s.%d.img.zst", name, i))
		if !exists(part) {
			break
		}
		img.files = append(img.files, part)
	}
	notes, err := os.ReadFile(filepath.Join(dir, name+".md"))
	if err != nil {
		return img, err
	}
	img.parseNotes(notes)
	return img, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

var (
	devicesRE    = regexp.MustCompile(`^- Devices: \d+, of ([\d.]+ MiB(?:, [\d.]+ MiB)*)`)
	blocksRE     = regexp.MustCompile(`[Bb]locks of ([\d.]+)(k?)`)
	passphraseRE = regexp.MustCompile("^(?:- )?Passphrase: `(.*)`")
	formatRE     = regexp.MustCompile("^- Formatted: `(?:format )?([^`]*)`")
	versionRE    = regexp.MustCompile(`^v(\d+\.\d+)-`)
	dirtyRE      = regexp.MustCompile(`(?i)power was cut|not cleanly unmounted`)
)

// parseNotes takes the facts out of NAME.md: a heading, a paragraph, a list.
func (img *Image) parseNotes(notes []byte) {
	img.BlockSize = 4096
	img.Version = "1.13"
	if m := versionRE.FindStringSubmatch(img.Name); m != nil {
		img.Version = m[1]
	}
	var summary []string
	for raw := range bytes.Lines(notes) {
		line := strings.TrimSpace(string(raw))
		img.parseFact(line)
		if line != "" && line[0] != '#' && line[0] != '-' {
			summary = append(summary, line)
		}
	}
	img.Summary = strings.Join(summary, "\n")
	img.Dirty = dirtyRE.MatchString(img.Summary)
}

func (img *Image) parseFact(line string) {
	if m := passphraseRE.FindStringSubmatch(line); m != nil {
		img.Passphrase = m[1]
	}
	if m := formatRE.FindStringSubmatch(line); m != nil {
		img.Format = m[1]
	}
	if strings.HasPrefix(line, "- Kernel check") || strings.HasPrefix(line, "- The tool's own `fsck") {
		img.Checks = append(img.Checks, strings.TrimPrefix(line, "- "))
	}
	if strings.HasPrefix(line, "- Manifest: computed") {
		img.Computed = true
	}
	if m := devicesRE.FindStringSubmatch(line); m != nil {
		for size := range strings.SplitSeq(m[1], ", ") {
			mib, _ := strconv.ParseFloat(strings.TrimSuffix(size, " MiB"), 64)
			img.Sizes = append(img.Sizes, int64(mib*(1<<20)))
		}
		if m := blocksRE.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseFloat(m[1], 64)
			if m[2] == "k" {
				n *= 1024
			}
			if n > 0 {
				img.BlockSize = int(n)
			}
		}
	}
}
