//go:build linux

package fusefs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs/fusefs"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
)

// A process must not map what it serves itself: while it waits for a page it may hold what the server needs to get memory.

func TestLiveMmap(t *testing.T) {
	needFUSE(t)
	img := newImage(t, 64, nil)
	m := serveImage(t, img)
	m.write("f", pattern(3*4096+100, 1))
	want := pattern(3*4096+100, 1)
	f, err := os.OpenFile(m.path("f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	shared, err := unix.Mmap(int(f.Fd()), 0, len(want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	private, err := unix.Mmap(int(f.Fd()), 0, len(want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	direct, err := unix.Open(m.path("f"), unix.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	copy(private[8192:], "seen by nobody")
	copy(shared[4096:], "written to memory")
	copy(want[4096:], "written to memory")
	got := make([]byte, len(want))
	if n, err := f.ReadAt(got, 0); n != len(want) || !bytes.Equal(got, want) {
		t.Errorf("read: %d bytes, %v", n, err)
	}
	aligned := alignedBytes(4 * 4096)
	if n, err := unix.Pread(direct, aligned, 0); err != nil || !bytes.Equal(aligned[:n], want) {
		t.Errorf("read directly: %d bytes, %v", n, err)
	}
	page := alignedBytes(4096)
	copy(page, "written directly")
	if _, err := unix.Pwrite(direct, page, 0); err != nil {
		t.Error(err)
	}
	copy(want, page)
	if !bytes.Equal(shared, want) {
		t.Error("memory does not show what was written directly")
	}
	both, err := unix.Mmap(direct, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Errorf("map what is open for direct I/O: %v", err)
	} else {
		copy(both, "WRITTEN")
		copy(want, "WRITTEN")
		unix.Munmap(both)
	}
	if err := errors.Join(unix.Msync(shared, unix.MS_SYNC), unix.Munmap(shared), unix.Munmap(private), unix.Close(direct), f.Close()); err != nil {
		t.Error(err)
	}
	m.wants("f", want)
	m.end()
	mustBeSound(t, img)
	mountImage(t, img, mountAll).wants("f", want)
}

// A snapshot has what was written to memory.
func TestLiveSnapshotOfMapped(t *testing.T) {
	needFUSE(t)
	img := newImage(t, 64, nil)
	m := serveImage(t, img)
	f, err := os.Create(m.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	shared, err := unix.Mmap(int(f.Fd()), 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	f.Close() // the mapping keeps it open
	want := pattern(1<<20, 1)
	copy(shared, want)
	wantErr(t, "snapshot", m.snapshot("", "snap", true), nil)
	copy(shared[1000:], "what came later")
	m.wants("snap/f", want)
	copy(want[1000:], "what came later")
	m.wants("f", want)
	if err := unix.Munmap(shared); err != nil {
		t.Error(err)
	}
	m.end()
	mustBeSound(t, img)
	mountImage(t, img, mountAll).wants("f", want)
}

// TestLiveDirect writes and reads directly, buffered too, from several goroutines at once, each its own blocks of one file.
func TestLiveDirect(t *testing.T) {
	m := newMount(t, 128)
	const blocks, size = 64, 64 << 10
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			flags := unix.O_RDWR | unix.O_CREAT
			if part != 3 {
				flags |= unix.O_DIRECT
			}
			if part == 2 {
				flags |= unix.O_DSYNC
			}
			fd, err := unix.Open(m.path("f"), flags, 0o644)
			if err != nil {
				t.Error(err)
				return
			}
			defer unix.Close(fd)
			buf := alignedBytes(size)
			for i := part; i < blocks; i += 4 {
				copy(buf, pattern(size, i))
				if n, err := unix.Pwrite(fd, buf, int64(i*size)); err != nil || n != size {
					t.Errorf("write: %d, %v", n, err)
				}
				clear(buf)
				if n, err := unix.Pread(fd, buf, int64(i*size)); err != nil || n != size || !bytes.Equal(buf, pattern(size, i)) {
					t.Errorf("read what was just written at %d: %d, %v", i*size, n, err)
				}
			}
		})
	}
	wg.Wait()
	var want []byte
	for i := range blocks {
		want = append(want, pattern(size, i)...)
	}
	m.wants("f", want)
	m.remount()
	m.wants("f", want)
}

// extents returns where a file has data, as "from-to" in KiB.
func (m *mounted) extents(name string) (s string) {
	f, err := os.Open(m.path(name))
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	for off := int64(0); ; {
		from, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return s
		}
		to, err2 := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err := errors.Join(err, err2); err != nil {
			m.t.Fatal(err)
		}
		s += fmt.Sprintf("%d-%d ", from>>10, to>>10)
		off = to
	}
}

// TestLiveFallocate changes the space of a file in each way there is, each time with what is in it still in the kernel.
func TestLiveFallocate(t *testing.T) {
	m := newMount(t, 64)
	const k = 1 << 10
	for _, c := range []struct {
		name      string
		mode      uint32
		off, n    int64
		size      int64 // afterwards
		zeroed    bool
		extents   string
		wantError error
	}{
		{"grow", 0, 60 * k, 20 * k, 80 * k, false, "0-64 ", nil},
		{"keep-size", unix.FALLOC_FL_KEEP_SIZE, 60 * k, 20 * k, 64 * k, false, "0-64 ", nil},
		{"punch", unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, 8 * k, 16 * k, 64 * k, true, "0-8 24-64 ", nil},
		{"punch-unaligned", unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, 8*k + 100, 16 * k, 64 * k, true, "0-12 24-64 ", nil},
		{"zero", unix.FALLOC_FL_ZERO_RANGE, 56 * k, 16 * k, 72 * k, true, "0-56 ", nil},
		{"zero-keep-size", unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE, 56 * k, 16 * k, 64 * k, true, "0-56 ", nil},
		{"punch-without-keep", unix.FALLOC_FL_PUNCH_HOLE, 0, k, 64 * k, false, "", unix.EOPNOTSUPP},
		{"nothing", 0, 0, 0, 64 * k, false, "", unix.EINVAL},
		{"too-far", 0, 1 << 62, 1 << 62, 64 * k, false, "", unix.EFBIG},
		// The kernel does not hand these on.
		{"insert", unix.FALLOC_FL_INSERT_RANGE, 0, 4 * k, 64 * k, false, "", unix.EOPNOTSUPP},
		{"collapse", unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4 * k, 64 * k, false, "", unix.EOPNOTSUPP},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := os.Create(m.path(c.name))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			want := pattern(64*k, 7)
			if _, err := f.Write(want); err != nil {
				t.Fatal(err)
			}
			wantErr(t, "fallocate", unix.Fallocate(int(f.Fd()), c.mode, c.off, c.n), c.wantError)
			if c.zeroed {
				clear(want[c.off:min(c.off+c.n, 64*k)])
			}
			want = append(want, make([]byte, c.size-64*k)...)
			m.t = t
			m.wants(c.name, want)
			if c.wantError != nil {
				return
			}
			if got := m.extents(c.name); got != c.extents {
				t.Errorf("data at %s, want %s", got, c.extents)
			}
			if err := f.Sync(); err != nil {
				t.Error(err)
			}
		})
	}
	m.t = t
	m.remount()
	m.wants("punch", append(append(pattern(64*k, 7)[:8*k:8*k], make([]byte, 16*k)...), pattern(64*k, 7)[24*k:]...))
}

func TestLiveTruncate(t *testing.T) {
	m := newMount(t, 64)
	want := pattern(200000, 1)
	m.write("f", want)
	f, err := os.OpenFile(m.path("f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, size := range []int{100001, 150000, 5, 4096, 300000, 299999} {
		if err := f.Truncate(int64(size)); err != nil {
			t.Error(err)
		}
		if size <= len(want) {
			want = want[:size:size]
		} else {
			want = append(want, make([]byte, size-len(want))...)
		}
		if _, err := f.WriteAt([]byte{byte(i)}, int64(size-1)); err != nil {
			t.Error(err)
		}
		want[size-1] = byte(i)
		m.wants("f", want)
	}
	if err := unix.Ftruncate(int(f.Fd()), 1<<62); err != unix.EFBIG && err != nil {
		t.Errorf("as large as can be: %v", err)
	}
	if err := f.Truncate(int64(len(want))); err != nil {
		t.Error(err)
	}
	f.Close()
	m.remount()
	m.wants("f", want)
}

// TestLiveCopyRange copies between files whose content is still in the kernel; whole blocks take no space.
func TestLiveCopyRange(t *testing.T) {
	m := newMount(t, 64)
	const size = 8<<20 + 1000
	from, err := os.Create(m.path("from"))
	if err != nil {
		t.Fatal(err)
	}
	to, err := os.Create(m.path("to"))
	if err != nil {
		t.Fatal(err)
	}
	want := pattern(size, 1)
	if _, err := from.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := from.Sync(); err != nil {
		t.Fatal(err)
	}
	before := m.free()
	copied := 0
	for in, out := int64(0), int64(0); copied < size; {
		n, err := unix.CopyFileRange(int(from.Fd()), &in, int(to.Fd()), &out, size-copied, 0)
		if err != nil || n == 0 {
			t.Fatalf("%d, %v", n, err)
		}
		copied += n
	}
	m.wants("to", want)
	if took := int64(before) - int64(m.free()); took > 2<<20 {
		t.Errorf("a copy of %d bytes takes %d", size, took)
	}
	if _, err := from.WriteAt([]byte("changed"), 5000); err != nil { // not in the copy
		t.Error(err)
	}
	in, out := int64(100), int64(size+3) // unaligned, with what is written still in the kernel
	if n, err := unix.CopyFileRange(int(from.Fd()), &in, int(to.Fd()), &out, 6000, 0); err != nil || n != 6000 {
		t.Errorf("unaligned: %d, %v", n, err)
	}
	changed := bytes.Clone(want)
	copy(changed[5000:], "changed")
	want = append(append(want, 0, 0, 0), changed[100:6100]...)
	m.wants("to", want)
	m.wants("from", changed)
	in = size
	if n, err := unix.CopyFileRange(int(from.Fd()), &in, int(to.Fd()), nil, 100, 0); err != nil || n != 0 {
		t.Errorf("from the end: %d, %v", n, err)
	}
	if err := errors.Join(from.Close(), to.Close()); err != nil {
		t.Error(err)
	}
	m.remount()
	m.wants("to", want)
	m.wants("from", changed)
}

// TestLiveSparse seeks in a file with holes of which some data is in the kernel only.
func TestLiveSparse(t *testing.T) {
	m := newMount(t, 64)
	f, err := os.Create(m.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{1 << 20, 3 << 20} {
		if _, err := f.WriteAt(pattern(4096, 1), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(5 << 20); err != nil {
		t.Fatal(err)
	}
	if got, want := m.extents("f"), "1024-1028 3072-3076 "; got != want {
		t.Errorf("data at %s, want %s", got, want)
	}
	if _, err := unix.Seek(int(f.Fd()), 5<<20, unix.SEEK_HOLE); err != unix.ENXIO {
		t.Errorf("behind the end: %v", err)
	}
	f.Close()
	var st unix.Stat_t
	if err := unix.Stat(m.path("f"), &st); err != nil || st.Size != 5<<20 || st.Blocks > 64 {
		t.Errorf("%d bytes in %d blocks, %v", st.Size, st.Blocks, err)
	}
}

// TestLiveFull fills the filesystem, deletes, and fills it again: each time it holds as much.
func TestLiveFull(t *testing.T) {
	m := newMount(t, 64)
	empty := m.free()
	fill := func() (total int64) {
		t.Helper()
		for i := 0; ; i++ {
			f, err := os.Create(m.path(fmt.Sprintf("f%d", i)))
			if err == nil {
				var n int64
				n, err = io.Copy(f, bytes.NewReader(pattern(1<<20, i)))
				if err == nil {
					err = f.Sync()
				}
				err = errors.Join(err, f.Close())
				if err == nil {
					total += n
				}
			}
			if err != nil {
				if !errors.Is(err, unix.ENOSPC) {
					t.Errorf("in the end: %v", err)
				}
				return total
			}
		}
	}
	clean := func() {
		t.Helper()
		names, _ := filepath.Glob(m.path("f*"))
		for _, n := range names {
			if err := os.Remove(n); err != nil {
				t.Errorf("deleting on a full filesystem: %v", err)
			}
		}
	}
	first := fill()
	if first < int64(empty)*7/10 { // the rest is kept for moving data and for btree nodes, which are large for so small a device
		t.Errorf("of %d bytes that are free %d can be written", empty, first)
	}
	clean()
	if again := m.free(); again < empty-4<<20 {
		t.Errorf("%d bytes are free when all is deleted, %d were at first", again, empty)
	}
	if second := fill(); second < first-8<<20 {
		t.Errorf("the second time it holds %d bytes, the first %d", second, first)
	}
	clean()
	m.write("f", []byte("there is room"))
	m.remount()
	m.wants("f", []byte("there is room"))
}

// What was mounted and written is in order for the real driver, and it reads the same.
func TestLiveDriver(t *testing.T) {
	kernelvm.Available(t)
	needFUSE(t)
	m := mountImage(t, newImage(t, 256, map[string]string{"compression": "zstd"}), fusefs.Options{})
	for i := range 200 {
		dir := m.path(fmt.Sprintf("d%d", i%7))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		m.write(fmt.Sprintf("d%d/f%d", i%7, i), pattern(i*i*10, i))
	}
	for i := 0; i < 200; i += 3 {
		if err := os.Remove(m.path(fmt.Sprintf("d%d/f%d", i%7, i))); err != nil {
			t.Fatal(err)
		}
	}
	big, err := os.Create(m.path("big"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		if _, err := big.WriteAt(pattern(300000, i), int64(i*137*4096+i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(unix.Fallocate(int(big.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<20, 3<<20), big.Close()); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{m.subvolume("sub"), os.WriteFile(m.path("sub/f"), pattern(1<<20, 1), 0o600), m.snapshot("sub", "snap", true),
		os.WriteFile(m.path("sub/f"), pattern(1<<19, 2), 0o600), m.snapshot("", "all", false), m.subvolume("gone"), m.destroy("gone"),
		os.Link(m.path("big"), m.path("d1/big")), unix.Setxattr(m.path("big"), "user.x", []byte("y"), 0), os.Symlink("big", m.path("link"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	m.unmount()
	mustBeSound(t, m.img)
	kernelvm.MustBeClean(t, [][]string{{m.img}}, kernelvm.CheckOptions{})
}

func TestLiveStatfs(t *testing.T) {
	m := newMount(t, 128)
	stat := func() (st unix.Statfs_t) {
		if err := unix.Statfs(m.dir, &st); err != nil {
			t.Error(err)
		}
		return st
	}
	before := stat()
	if size := before.Blocks * uint64(before.Bsize); size < 100<<20 || size > 128<<20 || before.Bavail > before.Bfree || before.Bfree > before.Blocks {
		t.Errorf("%+v", before)
	}
	if before.Namelen < 255 || before.Frsize != before.Bsize {
		t.Errorf("names of %d bytes, fragments of %d", before.Namelen, before.Frsize)
	}
	const n = 10
	for i := range n {
		m.write(fmt.Sprintf("f%d", i), pattern(1<<20, i))
	}
	after := stat()
	if used := (before.Bfree - after.Bfree) * uint64(before.Bsize); used < n<<20 || used > n<<20+4<<20 {
		t.Errorf("%d MiB take %d bytes", n, used)
	}
	if after.Files != before.Files+n {
		t.Errorf("%d files after %d, %d more", after.Files, before.Files, n)
	}
}

// Whoever is not root takes set-id bits away from what he allocates space in, as a write does; root does not.
func TestLiveFallocateDropsPrivileges(t *testing.T) {
	m := newMount(t, 64)
	name := filepath.Join(m.dir, "f")
	const mode = unix.S_IFREG | 0o6666
	for _, c := range []struct {
		uid  int
		want uint32
	}{{0, mode}, {1000, mode &^ 0o6000}} {
		for _, how := range []uint32{0, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE} {
			os.Remove(name)
			if err := os.WriteFile(name, make([]byte, 8192), 0o666); err != nil {
				t.Fatal(err)
			}
			if err := unix.Chmod(name, 0o6666); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(name, os.O_RDWR, 0) // others cannot come here
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error)
			go func() { // the thread ends with the goroutine
				runtime.LockOSThread()
				done <- errors.Join(unix.Setfsgid(c.uid), unix.Setfsuid(c.uid), unix.Fallocate(int(f.Fd()), how, 0, 4096), f.Close())
			}()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(name, &st); err != nil {
				t.Fatal(err)
			}
			if st.Mode != c.want {
				t.Errorf("user %d, fallocate mode %#x: %#o, want %#o", c.uid, how, st.Mode, c.want)
			}
		}
	}
}

// What was written directly is what is read then through the page cache, though others read there all the time: the kernel forgets pages before such a
// write only.
func TestLiveDirectWriteIsRead(t *testing.T) {
	needFUSE(t)
	m := serveImage(t, newImage(t, 64, nil))
	const pages = 4
	m.write("f", make([]byte, pages*4096))
	direct, err := unix.Open(m.path("f"), unix.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(direct)
	f, err := os.Open(m.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	aio, err := newAIO()
	if errors.Is(err, unix.ENOSYS) {
		t.Skip("this kernel was built without asynchronous I/O (CONFIG_AIO); CI's has it")
	} else if err != nil {
		t.Fatal(err)
	}
	defer aio.close()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			buf := make([]byte, pages*4096)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := f.ReadAt(buf, 0); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	page, got := alignedBytes(4096), make([]byte, 4096)
	for i := range 1000 {
		binary.LittleEndian.PutUint64(page, uint64(i)+1)
		off := int64(i % pages * 4096)
		if err := aio.write(direct, page, off); err != nil {
			t.Error(err)
			break
		}
		if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, page) {
			t.Errorf("write %d: read %d, %v", i, binary.LittleEndian.Uint64(got), err)
			break
		}
	}
	close(stop)
	wg.Wait()
}

// aioContext is one of io_setup(2). With such I/O the kernel does not forget pages after a direct write either.
type aioContext uintptr

func newAIO() (c aioContext, err error) {
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&c)), 0); errno != 0 {
		return 0, errno
	}
	return c, nil
}

func (c aioContext) close() { unix.Syscall(unix.SYS_IO_DESTROY, uintptr(c), 0, 0) }

// write submits a write and waits for its end.
func (c aioContext) write(fd int, p []byte, off int64) error {
	cb := struct { // struct iocb
		data           uint64
		key, rwFlags   uint32
		opcode, prio   uint16
		fd             uint32
		buf, n         uint64
		offset         int64
		_              uint64
		flags, eventFd uint32
	}{opcode: 1 /* IOCB_CMD_PWRITE */, fd: uint32(fd), buf: uint64(uintptr(unsafe.Pointer(&p[0]))), n: uint64(len(p)), offset: off}
	list := [...]unsafe.Pointer{unsafe.Pointer(&cb)}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, uintptr(c), 1, uintptr(unsafe.Pointer(&list))); errno != 0 {
		return errno
	}
	var event struct { // struct io_event
		data, obj uint64
		res, res2 int64
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, uintptr(c), 1, 1, uintptr(unsafe.Pointer(&event)), 0, 0)
		runtime.KeepAlive(p)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return errno
		case n != 1 || event.res != int64(len(p)):
			return fmt.Errorf("%d events, result %d", n, event.res)
		default:
			return nil
		}
	}
}

// Whatever changes the data of a file changes its times, at once and for good.
func TestLiveTimesOfWrites(t *testing.T) {
	needFUSE(t)
	img := newImage(t, 64, nil)
	m := serveImage(t, img)
	page := alignedBytes(4096)
	m.write("source", pattern(1<<16, 1))
	source, err := os.Open(m.path("source"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(fd int) error {
		_, err := unix.Pwrite(fd, page, 4096)
		return err
	}
	long := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	times := map[string]int64{}
	mtime := func(path string) int64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Mtim.Nano()
	}
	for _, c := range []struct {
		name  string
		flags int
		do    func(fd int) error
	}{
		{"cached", 0, write},
		{"synchronous", unix.O_SYNC, write},
		{"direct", unix.O_DIRECT, write},
		{"direct and synchronous", unix.O_DIRECT | unix.O_SYNC, write},
		{"direct, larger", unix.O_DIRECT, func(fd int) error {
			_, err := unix.Pwrite(fd, page, 1<<20)
			return err
		}},
		{"mapped", 0, func(fd int) error {
			p, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			p[0] = 1
			return errors.Join(unix.Msync(p, unix.MS_SYNC), unix.Munmap(p))
		}},
		{"truncated", 0, func(fd int) error { return unix.Ftruncate(fd, 5000) }},
		{"allocated", 0, func(fd int) error { return unix.Fallocate(fd, 0, 0, 1<<20) }},
		{"punched", 0, func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
		}},
		{"zeroed", 0, func(fd int) error { return unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 0, 4096) }},
		{"copied", 0, func(fd int) error {
			from, to := int64(0), int64(0)
			_, err := unix.CopyFileRange(int(source.Fd()), &from, fd, &to, 8192, 0)
			return err
		}},
	} {
		m.write(c.name, pattern(1<<16, 2))
		wantErr(t, c.name+", its times", os.Chtimes(m.path(c.name), long, long), nil)
		fd, err := unix.Open(m.path(c.name), unix.O_RDWR|c.flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		before := time.Now().Add(-20 * time.Millisecond) // the kernel's clock ticks
		wantErr(t, c.name, c.do(fd), nil)
		if got := mtime(m.path(c.name)); got < before.UnixNano() {
			t.Errorf("%s: modified at %v", c.name, time.Unix(0, got))
		}
		wantErr(t, c.name+", renamed", os.Rename(m.path(c.name), m.path(c.name+" file")), nil)
		times[c.name+" file"] = mtime(m.path(c.name + " file"))
		if got := times[c.name+" file"]; got < before.UnixNano() {
			t.Errorf("%s and renamed: modified at %v", c.name, time.Unix(0, got))
		}
		unix.Close(fd)
	}
	source.Close()
	m.end()
	mustBeSound(t, img)
	again := mountImage(t, img, mountAll)
	for name, want := range times {
		if got := mtime(again.path(name)); got != want {
			t.Errorf("%s: modified at %v, after a remount at %v", name, time.Unix(0, want), time.Unix(0, got))
		}
	}
}
