package ondisk

import (
	"errors"
	"fmt"
)

// Errors that decoders of this package wrap.
var (
	// ErrChecksum means that bytes do not match their checksum; another replica may.
	ErrChecksum = errors.New("checksum does not match")
	// ErrIncompatible means a structure that only a newer or an unsupported implementation can read.
	ErrIncompatible = errors.New("not supported")
)

// NodeError says why a btree node, or a part of one, cannot be used. It wraps [ErrChecksum] or [ErrIncompatible] where
// these apply.
type NodeError struct {
	ID     string // name of the check that failed (enum bch_sb_error_id)
	Offset int    // of the structure in the node, in bytes
	// Salvageable: only a part of the node is lost; another replica should be tried first, then [NodeWant.Salvage].
	Salvageable bool
	Msg         string
	Err         error // may be nil
}

func (e *NodeError) Error() string {
	s := fmt.Sprintf("btree node: byte %d: %s", e.Offset, e.Msg)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s + " (" + e.ID + ")"
}

// Unwrap returns the reason, if there is one.
func (e *NodeError) Unwrap() error { return e.Err }

// NodeProblem is something wrong with a node that was repaired in memory: a part was left out or taken as it is.
type NodeProblem struct {
	ID     string // name of the check that failed (enum bch_sb_error_id)
	Offset int    // of the bset or the key in the node, in bytes
	Msg    string
}

func (p NodeProblem) String() string { return fmt.Sprintf("byte %d: %s (%s)", p.Offset, p.Msg, p.ID) }

func nodeErr(id string, off int, err error, format string, args ...any) *NodeError {
	return &NodeError{ID: id, Offset: off, Err: err, Msg: fmt.Sprintf(format, args...)}
}

func salvageable(id string, off int, err error, format string, args ...any) *NodeError {
	e := nodeErr(id, off, err, format, args...)
	e.Salvageable = true
	return e
}
