package node

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

const benchKeys = 10000

// benchNode returns a node of 10 000 extents in files of eight, of which nothing is written, and their positions.
func benchNode() (*Node, []ondisk.Pos) {
	p := testParams(256<<10, 4096)
	p.Min, p.Max = ondisk.Pos{Inode: 4096}, ondisk.Pos{Inode: 6000}
	n := New(p)
	poss := make([]ondisk.Pos, benchKeys)
	for i := range poss {
		k := extent(i)
		poss[i] = k.Pos
		n.Set(&k, 1)
	}
	return n.Compact(5), poss
}

// extent returns one of many keys.
func extent(i int) ondisk.Key {
	return ondisk.Key{
		Type: ondisk.KeyExtent, Pos: ondisk.Pos{Inode: 4096 + uint64(i/8), Offset: uint64(i%8+1) << 20, Snapshot: 1<<32 - 1},
		Size: 128, Val: []byte{byte(i)<<4 | 1, byte(i >> 4), byte(i >> 12), 0, 0, 0, 0, 0},
	}
}

func shuffled(poss []ondisk.Pos) []ondisk.Pos {
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(poss), func(i, j int) { poss[i], poss[j] = poss[j], poss[i] })
	return poss
}

var sink ondisk.Key

func BenchmarkGet(b *testing.B) {
	n, poss := benchNode()
	shuffled(poss)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		k, ok := n.Get(poss[i])
		if !ok {
			b.Fatal(poss[i])
		}
		sink = k
		if i++; i == len(poss) {
			i = 0
		}
	}
}

func BenchmarkSeek(b *testing.B) {
	n, poss := benchNode()
	shuffled(poss)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		cur := n.Seek(poss[i])
		if !cur.Valid() {
			b.Fatal(poss[i])
		}
		if i++; i == len(poss) {
			i = 0
		}
	}
}

// BenchmarkNext goes over all keys with their values, a key an op.
func BenchmarkNext(b *testing.B) {
	n, _ := benchNode()
	b.ReportAllocs()
	cur := n.First()
	var sum uint64
	var k ondisk.Key
	for range b.N {
		if !cur.Valid() {
			cur = n.First()
		}
		cur.Load(&k)
		sum += k.Pos.Offset + uint64(k.Val[0])
		cur.Next()
	}
	sink.Size = uint32(sum)
}

func BenchmarkPrev(b *testing.B) {
	n, _ := benchNode()
	b.ReportAllocs()
	cur := n.Last()
	var sum uint64
	var k ondisk.Key
	for range b.N {
		if !cur.Valid() {
			cur = n.Last()
		}
		cur.Load(&k)
		sum += k.Pos.Offset + uint64(k.Val[0])
		cur.Prev()
	}
	sink.Size = uint32(sum)
}

func BenchmarkInsert(b *testing.B) {
	for _, order := range []string{"up", "down", "random"} {
		b.Run(order, func(b *testing.B) {
			_, poss := benchNode()
			switch order {
			case "down":
				for i, j := 0, len(poss)-1; i < j; i, j = i+1, j-1 {
					poss[i], poss[j] = poss[j], poss[i]
				}
			case "random":
				shuffled(poss)
			}
			k := extent(0)
			var n *Node
			i := len(poss)
			b.ReportAllocs()
			for b.Loop() {
				if i == len(poss) {
					n, i = New(testParams(256<<10, 4096)), 0
				}
				k.Pos = poss[i]
				n.Set(&k, 1)
				i++
			}
			if n.Len() == len(poss) {
				b.ReportMetric(float64(len(n.index)*chunkKeys)/float64(n.Len()), "places/key")
			}
		})
	}
}

func BenchmarkOverwrite(b *testing.B) {
	for _, words := range []int{1, 12} {
		b.Run(fmt.Sprintf("words=%d", words), func(b *testing.B) {
			n, poss := benchNode()
			shuffled(poss)
			k := extent(0)
			k.Val = make([]byte, words*8)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				k.Pos = poss[i]
				n.Set(&k, 1)
				if i++; i == len(poss) {
					i = 0
				}
			}
		})
	}
}

func BenchmarkDelete(b *testing.B) {
	for _, order := range []string{"up", "random"} {
		b.Run(order, func(b *testing.B) {
			_, poss := benchNode()
			if order == "random" {
				shuffled(poss)
			}
			var n *Node
			i := len(poss)
			b.ReportAllocs()
			for b.Loop() {
				if i == len(poss) {
					b.StopTimer()
					n, _ = benchNode()
					n.launch(200 << 10)
					n.WriteDone()
					i = 0
					b.StartTimer()
				}
				if !n.Delete(poss[i], 1) {
					b.Fatal(poss[i])
				}
				i++
			}
		})
	}
}

// BenchmarkPrepareWrite writes a node as a whole, or what changed of it: 4 KiB.
func BenchmarkPrepareWrite(b *testing.B) {
	for _, csum := range []checksum.Type{checksum.None, checksum.CRC32CNonzero, checksum.XXHash, checksum.ChaCha20Poly1305_128} {
		for _, whole := range []bool{true, false} {
			b.Run(fmt.Sprintf("%v/whole=%v", csum, whole), func(b *testing.B) {
				n, poss := benchNode()
				p := WriteParams{Version: ondisk.VersionDefault, Csum: csum, Key: &testKey, Scratch: blockdev.AlignedBuffer(256 << 10)}
				if !whole {
					shuffled(poss)
					if _, err := n.PrepareWrite(&p); err != nil {
						b.Fatal(err)
					}
					n.WriteDone()
				}
				b.ReportAllocs()
				size := 0
				var alone time.Duration // without the changes
				for b.Loop() {
					if !whole {
						for i := range 160 {
							k := extent(i)
							k.Pos = poss[i]
							n.Set(&k, 1)
						}
					}
					start := time.Now()
					w, err := n.PrepareWrite(&p)
					if err != nil {
						b.Fatal(err)
					}
					alone += time.Since(start)
					size = len(w.Buf)
					if whole {
						n.WriteFailed()
					} else {
						end := n.written
						n.WriteDone()
						n.written = end
					}
				}
				b.SetBytes(int64(size))
				b.ReportMetric(float64(alone)/float64(b.N), "ns/write")
			})
		}
	}
}

func BenchmarkFromDisk(b *testing.B) {
	n, _ := benchNode()
	w, err := n.PrepareWrite(&WriteParams{Version: ondisk.VersionDefault})
	if err != nil {
		b.Fatal(err)
	}
	n.WriteDone()
	d := decodeNode(b, n, w.Buf, nil)
	b.ReportAllocs()
	for b.Loop() {
		if FromDisk(d, testMagic, 256<<10, 4096).Len() != benchKeys {
			b.Fatal("keys are missing")
		}
	}
}

func BenchmarkSplit(b *testing.B) {
	n, _ := benchNode()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := n.Split([2]uint64{1, 2}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
