//go:build linux

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// formatImage makes a filesystem in a file.
func formatImage(t *testing.T) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "fs.img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, 64<<20); err != nil {
		t.Fatal(err)
	}
	if r := runCLI(t.Context(), "", nil, "format", "-q", img); r.code != 0 {
		t.Fatalf("format: %s", r.err)
	}
	return img
}

// placeCopy is place for what may be written to.
func placeCopy(t *testing.T, name string) string {
	t.Helper()
	return strings.Join(golden.Find(t, name).UnpackCopy(t), ":")
}

// mountImage mounts in the background and returns what the program said.
func mountImage(t *testing.T, img, options string) (dir, said string, code int) {
	t.Helper()
	dir = mountPoint(t)
	args := []string{"mount", img, dir}
	if options != "" {
		args = append(args, "-o", options)
	}
	out, err := program(t, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return dir, string(out), code
}

// umount unmounts; whatever else runs on the machine may look into mounts for a moment.
func umount(t *testing.T, dir string) {
	t.Helper()
	eventually(t, "umount "+dir, func() bool { return unix.Unmount(dir, 0) == nil })
}

// TestMountWrites mounts read-write, again and again: right after an unmount, after a kill, and with what is written going nowhere.
func TestMountWrites(t *testing.T) {
	needMounts(t)
	img := formatImage(t)
	dir, said, code := mountImage(t, img, "")
	if code != 0 || said != "" || !isMountedAs(dir, "rw") {
		t.Fatalf("exit %d: %s", code, said)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	}
	wants := func(name, text string) {
		t.Helper()
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != text {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	write("a", "1")
	umount(t, dir)
	for _, options := range []string{"rw", "fsck", "alloc=early", "noatime,verbose,extent_cache=8M", "relatime,nodiratime,dev,suid,noexec"} { // each at once after an unmount
		if dir, said, code = mountImage(t, img, options); code != 0 || said != "" || !isMountedAs(dir, "rw") {
			t.Fatalf("%s: exit %d: %s", options, code, said)
		}
		wants("a", "1")
		write("b", options)
		umount(t, dir)
	}
	if dir, said, code = mountImage(t, img, "nochanges"); code != 0 || !isMountedAs(dir, "rw") {
		t.Fatalf("exit %d: %s", code, said)
	}
	write("a", "lost")
	write("c", "lost")
	wants("c", "lost")
	umount(t, dir)
	if dir, said, code = mountImage(t, img, "ro"); code != 0 || !isMountedAs(dir, "ro") {
		t.Fatalf("exit %d: %s", code, said)
	}
	wants("a", "1")
	if _, err := os.Stat(filepath.Join(dir, "c")); !os.IsNotExist(err) {
		t.Errorf("what was not to be written: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "d"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("written to a read-only mount: %v", err)
	}
	umount(t, dir)

	if dir, said, code = mountImage(t, img, ""); code != 0 {
		t.Fatalf("exit %d: %s", code, said)
	}
	write("a", "2")
	f, err := os.Open(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	f.Close()
	if err := unix.Kill(serverOf(t, dir), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of a process", func() bool {
		var st unix.Statfs_t
		return errors.Is(unix.Statfs(dir, &st), unix.ENOTCONN)
	})
	umount(t, dir)
	if dir, said, code = mountImage(t, img, ""); code != 0 || !isMountedAs(dir, "rw") {
		t.Fatalf("after a kill: exit %d: %s", code, said)
	}
	wants("a", "2")
	umount(t, dir)
	eventually(t, "a clean filesystem", func() bool { return runCLI(t.Context(), "", nil, "fsck", "-n", img).code == 0 })
}

// TestMountFallsBack mounts what cannot be written to: read-only with one line, or with rw not at all.
func TestMountFallsBack(t *testing.T) {
	needMounts(t)
	newer := placeCopy(t, "v1.39-snapshots")
	dir, said, code := mountImage(t, newer, "")
	if code != 0 || !isMountedAs(dir, "ro") || !strings.Contains(said, "mounted read-only") || strings.Count(said, "\n") != 1 {
		t.Errorf("exit %d: %q", code, said)
	}
	umount(t, dir)
	if _, said, code := mountImage(t, newer, "rw"); code != exitFailed || strings.Count(said, "\n") != 1 {
		t.Errorf("rw: exit %d: %q", code, said)
	}
	for _, options := range []string{"rw,norecovery", "rw,degraded=very", "alloc=late", "snapshots=a/b", "node_cache=", "overlay=x", "fsck=maybe"} {
		if _, said, code := mountImage(t, newer, options); code != exitUsage {
			t.Errorf("%s: exit %d: %q", options, code, said)
		}
	}
	before, err := os.ReadFile(newer)
	if err != nil {
		t.Fatal(err)
	}
	for _, options := range []string{"", "ro", "norecovery", "nochanges"} {
		dir, said, code := mountImage(t, newer, options)
		if code != 0 {
			t.Errorf("%s: exit %d: %q", options, code, said)
			continue
		}
		umount(t, dir)
	}
	if after, err := os.ReadFile(newer); err != nil || !bytes.Equal(before, after) {
		t.Errorf("a filesystem that must not be written to was: %v", err)
	}
}

// TestMountChecked mounts what has errors.
func TestMountChecked(t *testing.T) {
	needMounts(t)
	img := placeCopy(t, "damaged-accounting")
	dir, said, code := mountImage(t, img, "fsck")
	if code != 0 || !isMountedAs(dir, "ro") || !strings.Contains(said, "errors") {
		t.Errorf("exit %d: %q", code, said)
	}
	umount(t, dir)
	if _, said, code := mountImage(t, img, "fsck,rw"); code != exitFailed || !strings.Contains(said, "errors") {
		t.Errorf("rw: exit %d: %q", code, said)
	}
}

// TestSubvolumesMounted lists those of a mount as those of the image are, but for sizes.
func TestSubvolumesMounted(t *testing.T) {
	needMounts(t)
	img := formatImage(t)
	dir, said, code := mountImage(t, img, "")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, said)
	}
	run := func(args ...string) string {
		t.Helper()
		r := runCLI(t.Context(), "", nil, args...)
		if r.code != 0 {
			t.Fatalf("%v: exit %d: %s", args, r.code, r.err)
		}
		return r.out
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	run("subvolume", "create", at("a"))
	run("subvolume", "create", at("a/b"))
	if err := os.Mkdir(at("a/b/plain"), 0o755); err != nil {
		t.Fatal(err)
	}
	run("subvolume", "create", at("a/b/plain/c"))
	run("subvolume", "snapshot", "-r", at("a/b"), at("snap"))
	run("subvolume", "snapshot", at("a/b"), at("a/again"))
	withoutSizes := func(s string) string {
		return strings.Join(strings.Fields(strings.NewReplacer("0B, ", "", "0B", "").Replace(s)), " ")
	}
	type list struct{ flags, of string }
	lists := []list{{"", ""}, {"-R", ""}, {"-Rs", ""}, {"-t", ""}, {"-ts", ""}, {"-Rs", "a"}, {"-ts", "a/b"}}
	var mounted []string
	for _, l := range lists {
		mounted = append(mounted, run(append([]string{"subvolume", "list"}, strings.Fields(l.flags+" "+at(l.of))...)...))
	}
	if r := runCLI(t.Context(), "", nil, "subvolume", "list", "--subvol", "a", dir); r.code != 2 {
		t.Errorf("--subvol with a mount: exit %d: %s", r.code, r.err)
	}
	umount(t, dir)
	eventually(t, "the end of the mount", func() bool { return runCLI(t.Context(), "", nil, "fsck", "-n", img).code == 0 })
	for i, l := range lists {
		args := []string{"subvolume", "list"}
		if l.of != "" {
			args = append(args, "--subvol", l.of)
		}
		image := run(append(args, strings.Fields(l.flags+" "+img)...)...)
		if withoutSizes(mounted[i]) != withoutSizes(image) {
			t.Errorf("list %s of %q: of the mount\n%s\nof the image\n%s", l.flags, l.of, mounted[i], image)
		}
	}
}
