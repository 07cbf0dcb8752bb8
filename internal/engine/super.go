package engine

import "github.com/go-bcachefs/bcachefs/internal/super"

// ErrNoSuperblock means that a device holds no bcachefs superblock that can be used.
var ErrNoSuperblock = super.ErrNone
