package compress

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
)

// corpus returns data of different kinds, always the same, each size bytes long.
func corpus(size int) map[string][]byte {
	return map[string][]byte{
		"text":    text(size),
		"records": records(size),
		"sparse":  sparse(size),
		"zeros":   make([]byte, size),
		"mixed":   mixed(size),
		"random":  random(size),
	}
}

// text looks like source code or prose: words of uneven frequency.
func text(size int) []byte {
	r := rand.New(rand.NewPCG(1, 1))
	words := make([]string, 2000)
	for i := range words {
		var w strings.Builder
		for range 2 + r.IntN(9) {
			w.WriteByte(byte('a' + min(r.IntN(26), r.IntN(26))))
		}
		words[i] = w.String()
	}
	b := make([]byte, 0, size+16)
	for len(b) < size {
		u := r.Float64()
		b = append(b, words[int(u*u*u*float64(len(words)))]...)
		b = append(b, " \n,.("[max(0, r.IntN(12)-7)])
	}
	return b[:size]
}

// records is a table of numbers: short matches at a fixed distance.
func records(size int) []byte {
	r := rand.New(rand.NewPCG(2, 2))
	b := make([]byte, 0, size+32)
	for i := uint64(0); len(b) < size; i++ {
		b = binary.LittleEndian.AppendUint64(b, i)
		b = binary.LittleEndian.AppendUint32(b, r.Uint32N(1000))
		b = binary.LittleEndian.AppendUint32(b, 0xfeed)
	}
	return b[:size]
}

// sparse is zeros with islands.
func sparse(size int) []byte {
	r := rand.New(rand.NewPCG(3, 3))
	b := make([]byte, size)
	for at := 0; at < size; at += 64 + r.IntN(4000) {
		for j := at; j < min(size, at+r.IntN(100)); j++ {
			b[j] = byte(r.Uint32())
		}
	}
	return b
}

// mixed alternates between the others.
func mixed(size int) []byte {
	r := rand.New(rand.NewPCG(4, 4))
	kinds := [][]byte{text(size), records(size), sparse(size), random(size)}
	b := make([]byte, 0, size+8192)
	for len(b) < size {
		k := kinds[r.IntN(len(kinds))]
		n := min(r.IntN(8192), len(k))
		from := r.IntN(len(k) - n + 1)
		b = append(b, k[from:from+n]...)
	}
	return b[:size]
}

func random(size int) []byte {
	r := rand.New(rand.NewPCG(5, 5))
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}
