package fsck

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// checkSubvolumeStructure checks that one comes from every subvolume to the first, going to the one its entry is in each time.
func (c *checker) checkSubvolumeStructure(ctx context.Context) error {
	f, err := c.readFiles(ctx)
	if f == nil || !c.since(6) {
		return err
	}
	done := map[uint32]bool{ondisk.RootSubvol: true} // looked at before
	for id := range f.subvols {
		f.checkSubvolPath(id, done)
	}
	return nil
}

func (f *files) checkSubvolPath(id uint32, done map[uint32]bool) {
	onPath := map[uint32]bool{}
	for !done[id] {
		done[id], onPath[id] = true, true
		s := f.subvols[id]
		if s.EffectiveState() != ondisk.SubvolumeStateLive {
			return // being deleted: it has no entry any more
		}
		up := s.FSPathParent
		at := idPos(id)
		if _, ok := f.subvols[up]; !ok && up != ondisk.RootSubvol { // check_root tells of the first
			f.c.at(idSubvolUnreachable, ondisk.BtreeSubvolumes, 0, at, "put it into lost+found", "unreachable subvolume: fs_path_parent %d is missing", up)
			return
		}
		if onPath[up] {
			f.c.at(idSubvolLoop, ondisk.BtreeSubvolumes, 0, at, "put it into lost+found", "subvolume loop: fs_path_parent %d is below", up)
			return
		}
		id = up
	}
}
