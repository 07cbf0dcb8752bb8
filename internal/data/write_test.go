package data_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

var (
	modelSeed = flag.Uint64("data.seed", 1, "of the random operations")
	modelOps  = flag.Int("data.ops", 70, "random operations on each filesystem")
)

func modelShapes() []enginetest.Shape {
	encrypted := shape("encrypted", map[string]string{"compression": "lz4"}, 48)
	encrypted.Options.Encrypted = true
	wide := shape("wide macs", map[string]string{"wide_macs": "1"}, 48)
	wide.Options.Encrypted = true
	small := shape("small buckets", map[string]string{"block_size": "512", "compression": "zstd:3", "data_checksum": "crc64"}, 48)
	small.Devices[0].BucketBytes = 32 << 10
	targets := shape("targets", map[string]string{"foreground_target": "fast", "background_target": "slow", "background_compression": "lz4"}, 40, 40)
	targets.Devices[0].Label, targets.Devices[1].Label = "fast", "slow"
	return []enginetest.Shape{
		shape("plain", nil, 48), encrypted, wide, small,
		shape("no checksum", map[string]string{"data_checksum": "none"}, 48),
		shape("crc64 gzip", map[string]string{"data_checksum": "crc64", "compression": "gzip", "encoded_extent_max": "256k"}, 48),
		shape("xxhash zstd", map[string]string{"data_checksum": "xxhash", "compression": "zstd", "background_compression": "zstd"}, 48),
		shape("lz4 unchecked", map[string]string{"data_checksum": "none", "compression": "lz4", "background_compression": "gzip"}, 48),
		shape("mirrored", map[string]string{"data_replicas": "2", "compression": "lz4:9"}, 40, 40),
		shape("nocow", map[string]string{"nocow": "1"}, 48),
		targets,
		shape("nocow mirrored", map[string]string{"nocow": "1", "data_replicas": "2"}, 40, 40),
	}
}

// Files hold what a model of them holds, whatever is done to them, and the filesystem is sound.
func TestModel(t *testing.T) {
	for i, s := range modelShapes() {
		t.Run(s.Name, func(t *testing.T) {
			golden.OneIn(t, 4, i)
			w := newWorld(t, s)
			r := rand.New(rand.NewPCG(*modelSeed, uint64(i)))
			t.Logf("seed %d", *modelSeed)
			for n := range 3 {
				w.file(fmt.Sprint("file-", n))
			}
			block := w.rw.SB.BlockBytes()
			for n := range *modelOps {
				w.what = ""
				if r.IntN(40) == 0 && w.snapshots < 3 {
					w.what = "snapshot"
					w.snapshot(fmt.Sprint("snapshot-", w.snapshots))
				}
				randomOp(w, r, block)
				w.checkAll()
				w.noMessages()
				if n%30 == 29 {
					w.remount(n%60 == 29)
					w.checkAll()
				}
			}
			w.end()
		})
	}
}

const modelSize = 1 << 20

// randomOp does something to a file and to its model.
func randomOp(w *world, r *rand.Rand, block int) {
	w.Helper()
	what := &w.what
	f, g := w.files[r.IntN(len(w.files))], w.files[r.IntN(len(w.files))]
	off, n := r.IntN(modelSize), 1+r.IntN(1<<r.IntN(19))
	if r.IntN(2) == 0 {
		off, n = off/block*block, (n+block-1)/block*block
	}
	ctx := w.Context()
	switch op := r.IntN(20); {
	case op < 8:
		*what = fmt.Sprintf("%s: write %d at %d", f.name, n, off)
		w.write(f, random(r, n), off)
	case op < 9:
		off = min(off, len(f.content))
		n = 1 + r.IntN(600)
		*what = fmt.Sprintf("%s: write %d at %d", f.name, n, off)
		w.write(f, random(r, n), off)
	case op < 11:
		size := r.IntN(modelSize)
		if r.IntN(3) == 0 {
			size = r.IntN(len(f.content) + 1)
		}
		*what = fmt.Sprintf("%s: truncate from %d to %d", f.name, len(f.content), size)
		w.truncate(f, size)
	case op < 13:
		*what = fmt.Sprintf("%s: punch %d at %d", f.name, n, off)
		_, err := w.w.Punch(ctx, f.id, int64(off), int64(n), nil)
		w.must(err)
		clear(f.content[min(off, len(f.content)):min(off+n, len(f.content))])
	case op < 15:
		mode := data.AllocateMode(r.IntN(4))
		*what = fmt.Sprintf("%s: allocate %d at %d, mode %d", f.name, n, off, mode)
		_, err := w.w.Allocate(ctx, f.id, int64(off), int64(n), mode, nil)
		w.must(err)
		if mode&data.KeepSize == 0 {
			f.grow(off + n)
		}
		if mode&data.ZeroRange != 0 {
			clear(f.content[min(off, len(f.content)):min(off+n, len(f.content))])
		}
	case op < 17:
		from := r.IntN(len(g.content)+1) / block * block
		*what = fmt.Sprintf("%s: copy of %s from %d, %d bytes to %d", f.name, g.name, from, n, off)
		n = min(n, len(g.content)-from)
		if f == g && from < off+n && off < from+n || n == 0 {
			return
		}
		w.copyRange(g, from, f, off, n)
	case op < 18:
		if off, n = off/block*block, (n+block-1)/block*block; off+n >= len(f.content) {
			return
		}
		*what = fmt.Sprintf("%s: collapse %d at %d", f.name, n, off)
		_, err := w.w.CollapseRange(ctx, f.id, int64(off), int64(n), nil)
		w.must(err)
		f.content = append(f.content[:off], f.content[off+n:]...)
	case op < 19:
		if off, n = off/block*block, (n+block-1)/block*block; off >= len(f.content) || len(f.content)+n > 2*modelSize {
			return
		}
		*what = fmt.Sprintf("%s: insert %d at %d", f.name, n, off)
		_, err := w.w.InsertRange(ctx, f.id, int64(off), int64(n), nil)
		w.must(err)
		f.content = append(f.content[:off:off], append(make([]byte, n), f.content[off:]...)...)
	default:
		*what = fmt.Sprintf("%s: options", f.name)
		comp := []uint8{0, 1, 2, 3, 4}[r.IntN(5)]
		w.setOption(f, func(in *ondisk.Inode) {
			in.Compression = comp
			in.FieldsSet = in.FieldsSet&^(1<<ondisk.InodeOptCompression) | min(1, uint16(comp))<<ondisk.InodeOptCompression
		})
	}
}
