package fstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

func newRand(a, b uint64) *rand.Rand { return rand.New(rand.NewPCG(a, mix(b))) }

// mix is a good hash of a word (splitmix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fill makes data: what is at off depends on off and tag, so that data in a wrong place is not taken for what should be there.
func fill(p []byte, tag uint64, off int64) {
	var word [8]byte
	for i := 0; i < len(p); {
		at := off + int64(i)
		binary.LittleEndian.PutUint64(word[:], mix(tag^mix(uint64(at>>3)))|1)
		i += copy(p[i:], word[at&7:])
	}
}

// pattern returns n bytes of data.
func pattern(tag uint64, off, n int64) []byte {
	p := make([]byte, n)
	fill(p, tag, off)
	return p
}

// readFull reads until p is full or the file ends.
func readFull(f File, p []byte, off int64) (int, error) {
	n, err := f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// writeFull writes all of p.
func writeFull(f File, p []byte, off int64) error {
	n, err := f.WriteAt(p, off)
	if err == nil && n != len(p) {
		err = fmt.Errorf("wrote %d of %d bytes: %w", n, len(p), EIO)
	}
	return err
}

// content returns all that is in a file.
func content(f File) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	p := make([]byte, st.Size)
	n, err := readFull(f, p, 0)
	if err == nil && n != len(p) {
		err = fmt.Errorf("read %d bytes of a file of %d: %w", n, len(p), EIO)
	}
	return p[:n], err
}

// firstDifference returns where two contents begin to differ and how many bytes behind that do; -1 if they are equal.
func firstDifference(a, b []byte) (at, n int) {
	at = -1
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			if at < 0 {
				at = i
			}
			n++
		}
	}
	if at < 0 && len(a) != len(b) {
		at = min(len(a), len(b))
	}
	return at, n
}

// shrink returns a shorter list with which fails still is true: it leaves out ever smaller parts, until there is nothing more to leave out or the time
// is over.
func shrink[T any](all []T, limit time.Duration, fails func([]T) bool) []T {
	end := time.Now().Add(limit)
	for size := (len(all) + 1) / 2; size >= 1; {
		removed := false
		for from := 0; from < len(all); {
			if time.Now().After(end) {
				return all
			}
			to := min(from+size, len(all))
			rest := append(append(make([]T, 0, len(all)), all[:from]...), all[to:]...)
			if len(rest) < len(all) && fails(rest) {
				all, removed = rest, true
			} else {
				from = to
			}
		}
		switch {
		case size > 1:
			size = (size + 1) / 2
		case !removed:
			return all
		}
	}
	return all
}

// lines formats the last most of a list, one a line.
func lines[T fmt.Stringer](all []T, most int) string {
	s := ""
	if len(all) > most {
		s = fmt.Sprintf("\n  (%d before)", len(all)-most)
		all = all[len(all)-most:]
	}
	for _, x := range all {
		s += "\n  " + x.String()
	}
	return s
}
