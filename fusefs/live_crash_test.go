//go:build linux

package fusefs_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/fusefs"
)

// serverPart serves an image until it is killed, or its mount goes away.
func serverPart() {
	fsys, err := bcachefs.Open(context.Background(), []string{os.Getenv("IMAGE")}, &bcachefs.OpenOptions{Write: true, NoScan: true})
	if err == nil {
		var srv *fusefs.Server
		if srv, err = fusefs.Mount(fsys, os.Getenv("DIR"), mountAll); err == nil {
			fmt.Println("mounted")
			srv.Wait()
			err = fsys.Close()
		}
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// servedImage is an image that another process serves.
type servedImage struct {
	*mounted
	cmd *exec.Cmd
}

func serveImage(t *testing.T, img string) *servedImage {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &servedImage{mounted: &mounted{t: t, img: img, dir: t.TempDir()}, cmd: exec.Command(exe)}
	s.cmd.Env = append(os.Environ(), partVar+"=server", "IMAGE="+img, "DIR="+s.dir)
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "mounted\n" {
		t.Fatalf("the server says %q, %v", line, err)
	}
	go io.Copy(io.Discard, out)
	return s
}

// kill ends the process without a word, and takes its mount away.
func (s *servedImage) kill() {
	if s.cmd.ProcessState != nil {
		return
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	unix.Unmount(s.dir, unix.MNT_DETACH)
}

// end unmounts and waits for the process to have written everything.
func (s *servedImage) end() {
	s.t.Helper()
	var err error
	for range 500 { // whatever else runs on the machine may look into mounts for a moment
		if err = unix.Unmount(s.dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		s.t.Errorf("umount: %v", err)
		return
	}
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("the server: %v", err)
	}
}

// TestLiveKill kills the server in the middle of work. What was synced by then is there afterwards, and everything is in order.
func TestLiveKill(t *testing.T) {
	needFUSE(t)
	img := newImage(t, 256, nil)
	for round := range 3 {
		s := serveImage(t, img)
		dir := s.path(fmt.Sprintf("round%d", round))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		durable := map[string][]byte{} // by name
		done := make(chan struct{})
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					name := fmt.Sprintf("w%d-%d", worker, i%40)
					data := pattern(1000+i*997%60000, i+worker)
					if err := writeDurably(dir, name, data, worker%2 == 0); err != nil {
						select {
						case <-done:
						default:
							t.Errorf("%s: %v", name, err)
						}
						return
					}
					mu.Lock()
					select {
					case <-done: // what is acknowledged now may be so by a server that is gone
						mu.Unlock()
						return
					default:
					}
					durable[name] = data
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(500+300*round) * time.Millisecond)
		mu.Lock()
		close(done)
		mu.Unlock()
		s.kill()
		wg.Wait()
		if len(durable) < 5 {
			t.Errorf("only %d files were written", len(durable))
		}
		mustBeSound(t, img)
		m := mountImage(t, img, mountAll)
		for name, want := range durable {
			got, err := os.ReadFile(m.path(fmt.Sprintf("round%d/%s", round, name)))
			if err != nil {
				t.Errorf("%s was synced and is lost: %v", name, err)
				continue
			}
			// The next version may have come through, too.
			if !bytes.Equal(got, want) && !isPattern(got) {
				t.Errorf("%s: %d bytes that nobody wrote so", name, len(got))
			}
		}
		m.unmount()
		mustBeSound(t, img)
	}
}

// isPattern reports whether b is what pattern makes.
func isPattern(b []byte) bool {
	return len(b) > 0 && bytes.Equal(b, pattern(len(b), int(b[0])))
}

// writeDurably replaces a file as a careful program does.
func writeDurably(dir, name string, data []byte, direct bool) error {
	tmp := filepath.Join(dir, "tmp-"+name)
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && direct {
		err = unix.Fdatasync(int(f.Fd()))
	} else if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// TestLiveSyncedWrites looks for what was written with O_DSYNC, directly and not, after a kill.
func TestLiveSyncedWrites(t *testing.T) {
	needFUSE(t)
	img := newImage(t, 64, nil)
	s := serveImage(t, img)
	want := map[string][]byte{}
	for name, flags := range map[string]int{"sync": unix.O_SYNC, "dsync": unix.O_DSYNC, "direct": unix.O_DIRECT | unix.O_DSYNC, "direct-sync": unix.O_DIRECT | unix.O_SYNC} {
		fd, err := unix.Open(s.path(name), unix.O_CREAT|unix.O_WRONLY|flags, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		buf := alignedBytes(64 << 10)
		copy(buf, pattern(len(buf), len(name)))
		if _, err := unix.Write(fd, buf); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		want[name] = buf
	}
	s.kill()
	mustBeSound(t, img)
	m := mountImage(t, img, mountAll)
	for name, data := range want {
		m.wants(name, data)
	}
}
