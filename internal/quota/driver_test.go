package quota_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/quota"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// listText lists what all of a type have as the command in testdata does.
func listText(w *world, typ ondisk.QuotaType) (lines []string) {
	w.Helper()
	list, err := w.q.List(typ)
	w.must(err)
	for _, s := range list {
		space, inodes := s.Limits.Space, s.Limits.Inodes
		lines = append(lines, fmt.Sprint(s.ID, s.Sectors, s.Inodes, space.Hard, space.Soft, inodes.Hard, inodes.Soft))
	}
	return lines
}

// used makes a filesystem with files of several, limits, snapshots and subvolumes.
func used(t *testing.T) *world {
	w := newWorld(t, allTypes)
	ctx := t.Context()
	w.must(w.q.Set(ctx, ondisk.QuotaUser, 1, ondisk.Quota{Space: ondisk.QuotaLimit{Hard: 160, Soft: 96}, Inodes: ondisk.QuotaLimit{Hard: 4, Soft: 3}}))
	w.must(w.q.Set(ctx, ondisk.QuotaGroup, 7, ondisk.Quota{Inodes: ondisk.QuotaLimit{Soft: 100}}))
	w.must(w.q.Set(ctx, ondisk.QuotaProject, 5, ondisk.Quota{Space: ondisk.QuotaLimit{Hard: 1 << 20}}))
	sub, err := w.subvolume(ctx, w.root, "sub", 2)
	w.must(err)
	for i := range 12 {
		dir := w.root
		if i%3 == 0 {
			dir = sub
		}
		f, err := w.create(ctx, dir, fmt.Sprint("f", i), 2+uint32(i%4), uint32(i%8), fileMode)
		w.must(err)
		w.must(w.write(ctx, f, i, 1+i))
		w.must(w.project(ctx, f, uint32(i%6)))
	}
	mine := w.file("mine", 1)
	w.must(w.write(ctx, mine, 0, 10))
	for _, source := range []uint32{ondisk.RootSubvol, sub.Subvol} {
		snap, err := w.snapshot(ctx, source, w.root, fmt.Sprint("snap", source))
		w.must(err)
		f, err := w.create(ctx, snap, "in it", 3, 3, fileMode)
		w.must(err)
		w.must(w.write(ctx, f, 0, 30))
	}
	w.must(w.write(ctx, mine, 20, 2))
	return w
}

// invalidKey puts limits into the btree of a type that there is not.
func invalidKey(w *world) {
	w.must(w.update(w.Context(), func(tx *trans.Tx) error {
		q := ondisk.Quota{}
		return tx.Update(ondisk.BtreeQuotas, ondisk.Key{Type: ondisk.KeyQuota, Pos: ondisk.Pos{Inode: uint64(ondisk.NumQuotaTypes), Offset: 3}, Val: q.Encode()}, 0)
	}))
}

// A key of a type that there is not is found when its node is read, as by the driver, which has no pass of its own for quotas. To us it limits nobody.
func TestInvalidType(t *testing.T) {
	w := newWorld(t, allTypes)
	invalidKey(w)
	w.must(w.q.Set(t.Context(), ondisk.QuotaUser, 3, ondisk.Quota{Inodes: ondisk.QuotaLimit{Hard: 1}}))
	w.must(w.rw.Close(t.Context()))
	o, names := fscktest.OnDevices(w.disks.Devices...)
	r := o.Check(t, names...)
	if len(r.Findings) != 1 || r.Findings[0].Name() != "quota_type_invalid" || r.Findings[0].Pass != "check_topology" || r.Findings[0].Btree != ondisk.BtreeQuotas {
		t.Errorf("found %v", r.Findings)
	}
}

// driverScript: with the options of quotas the driver lists what all have, limits somebody who then writes, and lists again.
const driverScript = `
set -e
mount -t bcachefs -o usrquota,grpquota,prjquota /dev/vda /mnt
for t in 0 1 2; do /payload/quotactl list /mnt $t >/share/before.$t; done
/payload/quotactl write /mnt/mine 1 40960 >/share/wrote
/payload/quotactl set /mnt 0 4 4096 2048 50 40
/payload/quotactl set /mnt 2 5 0 0 0 0
sync
for t in 0 1 2; do /payload/quotactl list /mnt $t >/share/after.$t; done
umount /mnt
`

// The driver finds nothing wrong with what we wrote, counts the same, keeps our limits, and we its.
func TestDriver(t *testing.T) {
	kernelvm.Available(t)
	w := used(t)
	var want [ondisk.NumQuotaTypes][]string
	for typ := range want {
		want[typ] = listText(w, ondisk.QuotaType(typ))
	}
	w.must(w.rw.Close(t.Context()))
	dir := t.TempDir()
	paths, err := w.disks.Save(t.Context(), dir, "quota")
	w.must(err)
	bad := newWorld(t, allTypes)
	invalidKey(bad)
	w.must(bad.rw.Close(t.Context()))
	badPaths, err := bad.disks.Save(t.Context(), dir, "bad")
	w.must(err)

	checks := kernelvm.Check(t, [][]string{paths, badPaths}, kernelvm.CheckOptions{ReadWrite: true, Options: "usrquota,grpquota,prjquota"})
	if checks[0].Status != 0 {
		t.Errorf("the driver says: %s\n%s", checks[0].Why, checks[0].Log)
	}
	if checks[1].Status == 0 || !strings.Contains(checks[1].Log, "invalid quota type") {
		t.Errorf("of a key of no type the driver says: %d, %s\n%s", checks[1].Status, checks[1].Why, checks[1].Log)
	}

	payload, share := t.TempDir(), t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(payload, "quotactl"), "./testdata/quotactl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out := kernelvm.RunScript(t, driverScript, kernelvm.RunOptions{Disks: []kernelvm.Disk{{Path: paths[0], Keep: true}}, Payload: payload, Share: share})
	if out.Status != 0 {
		t.Fatalf("%d\n%s%s", out.Status, out.Stdout, out.Stderr)
	}
	read := func(name string) []string {
		b, err := os.ReadFile(filepath.Join(share, name))
		w.must(err)
		return strings.Split(strings.TrimSpace(string(b)), "\n")
	}
	for typ := range want {
		if got := read(fmt.Sprint("before.", typ)); !slices.Equal(got, want[typ]) {
			t.Errorf("type %d: the driver lists\n%s\nwe\n%s", typ, strings.Join(got, "\n"), strings.Join(want[typ], "\n"))
		}
	}
	// The file has 12 blocks; 8 more are his limit.
	if got := read("wrote")[0]; !strings.HasPrefix(got, "32768 ") || !strings.Contains(got, "quota exceeded") {
		t.Errorf("the driver let him write %s", got)
	}

	w.must(w.disks.Load(paths))
	w.open()
	for typ := range want {
		if got, theirs := listText(w, ondisk.QuotaType(typ)), read(fmt.Sprint("after.", typ)); !slices.Equal(got, theirs) {
			t.Errorf("type %d: we list\n%s\nthe driver\n%s", typ, strings.Join(got, "\n"), strings.Join(theirs, "\n"))
		}
	}
	s, err := w.q.Get(ondisk.QuotaUser, 4)
	if err != nil || s.Limits != (ondisk.Quota{Space: ondisk.QuotaLimit{Hard: 4096, Soft: 2048}, Inodes: ondisk.QuotaLimit{Hard: 50, Soft: 40}}) {
		t.Errorf("the driver's limits are %+v, %v", s.Limits, err)
	}
	if space, inodes, err := w.q.Grace(ondisk.QuotaUser); space != quota.DefaultGrace || inodes != quota.DefaultGrace || err != nil {
		t.Errorf("%v %v %v", space, inodes, err)
	}
	w.checkCount()
}
