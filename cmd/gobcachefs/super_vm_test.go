package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
)

// must runs a command that has to succeed.
func must(t *testing.T, env map[string]string, args ...string) string {
	t.Helper()
	r := runCLI(context.Background(), "", env, args...)
	if r.code != 0 {
		t.Fatalf("%v: exit %d, %s", args, r.code, r.err)
	}
	return r.out
}

// scribble overwrites the start of a file.
func scribble(t *testing.T, path string, off, n int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, int(n)), off); err != nil {
		t.Fatal(err)
	}
}

// metadataOnly is a manifest without what is read from files.
func metadataOnly(manifest []byte) string {
	var lines []string
	for line := range strings.Lines(string(manifest)) {
		fields := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(fields) > 9 && (fields[1] == "f" || fields[1] == "l") { // long targets are file contents too
			fields[9] = "-"
		}
		lines = append(lines, strings.Join(fields, "\t"))
	}
	return strings.Join(lines, "\n")
}

// logErrors are the lines of a kernel log that are errors.
func logErrors(log string) string {
	var b strings.Builder
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, "E") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// differing shows where two manifests begin to differ.
func differing(got, want []byte) string {
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d is\n%s\nwant\n%s\n", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d\n", len(g), len(w))
}

// The driver finds filesystems clean whose superblocks were changed, restored or made from another member's, and lists dumps.
func TestSuperblocksDriver(t *testing.T) {
	kernelvm.Available(t)
	encrypted, basic, multi := golden.Find(t, "encrypted"), golden.Find(t, "basic"), golden.Find(t, "multi-replicas")
	const passphrase = "another one"
	locked := encrypted.UnpackCopy(t)
	must(t, map[string]string{passphraseVar: encrypted.Passphrase, newPassphraseVar: passphrase}, "set-passphrase", locked[0])

	options := basic.UnpackCopy(t)
	must(t, nil, "set-fs-option", "--compression=zstd:3", "--label=x.y", "--foreground_target=x", "--durability=2", "--errors=ro",
		"--data_replicas=2", "--discard", options[0])

	restored := multi.UnpackCopy(t)
	scribble(t, restored[0], 0, 64<<10)
	scribble(t, restored[1], 0, 2<<20) // the second copy too
	for _, path := range restored {
		must(t, nil, "recover-super", "-y", path)
		if out := must(t, nil, "recover-super", path); !strings.Contains(out, "intact") {
			t.Errorf("after recovery: %s", out)
		}
	}

	dump := filepath.Join(t.TempDir(), "dump")
	must(t, nil, "dump", "-o", dump, basic.Unpack(t)[0])

	all := [][]string{locked, options, restored, {dump}}
	results := kernelvm.Check(t, all, kernelvm.CheckOptions{Passphrase: passphrase})
	for i, img := range []golden.Image{encrypted, basic, multi} {
		if r := results[i]; r.Status != 0 || !bytes.Equal(r.Manifest, img.Manifest()) {
			t.Errorf("%v: the driver says: %s (%d)\n%s%s", img, r.Why, r.Status, logErrors(r.Log), differing(r.Manifest, img.Manifest()))
		}
	}
	if r := results[3]; r.Status == 2 || metadataOnly(r.Manifest) != metadataOnly(basic.Manifest()) {
		t.Errorf("dump: the driver says: %s (%d)\n%s%s", r.Why, r.Status, logErrors(r.Log),
			differing([]byte(metadataOnly(r.Manifest)), []byte(metadataOnly(basic.Manifest()))))
	}
}

// A device whose superblocks are all lost is made a member again by another, which also knows where its journal lies.
func TestRecoverFromMemberDriver(t *testing.T) {
	kernelvm.Available(t)
	multi := golden.Find(t, "multi-replicas")
	paths := multi.UnpackCopy(t)
	sb := must(t, nil, "show-super", "--layout", paths[1])
	_, offsets, _ := strings.Cut(sb, "Offsets:")
	offsets, _, _ = strings.Cut(offsets, "\n")
	last := int64(0)
	for _, f := range strings.Split(offsets, ",") {
		last = 0
		for _, c := range strings.TrimSpace(f) {
			last = last*10 + int64(c-'0')
		}
	}
	scribble(t, paths[1], 0, 2<<20)
	scribble(t, paths[1], last*512, 4096)
	if r := runCLI(context.Background(), "", nil, "recover-super", "-y", paths[1]); r.code == 0 {
		t.Fatalf("something was found: %s", r.out)
	}
	must(t, nil, "recover-super", "-y", "--src_device", paths[0], "--dev_idx", "1", paths[1])
	r := kernelvm.Check(t, [][]string{paths}, kernelvm.CheckOptions{})[0]
	if r.Status != 0 || !bytes.Equal(r.Manifest, multi.Manifest()) {
		t.Errorf("the driver says: %s (%d)\n%s%s", r.Why, r.Status, logErrors(r.Log), differing(r.Manifest, multi.Manifest()))
	}
}
