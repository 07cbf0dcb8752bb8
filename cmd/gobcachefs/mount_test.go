//go:build linux

package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// asProgramVar makes the test binary the program itself, as the mount command starts itself anew.
const asProgramVar = "GOBCACHEFS_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgramVar) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program returns the program as a process to be, without a terminal.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe, args...)
	c.Env = append(os.Environ(), asProgramVar+"=1")
	return c
}

// needMounts skips the test where nothing can be mounted.
func needMounts(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil || os.Geteuid() != 0 {
		t.Skipf("needs root and FUSE: %v", err)
	}
	f.Close()
}

func isMounted(dir string) bool {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	return bytes.Contains(mounts, []byte(" "+dir+" fuse.gobcachefs "))
}

// isMountedAs reports whether a mount is there that is "ro" or "rw".
func isMountedAs(dir, how string) bool {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	return bytes.Contains(mounts, []byte(" "+dir+" fuse.gobcachefs "+how+","))
}

// eventually waits until what happens.
func eventually(t *testing.T, what string, happens func() bool) {
	t.Helper()
	for range 3000 { // 30 s: other tests may use the machine too
		if happens() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("in vain: %s", what)
}

// mountPoint returns a directory at which nothing is mounted any more when the test ends.
func mountPoint(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		for isMounted(dir) && unix.Unmount(dir, unix.MNT_DETACH) == nil {
		}
	})
	return dir
}

// TestMountInTheBackground mounts as a shell would, with the passphrase from each descriptor a shell may use.
func TestMountInTheBackground(t *testing.T) {
	needMounts(t)
	golden.DerivesKeys(t)
	img := placeCopy(t, "encrypted")
	for _, fd := range []int{0, 3, 4} {
		dir := mountPoint(t)
		pass, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "correct horse battery staple\n")
		w.Close()
		alive, inherited, err := os.Pipe() // at its end when the last process of the mount is gone
		if err != nil {
			t.Fatal(err)
		}
		c := program(t, "mount", "--passphrase-fd", string(rune('0'+fd)), img, dir)
		switch fd {
		case 0:
			c.Stdin, c.ExtraFiles = pass, []*os.File{inherited}
		case 3:
			c.ExtraFiles = []*os.File{pass, inherited}
		case 4:
			c.ExtraFiles = []*os.File{inherited, pass}
		}
		c.ExtraFiles = append(c.ExtraFiles, inherited) // the first may have to give way to what reports success
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("fd %d: %v: %s", fd, err, out)
			continue
		}
		pass.Close()
		inherited.Close()
		if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
			t.Errorf("fd %d: %d entries, %v", fd, len(entries), err)
		}
		umount(t, dir)
		alive.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := alive.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("fd %d: the process does not end with its mount: %v", fd, err)
		}
		alive.Close()
	}
}

// TestMountEndsWithASignal ends mounts in the foreground, idle and in use.
func TestMountEndsWithASignal(t *testing.T) {
	needMounts(t)
	img := placeCopy(t, "damage-base")
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}
	seen := make(chan os.Signal, 1)
	signal.Notify(seen, signals...) // a mount ignores what it is started to ignore, and so it is not if it is ignored here
	defer signal.Stop(seen)
	for _, sig := range signals {
		for _, busy := range []bool{false, true} {
			dir := mountPoint(t)
			c := program(t, "mount", "-f", img, dir)
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "a mount", func() bool { return isMounted(dir) })
			var used *os.File
			if busy {
				f, err := os.Open(filepath.Join(dir, "lines"))
				if err != nil {
					t.Fatal(err)
				}
				used = f
			}
			c.Process.Signal(sig)
			eventually(t, "an unmount", func() bool { return !isMounted(dir) })
			if busy {
				if _, err := used.Read(make([]byte, 100)); err != nil {
					t.Errorf("%v: a file that is open still cannot be read: %v", sig, err)
				}
				used.Close()
			}
			if err := c.Wait(); err != nil {
				t.Errorf("%v: %v", sig, err)
			}
		}
	}
}

// serverOf returns the process that serves a mount, which has the directory as an argument.
func serverOf(t *testing.T, dir string) int {
	t.Helper()
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		if bytes.Contains(line, []byte("\x00"+dir+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			return pid
		}
	}
	t.Fatal("no process serves the mount")
	return 0
}

// TestMountAfterAKill mounts where the process of an earlier mount was killed.
func TestMountAfterAKill(t *testing.T) {
	needMounts(t)
	img, dir := placeCopy(t, "damage-base"), mountPoint(t)
	if out, err := program(t, "mount", img, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pid := serverOf(t, dir)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of a process", func() bool {
		var st unix.Statfs_t
		return errors.Is(unix.Statfs(dir, &st), unix.ENOTCONN)
	})
	out, err := program(t, "mount", img, dir).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitFailed || !strings.Contains(string(out), "umount it first") ||
		bytes.Count(out, []byte("\n")) != 1 {
		t.Errorf("%v: %s", err, out)
	}
	umount(t, dir)
	if out, err := program(t, "mount", img, dir).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestMountHelper(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ in, want string }{
		{"gobcachefs /dev/sdb:/dev/sdc DIR -o rw,dev", "gobcachefs mount /dev/sdb:/dev/sdc DIR -o dev"},
		{"gobcachefs UUID=12 DIR -o rw", "gobcachefs mount UUID=12 DIR"},
		{"gobcachefs ls DIR", "gobcachefs ls DIR"},
		{"gobcachefs ls /dev/sdb /", "gobcachefs ls /dev/sdb /"},
		{"/sbin/mount.fuse.gobcachefs /dev/sdb DIR -sv -o subvol=a -t fuse.gobcachefs", "/sbin/mount.fuse.gobcachefs mount /dev/sdb DIR -o subvol=a"},
		{"/sbin/mount.bcachefs UUID=12 DIR -f -n -r", "/sbin/mount.bcachefs mount UUID=12 DIR --fake -o ro"},
	} {
		in := strings.Fields(strings.ReplaceAll(c.in, "DIR", dir))
		if got, want := mountHelperArgs(in), strings.Fields(strings.ReplaceAll(c.want, "DIR", dir)); !slices.Equal(got, want) {
			t.Errorf("%q:\n got %q\nwant %q", in, got, want)
		}
	}
	a := newApp(strings.NewReader(""), io.Discard, io.Discard)
	if code := a.run(t.Context(), []string{"/sbin/mount.fuse.gobcachefs", filepath.Join(dir, "none"), dir, "-o", "ro,fg"}); code != 32 {
		t.Errorf("a device that is not there: exit %d", code)
	}
	if code := newApp(strings.NewReader(""), io.Discard, io.Discard).run(t.Context(), []string{"/sbin/mount.fuse.gobcachefs", dir, dir, "-o", "nonsense"}); code != 1 {
		t.Errorf("nonsense: exit %d", code)
	}
}
