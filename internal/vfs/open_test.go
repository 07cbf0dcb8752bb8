package vfs

import (
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/data"
)

// A subvolume is reported once as to be deleted: when the second report is looked at another subvolume may have its id.
func TestSubvolIsReportedOnce(t *testing.T) {
	o := newOpenTable()
	id := data.ID{Subvol: 7, Inum: 4096}
	if !o.unlinkSubvol(id.Subvol) {
		t.Fatal("an unlinked subvolume that nobody holds is not reported")
	}
	o.hold(id, 1)
	if _, again := o.release(id, 1); again {
		t.Error("the last hold reports the subvolume a second time")
	}

	o.forgetSubvol(id.Subvol)
	o.hold(id, 1)
	if o.unlinkSubvol(id.Subvol) {
		t.Error("a new subvolume with the id is reported while it is held")
	}
	if _, due := o.release(id, 1); !due {
		t.Error("the last hold of the new subvolume does not report it")
	}
}
