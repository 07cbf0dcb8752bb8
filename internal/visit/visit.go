// Package visit keeps walks of a tree finite: in a damaged or hostile image a directory may be in itself, or have several names, and
// thirty directories with two names for the next one make a thousand million paths.
package visit

import (
	"fmt"

	"github.com/go-bcachefs/bcachefs"
)

// ErrAgain says that a directory was met a second time in a walk: what is in it was shown already.
var ErrAgain = fmt.Errorf("the directory has another name, or is in itself: %w", bcachefs.ErrTooManyLinks)

// Dirs are the directories that one walk has entered. The zero value is ready for use. It costs no memory for those whose inode notes
// the very entry that the walk comes by, which is all of them in a sound filesystem.
type Dirs struct {
	strange map[bcachefs.InodeID]struct{}
}

// Start notes the directory that a walk starts at.
func (d *Dirs) Start(id bcachefs.InodeID) {
	if d.strange == nil {
		d.strange = map[bcachefs.InodeID]struct{}{}
	}
	d.strange[id] = struct{}{}
}

// Enter is called before what is in a directory is visited, with the directory and cookie of the entry that leads to it. It returns
// [ErrAgain] if the walk must not go there: no directory is entered more often than its inode's own name allows and once besides.
func (d *Dirs) Enter(st *bcachefs.Stat, parent bcachefs.InodeID, cookie uint64) error {
	if _, ok := d.strange[st.ID]; ok {
		return ErrAgain
	}
	if st.Dir != parent.Inum || st.DirCookie != cookie {
		d.Start(st.ID)
	}
	return nil
}
