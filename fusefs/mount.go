//go:build linux

package fusefs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// kernelFlag is an option and what it does to the flags.
type kernelFlag struct {
	name       string
	set, clear uintptr
}

// kernelFlags are the options that mount(2) takes as flags.
var kernelFlags = []kernelFlag{
	{"nodev", unix.MS_NODEV, 0}, {"dev", 0, unix.MS_NODEV},
	{"nosuid", unix.MS_NOSUID, 0}, {"suid", 0, unix.MS_NOSUID},
	{"noexec", unix.MS_NOEXEC, 0}, {"exec", 0, unix.MS_NOEXEC},
	{"noatime", unix.MS_NOATIME, 0}, {"atime", 0, unix.MS_NOATIME},
	{"nodiratime", unix.MS_NODIRATIME, 0}, {"relatime", unix.MS_RELATIME, 0},
	{"sync", unix.MS_SYNCHRONOUS, 0}, {"dirsync", unix.MS_DIRSYNC, 0},
}

// IsKernelOption reports whether an option is one that the kernel carries out, to be passed on in [Options].Extra.
func IsKernelOption(name string) bool {
	return slices.ContainsFunc(kernelFlags, func(f kernelFlag) bool { return f.name == name })
}

// directFlags gives the flags of mount(2) for a mount without the helper. Without a word to the contrary, devices and setuid
// programs of the image count for nothing.
func directFlags(extra []string, writable bool) uintptr {
	flags := uintptr(unix.MS_NODEV | unix.MS_NOSUID)
	if !writable {
		flags |= unix.MS_RDONLY
	}
	for _, o := range extra {
		for _, k := range kernelFlags {
			if k.name == o {
				flags = flags&^k.clear | k.set
			}
		}
	}
	return flags
}

// optionStrings are those options that are to be passed on as text. With mount(2) itself most are only flags; without it the helper wants them, which does
// not know what is the default anyway.
func optionStrings(extra []string, direct bool) (opts []string) {
	both := []string{"nodev", "dev", "nosuid", "suid", "noexec", "exec"}
	for _, o := range extra {
		if slices.Contains(both, o) || !direct && o != "relatime" {
			opts = append(opts, o)
		}
	}
	return opts
}

// openMount mounts a filesystem at dir and returns what it is served through: by itself where it may, else by the helper.
func openMount(dir string, o *fuse.MountOptions) (fd int, err error) {
	if o.DirectMount {
		if fd, err = mountDirect(dir, o); err == nil {
			return fd, nil
		}
	}
	fd, herr := mountByHelper(dir, o)
	if herr != nil && err != nil {
		return -1, err // there is no need of a helper where the kernel says no to root
	}
	return fd, herr
}

func mountDirect(dir string, o *fuse.MountOptions) (fd int, err error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return -1, err
	}
	if fd, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return -1, err
	}
	opts := []string{fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,max_read=%d", fd, st.Mode&unix.S_IFMT, unix.Geteuid(), unix.Getegid(), o.MaxWrite)}
	for _, opt := range o.Options {
		if !IsKernelOption(opt) { // others are flags
			opts = append(opts, opt)
		}
	}
	if o.AllowOther {
		opts = append(opts, "allow_other")
	}
	if err := unix.Mount(o.FsName, dir, "fuse."+o.Name, o.DirectMountFlags, strings.Join(opts, ",")); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// mountByHelper has fusermount3, which may mount for other users than root, do it and send what the mount is served through.
func mountByHelper(dir string, o *fuse.MountOptions) (fd int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(pair[0])
	remote := os.NewFile(uintptr(pair[1]), "fusermount3")
	defer remote.Close()
	opts := slices.Clone(o.Options)
	if o.AllowOther {
		opts = append(opts, "allow_other")
	}
	opts = append(opts, "fsname="+strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(o.FsName), "subtype="+o.Name, fmt.Sprintf("max_read=%d", o.MaxWrite))
	cmd := exec.Command("fusermount3", "-o", strings.Join(opts, ","), "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{remote}
	if out, err := cmd.CombinedOutput(); err != nil {
		return -1, fmt.Errorf("fusermount3: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return receiveFD(pair[0])
}

// receiveFD receives a file descriptor.
func receiveFD(socket int) (fd int, err error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 4), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fusermount3: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return -1, fmt.Errorf("fusermount3 sent no file descriptor (%d messages, %v)", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("fusermount3 sent no file descriptor (%d, %v)", len(fds), err)
	}
	return fds[0], nil
}

// unmountPath takes the mount at path away, or fails with EBUSY.
func unmountPath(path string) error { return unmount(path, 0, "-u") }

// detachPath takes the mount at path out of the tree, though it is in use.
func detachPath(path string) error { return unmount(path, unix.MNT_DETACH, "-uz") }

// unmount unmounts by itself where it may, else by the helper.
func unmount(path string, flags int, option string) error {
	err := unix.Unmount(path, flags)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	out, err := exec.Command("fusermount3", option, "--", path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fusermount3: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
