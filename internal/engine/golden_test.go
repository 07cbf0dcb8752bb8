package engine

import (
	"context"
	"errors"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// openGolden opens an image through devices on which nothing can be written.
func openGolden(t testing.TB, img golden.Image, opts Options) (*FS, error) {
	t.Helper()
	paths := img.Unpack(t)
	if img.Passphrase != "" && opts.Passphrase == nil {
		opts.Passphrase = func(context.Context) ([]byte, error) { return []byte(img.Passphrase), nil }
	}
	if opts.OpenDevice == nil {
		opts.OpenDevice = func(path string) (blockdev.Device, error) {
			d, err := openUnwritable(path)
			if err == nil {
				t.Cleanup(func() {
					if n := d.(*blockdev.Faulter).Hits(); n > 0 {
						t.Errorf("%s: %d writes, flushes or discards were tried", path, n)
					}
				})
			}
			return d, err
		}
	}
	fs, err := Open(context.Background(), paths, opts)
	if err == nil {
		t.Cleanup(func() { fs.Close() })
	}
	return fs, err
}

func openUnwritable(path string) (blockdev.Device, error) {
	d, err := blockdev.OpenFile(path, blockdev.FileOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	return blockdev.NewFaulter(d, blockdev.FailWrites(errors.New("a read-only open writes"))), nil
}

// Every image opens, and what was not damaged can be walked without an error.
func TestGoldenWalk(t *testing.T) {
	for _, img := range golden.Sample(t) {
		t.Run(img.String(), func(t *testing.T) {
			fs, err := openGolden(t, img, Options{})
			if err != nil {
				t.Fatal(err)
			}
			keys, damage := 0, 0
			for _, id := range fs.Reader.Btrees() {
				for _, err := range fs.Reader.Keys(context.Background(), id, ondisk.PosMin, ondisk.SPosMax) {
					var ne *btree.NodeError
					switch {
					case errors.As(err, &ne):
						damage++
						if !img.Damaged() {
							t.Error(err)
						}
						continue
					case err != nil:
						t.Fatal(err)
					}
					keys++
				}
			}
			if keys == 0 && fs.Journal.Selection.Flush == 0 && len(fs.Journal.Roots) > 0 {
				t.Error("no keys at all")
			}
			sv, err := fs.Subvolume(context.Background(), ondisk.RootSubvol)
			if err != nil {
				t.Fatal(err)
			}
			_, ok, err := fs.Reader.Lookup(context.Background(), ondisk.BtreeInodes, ondisk.Pos{Offset: sv.Inode, Snapshot: sv.Snapshot})
			if !ok && !img.Damaged() {
				t.Errorf("root directory: %v, %v", ok, err)
			}
			t.Logf("%d keys, %d damaged ranges, overlay of %d keys", keys, damage, fs.Journal.Overlay.Len())
			for _, m := range fs.Messages() {
				t.Log(m)
			}
			sound := !img.Damaged() && !img.Dirty && fs.SB.Initialized()
			if sound && fs.SB.IsClean() && len(fs.Messages()) != 0 {
				t.Error("messages about a sound filesystem")
			}
		})
	}
}
