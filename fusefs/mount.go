//go:build linux

package fusefs

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

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

// detachPath takes the mount at path out of the tree, though it is in use.
func detachPath(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	out, err := exec.Command("fusermount3", "-uz", "--", path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("fusermount3: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
