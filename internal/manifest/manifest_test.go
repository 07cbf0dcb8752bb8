package manifest_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/manifest"
)

func open(t *testing.T, name string) *bcachefs.FS {
	t.Helper()
	f, err := bcachefs.Open(context.Background(), golden.Find(t, name).Unpack(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestWriteIsTheKernelsManifest(t *testing.T) {
	f := open(t, "damage-base")
	want := golden.Find(t, "damage-base").Manifest()
	for _, parallel := range []int{1, 3, 64} {
		var b bytes.Buffer
		lines := 0
		err := manifest.WriteOptions(context.Background(), &b, f.Root(), manifest.Options{
			Parallel: parallel,
			Progress: func(n int, bytes int64) { lines = n },
			Report:   func(what, path string, err error) { t.Errorf("%s %s: %v", what, path, err) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.Bytes(), want) {
			t.Errorf("%d at once: the manifest differs from the kernel's", parallel)
		}
		if n := bytes.Count(want, []byte("\n")) - 2; lines != n {
			t.Errorf("progress told of %d lines of %d", lines, n)
		}
	}
}

func TestWriteFromADirectory(t *testing.T) {
	f := open(t, "damage-base")
	id, err := f.Root().Resolve(context.Background(), "/dir", true)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := manifest.WriteOptions(context.Background(), &b, f.Root(), manifest.Options{Start: id}); err != nil {
		t.Fatal(err)
	}
	var paths []string
	for line := range strings.Lines(b.String()) {
		if !strings.HasPrefix(line, "#") {
			path, _, _ := strings.Cut(line, "\t")
			paths = append(paths, path)
		}
	}
	if got := strings.Join(paths, " "); got != ". sub sub/file" {
		t.Errorf("paths %q", got)
	}
}

func TestUnreadableFilesAreMarkedAndReported(t *testing.T) {
	f := open(t, "damaged-data")
	var b bytes.Buffer
	var reported []string
	err := manifest.WriteOptions(context.Background(), &b, f.Root(), manifest.Options{
		Report: func(what, path string, err error) { reported = append(reported, what+" "+path) },
	})
	var unread *manifest.ReadErrors
	if !errors.As(err, &unread) || unread.Count != 1 {
		t.Fatalf("error %v", err)
	}
	var re *bcachefs.ReadError
	if !errors.As(err, &re) {
		t.Errorf("the first error is lost: %v", err)
	}
	if got := strings.Join(reported, ","); got != "read lines" {
		t.Errorf("reported %q", got)
	}
	if !strings.Contains(b.String(), "\t!5\t") {
		t.Error("the line of the unreadable file does not say so")
	}
}

type failingWriter struct{ room int }

var errFull = errors.New("full")

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.room -= len(p); w.room < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestWriterFails(t *testing.T) {
	f := open(t, "basic")
	for _, room := range []int{0, 70000, 300000} {
		if err := manifest.Write(context.Background(), &failingWriter{room}, f.Root()); !errors.Is(err, errFull) {
			t.Errorf("room for %d bytes: %v", room, err)
		}
	}
}

func TestCancelled(t *testing.T) {
	f := open(t, "damage-base")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := manifest.Write(ctx, &bytes.Buffer{}, f.Root()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{"plain-name_1.txt": "plain-name_1.txt", "a b": `a\x20b`, "a,b": `a\x2cb`, `\`: `\x5c`,
		"\n\xff": `\x0a\xff`, "é": `\xc3\xa9`, "~": "~", "\x7f": `\x7f`} {
		if got := manifest.Escape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
