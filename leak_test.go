package bcachefs_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

// ourGoroutines returns the stacks of the goroutines that run code of this module, other than tests.
func ourGoroutines() (stacks []string) {
	buf := make([]byte, 8<<20)
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "/internal/btree.") || strings.Contains(g, "/internal/data.") || strings.Contains(g, "/internal/engine.") ||
			strings.Contains(g, "bcachefs.(*File)") {
			stacks = append(stacks, g)
		}
	}
	return stacks
}

var errFull = errors.New("no space left")

// full is a writer that takes so many bytes and no more.
type full int

func (f *full) Write(p []byte) (int, error) {
	if *f -= full(len(p)); *f < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// TestNothingLeftBehind gives up in every way and place: what was begun ends soon, and after Close no goroutine is left. It is
// not parallel, as it counts goroutines.
func TestNothingLeftBehind(t *testing.T) {
	for _, name := range []string{"v1.39-ec", "compress-zstd", "dirty-heavy"} {
		t.Run(name, func(t *testing.T) {
			img := golden.Find(t, name)
			for after := 0; after < 400; after = after*2 + 1 {
				giveUp(t, img, after)
			}
			for range 2000 {
				if len(ourGoroutines()) == 0 {
					return
				}
				time.Sleep(time.Millisecond)
			}
			t.Errorf("left behind:\n%s", strings.Join(ourGoroutines(), "\n\n"))
		})
	}
}

// giveUp opens an image, uses it until so many reads of its devices were made once it was open, and closes it while the last
// of them hang.
func giveUp(t *testing.T, img golden.Image, after int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	budget := make(chan struct{}, 1<<20)
	opened := make(chan struct{})
	fsys, err := bcachefs.Open(ctx, img.Unpack(t), &bcachefs.OpenOptions{NoScan: true, ExtentCacheBytes: 1 << 16, NodeCacheBytes: 1 << 18,
		ReadParallelism: 4, OpenDevice: func(path string) (blockdev.Device, error) {
			d, err := blockdev.OpenFile(path, blockdev.FileOptions{ReadOnly: true})
			if err != nil {
				return nil, err
			}
			return blockdev.NewDelayer(d, func(ctx context.Context, _ blockdev.Op, _, _ int64) error {
				select {
				case <-opened:
				default:
					return nil
				}
				select {
				case <-budget:
					return nil
				default: // from now on the device hangs
					cancel()
					<-ctx.Done()
					return ctx.Err()
				}
			}), nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	for range after {
		budget <- struct{}{}
	}
	close(opened)
	done := make(chan struct{})
	go func() {
		defer close(done)
		useUntilCancelled(ctx, t, fsys)
		if err := fsys.Close(); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("after %d reads it hangs:\n%s", after, strings.Join(ourGoroutines(), "\n\n"))
	}
}

func useUntilCancelled(ctx context.Context, t *testing.T, fsys *bcachefs.FS) {
	v := fsys.Root()
	var files []bcachefs.InodeID
	var walk func(dir bcachefs.InodeID)
	walk = func(dir bcachefs.InodeID) {
		for e, err := range fsys.ReadDir(ctx, dir, 0) {
			switch {
			case err != nil || ctx.Err() != nil:
				return
			case e.Type.IsDir():
				walk(e.ID)
			case e.Type == 0:
				files = append(files, e.ID)
			}
		}
	}
	walk(v.RootInode())
	for range fsys.ReadDir(ctx, v.RootInode(), 0) {
		break
	}
	for range fsys.Keys(ctx, "extents", bcachefs.Pos{}, bcachefs.Pos{Inode: 1 << 62}) {
		break
	}
	for i, id := range files {
		f, err := fsys.OpenInode(ctx, id)
		if err != nil {
			continue
		}
		w := full(3 << 20)
		if i%2 == 0 {
			w = 1 << 40
		}
		if _, err := f.WriteTo(&w); err != nil && ctx.Err() == nil && !errors.Is(err, errFull) {
			t.Errorf("inode %d: %v", id.Inum, err)
		}
		if n, err := f.ReadAtContext(ctx, make([]byte, 1<<20), 0); err != nil && n == 0 && !errors.Is(err, io.EOF) && ctx.Err() == nil {
			t.Errorf("inode %d: %v", id.Inum, err)
		}
		f.Close()
	}
}
