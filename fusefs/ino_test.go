//go:build linux

package fusefs

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/go-bcachefs/bcachefs"
)

// Every number must lead back to its inode, no two inodes may share one, and the same inode has the same number at every mount.
func TestInoRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab, again := newInoTable(false), newInoTable(false)
		snapshotOf := func(subvol uint32) uint32 { return ^subvol }
		seen := map[uint64]bcachefs.InodeID{}
		for range 50 {
			id := bcachefs.InodeID{
				Subvol: rapid.OneOf(rapid.Uint32Range(0, 3), rapid.Uint32()).Draw(t, "subvol"),
				Inum:   rapid.OneOf(rapid.Uint64Range(4096, 4100), rapid.Uint64Range(4096, 1<<63-1)).Draw(t, "inum"),
			}
			id.Snapshot = snapshotOf(id.Subvol)
			ino := tab.ref(id, 1)
			if ino < inoFirstReal {
				t.Fatalf("%+v: number %d is reserved", id, ino)
			}
			if other, ok := seen[ino]; ok && other != id {
				t.Fatalf("%+v and %+v share number %#x", id, other, ino)
			}
			seen[ino] = id
			if got, ok := tab.lookup(ino); !ok || got != id {
				t.Fatalf("number %#x of %+v leads to %+v, %v", ino, id, got, ok)
			}
			if shown := tab.ref(id, 0); shown != ino {
				t.Fatalf("%+v: listed as %#x, known as %#x", id, shown, ino)
			}
			if next := again.ref(id, 1); next != ino {
				t.Fatalf("%+v: %#x at the first mount, %#x at the next", id, ino, next)
			}
		}
	})
}

// What the kernel forgot is not kept, and comes back under the same number.
func TestInoForget(t *testing.T) {
	tab := newInoTable(false)
	id := bcachefs.InodeID{Snapshot: 7, Inum: 5000} // a view of a bare snapshot has no arithmetic number
	ino := tab.ref(id, 1)
	tab.ref(id, 2)
	tab.forget(ino, 1)
	if _, ok := tab.lookup(ino); !ok {
		t.Fatal("forgotten while two references are left")
	}
	tab.forget(ino, 2)
	if _, ok := tab.lookup(ino); ok {
		t.Fatal("still known after the last reference went")
	}
	if len(tab.byID) != 0 {
		t.Fatalf("%d entries left", len(tab.byID))
	}
	if again := tab.ref(id, 1); again != ino {
		t.Fatalf("came back as %#x, was %#x", again, ino)
	}
}
