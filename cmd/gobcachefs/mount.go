//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/fusefs"
)

type mountCmd struct {
	*app
	fileFlags
	foreground, fake, debug bool
	log                     mountLog
	inUse                   bool // it could not be ended in the end
}

func newMountCmd(a *app) *cobra.Command {
	m := &mountCmd{app: a, log: mountLog{app: a}}
	c := a.command(&cobra.Command{
		Use:   "mount [flags] DEV[:DEV]... DIR",
		Short: "Mount a filesystem through FUSE",
		Long: "mount shows a filesystem at DIR until it is unmounted (umount DIR, or SIGINT or SIGTERM to the process). It\n" +
			"returns once the mount is there and goes on serving in the background, or with -f in the foreground.\n\n" +
			"It is mounted read-write. If it cannot be written to (a feature that is not known, a missing device) it is mounted\n" +
			"read-only, and one line says why; with -o rw that is an error.\n\n" +
			"Options of its own, besides those of every command, in -o:\n" +
			"  ro, rw                read-only; read-write or not at all\n" +
			"  subvol=PATH           show this subvolume as the root\n" +
			"  snapshots[=NAME]      show all subvolumes and snapshots in a directory NAME of the root (.snapshots), not listed\n" +
			"  fsck                  check it first: what has errors is mounted read-only, or with rw not at all\n" +
			"  nochanges             nothing is written to the devices: changes stay in memory and are gone with the mount\n" +
			"  overlay=SIZE          memory for these (1G)\n" +
			"  allow_other           let other users in, subject to permissions; the default for root, no_allow_other undoes it\n" +
			"  scan=DIR              look in DIR for members that were not given\n" +
			"  passphrase_file=FILE  read the passphrase from the first line of FILE\n" +
			"  node_cache=SIZE       memory for btree nodes (256M)\n" +
			"  extent_cache=SIZE     memory for verified or decompressed file data (64M)\n" +
			"  fg, debug             as -f and -d\n" +
			"  dev, suid, noexec, noatime ... as mount(8) has them; without a word to the contrary nodev and nosuid hold\n\n" +
			"Options that show what is damaged or incomplete (norecovery, very_degraded, salvage, snapshot=) mount read-only.\n\n" +
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

func (m *mountCmd) run(ctx context.Context, args []string) (err error) {
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
	f, mo, err := m.openMount(ctx, source, &opts)
	if err != nil {
		return err
	}
	defer func() { err = m.close(f, dir, err) }()
	m.log.opened()
	v, err := m.view(f, mo)
	if err != nil {
		return err
	}
	if m.fake {
		return nil
	}
	moreProcs()
	srv, err := fusefs.Mount(f, dir, fusefs.Options{View: v, Source: source, AllowOther: opts.allowOther,
		SnapshotsDir: opts.snapshots, Debug: m.debug, Extra: opts.kernel})
	if err != nil {
		return mountError(dir, err)
	}
	if child != nil {
		if err := detach(child); err != nil {
			return errors.Join(failed("mount", dir, err), srv.Unmount(true))
		}
		m.log.toSystem(dir)
	}
	return m.serve(ctx, dir, srv)
}

// moreProcs lets more goroutines run at once than there are processors. A thread that waits for a disk keeps its turn (the P of Go's scheduler) until a
// timer takes it away, and so does the one that waits for requests; where there are as many turns as processors, who could go on waits for that timer.
func moreProcs() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(8, 2*runtime.GOMAXPROCS(0)))
	}
}

// close closes the filesystem after a mount. Of one in the background there is nobody to see the exit code: the system's log has it.
func (m *mountCmd) close(f *bcachefs.FS, dir string, err error) error {
	var cerr error
	if m.inUse {
		cerr = errors.Join(f.Sync(context.Background()), errors.New("still in use: the next who opens it recovers it"))
	} else {
		cerr = f.Close()
	}
	if cerr == nil {
		return err
	}
	if cerr = failed("unmount", dir, cerr); m.log.system != nil {
		m.log.print(cerr.Error())
	}
	return errors.Join(err, cerr)
}

// serve waits for the end of the mount, and brings it about when the context ends.
func (m *mountCmd) serve(ctx context.Context, dir string, srv *fusefs.Server) error {
	select {
	case <-srv.Done():
		return nil
	case <-ctx.Done():
	}
	if err := srv.Unmount(false); err != nil {
		m.log.printf("unmount: %s: %v: it goes away when nothing uses it any more", dir, err)
		if err := srv.Unmount(true); err != nil {
			return failed("unmount", dir, err)
		}
	}
	select {
	case <-srv.Done():
	case <-time.After(lingerTime): // somebody still has files open, and was served long enough
		m.inUse = !srv.Stop()
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
