//go:build linux

package fusefs

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// noNames is a filesystem whose root is empty, which it takes a while to find out.
type noNames struct {
	fuse.RawFileSystem
	lookup func(name string)
}

func (n *noNames) String() string { return "nonames" }

func (n *noNames) GetAttr(_ <-chan struct{}, _ *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.Attr.Mode = syscall.S_IFDIR | 0o755
	return fuse.OK
}

func (n *noNames) Lookup(_ <-chan struct{}, _ *fuse.InHeader, name string, _ *fuse.EntryOut) fuse.Status {
	n.lookup(name)
	return fuse.ENOENT
}

// serveNoNames mounts a filesystem for the time of a test.
func serveNoNames(t testing.TB, helpers int32, lookup func(name string)) (dir string, d *device) {
	t.Helper()
	if unix.Access("/dev/fuse", unix.R_OK|unix.W_OK) != nil || os.Geteuid() != 0 {
		t.Skip("needs root and /dev/fuse: runs in CI, which has both")
	}
	dir = t.TempDir()
	o := &fuse.MountOptions{FsName: "nonames", Name: "nonames", MaxWrite: maxIO, DirectMount: true, DirectMountFlags: unix.MS_RDONLY}
	fd, err := openMount(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if d, err = newDevice(fd, &noNames{fuse.NewDefaultRawFileSystem(), lookup}, o); err != nil {
		t.Fatal(err)
	}
	d.allow(helpers)
	done := make(chan struct{})
	ended := false
	go func() {
		d.serve(func() { ended = true })
		close(done)
	}()
	t.Cleanup(func() {
		if err := unmountPath(dir); err != nil {
			t.Errorf("unmount: %v", err)
			_ = detachPath(dir)
		}
		<-done
		if !ended {
			t.Error("the end was not told")
		}
	})
	if err := stopPolling(dir); err != nil {
		t.Fatal(err)
	}
	return dir, d
}

// absent fails the test if a name is there.
func absent(t *testing.T, path string) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", path, err)
	}
}

// TestDeviceSlowRequests has each of several requests wait for one that comes after it.
func TestDeviceSlowRequests(t *testing.T) {
	const n = 2 * maxWaiting
	var turns [n + 1]chan struct{}
	for i := range turns {
		turns[i] = make(chan struct{})
	}
	close(turns[n])
	began := make(chan struct{}, n)
	dir, _ := serveNoNames(t, 0, func(name string) {
		i, err := strconv.Atoi(name)
		if err != nil {
			return
		}
		began <- struct{}{}
		<-turns[i+1]
		close(turns[i])
	})
	var all sync.WaitGroup
	for round := range n {
		all.Go(func() { absent(t, filepath.Join(dir, strconv.Itoa(round))) })
		select {
		case <-began:
		case <-time.After(20 * time.Second):
			t.Fatalf("request %d waits for those before it", round)
		}
		if round == n/2 {
			time.Sleep(2 * watchful * patience) // the watch sleeps meanwhile
		}
	}
	all.Wait()
}

// TestMayWait looks at what the leader does itself.
func TestMayWait(t *testing.T) {
	write := func(size, flags uint32) []byte {
		w := fuse.WriteIn{InHeader: fuse.InHeader{Opcode: opWrite}, Size: size, WriteFlags: flags}
		return unsafe.Slice((*byte)(unsafe.Pointer(&w)), unsafe.Sizeof(w))
	}
	op := func(code uint32) []byte {
		h := fuse.InHeader{Opcode: code}
		return unsafe.Slice((*byte)(unsafe.Pointer(&h)), unsafe.Sizeof(h))
	}
	for _, c := range []struct {
		what string
		in   []byte
		want bool
	}{
		{"lookup", op(opLookup), false},
		{"forget", op(opForget), false},
		{"read", op(opRead), true},
		{"fsync", op(20), true},
		{"ioctl", op(opIoctl), true},
		{"what is not known", op(4095), true},
		{"small write of the cache", write(smallWrite, fuse.WRITE_CACHE), false},
		{"small direct write", write(smallWrite, 0), true},
		{"large write of the cache", write(smallWrite+1, fuse.WRITE_CACHE), true},
		{"write cut short", op(opWrite), true},
	} {
		if got := mayWait(c.in); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

// TestDeviceHelps has more requests made than one goroutine answers.
func TestDeviceHelps(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8)) // as a mount has it: the leader, helpers and who asks all sleep in system calls
	for _, allowed := range []int32{0, 2} {
		t.Run(strconv.Itoa(int(allowed)), func(t *testing.T) {
			var now, most atomic.Int32
			dir, d := serveNoNames(t, allowed, func(string) {
				if n := now.Add(1); n > most.Load() {
					most.Store(n)
				}
				for end := time.Now().Add(50 * time.Microsecond); time.Now().Before(end); {
				}
				now.Add(-1)
			})
			var all sync.WaitGroup
			for p := range 8 {
				all.Go(func() {
					for i := range 100 {
						absent(t, filepath.Join(dir, strconv.Itoa(p*100+i)))
					}
				})
			}
			all.Wait()
			// The watch may have found that the leader takes long, on a machine that has much to do.
			if helped := most.Load() > 1; allowed > 0 && !helped {
				t.Error("nobody helped")
			}
			if n := d.helpers.Load(); n < 0 || n > allowed {
				t.Errorf("%d helpers", n)
			}
		})
	}
}

// TestDeviceHelper mounts as other users than root do.
func TestDeviceHelper(t *testing.T) {
	dir, looked := t.TempDir(), make(chan string, 1)
	o := &fuse.MountOptions{FsName: "no,names", Name: "nonames", MaxWrite: maxIO, Options: []string{"ro"}}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		t.Skip("needs fusermount3, which make test installs where it may: ", err)
	}
	fd, err := openMount(dir, o)
	switch {
	case err != nil && os.Geteuid() != 0:
		t.Skip("the helper may not mount here; as root, as in CI, it may: ", err)
	case err != nil:
		t.Fatal(err)
	}
	d, err := newDevice(fd, &noNames{fuse.NewDefaultRawFileSystem(), func(name string) {
		select {
		case looked <- name:
		default:
		}
	}}, o)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		d.serve(func() {})
		close(done)
	}()
	if err := stopPolling(dir); err != nil {
		t.Error(err)
	}
	absent(t, filepath.Join(dir, "name"))
	if name := <-looked; name != "name" {
		t.Errorf("%q was looked up", name)
	}
	if err := unmountPath(dir); err != nil {
		t.Error(err)
		_ = detachPath(dir)
	}
	<-done
}

// BenchmarkDeviceRequest is what a request costs that nothing is done for, made by one thread and by several.
func BenchmarkDeviceRequest(b *testing.B) {
	for _, parallel := range []int{1, 4} {
		b.Run(strconv.Itoa(parallel), func(b *testing.B) {
			dir, _ := serveNoNames(b, 0, func(string) {})
			var all sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			for p := range parallel {
				path := filepath.Join(dir, strconv.Itoa(p))
				all.Go(func() {
					var st unix.Stat_t
					for left.Add(-1) >= 0 {
						_ = unix.Lstat(path, &st)
					}
				})
			}
			all.Wait()
		})
	}
}
