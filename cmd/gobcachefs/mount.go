//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs/fusefs"
)

type mountCmd struct {
	*app
	fileFlags
	foreground, fake, debug bool
}

func newMountCmd(a *app) *cobra.Command {
	m := &mountCmd{app: a}
	c := a.command(&cobra.Command{
		Use:   "mount [flags] DEV[:DEV]... DIR",
		Short: "Mount a filesystem through FUSE, read-only",
		Long: "mount shows a filesystem at DIR, read-only, until it is unmounted (umount DIR, or SIGINT or SIGTERM to the\n" +
			"process). It returns once the mount is there and goes on serving in the background, or with -f in the foreground.\n\n" +
			"Options of its own, besides those of every command, in -o:\n" +
			"  subvol=PATH           show this subvolume as the root\n" +
			"  snapshots[=NAME]      show all subvolumes and snapshots in a directory NAME of the root (.snapshots), not listed\n" +
			"  allow_other           let other users in, subject to permissions; the default for root, no_allow_other undoes it\n" +
			"  scan=DIR              look in DIR for members that were not given\n" +
			"  passphrase_file=FILE  read the passphrase from the first line of FILE\n" +
			"  node_cache=SIZE       memory for btree nodes\n" +
			"  fg, debug             as -f and -d\n" +
			"  dev, suid, noexec, noatime ... as mount(8) has them\n\n" +
			"In /etc/fstab the type is fuse.gobcachefs.",
		Args: cobra.ExactArgs(2),
	}, m.run)
	f := c.Flags()
	f.BoolVarP(&m.foreground, "foreground", "f", false, "stay in the foreground")
	f.BoolVarP(&m.debug, "debug", "d", false, "log every request; implies -f")
	f.BoolVar(&m.fake, "fake", false, "do everything but the mount itself")
	m.register(c)
	return c
}

// mountOpts are the options that only a mount has.
type mountOpts struct {
	allowOther bool
	snapshots  string
	kernel     []string
}

// take sorts the options out: those of the mount, flags of the command, and the rest, which stay in m.options.
func (m *mountCmd) take() (mountOpts, error) {
	o := mountOpts{allowOther: os.Geteuid() == 0}
	var rest []string
	for _, opt := range strings.Split(strings.Join(m.options, ","), ",") {
		name, value, hasValue := strings.Cut(strings.TrimSpace(opt), "=")
		needs := func(dst *string) error {
			if value == "" {
				return usagef("option %s wants a value", name)
			}
			*dst = value
			return nil
		}
		var err error
		switch {
		case name == "" || name == "rw": // what defaults become in fstab; the mount is read-only, and says so
		case name == "allow_other":
			o.allowOther = true
		case name == "no_allow_other":
			o.allowOther = false
		case name == "snapshots":
			o.snapshots = fusefs.SnapshotsDir
			if hasValue {
				o.snapshots = value
			}
			if o.snapshots == "" || strings.Contains(o.snapshots, "/") {
				return o, usagef("option snapshots=%s: want a name", value)
			}
		case name == "scan":
			var dir string
			err = needs(&dir)
			m.scan = append(m.scan, dir)
		case name == "passphrase_file":
			err = needs(&m.passphraseFile)
		case name == "node_cache":
			err = needs(&m.cache)
		case name == "fg" || name == "foreground":
			m.foreground = true
		case name == "debug":
			m.debug = true
		case fusefs.IsKernelOption(name) && !hasValue:
			o.kernel = append(o.kernel, name)
		case strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-") || name == "fsname" || name == "subtype" ||
			name == "default_permissions" || name == "users" || name == "auto" || name == "nouser":
		default:
			rest = append(rest, opt)
		}
		if err != nil {
			return o, err
		}
	}
	m.options = rest
	return o, nil
}

func (m *mountCmd) run(ctx context.Context, args []string) error {
	source, dir := args[0], args[1]
	opts, err := m.take()
	if err != nil {
		return err
	}
	var sfs unix.Statfs_t // unlike stat(2), this always asks who serves what is mounted there
	if err := unix.Statfs(dir, &sfs); errors.Is(err, unix.ENOTCONN) {
		return failedTodo("mount", dir, errors.New("the process that served what is mounted there is gone"), "umount it first")
	}
	if st, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return failedTodo("mount", dir, err, "make the directory first")
	} else if err != nil {
		return failed("mount", dir, err)
	} else if !st.IsDir() {
		return failed("mount", dir, errors.New("not a directory"))
	}
	if _, err := parseMountOptions(m.options); err != nil {
		return err // here, not in the copy in the background
	}
	child := daemonPipe()
	if !m.foreground && !m.debug && !m.fake && child == nil {
		return m.daemonize()
	}
	f, mo, err := m.open(ctx, m.app, []string{source})
	if err != nil {
		return err
	}
	defer f.Close()
	v, err := m.view(f, mo)
	if err != nil {
		return err
	}
	if m.fake {
		return nil
	}
	srv, err := fusefs.Mount(f, dir, fusefs.Options{View: v, Source: source, AllowOther: opts.allowOther,
		SnapshotsDir: opts.snapshots, Debug: m.debug, Extra: opts.kernel})
	if err != nil {
		return mountError(dir, err)
	}
	if child != nil {
		if err := detach(child); err != nil {
			return errors.Join(failed("mount", dir, err), srv.Unmount(true))
		}
	}
	return m.serve(ctx, dir, srv)
}

// serve waits for the end of the mount, and brings it about when the context ends.
func (m *mountCmd) serve(ctx context.Context, dir string, srv *fusefs.Server) error {
	select {
	case <-srv.Done():
		return nil
	case <-ctx.Done():
	}
	if err := srv.Unmount(false); err != nil {
		m.warnf("unmount: %s: %v: it goes away when nothing uses it any more", dir, err)
		if err := srv.Unmount(true); err != nil {
			return failed("unmount", dir, err)
		}
	}
	select {
	case <-srv.Done():
	case <-time.After(lingerTime): // somebody still has files open, and was served long enough
	}
	return nil
}

// lingerTime is how long those are served who still use a mount when it is ended.
const lingerTime = 10 * time.Second

// mountError adds what to do to an error of mounting.
func mountError(dir string, err error) error {
	switch {
	case errors.Is(err, exec.ErrNotFound) || strings.Contains(err.Error(), "executable file not found"):
		return failedTodo("mount", dir, errors.New("fusermount3 is missing"), "install the package fuse3, or run it as root")
	case errors.Is(err, unix.ENODEV), errors.Is(err, fs.ErrNotExist) && missing("/dev/fuse"):
		return failedTodo("mount", dir, errors.New("this kernel has no FUSE"), "load the module fuse, or use cp, export or ls")
	case errors.Is(err, fs.ErrPermission) || os.Geteuid() != 0 && unix.Access("/dev/fuse", unix.R_OK|unix.W_OK) != nil:
		return failedTodo("mount", dir, fs.ErrPermission, "run it as root, or install fuse3 and mount at a directory of your own")
	}
	return failed("mount", dir, err)
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// daemonVar tells a copy of this program that it is to serve in the background, and which file descriptor says that it does.
const daemonVar = "GOBCACHEFS_MOUNT_READY_FD"

// firstExtraFD is where exec.Cmd puts the first of ExtraFiles.
const firstExtraFD = 3

// daemonize starts a copy of this program and waits until it has mounted or failed. The copy keeps the terminal until then, to
// ask for a passphrase and to report.
func (m *mountCmd) daemonize() error {
	exe, err := os.Executable()
	if err != nil {
		return failed("start in the background", "", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return failed("start in the background", "", err)
	}
	defer r.Close()
	cmd := exec.Command(exe)
	cmd.Args = os.Args
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if m.passphraseFD == firstExtraFD { // it stays where the flag says; others are inherited as they are
		if wasInherited(firstExtraFD) {
			cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(firstExtraFD, "passphrase"))
		}
	}
	ready := firstExtraFD + len(cmd.ExtraFiles)
	cmd.ExtraFiles = append(cmd.ExtraFiles, w)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", daemonVar, ready))
	err = cmd.Start()
	w.Close()
	if err != nil {
		return failed("start in the background", "", err)
	}
	var b [1]byte
	if n, _ := r.Read(b[:]); n == 1 {
		return cmd.Process.Release()
	}
	if err := cmd.Wait(); err != nil {
		return errPartial // it has said why
	}
	return nil
}

// daemonPipe returns the pipe to the parent in the copy that daemonize started, else nil.
func daemonPipe() *os.File {
	fd, err := strconv.Atoi(os.Getenv(daemonVar))
	if err != nil || fd < firstExtraFD {
		return nil
	}
	os.Unsetenv(daemonVar)
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "parent")
}

// detach lets go of the terminal and tells the parent that the mount is there.
func detach(parent *os.File) error {
	if _, err := unix.Setsid(); err != nil && !errors.Is(err, unix.EPERM) {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return err
		}
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if _, err := parent.Write([]byte{1}); err != nil {
		return err
	}
	return parent.Close()
}
