package engine

import (
	"context"
	"fmt"
	"strings"
	"syscall"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// SetLabel changes the name of the filesystem in the superblocks. It has at most 31 bytes and no NUL, so that it ends with one as the driver wants it.
func (rw *RW) SetLabel(ctx context.Context, label string) error {
	if most := len(ondisk.Superblock{}.RawLabel) - 1; len(label) > most || strings.ContainsRune(label, 0) {
		return fmt.Errorf("label %q: it may have at most %d bytes and no NUL: %w", label, most, syscall.EINVAL)
	}
	return rw.updateSuper(ctx, func(sb *ondisk.Superblock) error {
		clear(sb.RawLabel[:])
		copy(sb.RawLabel[:], label)
		return nil
	})
}

// Halt ends all writing as an error does: nothing becomes durable that is not. Reading goes on. The filesystem must still be closed, and whoever
// opens it next recovers it.
func (rw *RW) Halt(err error) { rw.Journal.Halt(err) }
