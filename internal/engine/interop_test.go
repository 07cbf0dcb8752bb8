package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/fsck/fscktest"
	"github.com/go-bcachefs/bcachefs/internal/golden"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
	"github.com/go-bcachefs/bcachefs/internal/manifest"
)

// manifestOf lists what is in a filesystem.
func manifestOf(t *testing.T, paths []string) []byte {
	t.Helper()
	fs, err := bcachefs.Open(t.Context(), paths, &bcachefs.OpenOptions{NoScan: true,
		Passphrase: func(context.Context) ([]byte, error) { return []byte(interopPassphrase), nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	var buf bytes.Buffer
	if err := manifest.Write(t.Context(), &buf, fs.Root()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// What the driver left without unmounting is recovered: nothing of it is lost, and both checks find nothing.
func TestRecoverDriver(t *testing.T) {
	var all [][]string
	for _, name := range golden.Some(t, 2, []string{"dirty-light", "dirty-heavy", "dirty-multi", "dirty-deleted"}) {
		img := golden.Find(t, name)
		paths := img.UnpackCopy(t)
		t.Run(name, func(t *testing.T) {
			closeRW(t, openRW(t, paths, engine.WriteOptions{}))
			fscktest.MustBeClean(t, paths...)
			for _, d := range img.Diff(manifestOf(t, paths), img.Manifest()) {
				t.Error(d)
			}
		})
		all = append(all, paths)
	}
	if !t.Failed() {
		kernelvm.MustBeClean(t, all, kernelvm.CheckOptions{ReadWrite: true})
	}
}

const interopPassphrase = "a passphrase"

// interopShapes have the options of formats that make a difference to what is written.
func interopShapes() []enginetest.Shape {
	passphrase := shape("passphrase", map[string]string{"metadata_checksum": "crc64"}, 48)
	passphrase.Options.Encrypted, passphrase.Options.Passphrase = true, []byte(interopPassphrase)
	return append([]enginetest.Shape{passphrase}, shapes()...) // first, as the machine is told its key
}

// interopMatrix has a filesystem for each value of an option.
func interopMatrix() (all []enginetest.Shape) {
	options := map[string][]string{
		"block_size": {"512", "1k", "2k", "4k"}, "btree_node_size": {"32k", "64k", "256k"}, "metadata_checksum": {"none", "crc32c", "crc64", "xxhash"},
		"str_hash": {"crc32c", "crc64", "siphash"}, "wide_macs": {"1"}, "inodes_32bit": {"0"}, "shard_inode_numbers": {"0"}, "inodes_use_key_cache": {"0"},
		"journal_transaction_names": {"0"}, "gc_reserve_percent": {"20"}, "usrquota": {"1"}, "errors": {"ro"},
	}
	for _, name := range slices.Sorted(maps.Keys(options)) {
		for _, v := range options[name] {
			all = append(all, shape(name+"-"+v, map[string]string{name: v}, 48))
		}
	}
	for _, kib := range []int64{32, 64, 128, 512, 1024, 2048} {
		s := shape(fmt.Sprint("bucket-", kib, "k"), nil, max(48, kib/4))
		s.Devices[0].BucketBytes = kib << 10
		all = append(all, s)
	}
	for n := 2; n <= 4; n++ {
		r := strconv.Itoa(min(n, 3))
		all = append(all, shape(fmt.Sprint("devices-", n), map[string]string{"metadata_replicas": r, "data_replicas": r}, []int64{40, 48, 56, 64}[:n]...))
	}
	return all
}

// used returns filesystems that were made and used by us, most of them closed, every third left as in a crash.
func used(t *testing.T, shapes []enginetest.Shape) (all []*stress, paths [][]string) {
	t.Helper()
	dir := t.TempDir()
	for i, sh := range shapes {
		s := newStress(t, sh)
		for round := range 2 {
			v := s.open()
			s.run(v, enginetest.Work{Seed: *stressSeed*100 + uint64(i), Goroutines: 3, Ops: *stressOps, SyncEvery: 20, MaxBlocks: 10})
			if round == 0 || i%3 == 2 {
				v.RW.Abandon()
			} else {
				s.close(v)
			}
			s.check()
		}
		p, err := s.disks.Save(t.Context(), dir, strconv.Itoa(i))
		if err != nil {
			t.Fatal(err)
		}
		all, paths = append(all, s), append(paths, p)
	}
	return all, paths
}

// sameList compares two manifests, but for the times of the root, which a check that uses the filesystem changes.
func sameList(t *testing.T, what string, ours, theirs []byte) {
	t.Helper()
	a, b := strings.Split(string(ours), "\n"), strings.Split(string(theirs), "\n")
	if len(a) != len(b) {
		t.Errorf("%s: we list %d lines, the driver %d", what, len(a), len(b))
	}
	told := 0
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] && !strings.HasPrefix(a[i], ".\t") && told < 5 {
			told++
			t.Errorf("%s: we list\n%s\nthe driver\n%s", what, a[i], b[i])
		}
	}
}

// driverChecks has the driver use and check what we wrote, and list the same as we.
func driverChecks(t *testing.T, shapes []enginetest.Shape) {
	t.Helper()
	_, paths := used(t, shapes)
	opts := kernelvm.CheckOptions{ReadWrite: true, Passphrase: string(shapes[0].Options.Passphrase), Timeout: 10 * time.Minute}
	for i, r := range kernelvm.MustBeClean(t, paths, opts) {
		sameList(t, shapes[i].Name, manifestOf(t, paths[i]), r.Manifest)
	}
}

// What we wrote the driver mounts, uses, and finds clean.
func TestDriverTakesOurs(t *testing.T) {
	kernelvm.Available(t)
	driverChecks(t, interopShapes())
}

// The same for all values of the options.
func TestDriverTakesOursMatrix(t *testing.T) {
	if os.Getenv("BCACHEFS_VM_MATRIX") == "" {
		t.Skip("all options take minutes in the virtual machine: set BCACHEFS_VM_MATRIX=1")
	}
	kernelvm.Available(t)
	for shapes := range slices.Chunk(interopMatrix(), 8) {
		t.Run(shapes[0].Name, func(t *testing.T) { driverChecks(t, shapes) })
	}
}

// turnScript lets the driver have its turn with several filesystems: it checks and lists each as it is, then changes it. At the end they are
// unmounted, or power is cut. Arguments: the number of the turn, whether power is cut, the number of disks of each filesystem.
const turnScript = `
turn=%d cut=%v disk=0 n=0
fail() { echo "filesystem $n, $devices: $1"; vm_dmesg_since; vm_exit 1; }
for count in %s; do
  devices=
  while [ "$count" -gt 0 ]; do
    letter=$(echo abcdefghijklmnopqrstuvwxyz | cut -c $((disk + 1)))
    devices=${devices:+$devices:}/dev/vd$letter
    disk=$((disk + 1)) count=$((count - 1))
  done
  vm_dmesg_mark
  mount -t bcachefs -o ro,nochanges,fsck,fix_errors=no "$devices" /mnt || fail "fsck: cannot be mounted"
  guesttool manifest /mnt >/share/$n.manifest || fail "cannot be read"
  umount /mnt
  vm_dmesg_since | grep -v "insufficient writeable journal devices" | grep '^<[0-3]>' && fail "fsck: errors"
  mkdir -p /mnt$n
  mount -t bcachefs -o rw "$devices" /mnt$n || fail "cannot be mounted"
  if [ $turn = 0 ]; then
    guesttool populate /mnt$n/driver $turn 5 40 50000 || fail "cannot be populated"
  fi
  guesttool churn /mnt$n/driver $turn 150 40 || fail "cannot be used"
  sync
  n=$((n + 1))
done
i=0
while [ $i -lt $n ]; do
  guesttool churn /mnt$i/driver $((turn + 100)) 60 || fail "cannot be used further"
  [ $cut = true ] || umount /mnt$i
  i=$((i + 1))
done
if [ $cut = true ]; then vm_powercut; fi
`

// We and the driver take turns with filesystems, five times, each taking over from the other after shutting down or after a crash. Each
// finds clean what the other left, and reads there what the other does.
func TestTurns(t *testing.T) {
	kernelvm.Available(t)
	shapes := interopShapes()
	shapes = []enginetest.Shape{shapes[1], shapes[4], shapes[7]} // a plain one, small blocks and nodes, two devices
	all, paths := used(t, shapes)
	var counts, disks []string
	for i, p := range paths {
		counts, disks = append(counts, strconv.Itoa(len(p))), append(disks, p...)
		all[i].h.Foreign = []string{"driver"}
		all[i].replayed = true
	}
	const turns = 5
	for turn := range turns {
		t.Logf("turn %d", turn)
		cut := turn%2 == 1
		opts := kernelvm.RunOptions{Share: t.TempDir(), Timeout: 2 * time.Minute}
		for _, d := range disks {
			opts.Disks = append(opts.Disks, kernelvm.Disk{Path: d, Keep: true})
		}
		var ours [][]byte
		for _, p := range paths {
			ours = append(ours, manifestOf(t, p))
		}
		out := kernelvm.RunScript(t, fmt.Sprintf(turnScript, turn, cut, strings.Join(counts, " ")), opts)
		if out.Status != 0 {
			t.Fatalf("turn %d: %d\n%s%s", turn, out.Status, out.Stdout, out.Stderr)
		}
		for i, s := range all {
			theirs, err := os.ReadFile(filepath.Join(opts.Share, fmt.Sprint(i, ".manifest")))
			if err != nil {
				t.Fatal(err)
			}
			sameList(t, fmt.Sprintf("turn %d: %s", turn, s.shape.Name), ours[i], theirs)
			s.turn(paths[i], uint64(turn))
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	for i, r := range kernelvm.MustBeClean(t, paths, kernelvm.CheckOptions{ReadWrite: true}) {
		sameList(t, shapes[i].Name, manifestOf(t, paths[i]), r.Manifest)
	}
}

// turn is ours: what the driver left is checked, used, and left as the turn's number has it.
func (s *stress) turn(paths []string, n uint64) {
	s.Helper()
	if err := s.disks.Load(paths); err != nil {
		s.Fatal(err)
	}
	s.check()
	v := s.open()
	s.run(v, enginetest.Work{Seed: *stressSeed*1000 + n, Goroutines: 3, Ops: *stressOps, SyncEvery: 20, MaxBlocks: 8, Verify: true})
	if n%3 == 1 {
		v.RW.Abandon()
	} else {
		s.close(v)
	}
	s.check()
	for i, p := range paths {
		if err := enginetest.SaveDevice(s.Context(), s.disks.Devices[i], p); err != nil {
			s.Fatal(err)
		}
	}
}

// Many goroutines allocate, write, overwrite and free for as long as -engine.long says, with the early allocator carrying all of it: filled to the
// brim, half emptied, worked on, closed or crashed, again and again. Then both checks find nothing. `make stress` runs it for an hour under the race detector.
func TestLong(t *testing.T) {
	sh := shape("early allocator", nil, int64(golden.FlagTimes(t, "engine.long", 96, 32)))
	sh.NoFreespace = true
	s := newStress(t, sh)
	var ops, full, buckets, verified int64
	start := time.Now()
	for round := uint64(0); time.Since(start) < *stressLong; round++ {
		v := s.open()
		w := enginetest.Work{Seed: *stressSeed + round*10, Goroutines: 8, Ops: 400, SyncEvery: 40, MaxBlocks: 60, Verify: true, Full: true}
		for _, kind := range []int{0, 1, 2, 0, 1, 2} {
			w.Grow, w.Shrink, w.Seed = kind == 0, kind == 1, w.Seed+1
			d := s.run(v, w)
			ops += d.Ops
			verified += d.Verified
			if d.Full {
				full++
			}
		}
		buckets += int64(v.RW.Alloc.Stats().Opened)
		if round%3 == 2 {
			v.RW.Abandon()
		} else {
			s.close(v)
		}
		s.check()
		if round%10 == 0 {
			t.Logf("%v: %d operations, full %d times, %d buckets opened, %d files verified", time.Since(start).Round(time.Second), ops, full, buckets, verified)
		}
	}
	t.Logf("%v: %d operations, full %d times, %d buckets opened, %d files verified", time.Since(start).Round(time.Second), ops, full, buckets, verified)
	path := filepath.Join(t.TempDir(), "long.img")
	if err := enginetest.SaveDevice(t.Context(), s.disks.Devices[0], path); err != nil {
		t.Fatal(err)
	}
	kernelvm.MustBeClean(t, [][]string{{path}}, kernelvm.CheckOptions{ReadWrite: true})
}
