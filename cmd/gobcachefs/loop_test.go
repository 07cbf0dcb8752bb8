package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/fuzzing"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// loopImage is an image all of whose directories but those in the root are the root again.
func loopImage(t *testing.T) string {
	t.Helper()
	const rootInum = 4096
	g := golden.Find(t, "damage-base")
	img, err := fuzzing.Load(t.Context(), g.Name, g.Unpack(t), "")
	if err != nil {
		t.Fatal(err)
	}
	var changes []fuzzing.Mutation
	for i, p := range img.Parts[fuzzing.Node] {
		if p.Btree != ondisk.BtreeDirents || p.Level != 0 {
			continue
		}
		for j, k := range p.Keys() {
			if d, err := ondisk.DecodeDirent(k); err == nil && d.Type == ondisk.DTDir && k.Pos.Inode != rootInum {
				changes = append(changes, fuzzing.Mutation{Kind: fuzzing.Node, Part: uint16(i), Op: fuzzing.OpValue, Index: uint16(j), Width: 3, Value: rootInum})
			}
		}
	}
	if len(changes) < 2 {
		t.Fatalf("%d directories below the top", len(changes))
	}
	devices, err := img.Changed(t.Context(), img.Mutate(changes))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "loop.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < devices[0].Size(); off += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), devices[0].Size()-off)]
		if err := devices[0].ReadAt(t.Context(), b, off); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(b, zero[:len(b)]) {
			continue
		}
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(devices[0].Size()); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDirectoriesInThemselves walks a tree with more paths than there are atoms: each command ends, and says that something is
// wrong.
func TestDirectoriesInThemselves(t *testing.T) {
	img := loopImage(t)
	for _, args := range [][]string{{"find", img}, {"du", img}, {"tree", img}, {"ls", "-R", img}, {"manifest", img}, {"export", img},
		{"cp", img, "/", t.TempDir()}} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		r := runCLI(ctx, "", nil, args...)
		switch {
		case ctx.Err() != nil:
			t.Errorf("%v: does not end", args[0])
		case r.code == 0 || !strings.Contains(r.err, "in itself"):
			t.Errorf("%v: exit code %d, %.500s", args[0], r.code, r.err)
		case len(r.out) > 100<<20:
			t.Errorf("%v: %d bytes of output", args[0], len(r.out))
		}
		cancel()
	}
}
