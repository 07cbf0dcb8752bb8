package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Kinds of errors that members are counted by, as the superblock has them.
const (
	errorsRead = iota
	errorsWrite
	errorsChecksum
	numErrors
)

// errorsInterval is how long after one writing of the counters the next may come.
const errorsInterval = 30 * time.Second

// memberErrors counts the errors of members that the superblocks do not know of yet. They get to know with their next change, whatever it is for; if
// there is none, after a while, and at the latest when the filesystem is closed. Errors of writing do not make superblocks be written before that: if a
// device takes nothing any more that would end all writing, which others may still do.
type memberErrors struct {
	counts [256][numErrors]atomic.Uint64
	wake   chan struct{} // of capacity 1
}

// note counts an error.
func (m *memberErrors) note(dev uint8, kind int) {
	m.counts[dev][kind].Add(1)
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// readError counts an error of reading data.
func (m *memberErrors) readError(dev uint8, err error) {
	switch {
	case errors.Is(err, data.ErrChecksum), errors.Is(err, compress.ErrDecompress):
		m.note(dev, errorsChecksum)
	case !errors.Is(err, data.ErrNoKey):
		m.note(dev, errorsRead)
	}
}

// take adds what was counted to a superblock. stored is to be called once that is written.
func (m *memberErrors) take(sb *ondisk.Superblock) (stored func(), err error) {
	table, err := sb.RawMembers()
	if err != nil {
		return nil, err
	}
	var taken [][numErrors]uint64
	changed := false
	for i := range table {
		var n [numErrors]uint64
		if table[i].Alive() && i < len(m.counts) {
			for kind := range n {
				n[kind] = m.counts[i][kind].Load()
				table[i].Errors[kind] += n[kind]
				changed = changed || n[kind] > 0
			}
		}
		taken = append(taken, n)
	}
	stored = func() {
		for i := range taken {
			for kind, n := range taken[i] {
				m.counts[i][kind].Add(-n)
			}
		}
	}
	if !changed {
		return stored, nil
	}
	return stored, sb.SetMembers(table)
}

// waits reports whether there is something to be written, and may be.
func (m *memberErrors) waits() (some bool) {
	for i := range m.counts {
		c := &m.counts[i]
		if c[errorsWrite].Load() > 0 {
			return false
		}
		some = some || c[errorsRead].Load() > 0 || c[errorsChecksum].Load() > 0
	}
	return some
}

// storeErrors has the superblocks changed for the sake of the counters, now and then, until the context ends.
func (rw *RW) storeErrors(ctx context.Context, interval time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-rw.errors.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval): // more may come, and none be written before
		}
		if rw.errors.waits() && rw.Err() == nil {
			if err := rw.updateSuper(ctx, func(*ondisk.Superblock) error { return nil }); err != nil && ctx.Err() == nil {
				rw.message("counters of errors: %v", err)
			}
		}
	}
}
