package visit

import (
	"errors"
	"testing"

	"github.com/go-bcachefs/bcachefs"
)

type name struct {
	in     uint64
	cookie uint64
	to     uint64
}

// TestDirs walks graphs of directories by all their names.
func TestDirs(t *testing.T) {
	ladder := func(n uint64) (names []name) {
		for i := range n {
			names = append(names, name{i, 10, i + 1}, name{i, 11, i + 1})
		}
		return names
	}
	for _, c := range []struct {
		what    string
		names   []name
		home    map[uint64]name // of inodes: directory and cookie
		entered int             // at most
	}{
		{"sound", []name{{0, 10, 1}, {0, 11, 2}, {1, 10, 3}}, map[uint64]name{1: {0, 10, 0}, 2: {0, 11, 0}, 3: {1, 10, 0}}, 3},
		{"in itself", []name{{0, 10, 1}, {1, 10, 1}, {1, 11, 1}}, map[uint64]name{1: {1, 10, 0}}, 1},
		{"root in itself", []name{{0, 10, 0}, {0, 11, 0}}, map[uint64]name{0: {0, 10, 0}}, 0},
		{"circle of homes", []name{{0, 10, 1}, {1, 10, 2}, {2, 10, 1}}, map[uint64]name{1: {2, 10, 0}, 2: {1, 10, 0}}, 2},
		{"no homes", ladder(60), nil, 60},
		{"first name is home", ladder(3), map[uint64]name{1: {0, 10, 0}, 2: {1, 10, 0}, 3: {2, 10, 0}}, 6},
		{"second name is home", ladder(3), map[uint64]name{1: {0, 11, 0}, 2: {1, 11, 0}, 3: {2, 11, 0}}, 3},
	} {
		var d Dirs
		d.Start(bcachefs.InodeID{})
		entered, again := 0, 0
		var walk func(dir uint64)
		walk = func(dir uint64) {
			for _, n := range c.names {
				if n.in != dir || entered > 1000 {
					continue
				}
				st := &bcachefs.Stat{ID: bcachefs.InodeID{Inum: n.to}, Dir: c.home[n.to].in, DirCookie: c.home[n.to].cookie}
				switch err := d.Enter(st, bcachefs.InodeID{Inum: dir}, n.cookie); {
				case err == nil:
					entered++
					walk(n.to)
				case errors.Is(err, bcachefs.ErrTooManyLinks):
					again++
				default:
					t.Fatal(err)
				}
			}
		}
		walk(0)
		if entered > c.entered || c.what == "sound" && again > 0 {
			t.Errorf("%s: %d directories entered, want at most %d; %d refused", c.what, entered, c.entered, again)
		}
	}
}
