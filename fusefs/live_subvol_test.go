//go:build linux

package fusefs_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs/fusefs"
)

// Numbers of the driver's ioctls, as a program for it has them.
const (
	iocQueryUUID        = 0x8010bc01
	iocSubvolumeCreate  = 0x4020bc10
	iocSubvolumeDestroy = 0x4020bc11
	iocSubvolumeList    = 0xc018bc1f
	iocSubvolumeToPath  = 0xc010bc20
	iocReinherit        = 0x8008bc40
	iocGoingDown        = 0x8004587d
	iocGetLabel         = 0x81009431
	iocSetLabel         = 0x41009432
)

// ioctlOn calls an ioctl of an open file; arg is its argument, which it may change.
func ioctlOn(fd int, nr uintptr, arg []byte) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), nr, uintptr(unsafe.Pointer(&arg[0])))
	if errno != 0 {
		return int(r), errno
	}
	return int(r), nil
}

// subvolumeIoctl does what the reference's "subvolume" commands do.
func subvolumeIoctl(on string, nr uintptr, flags uint32, dirfd int, dst, src string) error {
	fd, err := unix.Open(on, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to, err := unix.BytePtrFromString(dst)
	if err != nil {
		return err
	}
	var b [32]byte
	binary.LittleEndian.PutUint32(b[0:], flags)
	binary.LittleEndian.PutUint32(b[4:], uint32(int32(dirfd)))
	binary.LittleEndian.PutUint16(b[8:], 0o777)
	binary.LittleEndian.PutUint64(b[16:], uint64(uintptr(unsafe.Pointer(to))))
	var from *byte
	if src != "" {
		if from, err = unix.BytePtrFromString(src); err != nil {
			return err
		}
		binary.LittleEndian.PutUint64(b[24:], uint64(uintptr(unsafe.Pointer(from))))
	}
	_, err = ioctlOn(fd, nr, b[:])
	runtime.KeepAlive(to)
	runtime.KeepAlive(from)
	return err
}

func (m *mounted) subvolume(dst string) error {
	return subvolumeIoctl(m.dir, iocSubvolumeCreate, 0, unix.AT_FDCWD, m.path(dst), "")
}

func (m *mounted) snapshot(src, dst string, readOnly bool) error {
	flags := uint32(1)
	if readOnly {
		flags |= 2
	}
	if src != "" {
		src = m.path(src)
	}
	return subvolumeIoctl(m.dir, iocSubvolumeCreate, flags, unix.AT_FDCWD, m.path(dst), src)
}

func (m *mounted) destroy(dst string) error {
	return subvolumeIoctl(m.dir, iocSubvolumeDestroy, 0, unix.AT_FDCWD, m.path(dst), "")
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) || want == nil && err != nil {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestLiveSubvolumes(t *testing.T) {
	m := newMount(t, 128)
	if _, err := os.Stat(m.path("sub")); err == nil { // so that the kernel knows that there is none
		t.Fatal("it is there already")
	}
	wantErr(t, "create", m.subvolume("sub"), nil)
	wantErr(t, "create again", m.subvolume("sub"), unix.EEXIST)
	wantErr(t, "create elsewhere", subvolumeIoctl(m.dir, iocSubvolumeCreate, 0, unix.AT_FDCWD, t.TempDir()+"/x", ""), unix.EXDEV)
	wantErr(t, "create in what is not there", m.subvolume("none/x"), unix.ENOENT)
	wantErr(t, "unknown flags", subvolumeIoctl(m.dir, iocSubvolumeCreate, 8, unix.AT_FDCWD, m.path("x"), ""), unix.EINVAL)
	if st, err := os.Stat(m.path("sub")); err != nil || !st.IsDir() {
		t.Fatalf("the new subvolume: %v", err)
	}
	m.write("sub/a", pattern(50000, 1))
	if err := os.Mkdir(m.path("sub/d"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.write("sub/d/b", pattern(5000, 2))

	// A snapshot has what was written, whether or not it left the kernel.
	f, err := os.OpenFile(m.path("sub/dirty"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const dirty = 24 << 20
	if _, err := f.Write(pattern(dirty, 3)); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "snapshot", m.snapshot("sub", "snap", false), nil)
	want := pattern(dirty, 3)
	m.wants("snap/dirty", want)
	m.wants("snap/a", pattern(50000, 1))
	m.wants("snap/d/b", pattern(5000, 2))
	if _, err := f.WriteAt([]byte("what came later."), 0); err != nil {
		t.Error(err)
	}
	m.write("sub/a", []byte("new"))
	m.wants("snap/dirty", want)
	m.wants("snap/a", pattern(50000, 1))

	wantErr(t, "read-only snapshot of where it is made", func() error {
		return subvolumeIoctl(m.path("sub"), iocSubvolumeCreate, 3, unix.AT_FDCWD, m.path("sub/ro"), "")
	}(), nil)
	m.wants("sub/ro/a", []byte("new"))
	wantErr(t, "write to a read-only one", os.WriteFile(m.path("sub/ro/a"), nil, 0o644), unix.EROFS)
	wantErr(t, "snapshot of a directory", m.snapshot("sub/d", "x", false), unix.EINVAL)
	wantErr(t, "rename of a file out of a subvolume", os.Rename(m.path("sub/a"), m.path("a")), unix.EXDEV)
	wantErr(t, "link out of a subvolume", os.Link(m.path("sub/a"), m.path("a")), unix.EXDEV)

	// The names are those in the directory.
	entries, err := os.ReadDir(m.dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); err != nil || got != "lost+found snap sub" {
		t.Errorf("names: %s, %v", got, err)
	}

	wantErr(t, "delete what has a subvolume in it", m.destroy("sub"), unix.ENOTEMPTY)
	wantErr(t, "delete a directory", m.destroy("sub/d"), unix.EINVAL)
	wantErr(t, "rmdir of a full one", unix.Rmdir(m.path("snap")), unix.ENOTEMPTY)
	wantErr(t, "delete", m.destroy("snap"), nil)
	if _, err := os.Stat(m.path("snap/a")); !os.IsNotExist(err) {
		t.Errorf("what was in it: %v", err)
	}
	wantErr(t, "delete again", m.destroy("snap"), unix.ENOENT)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	m.remount()
	wantSame := map[string]string{"sub/a": "new", "sub/ro/a": "new"}
	for name, text := range wantSame {
		m.wants(name, []byte(text))
	}
	if got, err := os.ReadFile(m.path("sub/dirty")); err != nil || string(got[:16]) != "what came later." {
		t.Errorf("%q, %v", got[:min(len(got), 16)], err)
	}
}

// Paths in an ioctl are the caller's: relative to its directory or a descriptor of it.
func TestLiveSubvolumePaths(t *testing.T) {
	m := newMount(t, 64)
	if err := os.Mkdir(m.path("d"), 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(m.path("d"), unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	wantErr(t, "relative to a descriptor", subvolumeIoctl(m.dir, iocSubvolumeCreate, 0, fd, "a", ""), nil)
	wantErr(t, "through a link", os.Symlink("d", m.path("l")), nil)
	wantErr(t, "through a link", m.subvolume("l/b/"), nil)
	wantErr(t, "a bad descriptor", subvolumeIoctl(m.dir, iocSubvolumeCreate, 0, 999, "a", ""), unix.ENOENT)
	wantErr(t, "no name", subvolumeIoctl(m.dir, iocSubvolumeCreate, 0, fd, "", ""), unix.ENOENT)
	wantErr(t, "a name too long", m.subvolume(strings.Repeat("x", 600)), unix.ENAMETOOLONG)
	for _, name := range []string{"d/a", "d/b"} {
		if st, err := os.Stat(m.path(name)); err != nil || !st.IsDir() {
			t.Errorf("%s: %v", name, err)
		}
	}
	var b [32]byte
	binary.LittleEndian.PutUint64(b[16:], 8)
	if _, err := ioctlOn(fd, iocSubvolumeCreate, b[:]); err != unix.EFAULT {
		t.Errorf("a pointer that leads nowhere: %v", err)
	}
}

// asUser runs a part of this test binary as nobody.
func asUser(t *testing.T, part string, env ...string) (string, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(os.TempDir(), fmt.Sprintf("fusefs-test-%d", os.Getpid()))
	data, err := os.ReadFile(exe)
	if err == nil {
		err = errors.Join(os.WriteFile(public, data, 0o755), os.Chmod(public, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(public)
	cmd := exec.Command(public)
	cmd.Dir = "/"
	cmd.Env = append(append(os.Environ(), partVar+"="+part), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{4242}}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Somebody who may not change a directory makes no subvolume in it, and takes no snapshot of what is not his.
func TestLiveSubvolumeRights(t *testing.T) {
	m := newMount(t, 64)
	if err := os.Chmod(m.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir := m.dir; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755)
	}
	for _, d := range []struct {
		name     string
		mode     os.FileMode
		uid, gid int
	}{{"mine", 0o755, 65534, 65534}, {"group", 0o770, 0, 4242}, {"other", 0o755, 0, 0}} {
		if err := errors.Join(os.Mkdir(m.path(d.name), 0o700), os.Chown(m.path(d.name), d.uid, d.gid), os.Chmod(m.path(d.name), d.mode)); err != nil {
			t.Fatal(err)
		}
	}
	wantErr(t, "a subvolume of root", m.subvolume("others"), nil)
	wantErr(t, "one where only root comes", errors.Join(os.Mkdir(m.path("hidden"), 0o700), m.subvolume("hidden/sub")), nil)
	out, err := asUser(t, "rights", "DIR="+m.dir)
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	want := "mine 0\ngroup 0\nother 13\nsnapshot of others 1\nsnapshot of mine 0\ndelete others 13\ndelete mine 0\nlabel 1\nshut down 1\n[others mine/sub group/sub] <nil>\n"
	if out != want {
		t.Errorf("got\n%swant\n%s", out, want)
	}
}

// rightsPart is what somebody without rights tries.
func rightsPart() {
	dir := os.Getenv("DIR")
	report := func(what string, err error) {
		errno, _ := err.(syscall.Errno)
		fmt.Println(what, int(errno))
	}
	create := func(flags uint32, dst, src string) error {
		if src != "" {
			src = filepath.Join(dir, src)
		}
		return subvolumeIoctl(dir, iocSubvolumeCreate, flags, unix.AT_FDCWD, filepath.Join(dir, dst), src)
	}
	for _, d := range []string{"mine", "group", "other"} {
		report(d, create(0, d+"/sub", ""))
	}
	report("snapshot of others", create(1, "mine/snap", "others"))
	report("snapshot of mine", create(1, "mine/snap", "mine/sub"))
	report("delete others", subvolumeIoctl(dir, iocSubvolumeDestroy, 0, unix.AT_FDCWD, filepath.Join(dir, "others"), ""))
	report("delete mine", subvolumeIoctl(dir, iocSubvolumeDestroy, 0, unix.AT_FDCWD, filepath.Join(dir, "mine/snap"), ""))
	fd, err := unix.Open(dir, unix.O_RDONLY, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = ioctlOn(fd, iocSetLabel, make([]byte, 256))
	report("label", err)
	_, err = ioctlOn(fd, iocGoingDown, make([]byte, 4))
	report("shut down", err)
	list, err := listSubvolumes(dir, 4096)
	var paths []string
	for _, s := range list {
		paths = append(paths, s.path)
	}
	fmt.Println(paths, err)
}

// The space of what was deleted comes back, though the kernel knew of its files.
func TestLiveSubvolumeSpace(t *testing.T) {
	m := newMount(t, 128)
	wantErr(t, "create", m.subvolume("warm-up"), nil)
	wantErr(t, "delete", m.destroy("warm-up"), nil)
	free := func() uint64 {
		m.fsys.WaitDeleted(t.Context())
		var st unix.Statfs_t
		if err := unix.Statfs(m.dir, &st); err != nil {
			t.Fatal(err)
		}
		return st.Bfree * uint64(st.Bsize)
	}
	before := free()
	wantErr(t, "create", m.subvolume("sub"), nil)
	for i := range 20 {
		m.write(fmt.Sprintf("sub/%d", i), pattern(1<<20, i))
	}
	if used := before - free(); used < 20<<20 {
		t.Errorf("20 MiB take %d bytes", used)
	}
	wantErr(t, "snapshot", m.snapshot("sub", "snap", true), nil)
	m.wants("snap/3", pattern(1<<20, 3))
	wantErr(t, "delete", m.destroy("sub"), nil)
	if used := before - free(); used < 20<<20 {
		t.Errorf("with a snapshot 20 MiB take %d bytes", used)
	}
	wantErr(t, "delete", m.destroy("snap"), nil)
	var used int64
	for range 100 { // the kernel forgets by and by
		if used = int64(before) - int64(free()); used < 1<<20 {
			return
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 1e7}, nil)
	}
	t.Errorf("%d bytes did not come back", used)
}

func TestLiveSnapshotsDir(t *testing.T) {
	needFUSE(t)
	m := mountImage(t, newImage(t, 64, nil), fusefs.Options{SnapshotsDir: fusefs.SnapshotsDir})
	list := func() string {
		entries, err := os.ReadDir(m.path(fusefs.SnapshotsDir))
		if err != nil {
			t.Fatal(err)
		}
		s := ""
		for _, e := range entries {
			if _, err := os.ReadDir(m.path(fusefs.SnapshotsDir + "/" + e.Name())); err != nil {
				t.Error(err)
			}
			s += e.Name() + " "
		}
		return s
	}
	if got := list(); got != "1-root " {
		t.Errorf("at first: %q", got)
	}
	wantErr(t, "create", m.subvolume("sub"), nil)
	m.write("sub/a", []byte("a"))
	wantErr(t, "snapshot", m.snapshot("sub", "snap", false), nil)
	if got := list(); got != "1-root 2-sub 3-snap " {
		t.Errorf("with two more: %q", got)
	}
	m.wants(fusefs.SnapshotsDir+"/3-snap/a", []byte("a"))
	wantErr(t, "rename", os.Rename(m.path("snap"), m.path("other")), nil)
	wantErr(t, "rmdir of an empty one", errors.Join(os.Remove(m.path("sub/a")), os.Remove(m.path("sub"))), nil)
	if got := list(); got != "1-root 3-other " {
		t.Errorf("with one less: %q", got)
	}
	wantErr(t, "make something there", os.Mkdir(m.path(fusefs.SnapshotsDir+"/x"), 0o755), unix.EPERM)
}

// listedSubvolume is an entry of the list.
type listedSubvolume struct {
	id, flags, of uint32
	path          string
}

// listSubvolumes lists those in the subvolume that a directory is in, as the reference does, by pieces of so many bytes.
func listSubvolumes(dir string, size int) (list []listedSubvolume, err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf, pos := make([]byte, size), uint32(0)
	for {
		var arg [24]byte
		binary.LittleEndian.PutUint32(arg[:], pos)
		binary.LittleEndian.PutUint32(arg[4:], uint32(size))
		binary.LittleEndian.PutUint64(arg[8:], uint64(uintptr(unsafe.Pointer(&buf[0]))))
		if _, err := ioctlOn(fd, iocSubvolumeList, arg[:]); err != nil {
			return list, err
		}
		runtime.KeepAlive(buf)
		used := binary.LittleEndian.Uint32(arg[16:])
		if used == 0 {
			return list, nil
		}
		pos = binary.LittleEndian.Uint32(arg[:])
		for b := buf[:used]; len(b) > 0; {
			n := binary.LittleEndian.Uint32(b)
			list = append(list, listedSubvolume{id: binary.LittleEndian.Uint32(b[4:]), flags: binary.LittleEndian.Uint32(b[8:]), of: binary.LittleEndian.Uint32(b[12:]),
				path: unix.ByteSliceToString(b[32:n])})
			b = b[n:]
		}
	}
}

func TestLiveSubvolumeList(t *testing.T) {
	m := newMount(t, 64)
	for _, err := range []error{m.subvolume("a"), m.subvolume("a/b"), os.Mkdir(m.path("d"), 0o700), m.subvolume("d/" + strings.Repeat("long", 20)), m.snapshot("a", "ro", true),
		os.Mkdir(m.path("a/plain"), 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	all := fmt.Sprint([]listedSubvolume{{2, 0, 0, "a"}, {4, 0, 0, "d/" + strings.Repeat("long", 20)}, {5, 3, 2, "ro"}})
	for _, size := range []int{4096, 200, 128} {
		list, err := listSubvolumes(m.dir, size)
		if got := fmt.Sprint(list); got != all || err != nil {
			t.Errorf("with %d bytes: %s, %v; want %s", size, got, err, all)
		}
	}
	if list, err := listSubvolumes(m.dir, 100); !errors.Is(err, unix.ERANGE) || len(list) != 1 {
		t.Errorf("what does not fit: %v, %v", list, err)
	}
	for _, dir := range []string{"a", "a/plain"} {
		if list, err := listSubvolumes(m.path(dir), 4096); fmt.Sprint(list) != fmt.Sprint([]listedSubvolume{{3, 0, 0, "b"}}) || err != nil {
			t.Errorf("in %s: %v, %v", dir, list, err)
		}
	}
	if list, err := listSubvolumes(m.path("ro"), 4096); len(list) != 0 || err != nil {
		t.Errorf("in the snapshot: %v, %v", list, err)
	}
	toPath := func(id, size uint32) (string, error) {
		fd, err := unix.Open(m.path("d"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		buf := make([]byte, 4096)
		var arg [16]byte
		binary.LittleEndian.PutUint32(arg[:], id)
		binary.LittleEndian.PutUint32(arg[4:], size)
		binary.LittleEndian.PutUint64(arg[8:], uint64(uintptr(unsafe.Pointer(&buf[0]))))
		_, err = ioctlOn(fd, iocSubvolumeToPath, arg[:])
		runtime.KeepAlive(buf)
		return unix.ByteSliceToString(buf), err
	}
	if p, err := toPath(3, 4); p != "a/b" || err != nil {
		t.Errorf("path of 3: %q, %v", p, err)
	}
	for _, tt := range []struct {
		id, size uint32
		want     error
	}{{3, 3, unix.ERANGE}, {3, 0, unix.EINVAL}, {99, 100, unix.ENOENT}} {
		_, err := toPath(tt.id, tt.size)
		wantErr(t, fmt.Sprint("path of ", tt.id), err, tt.want)
	}
}
