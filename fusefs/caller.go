//go:build linux

package fusefs

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// caller is the process that asked for something. The kernel passes on only what an ioctl's number tells of its argument; what pointers in it
// lead to, and what paths and file descriptors mean, is found out through /proc.
type caller struct {
	pid      int // as this process sees it; 0 if it does not
	uid, gid uint32
}

func callerOf(h *fuse.InHeader) caller {
	return caller{pid: int(h.Pid), uid: h.Uid, gid: h.Gid}
}

// errUnseen is the answer to a process that cannot be seen from here, as it is in another PID namespace.
var errUnseen = fmt.Errorf("the calling process cannot be seen by the one that serves the mount: %w", syscall.EPERM)

// read fills p from the caller's memory.
func (c caller) read(p []byte, addr uint64) error {
	if c.pid == 0 {
		return errUnseen
	}
	local := []unix.Iovec{{Base: &p[0], Len: uint64(len(p))}}
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(p)}}
	n, err := unix.ProcessVMReadv(c.pid, local, remote, 0)
	if err == nil && n < len(p) {
		err = syscall.EFAULT
	}
	return err
}

// memory opens the caller's memory to write to it. It stays that of the process that there is now, should that end and another get its number.
func (c caller) memory() (*os.File, error) {
	if c.pid == 0 {
		return nil, errUnseen
	}
	return os.OpenFile(fmt.Sprintf("/proc/%d/mem", c.pid), os.O_WRONLY, 0)
}

// writeTo puts p into memory at an address.
func writeTo(memory *os.File, p []byte, addr uint64) error {
	if addr > math.MaxInt64 {
		return syscall.EFAULT
	}
	if _, err := memory.WriteAt(p, int64(addr)); err != nil {
		return syscall.EFAULT
	}
	return nil
}

// pathMax bounds a path, with the zero byte at its end.
const pathMax = 4096

// readString returns what lies before a zero byte in the caller's memory.
func (c caller) readString(addr uint64) (string, error) {
	const page = 4096
	var s []byte
	for len(s) < pathMax {
		p := make([]byte, page-addr%page) // what comes behind the page may not be there
		if err := c.read(p, addr); err != nil {
			return "", err
		}
		if end := bytes.IndexByte(p, 0); end >= 0 {
			return string(append(s, p[:end]...)), nil
		}
		s, addr = append(s, p...), addr+uint64(len(p))
	}
	return "", syscall.ENAMETOOLONG
}

// status returns a line of /proc/PID/status.
func (c caller) status(field string) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid))
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// isAdmin reports whether the caller may do what needs CAP_SYS_ADMIN: it is privileged, or is who mounted.
func (c caller) isAdmin() bool {
	if int(c.uid) == os.Geteuid() && c.uid != 0 {
		return true
	}
	const capSysAdmin = 21
	caps, err := strconv.ParseUint(c.status("CapEff"), 16, 64)
	return c.uid == 0 && err == nil && caps>>capSysAdmin&1 != 0
}

// umask is the caller's.
func (c caller) umask() uint16 {
	mask, err := strconv.ParseUint(c.status("Umask"), 8, 9)
	if err != nil {
		return 0o022
	}
	return uint16(mask)
}

// groups are those that the caller is in besides its own.
func (c caller) groups() (gids []uint32) {
	for _, f := range strings.Fields(c.status("Groups")) {
		if gid, err := strconv.ParseUint(f, 10, 32); err == nil {
			gids = append(gids, uint32(gid))
		}
	}
	return gids
}

// as runs fn with the caller's rights to files, in a thread of its own.
func (c caller) as(fn func() error) error {
	if int(c.uid) == os.Geteuid() {
		return fn()
	}
	groups := c.groups()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- c.become(groups, fn)
	}()
	return <-done
}

// become changes the rights of this thread, but not of the process, before it calls fn.
func (c caller) become(groups []uint32, fn func() error) error {
	var first *uint32
	if len(groups) > 0 {
		first = &groups[0]
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(first)), 0); errno != 0 {
		return errno
	}
	unix.RawSyscall(unix.SYS_SETFSGID, uintptr(c.gid), 0, 0)
	unix.RawSyscall(unix.SYS_SETFSUID, uintptr(c.uid), 0, 0)
	if now, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, ^uintptr(0), 0, 0); uint32(now) != c.uid {
		return syscall.EPERM
	}
	return fn()
}

// open opens a path of the caller, relative to one of its file descriptors, as something to be looked at (O_PATH). Links are followed.
func (c caller) open(dirfd int32, path string) (fd int, err error) {
	if c.pid == 0 {
		return -1, errUnseen
	}
	base, how := fmt.Sprintf("/proc/%d/fd/%d", c.pid, dirfd), unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}
	switch {
	case strings.HasPrefix(path, "/"):
		base, how.Resolve = fmt.Sprintf("/proc/%d/root", c.pid), unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS
	case dirfd == unix.AT_FDCWD:
		base = fmt.Sprintf("/proc/%d/cwd", c.pid)
	}
	from, err := unix.Open(base, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(from)
	if path == "" {
		path = "."
	}
	err = c.as(func() error {
		fd, err = unix.Openat2(from, path, &how)
		return err
	})
	return fd, err
}

// mayChange reports why the caller must not change what is in a directory.
func (c caller) mayChange(fd int) error { return c.access(fd, unix.W_OK|unix.X_OK) }

func (c caller) access(fd int, mode uintptr) error {
	empty := [1]byte{}
	return c.as(func() error {
		_, _, errno := unix.Syscall6(unix.SYS_FACCESSAT2, uintptr(fd), uintptr(unsafe.Pointer(&empty)), mode, unix.AT_EMPTY_PATH|unix.AT_EACCESS, 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	})
}
