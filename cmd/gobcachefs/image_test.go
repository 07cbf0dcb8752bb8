package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
)

// readAll returns what is in a file.
func readAll(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The same files make the same image: from another place, with the names in the directory in another order, read at another time, and from an archive.
func TestImageCreateIsReproducible(t *testing.T) {
	src, out := localTree(t), t.TempDir()
	first := filepath.Join(out, "first")
	mustRun(t, "", "image", "create", "-q", "--owner=0:0", src, first)
	mustBeClean(t, first)

	// A copy made backwards, name by name.
	other := filepath.Join(t.TempDir(), "somewhere", "else")
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	staged := filepath.Join(out, "staged")
	mustRun(t, "", "image", "create", "-q", "--size=64M", src, staged)
	mustRun(t, "", "cp", "-q", staged, "/sparse", "/small", "/empty", "/d", "/big", other)
	if err := os.Remove(filepath.Join(other, "d", "same")); err != nil { // links are kept within one source only
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(other, "small"), filepath.Join(other, "d", "same")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{".", "d"} {
		st, err := os.Stat(filepath.Join(src, dir))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(other, dir), st.Mode()); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(other, dir), time.Now().Add(time.Hour), st.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	second := filepath.Join(out, "second")
	mustRun(t, "", "image", "create", "-q", "--owner=0:0", other, second)
	if !bytes.Equal(readAll(t, first), readAll(t, second)) {
		t.Errorf("another directory with the same files makes another image: \n%s\n%s", strings.Join(listing(t, first), "\n"), strings.Join(listing(t, second), "\n"))
	}

	// An archive, compressed or not, from a file or standard input.
	archive := filepath.Join(out, "archive.tar")
	mustRun(t, "", "export", "-q", "-f", archive, staged)
	third, fourth := filepath.Join(out, "third"), filepath.Join(out, "fourth")
	mustRun(t, "", "image", "create", "-q", "--time=1700000000", archive, third)
	r := runCLI(context.Background(), string(readAll(t, archive)), map[string]string{"SOURCE_DATE_EPOCH": "1700000000"}, "image", "create", "-q", "-", fourth)
	if r.code != exitOK {
		t.Fatal(r.err)
	}
	if !bytes.Equal(readAll(t, third), readAll(t, fourth)) {
		t.Error("the same archive makes another image")
	}
	compareContent(t, listing(t, third), listing(t, staged))

	fifth := filepath.Join(out, "fifth")
	mustRun(t, "", "image", "create", "-q", "--owner=0:0", "--seed=other", src, fifth)
	if bytes.Equal(readAll(t, first), readAll(t, fifth)) {
		t.Error("the seed makes no difference")
	}
	if strings.Contains(mustRun(t, "", "show-super", first), "00000000-0000-0000-0000-000000000000") {
		t.Error("the image has no UUID")
	}
}

// Updating makes an image hold what its source does, whatever was done to it, and is done with little when there is little to do.
func TestImageUpdate(t *testing.T) {
	src := localTree(t)
	img := filepath.Join(t.TempDir(), "img")
	mustRun(t, "", "image", "create", "-q", "--size=96M", src, img)
	want := listing(t, img)
	mustRun(t, "changed", "put", "-", img, "/small")
	mustRun(t, "", "chmod", img, "600", "/big")
	mustRun(t, "", "rm", "-r", img, "/d/link", "/empty")
	mustRun(t, "", "mkdir", "-p", img, "/empty/dir", "/more/dirs")
	mustRun(t, "", "setfattr", "-n", "user.x", "-v", "y", img, "/sparse")
	mustRun(t, "", "image", "update", src, img)
	compareContent(t, listing(t, img, "more"), append([]string{listing(t, img)[0]}, want[1:]...))
	mustRun(t, "", "image", "update", "--delete", src, img)
	compareContent(t, listing(t, img), want)
	mustBeClean(t, img)

	// The same size and time, but other content.
	st, err := os.Stat(filepath.Join(src, "big"))
	if err != nil {
		t.Fatal(err)
	}
	b := readAll(t, filepath.Join(src, "big"))
	b[len(b)-1]++
	if err := os.WriteFile(filepath.Join(src, "big"), b, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(src, "big"), st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
	if out := mustRun(t, "", "image", "update", "-v", src, img); strings.Contains(out, "big") {
		t.Errorf("without --checksum: %s", out)
	}
	if out := mustRun(t, "", "image", "update", "-v", "-c", src, img); !strings.Contains(out, "big") || strings.Contains(out, "small") {
		t.Errorf("with --checksum: %s", out)
	}
	if got := mustRun(t, "", "cat", img, "/big"); got != string(b) {
		t.Error("the content is not that of the source")
	}
	mustBeClean(t, img)
}

// format --source is image create.
func TestFormatSource(t *testing.T) {
	src, dir := localTree(t), t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	mustRun(t, "", "format", "-q", "--source="+src, "--size=64M", a)
	mustRun(t, "", "image", "create", "-q", "--size=64M", src, b)
	if !bytes.Equal(readAll(t, a), readAll(t, b)) {
		t.Error("they make different images")
	}
	if r := runCLI(context.Background(), "", nil, "format", "-q", "--source="+src, "--size=64M", filepath.Join(dir, "c"), filepath.Join(dir, "d")); r.code != exitUsage {
		t.Errorf("with two devices: exit %d, %s", r.code, r.err)
	}
}

// The real driver finds the files in images that we made, has nothing to complain about, and can write to those that have room.
func TestDriverLikesImages(t *testing.T) {
	kernelvm.Available(t)
	const passphrase = "something long"
	dir, src := t.TempDir(), place(t, "damage-base")
	archive := filepath.Join(dir, "archive.tar")
	mustRun(t, "", "export", "-q", "-f", archive, src)
	env := map[string]string{"BCACHEFS_PASSPHRASE": passphrase}
	var all [][]string
	var want [][]string
	image := func(size string, flags ...string) string {
		img := filepath.Join(dir, "image"+string(rune('a'+len(all))))
		args := append([]string{"image", "create", "-q"}, flags...)
		if size != "" {
			args = append(args, "--size="+size)
		}
		must(t, env, append(args, archive, img)...)
		all, want = append(all, []string{img}), append(want, listing(t, src))
		return img
	}
	image("")
	image("", "--spare=8M", "--compression=lz4", "--data_checksum=xxhash")

	local := filepath.Join(dir, "local")
	mustRun(t, "", "image", "create", "-q", localTree(t), local)
	all, want = append(all, []string{local}), append(want, listing(t, local))

	used := image("96M")
	tree := localTree(t)
	for _, args := range [][]string{
		{"put", tree, used, "/put"}, {"mkdir", "-p", used, "/x/y"}, {"mv", used, "/put/big", "/x/y"}, {"subvolume", "create", used, "/volume"},
		{"put", tree + "/.", used, "/volume"}, {"subvolume", "snapshot", "-r", used, "/volume", "/x/snap"}, {"rm", "-r", used, "/volume/d", "/put"}, {"ln", "-s", used, "a", "/x/a"},
		{"setfattr", "-n", "user.a", "-v", "b", used, "/x"}, {"chown", "-R", used, "3:4", "/x/y"}, {"image", "update", archive, used},
		{"subvolume", "snapshot", used, "/volume", "/gone"}, {"subvolume", "delete", used, "/gone"},
	} {
		mustRun(t, "", args...)
	}
	want[len(want)-1] = listing(t, used)
	judge := func(opts kernelvm.CheckOptions) {
		opts.Timeout = 3 * time.Minute
		for i, r := range kernelvm.MustBeClean(t, all, opts) {
			got := listingOf(string(r.Manifest))
			if opts.ReadWrite { // the root directory was written to
				got[0] = want[i][0]
			}
			compareContent(t, got, want[i])
		}
		all, want = nil, nil
	}
	judge(kernelvm.CheckOptions{})
	if err := os.Remove(filepath.Join(dir, "imagea")); err != nil {
		t.Fatal(err)
	}
	image("64M", "--encrypted", "--compression=zstd:3")
	judge(kernelvm.CheckOptions{Passphrase: passphrase, ReadWrite: true})
}
