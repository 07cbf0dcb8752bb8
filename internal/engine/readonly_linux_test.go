package engine

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// asNobody runs f as a user who may only read what everybody may.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		f()
		return
	}
	const nobody = 65534
	done := make(chan bool)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		_, err1 := unix.SetfsgidRetGid(nobody)
		_, err2 := unix.SetfsuidRetUid(nobody)
		ok := err1 == nil && err2 == nil
		if ok {
			f()
		}
		done <- ok
	}()
	if !<-done {
		t.Skip("cannot become another user")
	}
}

// descriptors returns what /proc says of this program's open files at path.
func descriptors(t *testing.T, path string) (infos []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	for _, fd := range fds {
		if link, _ := os.Readlink("/proc/self/fd/" + fd.Name()); link != path {
			continue
		}
		b, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		if err != nil {
			t.Fatal(err)
		}
		infos = append(infos, string(b))
	}
	return infos
}

func digest(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x %v %v", h.Sum(nil), fi.ModTime(), fi.Size())
}

// Opening and reading needs no more than the permission to read, respects nobody's lock, takes none, and changes nothing; also if
// there is a journal to replay.
func TestReadOnly(t *testing.T) {
	for _, name := range []string{"damaged/damage-base", "damaged/damage-base-dirty"} {
		t.Run(name, func(t *testing.T) {
			path := find(t, name).UnpackCopy(t)[0]
			if err := os.Chmod(path, 0o444); err != nil {
				t.Fatal(err)
			}
			for dir := filepath.Dir(path); strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
				if fi, err := os.Stat(dir); err != nil || fi.Mode()&0o1 == 0 && os.Chmod(dir, 0o755) != nil {
					t.Skip("no directory that others may enter")
				}
			}
			before := digest(t, path)

			// Somebody else writes to it, or thinks to be alone with it.
			owner, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer owner.Close()
			if err := unix.Flock(int(owner.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
				t.Fatal(err)
			}
			var fs *FS
			asNobody(t, func() {
				if f, err := os.OpenFile(path, os.O_RDWR, 0); !errors.Is(err, os.ErrPermission) {
					t.Errorf("everybody may write: %v", err)
					f.Close()
				}
				fs, err = Open(t.Context(), []string{path}, Options{NoScan: true})
			})
			if err != nil {
				t.Fatal(err)
			}
			defer fs.Close()
			if err := unix.Flock(int(owner.Fd()), unix.LOCK_UN); err != nil {
				t.Fatal(err)
			}

			ours := descriptors(t, path)
			if len(ours) != 2 { // ours and the owner's
				t.Errorf("%d descriptors", len(ours))
			}
			for _, info := range ours {
				var flags int
				for line := range strings.Lines(info) {
					fmt.Sscanf(line, "flags: %o", &flags)
					if strings.HasPrefix(line, "lock:") {
						t.Errorf("it is locked: %s", line)
					}
				}
				if flags&unix.O_ACCMODE != unix.O_RDONLY {
					t.Errorf("opened with flags %#o", flags)
				}
			}
			// A writer takes the lock of a file, and on a block device O_EXCL, while we read.
			if w, err := blockdev.OpenFile(path, blockdev.FileOptions{}); err != nil {
				t.Errorf("a writer is kept out: %v", err)
			} else {
				defer w.Close()
			}
			for _, id := range fs.Reader.Btrees() {
				for _, err := range fs.Reader.Keys(t.Context(), id, ondisk.PosMin, ondisk.SPosMax) {
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			if after := digest(t, path); after != before {
				t.Errorf("the image is %s, was %s", after, before)
			}
		})
	}
}
