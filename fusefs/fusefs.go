//go:build linux

// Package fusefs serves a bcachefs filesystem through FUSE. It speaks the raw protocol over the public API of package
// bcachefs, so that it can be read beside the kernel's list of operations.
//
// A mount is read-only and what it shows never changes, which the kernel is told: entries and attributes may be cached for
// ever, open and opendir are answered ENOSYS once, which spares a round trip for each file opened and closed from then on.
//
// All methods may be called from any number of goroutines at once; there is no lock around operations.
package fusefs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

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
	srv  *fuse.Server
	path string
	done chan struct{}
}

// forever is how long the kernel may keep what it was told: nothing changes under a read-only mount.
const forever = 365 * 24 * time.Hour

// maxRead is the largest read that the kernel is asked to send.
const maxRead = 1 << 20

// Mount mounts fsys at the directory mountpoint and starts serving it. The caller closes fsys after [Server.Wait] returned.
func Mount(fsys *bcachefs.FS, mountpoint string, o Options) (*Server, error) {
	r, err := newRaw(fsys, o)
	if err != nil {
		return nil, err
	}
	mo := &fuse.MountOptions{
		AllowOther:               o.AllowOther,
		Options:                  append([]string{"ro", "default_permissions"}, o.Extra...),
		MaxBackground:            64,
		MaxWrite:                 maxRead,
		MaxReadAhead:             maxRead,
		FsName:                   escapeSource(o.Source),
		Name:                     "gobcachefs",
		Debug:                    o.Debug,
		EnableAcl:                true,
		EnableSymlinkCaching:     true,
		DirectMount:              syscall.Geteuid() == 0,
		DirectMountFlags:         directFlags(o.Extra),
		ExplicitDataCacheControl: true,
	}
	srv, err := fuse.NewServer(r, mountpoint, mo)
	if err != nil {
		return nil, fmt.Errorf("mount at %s: %w", mountpoint, err)
	}
	s := &Server{srv: srv, path: mountpoint, done: make(chan struct{})}
	go func() {
		srv.Serve()
		r.close()
		close(s.done)
	}()
	if err := srv.WaitMount(); err != nil {
		return nil, fmt.Errorf("mount at %s: %w", mountpoint, err)
	}
	return s, nil
}

// Wait returns when the filesystem was unmounted, by [Server.Unmount] or by somebody else, and nothing is in flight.
func (s *Server) Wait() { <-s.done }

// Done is closed when [Server.Wait] would return.
func (s *Server) Done() <-chan struct{} { return s.done }

// Unmount takes the mount away. While it is in use it fails with EBUSY, unless lazy: then it disappears at once from the tree
// and goes away with its last user.
func (s *Server) Unmount(lazy bool) error {
	err := s.srv.Unmount()
	if err == nil || !lazy {
		return err
	}
	return detachPath(s.path)
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
