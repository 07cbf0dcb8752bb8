package bcachefs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"

	"github.com/klauspost/compress/zstd"

	"github.com/go-bcachefs/bcachefs"
)

// exampleImage unpacks a small filesystem that the Linux driver wrote.
func exampleImage() (path string, remove func()) {
	src, err := os.Open("testdata/golden/damaged/damage-base.img.zst")
	if err != nil {
		log.Fatal(err)
	}
	defer src.Close()
	z, err := zstd.NewReader(src)
	if err != nil {
		log.Fatal(err)
	}
	defer z.Close()
	dst, err := os.CreateTemp("", "example-*.img")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := io.Copy(dst, z); err != nil {
		log.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		log.Fatal(err)
	}
	return dst.Name(), func() { os.Remove(dst.Name()) }
}

func Example() {
	image, remove := exampleImage()
	defer remove()

	ctx := context.Background()
	fsys, err := bcachefs.Open(ctx, []string{image}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()

	content, err := fs.ReadFile(fsys.Root(), "dir/sub/file")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("version %s: %q\n", fsys.Version(), content)
	// Output: version 1.13: "in-sub\n"
}

// A view is an io/fs.FS; what the inode holds is behind Sys.
func ExampleView() {
	image, remove := exampleImage()
	defer remove()
	fsys, err := bcachefs.Open(context.Background(), []string{image}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()

	err = fs.WalkDir(fsys.Root(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == "tree" {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*bcachefs.Stat)
		fmt.Printf("%v %6d subvolume %d %s\n", info.Mode(), info.Size(), st.ID.Subvol, path)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// drwxr-xr-x      0 subvolume 1 .
	// drwxr-xr-x      0 subvolume 1 dir
	// drwxr-xr-x      0 subvolume 1 dir/sub
	// -rw-r--r--      7 subvolume 1 dir/sub/file
	// -rw-r--r--  20000 subvolume 1 lines
	// drwx------      0 subvolume 1 lost+found
	// -rw-r--r--  49152 subvolume 1 reflinked
	// drwxr-xr-x      0 subvolume 3 snap
	// drwxr-xr-x      0 subvolume 2 sub
	// -rw-r--r--  49152 subvolume 1 victim
}

// Subvolumes and snapshots are views of their own.
func ExampleFS_Subvolumes() {
	image, remove := exampleImage()
	defer remove()
	ctx := context.Background()
	fsys, err := bcachefs.Open(ctx, []string{image}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()

	subvols, err := fsys.Subvolumes(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range subvols {
		v, err := fsys.SubvolumeByID(s.ID)
		if err != nil {
			log.Fatal(err)
		}
		entries, err := v.ReadDir(".")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d /%s: snapshot %v, %d entries\n", s.ID, s.Path, s.IsSnapshot, len(entries))
	}
	// Output:
	// 1 /: snapshot false, 8 entries
	// 2 /sub: snapshot false, 1 entries
	// 3 /snap: snapshot true, 1 entries
}

// Keys shows what is in the btrees.
func ExampleFS_Keys() {
	image, remove := exampleImage()
	defer remove()
	ctx := context.Background()
	fsys, err := bcachefs.Open(ctx, []string{image}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()

	for k, err := range fsys.Keys(ctx, "subvolumes", bcachefs.Pos{}, bcachefs.Pos{Inode: 1}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(k.Pos, k.Type)
	}
	// Output:
	// 0:1:0 subvolume
	// 0:2:0 subvolume
	// 0:3:0 subvolume
}

// Data and holes of a file, for copying it sparsely.
func ExampleFile_NextData() {
	image, remove := exampleImage()
	defer remove()
	ctx := context.Background()
	fsys, err := bcachefs.Open(ctx, []string{image}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer fsys.Close()

	id, err := fsys.Root().Resolve(ctx, "/victim", true)
	if err != nil {
		log.Fatal(err)
	}
	f, err := fsys.OpenInode(ctx, id)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	for off := int64(0); ; {
		start, end, err := f.NextData(ctx, off)
		if errors.Is(err, bcachefs.ErrNoData) {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("data from %d to %d\n", start, end)
		off = end
	}
	// Output: data from 0 to 49152
}
