package data_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
)

// A file is written from its start to its end, over and over, in pieces of 1 MiB, and of 4 KiB.
func BenchmarkWrite(b *testing.B) {
	encrypted := shape("encrypted", nil, 256)
	encrypted.Options.Encrypted = true
	for _, s := range []enginetest.Shape{
		shape("crc32c", nil, 256), shape("none", map[string]string{"data_checksum": "none"}, 256), encrypted,
		shape("lz4", map[string]string{"compression": "lz4"}, 256), shape("mirrored", map[string]string{"data_replicas": "2"}, 256, 256),
		shape("nocow", map[string]string{"nocow": "1"}, 256),
	} {
		for _, size := range []int{1 << 20, 4096} {
			b.Run(fmt.Sprintf("%s/%dk", s.Name, size>>10), func(b *testing.B) {
				d, err := enginetest.Format(b.Context(), &s)
				if err != nil {
					b.Fatal(err)
				}
				rw, err := d.Open(b.Context(), engine.Options{}, engine.WriteOptions{})
				if err != nil {
					b.Fatal(err)
				}
				defer rw.Abandon()
				v, err := enginetest.NewVolume(b.Context(), rw, nil)
				if err != nil {
					b.Fatal(err)
				}
				inum, _, err := v.Create(b.Context(), 4096, "f", false, 1)
				if err != nil {
					b.Fatal(err)
				}
				w := data.NewWriter(rw.DataConfig())
				p := make([]byte, size)
				r := rand.New(rand.NewPCG(1, 1))
				for i := range p {
					p[i] = byte(r.Uint32N(16))
				}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					off := int64(i%(64<<20/size)) * int64(size)
					if _, _, err := w.WriteAt(b.Context(), data.ID{Subvol: 1, Inum: inum}, p, off, nil); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
