package fusefs_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/fusefs"
	"github.com/go-bcachefs/bcachefs/internal/fstest"
)

var (
	proofSeed  = flag.Uint64("proof.seed", 1, "first seed of the random tests of a mounted filesystem")
	proofSeeds = flag.Int("proof.seeds", 1, "how many seeds of each of them to try")
	proofOps   = flag.Int("proof.ops", 0, "operations for each seed; 0: as many as make a quick test")
)

// forSeeds runs a test with each seed, and ends what one has begun before the next.
func forSeeds(t *testing.T, fn func(t *testing.T, seed uint64)) {
	for i := range uint64(*proofSeeds) {
		seed := *proofSeed + i
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { fn(t, seed) })
	}
}

// ops returns how many operations to do where a quick test does so many.
func ops(quick int) int {
	if *proofOps != 0 {
		return *proofOps
	}
	return quick
}

// serveVariable has the test of the same purpose serve a mount for another process: an image and a directory, with a colon in between.
const serveVariable = "FUSEFS_PROOF_SERVE"

// TestServeForProof is the process behind a mount that is mapped into memory and killed by the tests of another: in one process with these, a page
// that is missing would have the runtime wait for a thread that waits for the runtime.
func TestServeForProof(t *testing.T) {
	image, dir, ok := strings.Cut(os.Getenv(serveVariable), ":")
	if !ok {
		return // nobody wants it
	}
	fsys, err := bcachefs.Open(context.Background(), []string{image}, &bcachefs.OpenOptions{Write: true, NoScan: true, NodeCacheBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := fusefs.Mount(fsys, dir, fusefs.Options{AllowOther: true, Extra: []string{"dev", "suid"}})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("\nserving")
	io.Copy(io.Discard, os.Stdin)
	if err := srv.Unmount(false); err != nil {
		t.Error(err)
	}
	srv.Wait()
	if err := fsys.Close(); err != nil {
		t.Error(err)
	}
}

// served is a filesystem that another process has mounted.
type served struct {
	t     testing.TB
	image string
	dir   string
	cmd   *exec.Cmd
	stdin io.Closer
	out   *strings.Builder
}

// newServed formats and mounts a filesystem. At the end of the test it is unmounted and must be in order.
func newServed(t testing.TB, mib int64, options map[string]string) *served {
	t.Helper()
	needFUSE(t)
	unix.Umask(0)
	s := &served{t: t, image: newImage(t, mib, options), dir: t.TempDir()}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.cmd == nil {
			return
		}
		if err := s.stop(); err != nil {
			t.Error(err)
			return
		}
		mustBeSound(t, s.image)
	})
	return s
}

func (s *served) start() error {
	s.cmd = exec.Command(os.Args[0], "-test.run=^TestServeForProof$", "-test.timeout=0")
	s.cmd.Env = append(os.Environ(), serveVariable+"="+s.image+":"+s.dir)
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	s.stdin, s.out = stdin, new(strings.Builder)
	s.cmd.Stderr = s.out
	if err := s.cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if lines.Text() == "serving" {
			go func() { // whatever else it has to say
				for lines.Scan() {
					if text := lines.Text(); text != "PASS" {
						s.t.Log("server: " + text)
					}
				}
			}()
			return nil
		}
		fmt.Fprintln(s.out, lines.Text())
	}
	err = errors.Join(s.cmd.Wait(), errors.New(s.out.String()))
	s.cmd = nil
	return fmt.Errorf("the server did not start: %w", err)
}

// stop has the server unmount and end.
func (s *served) stop() error {
	s.stdin.Close()
	done := make(chan error, 1)
	go func() { done <- s.cmd.Wait() }()
	defer func() { s.cmd = nil }()
	select {
	case err := <-done:
		if err != nil {
			err = fmt.Errorf("the server: %w: %s", err, s.out)
			unix.Unmount(s.dir, unix.MNT_DETACH)
		}
		return err
	case <-time.After(2 * time.Minute):
		s.cmd.Process.Signal(unix.SIGQUIT)
		<-done
		unix.Unmount(s.dir, unix.MNT_DETACH)
		return fmt.Errorf("the server hangs: %s", s.out)
	}
}

// syncs numbers the names that [kernel.Sync] makes.
var syncs atomic.Int64

// kernel is a mount as package fstest exercises it.
type kernel struct{ fstest.OS }

// Sync has everything reach the disk. The kernel does not tell servers of syncfs, so what is in the server's memory follows with the change of a name
// that is made durable.
func (k kernel) Sync() error {
	if err := k.OS.Sync(); err != nil {
		return err
	}
	name := fmt.Sprint("sync-", syncs.Add(1))
	if err := k.Mkdir(name, 0o700); err != nil {
		return err
	}
	if err := k.Rmdir(name); err != nil {
		return err
	}
	return k.SyncDir(".")
}

func (s *served) os() fstest.FS { return kernel{fstest.OS{Dir: s.dir}} }

// remount has the server end and begin anew.
func (s *served) remount() (fstest.FS, error) {
	if err := s.stop(); err != nil {
		return nil, err
	}
	if err := s.start(); err != nil {
		return nil, err
	}
	return s.os(), nil
}

// kill kills the server and starts it anew.
func (s *served) kill() (fstest.FS, error) {
	s.cmd.Process.Kill()
	s.cmd.Wait()
	if err := unix.Unmount(s.dir, unix.MNT_DETACH); err != nil {
		return nil, fmt.Errorf("unmounting what was killed: %w", err)
	}
	if err := s.start(); err != nil {
		return nil, fmt.Errorf("after being killed: %w", err)
	}
	return s.os(), nil
}

// snapshots returns what takes them, if that can be done.
func (s *served) snapshots() func(fstest.FS, int) (string, error) {
	if err := s.os().CreateSubvolume("probe"); fstest.ErrnoOf(err) == fstest.ENOTTY {
		s.t.Log("there are no subvolumes")
		return nil
	}
	return snapshot
}

// snapshot takes snapshots of the root for package fstest.
func snapshot(f fstest.FS, n int) (string, error) {
	name := fmt.Sprint("snapshot-", n)
	return name, f.Snapshot(name, ".", n%2 == 0)
}

// Random operations on files' data through the kernel: cached, direct and mapped.
func TestProofFSX(t *testing.T) {
	for name, options := range map[string]map[string]string{"plain": nil, "blocks of 512": {"block_size": "512"}, "compressed": {"compression": "lz4"}} {
		t.Run(name, func(t *testing.T) {
			forSeeds(t, func(t *testing.T, seed uint64) {
				s := newServed(t, 128, options)
				x := fstest.FSX{FS: s.os(), Dir: ".", Seed: seed, Ops: ops(400), Logf: t.Logf, Remount: s.remount, Snapshot: s.snapshots()}
				if err := x.Run(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// Random operations on everything through the kernel.
func TestProofRandom(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64) {
		s := newServed(t, 128, nil)
		x := fstest.Random{FS: s.os(), Seed: seed, Ops: ops(600), Logf: t.Logf, Remount: s.remount,
			Compare: fstest.Compare{CtimeSlack: 50 * time.Millisecond}, ShrinkFor: 30 * time.Second}
		if err := x.Run(); err != nil {
			t.Fatal(err)
		}
	})
}

// The server is killed again and again.
func TestProofKill(t *testing.T) {
	forSeeds(t, func(t *testing.T, seed uint64) {
		s := newServed(t, 128, nil)
		x := fstest.Random{FS: s.os(), Seed: seed, Ops: ops(600), Logf: t.Logf, Crash: s.kill, Compare: fstest.Compare{Cached: true, NoTimes: true},
			ShrinkFor: 30 * time.Second}
		if err := x.Run(); err != nil {
			t.Fatal(err)
		}
	})
}

// Whatever gets another owner, but for directories, loses its set-user-id bit.
func TestProofChown(t *testing.T) {
	fs := newServed(t, 64, nil).os()
	for typ, want := range map[uint32]uint32{fstest.ModeRegular: 0o755, fstest.ModeSocket: 0o755, fstest.ModeFIFO: 0o755, fstest.ModeDir: 0o4755} {
		name := fmt.Sprintf("%o", typ)
		make := func() error { return fs.Mknod(name, typ|0o600, 0) }
		if typ == fstest.ModeDir {
			make = func() error { return fs.Mkdir(name, 0o700) }
		}
		if err := errors.Join(make(), fs.Chmod(name, 0o4755), fs.Chown(name, 1, 1)); err != nil {
			t.Fatal(err)
		}
		if st, err := fs.Lstat(name); err != nil || st.Mode != typ|want {
			t.Errorf("type %#o: mode %#o, want %#o (%v)", typ, st.Mode, typ|want, err)
		}
	}
}
