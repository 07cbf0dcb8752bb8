package alloc

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Errors of triggers. A commit that fails with one that is [ErrInconsistent] has found metadata that contradicts itself: the filesystem
// must not be written to any more.
var (
	ErrInconsistent = errors.New("metadata is inconsistent")
	// ErrNoBucket means a bucket or device that does not exist. It is [ErrInconsistent].
	ErrNoBucket error = inconsistent("no such bucket")
)

// inconsistent is a sentinel that is [ErrInconsistent].
type inconsistent string

func (e inconsistent) Error() string        { return string(e) }
func (e inconsistent) Is(target error) bool { return target == ErrInconsistent }

// Owner is a key that points into a bucket.
type Owner struct {
	Btree ondisk.BtreeID
	Level uint8
	Pos   ondisk.Pos
	// Type of the key; deleted if only a backpointer told of it.
	Type ondisk.KeyType
	// Sector and Sectors are the place on the device that it points to.
	Sector  ondisk.Sector
	Sectors uint32
}

func (o Owner) String() string {
	if o == (Owner{}) {
		return "space that has no owner yet"
	}
	what := "a key"
	if o.Type != ondisk.KeyDeleted {
		what = "the " + o.Type.String()
	}
	return fmt.Sprintf("%s at %v of btree %v level %d (sectors %d to %d)", what, o.Pos, o.Btree, o.Level, o.Sector,
		o.Sector+ondisk.Sector(o.Sectors)-1)
}

// BucketError tells that a change contradicts the state of a bucket: somebody else's data is or was in it. It is [ErrInconsistent].
type BucketError struct {
	ID     string // of the check, as the reference names it: for instance stale_dirty_ptr
	Dev    uint8
	Bucket ondisk.Bucket
	Gen    uint8
	Type   ondisk.DataType
	Msg    string
	// Owner is whose change it was, Others are the other owners as far as backpointers tell.
	Owner  Owner
	Others []Owner
}

func (e *BucketError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "device %d bucket %d (gen %d, %v): %s (%s); changed for %v", e.Dev, e.Bucket, e.Gen, e.Type, e.Msg, e.ID, e.Owner)
	for i, o := range e.Others {
		if i == 0 {
			b.WriteString("; it belongs to ")
		} else {
			b.WriteString(", ")
		}
		b.WriteString(o.String())
	}
	return b.String()
}

// Is makes a BucketError [ErrInconsistent].
func (e *BucketError) Is(target error) bool { return target == ErrInconsistent }

// KeyError tells that a change of a key contradicts other keys. It is [ErrInconsistent].
type KeyError struct {
	Btree ondisk.BtreeID
	Pos   ondisk.Pos
	Msg   string
}

func (e *KeyError) Error() string { return fmt.Sprintf("btree %v at %v: %s", e.Btree, e.Pos, e.Msg) }

// Is makes a KeyError [ErrInconsistent].
func (e *KeyError) Is(target error) bool { return target == ErrInconsistent }

func keyErrorf(btree ondisk.BtreeID, pos ondisk.Pos, format string, args ...any) error {
	return &KeyError{Btree: btree, Pos: pos, Msg: fmt.Sprintf(format, args...)}
}
