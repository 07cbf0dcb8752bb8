//go:build linux

// Package fusefs serves a bcachefs filesystem through FUSE. It speaks the raw protocol over the public API of package
// bcachefs, so that it can be read beside the kernel's list of operations.
//
// A filesystem that was opened for reading is mounted so, and what is shown never changes, which the kernel is told: entries and attributes may be
// cached for ever, open and opendir are answered ENOSYS once, which spares a round trip for each file opened and closed from then on.
//
// One that was opened for writing is mounted read-write. The kernel keeps what is written in its page cache and writes it back later
// (writeback cache); it owns size and times of files meanwhile. All changes go through the kernel, so that here, too, it may cache for ever; what is
// changed by ioctl (subvolumes) it is told.
//
// All methods may be called from any number of goroutines at once; there is no lock around operations.
package fusefs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs"
)

// SnapshotsDir is the usual name of the directory that shows all subvolumes and snapshots, see [Options].
const SnapshotsDir = ".snapshots"

// Options of a mount.
type Options struct {
	View         *bcachefs.View // what is shown as the root; nil: the root subvolume
	Source       string         // shown by the kernel as the source of the mount
	AllowOther   bool           // let other users in, subject to permissions; needs root or user_allow_other in fuse.conf
	SnapshotsDir string         // if not empty, a directory of this name in the root shows every subvolume; it is not listed
	Debug        bool           // log every request
	Extra        []string       // further options for the kernel: nodev, nosuid, noexec, noatime, …
}

// Server is a mounted filesystem.
type Server struct {
	live *live // nil if it is read-only
	path string
	dev  uint64 // st_dev of what is mounted
	done chan struct{}
}

// forever is how long the kernel may keep what it was told: nothing changes under a read-only mount.
const forever = 365 * 24 * time.Hour

// maxIO is the largest read or write that the kernel is asked to send, in bytes.
const maxIO = 1 << 20

// capabilities are those of the kernel that a filesystem wants that is written to.
const capabilities = fuse.CAP_WRITEBACK_CACHE | fuse.CAP_PARALLEL_DIROPS | fuse.CAP_ASYNC_DIO | fuse.CAP_DIRECT_IO_ALLOW_MMAP |
	fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_SETXATTR_EXT | fuse.CAP_DONT_MASK | fuse.CAP_EXPORT_SUPPORT | fuse.CAP_IOCTL_DIR | fuse.CAP_READDIRPLUS_AUTO

// server is what answers the kernel.
type server interface {
	fuse.RawFileSystem
	close()
}

// Mount mounts fsys at the directory mountpoint and starts serving it. The caller closes fsys after [Server.Wait] returned.
//
// The process may use files of the mount as any other, but must not map them into memory: while one of its threads waits for a page of such a mapping,
// those that serve it may wait for that one. Requests are answered soonest where GOMAXPROCS is some more than the number of processors.
func Mount(fsys *bcachefs.FS, mountpoint string, o Options) (*Server, error) {
	writable := fsys.Writable() == nil
	flags := []string{"default_permissions"}
	r, err := newRaw(fsys, o)
	if err != nil {
		return nil, err
	}
	var fsrv server = r
	if mountpoint, err = filepath.Abs(mountpoint); err != nil {
		return nil, err
	}
	s := &Server{path: mountpoint, done: make(chan struct{})}
	if writable {
		s.live = newLive(r, mountpoint)
		fsrv = s.live
	} else {
		flags = append(flags, "ro")
	}
	mo := &fuse.MountOptions{
		AllowOther:               o.AllowOther,
		Options:                  append(flags, optionStrings(o.Extra, syscall.Geteuid() == 0)...),
		MaxBackground:            64,
		MaxWrite:                 maxIO,
		MaxReadAhead:             maxIO,
		FsName:                   escapeSource(o.Source),
		Name:                     "gobcachefs",
		Debug:                    o.Debug,
		EnableAcl:                true,
		EnableSymlinkCaching:     true,
		DirectMount:              syscall.Geteuid() == 0,
		DirectMountFlags:         directFlags(o.Extra, writable),
		ExplicitDataCacheControl: true,
		DisableSplice:            true, // what is read lies in memory: a pipe is a detour, and has no room for the largest reads
	}
	if writable {
		mo.ExtraCapabilities = capabilities
	}
	fd, err := openMount(mountpoint, mo)
	if err != nil {
		return nil, fmt.Errorf("mount at %s: %w", mountpoint, err)
	}
	kernel, err := newDevice(fd, fsrv, mo)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount at %s: %w", mountpoint, err), detachPath(mountpoint), unix.Close(fd))
	}
	if s.live != nil {
		s.live.kernel = kernel
	}
	go func() {
		kernel.serve(r.ending)
		fsrv.close()
		close(s.done)
	}()
	if err := stopPolling(mountpoint); err != nil {
		return nil, errors.Join(fmt.Errorf("mount at %s: %w", mountpoint, err), detachPath(mountpoint))
	}
	var st unix.Stat_t
	if err := unix.Stat(mountpoint, &st); err == nil {
		s.dev = st.Dev
		if s.live != nil {
			s.live.dev.Store(st.Dev)
		}
		setReadAhead(st.Dev)
	}
	return s, nil
}

// setReadAhead has the kernel read ahead as much as it asks for at once; by itself it takes an eighth. That is for root to say.
func setReadAhead(dev uint64) {
	path := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(dev), unix.Minor(dev))
	_ = os.WriteFile(path, []byte(strconv.Itoa(maxIO>>10)), 0)
}

// Wait returns when the filesystem was unmounted, by [Server.Unmount] or by somebody else, and nothing is in flight.
func (s *Server) Wait() { <-s.done }

// Done is closed when [Server.Wait] would return.
func (s *Server) Done() <-chan struct{} { return s.done }

// Unmount takes the mount away. While it is in use it fails with EBUSY, unless lazy: then it disappears at once from the tree
// and goes away with its last user.
func (s *Server) Unmount(lazy bool) error {
	select {
	case <-s.done:
		return nil
	default:
	}
	err := unmountPath(s.path)
	// The kernel may not have closed yet what its last user had open.
	for wait := 5 * time.Millisecond; errors.Is(err, unix.EBUSY) && wait < 100*time.Millisecond; wait *= 2 {
		time.Sleep(wait)
		err = unmountPath(s.path)
	}
	if err == nil {
		<-s.done
	}
	if err == nil || !lazy {
		return err
	}
	if s.live != nil {
		_ = s.live.writeBack()
	}
	return detachPath(s.path)
}

// stopTime is how long Stop waits.
const stopTime = 5 * time.Second

// Stop ends serving those who still use what was unmounted lazily; whatever they do fails from then on. It reports whether nothing is in flight any more,
// as after [Server.Wait]; if not, the filesystem must not be closed.
func (s *Server) Stop() bool {
	if s.live != nil {
		s.live.down.Store(true)
	}
	// The connection bears the minor number of the mount's device.
	_ = os.WriteFile(fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", unix.Minor(s.dev)), []byte("1\n"), 0)
	select {
	case <-s.done:
		return true
	case <-time.After(stopTime):
		return false
	}
}

// escapeSource makes a device list fit for the comma separated options of the mount.
func escapeSource(s string) string {
	if s == "" {
		return "gobcachefs"
	}
	return strings.ReplaceAll(s, ",", "\\,")
}

// toStatus gives the errno of an error of the public API.
func toStatus(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	if errors.Is(err, context.Canceled) {
		return fuse.EINTR
	}
	return fuse.Status(bcachefs.ErrnoOf(err))
}
