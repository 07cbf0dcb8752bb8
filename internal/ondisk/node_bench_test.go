package ondisk

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
)

// benchNode makes a node of about 250 KiB: of n extents in files of eight, with every tenth overwritten in later bsets.
func benchNode(b testing.TB, n, bsets int, csum checksum.Type) (*nodeBuilder, []Pos) {
	var keys []Key
	var poss []Pos
	for i := range n {
		p := Pos{4096 + uint64(i/8), uint64(i%8+1) * 128, math.MaxUint32}
		keys = append(keys, Key{Type: KeyExtent, Pos: p, Size: 128, Val: words(uint64(i)<<4 | 1)})
		poss = append(poss, p)
	}
	nb := newNode(b, BtreeExtents, csum, keys...)
	nb.n.Min, nb.n.Max = PosMin, SPosMax
	for s := range bsets {
		var more []Key
		for i := s; i < n; i += 10 * max(bsets, 1) {
			more = append(more, keys[i])
		}
		nb.append(uint64(s+1), more...)
	}
	return nb, poss
}

func BenchmarkDecodeNode(b *testing.B) {
	for _, c := range []struct {
		csum  checksum.Type
		bsets int
	}{{checksum.None, 0}, {checksum.CRC32CNonzero, 0}, {checksum.CRC32CNonzero, 4}, {checksum.ChaCha20Poly1305_128, 0}} {
		b.Run(fmt.Sprintf("%v/bsets=%d", c.csum, 1+c.bsets), func(b *testing.B) {
			nb, _ := benchNode(b, 9000, c.bsets, c.csum)
			raw, w := nb.bytes(), nb.want()
			buf := bytes.Clone(raw)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				copy(buf, raw)
				n, err := DecodeNode(buf, w)
				if err != nil || n.Len() != 9000 {
					b.Fatal(n.Len(), err)
				}
			}
		})
	}
}

func BenchmarkNodeSearch(b *testing.B) {
	for _, plain := range []bool{false, true} {
		b.Run(fmt.Sprintf("unpacked=%v", plain), func(b *testing.B) {
			nb, poss := benchNode(b, 9000, 0, checksum.None)
			if plain {
				nb.n.Bsets[0].Keys = nil
				for i, p := range poss[:4000] {
					k := Key{Type: KeyExtent, Pos: p, Size: 128, Val: words(uint64(i)<<4 | 1)}
					nb.n.Bsets[0].Keys = AppendKey(nb.n.Bsets[0].Keys, k)
				}
				poss = poss[:4000]
			}
			n, err := DecodeNode(nb.bytes(), nb.want())
			if err != nil {
				b.Fatal(err)
			}
			rand.New(rand.NewPCG(1, 2)).Shuffle(len(poss), func(i, j int) { poss[i], poss[j] = poss[j], poss[i] })
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if n.Search(poss[i]) == n.Len() {
					b.Fatal(poss[i])
				}
				if i++; i == len(poss) {
					i = 0
				}
			}
		})
	}
}

func BenchmarkNodeKey(b *testing.B) {
	nb, _ := benchNode(b, 9000, 0, checksum.None)
	n, err := DecodeNode(nb.bytes(), nb.want())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	i, sum := 0, uint64(0)
	for b.Loop() {
		k := n.Key(i)
		sum += k.Pos.Offset
		if i++; i == n.Len() {
			i = 0
		}
	}
	_ = sum
}

func BenchmarkDecodeJset(b *testing.B) {
	j := testJset(checksum.CRC32CNonzero)
	for range 500 {
		j.Entries = append(j.Entries, j.Entries[2])
	}
	p := JsetParams{Magic: 55, BlockBytes: 4096}
	raw, err := j.Encode(p)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := DecodeJset(raw, p); err != nil {
			b.Fatal(err)
		}
	}
}
