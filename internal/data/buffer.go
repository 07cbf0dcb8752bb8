package data

import (
	"context"
	"errors"
	"math/bits"
	"sync"
)

// bufferPool hands out buffers by powers of two. Those above the largest class are left to the garbage collector.
type bufferPool struct {
	classes [maxClass - minClass + 1]sync.Pool // *[]byte
}

const (
	minClass = 12 // 4 KiB
	maxClass = 22 // 4 MiB, which an extent never exceeds
)

// get returns a buffer of n bytes with arbitrary content.
func (b *bufferPool) get(n int) []byte {
	class := max(bits.Len(uint(max(n, 1)-1)), minClass)
	if class > maxClass {
		return make([]byte, n)
	}
	if p, _ := b.classes[class-minClass].Get().(*[]byte); p != nil {
		return (*p)[:n]
	}
	return make([]byte, n, 1<<class)
}

// put gives a buffer of get back.
func (b *bufferPool) put(buf []byte) {
	class := bits.Len(uint(cap(buf))) - 1
	if cap(buf) == 0 || class > maxClass || class < minClass || cap(buf) != 1<<class {
		return
	}
	b.classes[class-minClass].Put(&buf)
}

func isCancel(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
