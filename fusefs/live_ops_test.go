//go:build linux

package fusefs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLiveErrors calls what must fail, and looks for the number that POSIX and Linux have for it.
func TestLiveErrors(t *testing.T) {
	m := newMount(t, 64)
	p := m.path
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(p("d"), 0o755), os.Mkdir(p("full"), 0o755), os.WriteFile(p("full/x"), nil, 0o644), os.WriteFile(p("f"), []byte("x"), 0o644),
		os.Symlink("nowhere", p("dangling")), os.Symlink("loop", p("loop")), os.Mkdir(p("d/below"), 0o755))
	long := strings.Repeat("n", 1000)
	open := func(name string, flags int) error {
		fd, err := unix.Open(p(name), flags, 0o644)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	setx := func(name, attr string, flags int) error { return unix.Setxattr(p(name), attr, []byte("v"), flags) }
	for _, c := range []struct {
		what string
		err  error
		want error
	}{
		{"open what is not there", open("none", unix.O_RDONLY), unix.ENOENT},
		{"open in what is not there", open("none/x", unix.O_RDONLY), unix.ENOENT},
		{"open below a file", open("f/x", unix.O_RDONLY), unix.ENOTDIR},
		{"create what is there", open("f", unix.O_CREAT|unix.O_EXCL), unix.EEXIST},
		{"write to a directory", open("d", unix.O_WRONLY), unix.EISDIR},
		{"O_DIRECTORY of a file", open("f", unix.O_DIRECTORY), unix.ENOTDIR},
		{"links without end", open("loop", unix.O_RDONLY), unix.ELOOP},
		{"O_NOFOLLOW", open("dangling", unix.O_NOFOLLOW), unix.ELOOP},
		{"a name too long", open(long, unix.O_CREAT), unix.ENAMETOOLONG},
		{"mkdir what is there", unix.Mkdir(p("f"), 0o755), unix.EEXIST},
		{"mkdir of a name too long", unix.Mkdir(p(long), 0o755), unix.ENAMETOOLONG},
		{"rmdir of a full directory", unix.Rmdir(p("full")), unix.ENOTEMPTY},
		{"rmdir of a file", unix.Rmdir(p("f")), unix.ENOTDIR},
		{"rmdir of what is not there", unix.Rmdir(p("none")), unix.ENOENT},
		{"unlink of a directory", unix.Unlink(p("d")), unix.EISDIR},
		{"unlink of what is not there", unix.Unlink(p("none")), unix.ENOENT},
		{"link to a directory", unix.Link(p("d"), p("l")), unix.EPERM},
		{"link to what is there", unix.Link(p("f"), p("d")), unix.EEXIST},
		{"symlink to what is there", unix.Symlink("x", p("f")), unix.EEXIST},
		{"symlink to nothing", unix.Symlink("", p("l")), unix.ENOENT},
		{"rename of what is not there", unix.Rename(p("none"), p("x")), unix.ENOENT},
		{"rename over a full directory", unix.Rename(p("d"), p("full")), unix.ENOTEMPTY},
		{"rename of a file over a directory", unix.Rename(p("f"), p("d")), unix.EISDIR},
		{"rename of a directory over a file", unix.Rename(p("d"), p("f")), unix.ENOTDIR},
		{"rename into itself", unix.Rename(p("d"), p("d/below/x")), unix.EINVAL},
		{"RENAME_NOREPLACE", unix.Renameat2(unix.AT_FDCWD, p("f"), unix.AT_FDCWD, p("full"), unix.RENAME_NOREPLACE), unix.EEXIST},
		{"RENAME_EXCHANGE with nothing", unix.Renameat2(unix.AT_FDCWD, p("f"), unix.AT_FDCWD, p("none"), unix.RENAME_EXCHANGE), unix.ENOENT},
		{"readlink of a file", func() error { _, err := unix.Readlink(p("f"), make([]byte, 10)); return err }(), unix.EINVAL},
		{"truncate a directory", unix.Truncate(p("d"), 0), unix.EISDIR},
		{"truncate to less than nothing", unix.Truncate(p("f"), -1), unix.EINVAL},
		{"getxattr of what is not there", func() error { _, err := unix.Getxattr(p("f"), "user.none", nil); return err }(), unix.ENODATA},
		{"XATTR_REPLACE of what is not there", setx("f", "user.none", unix.XATTR_REPLACE), unix.ENODATA},
		{"removexattr of what is not there", unix.Removexattr(p("f"), "user.none"), unix.ENODATA},
		{"an attribute of no kind", setx("f", "nonsense", 0), unix.EOPNOTSUPP},
		{"a user's attribute of a link", unix.Lsetxattr(p("dangling"), "user.x", []byte("v"), 0), unix.EPERM},
		{"an option that is none", setx("f", "bcachefs.nonsense", 0), unix.EINVAL},
	} {
		wantErr(t, c.what, c.err, c.want)
	}
}

func TestLiveNames(t *testing.T) {
	m := newMount(t, 64)
	p := m.path
	stat := func(name string) (st unix.Stat_t) {
		t.Helper()
		if err := unix.Lstat(p(name), &st); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return st
	}
	nlink := func(name string, want uint64) {
		t.Helper()
		if st := stat(name); uint64(st.Nlink) != want {
			t.Errorf("%s: %d links, want %d", name, st.Nlink, want)
		}
	}
	m.write("a", []byte("a"))
	wantErr(t, "link", unix.Link(p("a"), p("b")), nil)
	nlink("a", 2)
	if stat("a").Ino != stat("b").Ino {
		t.Error("two names of a file have two numbers")
	}
	wantErr(t, "unlink", unix.Unlink(p("a")), nil)
	nlink("b", 1)
	m.wants("b", []byte("a"))

	wantErr(t, "mkdir", unix.Mkdir(p("d"), 0o755), nil)
	nlink("d", 2)
	wantErr(t, "mkdir", unix.Mkdir(p("d/e"), 0o755), nil)
	nlink("d", 3)
	wantErr(t, "rename of a directory", unix.Rename(p("d/e"), p("e")), nil)
	nlink("d", 2)
	if entries, _ := os.ReadDir(p("e/..")); len(entries) != 4 {
		t.Errorf("the moved directory's parent has %d names", len(entries))
	}
	wantErr(t, "rename over an empty directory", unix.Rename(p("d"), p("e")), nil)
	m.write("c", []byte("c"))
	wantErr(t, "exchange", unix.Renameat2(unix.AT_FDCWD, p("b"), unix.AT_FDCWD, p("c"), unix.RENAME_EXCHANGE), nil)
	m.wants("b", []byte("c"))
	m.wants("c", []byte("a"))
	wantErr(t, "exchange with a directory", unix.Renameat2(unix.AT_FDCWD, p("b"), unix.AT_FDCWD, p("e"), unix.RENAME_EXCHANGE), nil)
	m.wants("e", []byte("c"))
	wantErr(t, "whiteout", unix.Renameat2(unix.AT_FDCWD, p("c"), unix.AT_FDCWD, p("moved"), unix.RENAME_WHITEOUT), nil)
	if st := stat("c"); st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("the whiteout: mode %o, device %d", st.Mode, st.Rdev)
	}
	m.wants("moved", []byte("a"))

	for _, dev := range []struct {
		name string
		mode uint32
		dev  uint64
	}{{"fifo", unix.S_IFIFO | 0o600, 0}, {"socket", unix.S_IFSOCK | 0o600, 0}, {"char", unix.S_IFCHR | 0o600, unix.Mkdev(5, 300)},
		{"block", unix.S_IFBLK | 0o640, unix.Mkdev(300, 70000)}, {"file", unix.S_IFREG | 0o604, 0}} {
		wantErr(t, "mknod "+dev.name, unix.Mknod(p(dev.name), dev.mode, int(dev.dev)), nil)
		if st := stat(dev.name); st.Mode != dev.mode || st.Rdev != dev.dev {
			t.Errorf("%s: mode %o, device %#x; want %o, %#x", dev.name, st.Mode, st.Rdev, dev.mode, dev.dev)
		}
	}
	targets := []string{"x", strings.Repeat("0123456789", 40), strings.Repeat("y", 4095)}
	for i, target := range targets {
		name := fmt.Sprintf("link%d", i)
		wantErr(t, "symlink", unix.Symlink(target, p(name)), nil)
		if got, err := os.Readlink(p(name)); err != nil || got != target {
			t.Errorf("link of %d bytes: %d bytes, %v", len(target), len(got), err)
		}
	}
	m.remount()
	for i, target := range targets {
		if got, err := os.Readlink(p(fmt.Sprintf("link%d", i))); err != nil || got != target {
			t.Errorf("link of %d bytes after a remount: %d bytes, %v", len(target), len(got), err)
		}
	}
	if st := stat("block"); st.Rdev != unix.Mkdev(300, 70000) {
		t.Errorf("device %#x after a remount", st.Rdev)
	}
	m.wants("moved", []byte("a"))
	nlink("moved", 1)
}

// An open file without a name lives on, and its space comes back with the last who has it open.
func TestLiveUnlinkedOpen(t *testing.T) {
	m := newMount(t, 64)
	m.write("f", pattern(1<<20, 1))
	f, err := os.OpenFile(m.path("f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	m.write("over", nil)
	if err := errors.Join(os.Rename(m.path("over"), m.path("f"))); err != nil { // the name goes by being replaced
		t.Fatal(err)
	}
	m.fsys.WaitDeleted(t.Context())
	if _, err := f.WriteAt([]byte("still there"), 1<<20); err != nil {
		t.Error(err)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	got := make([]byte, 1<<20+11)
	if n, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got[:1<<20], pattern(1<<20, 1)) || string(got[1<<20:]) != "still there" {
		t.Errorf("%d bytes, %v", n, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Nlink != 0 {
		t.Errorf("%d links, %v", st.Nlink, err)
	}
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, m.path("again"), unix.AT_SYMLINK_FOLLOW); err != unix.ENOENT {
		t.Errorf("a name for what has lost its last: %v", err)
	}
	f.Close()
	before := m.free()
	for range 100 {
		if m.free() > before || m.free() == before && before > 60<<20 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	m.wants("f", nil)
}

func (m *mounted) free() uint64 {
	m.fsys.WaitDeleted(m.t.Context())
	var st unix.Statfs_t
	if err := unix.Statfs(m.dir, &st); err != nil {
		m.t.Error(err)
	}
	return st.Bfree * uint64(st.Bsize)
}

func TestLiveTmpfile(t *testing.T) {
	m := newMount(t, 64)
	if err := os.Mkdir(m.path("d"), 0o755); err != nil {
		t.Fatal(err)
	}
	open := func(flags int) *os.File {
		fd, err := unix.Open(m.path("d"), unix.O_TMPFILE|unix.O_RDWR|flags, 0o640)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), "tmpfile")
	}
	f := open(0)
	if _, err := f.Write(pattern(70000, 5)); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(m.path("d")); err != nil || len(entries) != 0 {
		t.Errorf("%d names, %v", len(entries), err)
	}
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, m.path("d/named"), unix.AT_SYMLINK_FOLLOW); err != nil {
		t.Errorf("give it a name: %v", err)
	}
	f.Close()
	m.wants("d/named", pattern(70000, 5))
	lost := open(unix.O_EXCL)
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", lost.Fd()), unix.AT_FDCWD, m.path("d/x"), unix.AT_SYMLINK_FOLLOW); err != unix.ENOENT {
		t.Errorf("a name for one with O_EXCL: %v", err)
	}
	lost.Close()
	m.remount()
	m.wants("d/named", pattern(70000, 5))
	var st unix.Stat_t
	if err := unix.Stat(m.path("d/named"), &st); err != nil || st.Nlink != 1 || st.Mode != unix.S_IFREG|0o640 {
		t.Errorf("%v: %d links, mode %o", err, st.Nlink, st.Mode)
	}
}

// TestLiveAttributes sets modes, owners and times, and looks at them before and after a remount.
func TestLiveAttributes(t *testing.T) {
	m := newMount(t, 64)
	p := m.path
	m.write("f", []byte("x"))
	if err := os.Mkdir(p("d"), 0o755); err != nil {
		t.Fatal(err)
	}
	times := []unix.Timespec{{Sec: 1234567890, Nsec: 123456789}, {Sec: 1600000000, Nsec: 987654321}}
	if err := errors.Join(unix.Chmod(p("f"), 0o4751), unix.Chown(p("d"), 12, 34), unix.Chmod(p("d"), 0o1777),
		unix.UtimesNanoAt(unix.AT_FDCWD, p("f"), times, 0), unix.Symlink("x", p("l")),
		unix.UtimesNanoAt(unix.AT_FDCWD, p("l"), times, unix.AT_SYMLINK_NOFOLLOW)); err != nil {
		t.Fatal(err)
	}
	look := func() {
		t.Helper()
		for _, c := range []struct {
			name     string
			mode     uint32
			uid, gid uint32
			timed    bool
		}{{"f", unix.S_IFREG | 0o4751, 0, 0, true}, {"d", unix.S_IFDIR | 0o1777, 12, 34, false}, {"l", unix.S_IFLNK | 0o777, 0, 0, true}} {
			var st unix.Stat_t
			if err := unix.Lstat(p(c.name), &st); err != nil {
				t.Fatal(err)
			}
			if st.Mode != c.mode || st.Uid != c.uid || st.Gid != c.gid {
				t.Errorf("%s: mode %o, owner %d:%d", c.name, st.Mode, st.Uid, st.Gid)
			}
			if c.timed && (st.Atim != times[0] || st.Mtim != times[1]) {
				t.Errorf("%s: times %v, %v", c.name, st.Atim, st.Mtim)
			}
			if age := time.Since(time.Unix(st.Ctim.Unix())); age < -time.Second || age > time.Minute {
				t.Errorf("%s: changed %v ago", c.name, age)
			}
		}
		var x unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, p("f"), 0, unix.STATX_ALL, &x); err != nil || x.Mask&unix.STATX_BTIME == 0 || time.Since(time.Unix(x.Btime.Sec, 0)) > time.Minute {
			t.Errorf("time of birth: %v, %v", x.Btime, err)
		}
	}
	look()
	m.remount()
	look()

	// Set-id bits are lost by a change of owner, and by what somebody else writes.
	wantErr(t, "chown", unix.Chown(p("f"), 65534, 65534), nil)
	mode := func(want uint32) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(p("f"), &st); err != nil || st.Mode&0o7777 != want {
			t.Errorf("mode %o, want %o; %v", st.Mode&0o7777, want, err)
		}
	}
	mode(0o751)
	for _, how := range []string{"write", "direct", "truncate"} {
		wantErr(t, "chmod", unix.Chmod(p("f"), 0o6777), nil)
		mode(0o6777)
		for dir := m.dir; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
			os.Chmod(dir, 0o755)
		}
		if out, err := asUser(t, "change", "FILE="+p("f"), "HOW="+how); err != nil {
			t.Fatalf("%s: %v: %s", how, err, out)
		}
		mode(0o777)
		m.remount()
		mode(0o777)
	}
	m.wants("f", append([]byte("xyz"), make([]byte, 4093)...)) // xyz, made longer by what is written directly, and cut
}

// changePart is what somebody does to a file that belongs to him.
func changePart() {
	file := os.Getenv("FILE")
	var err error
	switch os.Getenv("HOW") {
	case "write":
		var f *os.File
		if f, err = os.OpenFile(file, os.O_WRONLY, 0); err == nil {
			_, err = f.WriteAt([]byte("xyz"), 0)
			err = errors.Join(err, f.Close())
		}
	case "direct":
		fd, oerr := unix.Open(file, unix.O_WRONLY|unix.O_DIRECT, 0)
		if err = oerr; err == nil {
			_, err = unix.Pwrite(fd, alignedBytes(4096), 4096)
		}
	case "truncate":
		err = unix.Truncate(file, 4096)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// New files have the mode that was asked for, without the umask, unless the directory has a default ACL.
func TestLiveModesAndACLs(t *testing.T) {
	m := newMount(t, 64)
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	mode := func(name string, want uint32) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Stat(m.path(name), &st); err != nil || st.Mode&0o7777 != want {
			t.Errorf("%s: mode %o, want %o; %v", name, st.Mode&0o7777, want, err)
		}
	}
	create := func(name string) {
		t.Helper()
		fd, err := unix.Open(m.path(name), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o666)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
	create("f")
	mode("f", 0o640)
	wantErr(t, "mkdir", unix.Mkdir(m.path("d"), 0o777), nil)
	mode("d", 0o750)
	// user::rwx user:1000:rw- group::r-x mask::rwx other::r-x, as the system has it.
	acl := []byte{2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 6, 0, 232, 3, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 7, 0, 255, 255, 255, 255,
		32, 0, 5, 0, 255, 255, 255, 255}
	wantErr(t, "set a default ACL", unix.Setxattr(m.path("d"), "system.posix_acl_default", acl, 0), nil)
	create("d/f")
	mode("d/f", 0o664)
	wantErr(t, "mkdir", unix.Mkdir(m.path("d/d"), 0o777), nil)
	mode("d/d", 0o775)
	get := func(name, attr string) []byte {
		buf := make([]byte, 1000)
		n, err := unix.Getxattr(m.path(name), attr, buf)
		if err != nil {
			t.Errorf("%s of %s: %v", attr, name, err)
		}
		return buf[:max(n, 0)]
	}
	if got := get("d/d", "system.posix_acl_default"); !bytes.Equal(got, acl) {
		t.Errorf("inherited %v", got)
	}
	wantErr(t, "chmod", unix.Chmod(m.path("d/f"), 0o600), nil)
	if got := get("d/f", "system.posix_acl_access"); len(got) != len(acl) || got[30] != 0 {
		t.Errorf("the mask after chmod: %v", got)
	}
	wantErr(t, "set an access ACL", unix.Setxattr(m.path("f"), "system.posix_acl_access", acl, 0), nil)
	mode("f", 0o775)
	wantErr(t, "remove it", unix.Removexattr(m.path("f"), "system.posix_acl_access"), nil)
	wantErr(t, "nonsense", unix.Setxattr(m.path("f"), "system.posix_acl_access", []byte{2, 0, 0, 0, 1}, 0), unix.EINVAL)

	// Who is let in by the ACL alone.
	for dir := m.dir; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755)
	}
	wantErr(t, "chmod", errors.Join(unix.Chmod(m.path("d"), 0o755), os.WriteFile(m.path("g"), []byte("x"), 0o600)), nil)
	nobody := slices.Clone(acl)
	nobody[16], nobody[17] = 254, 255 // 65534
	nobody[36+2] = 0
	if out, err := asUser(t, "open", "FILE="+m.path("g")); err != nil || out != "permission denied\n" {
		t.Errorf("without an ACL: %q, %v", out, err)
	}
	wantErr(t, "set an access ACL", unix.Setxattr(m.path("g"), "system.posix_acl_access", nobody, 0), nil)
	if out, err := asUser(t, "open", "FILE="+m.path("g")); err != nil || out != "" {
		t.Errorf("with an ACL: %q, %v", out, err)
	}

	// The group of a directory with the set-group-id bit.
	wantErr(t, "chown", errors.Join(unix.Mkdir(m.path("s"), 0o755), unix.Chown(m.path("s"), 0, 77), unix.Chmod(m.path("s"), 0o2755)), nil)
	create("s/f")
	wantErr(t, "mkdir", unix.Mkdir(m.path("s/d"), 0o755), nil)
	mode("s/d", 0o2750)
	for _, name := range []string{"s/f", "s/d"} {
		var st unix.Stat_t
		if err := unix.Stat(m.path(name), &st); err != nil || st.Gid != 77 {
			t.Errorf("%s: group %d, %v", name, st.Gid, err)
		}
	}
}

// openPart opens a file for reading and writing and says what is wrong with that.
func openPart() {
	fd, err := unix.Open(os.Getenv("FILE"), unix.O_RDWR, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	unix.Close(fd)
}

func TestLiveXattrs(t *testing.T) {
	m := newMount(t, 64)
	m.write("f", nil)
	values := map[string][]byte{"user.a": []byte("1"), "user.empty": {}, "trusted.t": []byte("tt"), "security.x": pattern(100, 1),
		"user.large": pattern(1800, 2), "user." + strings.Repeat("n", 250): []byte("long")}
	for name, value := range values {
		wantErr(t, "set "+name, unix.Setxattr(m.path("f"), name, value, unix.XATTR_CREATE), nil)
		wantErr(t, "set again "+name, unix.Setxattr(m.path("f"), name, value, unix.XATTR_CREATE), unix.EEXIST)
	}
	wantErr(t, "replace", unix.Setxattr(m.path("f"), "user.a", []byte("2"), unix.XATTR_REPLACE), nil)
	values["user.a"] = []byte("2")
	wantErr(t, "remove", unix.Removexattr(m.path("f"), "user.empty"), nil)
	delete(values, "user.empty")
	look := func() {
		t.Helper()
		for name, want := range values {
			buf := make([]byte, 1<<16)
			n, err := unix.Getxattr(m.path("f"), name, buf)
			if err != nil || !bytes.Equal(buf[:n], want) {
				t.Errorf("%.20s: %d bytes, %v", name, n, err)
			}
			if n, err := unix.Getxattr(m.path("f"), name, nil); err != nil || n != len(want) {
				t.Errorf("%.20s: size %d, %v", name, n, err)
			}
			if _, err := unix.Getxattr(m.path("f"), name, make([]byte, 1)); len(want) > 1 && err != unix.ERANGE {
				t.Errorf("%.20s: in too little room: %v", name, err)
			}
		}
		buf := make([]byte, 1<<16)
		n, err := unix.Listxattr(m.path("f"), buf)
		if err != nil {
			t.Error(err)
		}
		for name := range values {
			if !bytes.Contains(append([]byte{0}, buf[:n]...), []byte("\x00"+name+"\x00")) {
				t.Errorf("%.20s is not listed", name)
			}
		}
	}
	look()
	wantErr(t, "an option", unix.Setxattr(m.path("f"), "bcachefs.compression", []byte("zstd:3"), 0), nil)
	m.remount()
	look()
	buf := make([]byte, 100)
	if n, err := unix.Getxattr(m.path("f"), "bcachefs.compression", buf); err != nil || string(buf[:n]) != "zstd:3" {
		t.Errorf("the option: %q, %v", buf[:max(n, 0)], err)
	}
	wantErr(t, "too large", unix.Setxattr(m.path("f"), "user.huge", make([]byte, 1<<12), 0), unix.ERANGE)
}

// TestLiveReaddir reads a directory while names come and go: those that were there all the time come once each.
func TestLiveReaddir(t *testing.T) {
	m := newMount(t, 128)
	if err := os.Mkdir(m.path("d"), 0o755); err != nil {
		t.Fatal(err)
	}
	const stay = 3000
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i := part; i < stay; i += 4 {
				if err := os.WriteFile(m.path(fmt.Sprintf("d/stays-%d", i)), nil, 0o644); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	stop := make(chan struct{})
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			name, other := m.path(fmt.Sprintf("d/goes-%d", i%50)), m.path(fmt.Sprintf("d/moves-%d", i%50))
			if err := errors.Join(os.WriteFile(name, nil, 0o644), os.Rename(name, other), os.Remove(other)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 5 {
		seen := map[string]int{}
		d, err := os.Open(m.path("d"))
		if err != nil {
			t.Fatal(err)
		}
		for {
			names, err := d.Readdirnames(100)
			for _, n := range names {
				seen[n]++
			}
			if err != nil {
				break
			}
		}
		d.Close()
		for i := range stay {
			if n := seen[fmt.Sprintf("stays-%d", i)]; n != 1 {
				t.Fatalf("stays-%d was seen %d times", i, n)
			}
		}
	}
	close(stop)
	wg.Wait()
	if err := os.RemoveAll(m.path("d")); err != nil {
		t.Error(err)
	}
	m.remount()
	if _, err := os.Stat(m.path("d")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after rm -r: %v", err)
	}
}

func mustOpen(t testing.TB, path string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

// TestLiveFlags sets flags as chattr does: the kernel does not know them, so that opening must refuse what they forbid.
func TestLiveFlags(t *testing.T) {
	m := newMount(t, 64)
	m.write("f", []byte("x"))
	set := func(flags int) {
		t.Helper()
		f, err := os.Open(m.path("f"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags); err != nil {
			t.Errorf("set flags %#x: %v", flags, err)
		}
		if v, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err != nil || v != flags {
			t.Errorf("flags %#x, want %#x; %v", v, flags, err)
		}
	}
	open := func(flags int) error {
		fd, err := unix.Open(m.path("f"), flags, 0)
		if err == nil {
			_, err = unix.Write(fd, []byte("y"))
			err = errors.Join(err, unix.Fsync(fd), unix.Close(fd))
		}
		return err
	}
	set(0x10)
	for what, err := range map[string]error{"write": open(unix.O_WRONLY), "append": open(unix.O_WRONLY | unix.O_APPEND), "chmod": unix.Chmod(m.path("f"), 0o600),
		"unlink": unix.Unlink(m.path("f")), "rename": unix.Rename(m.path("f"), m.path("g")), "link": unix.Link(m.path("f"), m.path("g")),
		"truncate": unix.Truncate(m.path("f"), 0)} {
		wantErr(t, what+" of what is immutable", err, unix.EPERM)
	}
	set(0x20)
	wantErr(t, "write to what is append-only", open(unix.O_WRONLY), unix.EPERM)
	wantErr(t, "append", open(unix.O_WRONLY|unix.O_APPEND), nil)
	wantErr(t, "truncate", unix.Truncate(m.path("f"), 0), unix.EPERM)
	wantErr(t, "utimes", unix.Utimes(m.path("f"), []unix.Timeval{{Sec: 1}, {Sec: 1}}), unix.EPERM)
	set(0x8 | 0x40 | 0x80)
	m.remount()
	set(0)
	m.wants("f", []byte("xy"))

	// The project, by the other ioctl.
	var x [28]byte
	x[12], x[1] = 42, 2 // project 42, inherited
	fd := mustOpen(t, m.path("f"))
	if _, err := ioctlOn(fd, 0x401c5820, x[:]); err != nil {
		t.Error(err)
	}
	var got [28]byte
	if _, err := ioctlOn(fd, 0x801c581f, got[:]); err != nil || got[12] != 42 || got[1] != 2 {
		t.Errorf("%v, %v", got, err)
	}
	var generation [8]byte
	if _, err := ioctlOn(fd, 0x80087601, generation[:]); err != nil {
		t.Error(err)
	}
	if _, err := ioctlOn(fd, 0x40049409, got[:]); err != unix.EOPNOTSUPP && err != unix.EBADF { // FICLONE
		t.Errorf("FICLONE: %v", err)
	}
	if _, err := ioctlOn(fd, 0xc0185879, got[:]); err != unix.ENOTTY { // FITRIM
		t.Errorf("what is not served: %v", err)
	}
}

func TestLiveLabel(t *testing.T) {
	m := newMount(t, 64)
	fd, err := unix.Open(m.dir, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 256)
	copy(b, "a label")
	if _, err := ioctlOn(fd, iocSetLabel, b); err != nil {
		t.Error(err)
	}
	got := make([]byte, 256)
	if _, err := ioctlOn(fd, iocGetLabel, got); err != nil || string(bytes.TrimRight(got, "\x00")) != "a label" {
		t.Errorf("%q, %v", got[:10], err)
	}
	copy(b, strings.Repeat("x", 32))
	if _, err := ioctlOn(fd, iocSetLabel, b); err != unix.EINVAL {
		t.Errorf("one that is too long: %v", err)
	}
	var uuid [16]byte
	if _, err := ioctlOn(fd, iocQueryUUID, uuid[:]); err != nil || fmt.Sprintf("%x", uuid[:4]) != m.fsys.UUID()[:8] {
		t.Errorf("%x, %v", uuid, err)
	}
	unix.Close(fd)
	m.remount()
	if m.fsys.Label() != "a label" {
		t.Errorf("after a remount: %q", m.fsys.Label())
	}
}

func TestLiveReinherit(t *testing.T) {
	m := newMount(t, 64)
	if err := os.Mkdir(m.path("d"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.write("d/f", nil)
	wantErr(t, "set an option", unix.Setxattr(m.path("d"), "bcachefs.compression", []byte("lz4"), 0), nil)
	fd := mustOpen(t, m.path("d"))
	for _, want := range []int{1, 0} {
		if got, err := ioctlOn(fd, iocReinherit, []byte("f\x00")); err != nil || got != want {
			t.Errorf("%d, %v; want %d", got, err, want)
		}
	}
	buf := make([]byte, 100)
	if n, err := unix.Getxattr(m.path("d/f"), "bcachefs_effective.compression", buf); err != nil || string(buf[:n]) != "lz4" {
		t.Errorf("%q, %v", buf[:max(n, 0)], err)
	}
	if _, err := ioctlOn(fd, iocReinherit, []byte("none\x00")); err != unix.ENOENT {
		t.Errorf("a name that is not there: %v", err)
	}
}

// What is in the file at the end of a handle's life (open_by_handle_at) is found by its number.
func TestLiveHandles(t *testing.T) {
	m := newMount(t, 64)
	m.write("f", []byte("x"))
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, m.path("f"), 0)
	if err != nil {
		t.Fatal(err)
	}
	m.remount()
	open := func() ([]byte, error) {
		root, err := unix.Open(m.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(root)
		fd, err := unix.OpenByHandleAt(root, handle, unix.O_RDONLY)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		b := make([]byte, 10)
		n, err := unix.Read(fd, b)
		return b[:max(n, 0)], err
	}
	if b, err := open(); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	wantErr(t, "unlink", unix.Unlink(m.path("f")), nil)
	m.fsys.WaitDeleted(t.Context())
	if _, err := open(); err != unix.ESTALE {
		t.Errorf("of a file that was deleted: %v", err)
	}
}

// Locks are the kernel's own.
func TestLiveLocks(t *testing.T) {
	m := newMount(t, 64)
	m.write("f", []byte("x"))
	a, err := os.OpenFile(m.path("f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.OpenFile(m.path("f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := syscall.Flock(int(a.Fd()), syscall.LOCK_EX); err != nil {
		t.Error(err)
	}
	if err := syscall.Flock(int(b.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != syscall.EWOULDBLOCK {
		t.Errorf("locked twice: %v", err)
	}
	a.Close()
	if err := syscall.Flock(int(b.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Error(err)
	}
	lk := unix.Flock_t{Type: unix.F_WRLCK, Whence: 0, Start: 0, Len: 1}
	if err := unix.FcntlFlock(b.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
		t.Error(err)
	}
}

// A filesystem that is shut down does nothing any more, and is as a crash leaves it.
func TestLiveGoingDown(t *testing.T) {
	for how, lost := range []bool{false, true, true} {
		m := newMount(t, 64)
		m.write("before", []byte("x"))
		f, err := os.Create(m.path("dirty"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(pattern(1<<20, 1)); err != nil {
			t.Error(err)
		}
		fd, err := unix.Open(m.dir, unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if how == 2 {
			unix.Fsync(fd)
		}
		if _, err := ioctlOn(fd, iocGoingDown, []byte{byte(how), 0, 0, 0}); err != nil {
			t.Errorf("way %d: %v", how, err)
		}
		for what, err := range map[string]error{"create": os.Mkdir(m.path("x"), 0o755), "unlink": os.Remove(m.path("before")), "stat": unix.Access(m.path("none"), 0)} {
			if !errors.Is(err, unix.EIO) {
				t.Errorf("way %d: %s: %v", how, what, err)
			}
		}
		unix.Close(fd)
		f.Close()
		if err := m.srv.Unmount(false); err != nil {
			t.Fatal(err)
		}
		m.srv.Wait()
		if err := m.fsys.Close(); err == nil {
			t.Errorf("way %d: closed as if nothing had been", how)
		}
		mustBeSound(t, m.img)
		m.mount(mountAll)
		m.wants("before", []byte("x"))
		if got, err := os.ReadFile(m.path("dirty")); err != nil || !lost && !bytes.Equal(got, pattern(1<<20, 1)) {
			t.Errorf("way %d: %d bytes, %v", how, len(got), err)
		}
		m.unmount()
	}
}
