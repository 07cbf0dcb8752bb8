//go:build linux

package fusefs

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/go-bcachefs/bcachefs"
)

// benchLive is a server without a mount, with a file of 1 MiB in it, whose directory is the root.
func benchLive(b *testing.B) (l *live, file uint64) {
	path := filepath.Join(b.TempDir(), "fs.img")
	ctx := context.Background()
	if _, err := bcachefs.Format(ctx, []bcachefs.FormatDevice{{Path: path, CreateBytes: 256 << 20}}, bcachefs.FormatOptions{}); err != nil {
		b.Fatal(err)
	}
	fsys, err := bcachefs.Open(ctx, []string{path}, &bcachefs.OpenOptions{Write: true, NoScan: true})
	if err != nil {
		b.Fatal(err)
	}
	r, err := newRaw(fsys, Options{})
	if err != nil {
		b.Fatal(err)
	}
	l = newLive(r, b.TempDir())
	b.Cleanup(func() {
		l.close()
		if err := fsys.Close(); err != nil {
			b.Error(err)
		}
	})
	var out fuse.CreateOut
	in := fuse.CreateIn{Mode: syscall.S_IFREG | 0o644, Flags: syscall.O_RDWR}
	in.NodeId = nodeRoot
	if st := l.Create(nil, &in, "file", &out); !st.Ok() {
		b.Fatal(st)
	}
	w := fuse.WriteIn{Size: 1 << 20}
	w.NodeId = out.NodeId
	if _, st := l.Write(nil, &w, make([]byte, 1<<20)); !st.Ok() {
		b.Fatal(st)
	}
	return l, out.NodeId
}

func BenchmarkLive(b *testing.B) {
	l, file := benchLive(b)
	must := func(b *testing.B, st fuse.Status) {
		if !st.Ok() {
			b.Fatal(st)
		}
	}
	buf := make([]byte, 1<<20)
	for _, c := range []struct {
		name  string
		bytes int
		do    func(b *testing.B, i int)
	}{
		{"GetAttr", 0, func(b *testing.B, _ int) {
			in, out := fuse.GetAttrIn{}, fuse.AttrOut{}
			in.NodeId = file
			must(b, l.GetAttr(nil, &in, &out))
		}},
		{"Lookup", 0, func(b *testing.B, _ int) {
			h, out := fuse.InHeader{NodeId: nodeRoot}, fuse.EntryOut{}
			must(b, l.Lookup(nil, &h, "file", &out))
			l.Forget(out.NodeId, 1)
		}},
		{"LookupNothing", 0, func(b *testing.B, _ int) {
			h, out := fuse.InHeader{NodeId: nodeRoot}, fuse.EntryOut{}
			must(b, l.Lookup(nil, &h, "nothing", &out))
		}},
		{"OpenRead", 0, func(b *testing.B, _ int) {
			in, out := fuse.OpenIn{}, fuse.OpenOut{}
			in.NodeId = file
			must(b, l.Open(nil, &in, &out))
		}},
		{"Read4k", 4 << 10, func(b *testing.B, i int) {
			in := fuse.ReadIn{Size: 4 << 10, Offset: uint64(i%256) << 12}
			in.NodeId = file
			_, st := l.Read(nil, &in, buf[:4<<10])
			must(b, st)
		}},
		{"Read1M", 1 << 20, func(b *testing.B, _ int) {
			in := fuse.ReadIn{Size: 1 << 20}
			in.NodeId = file
			_, st := l.Read(nil, &in, buf)
			must(b, st)
		}},
		{"Write4k", 4 << 10, func(b *testing.B, i int) {
			in := fuse.WriteIn{Size: 4 << 10, Offset: uint64(i*37%256) << 12}
			in.NodeId = file
			_, st := l.Write(nil, &in, buf[:4<<10])
			must(b, st)
		}},
		{"Write1M", 1 << 20, func(b *testing.B, _ int) {
			in := fuse.WriteIn{Size: 1 << 20}
			in.NodeId = file
			_, st := l.Write(nil, &in, buf)
			must(b, st)
		}},
		{"SetTimes", 0, func(b *testing.B, i int) {
			in, out := fuse.SetAttrIn{}, fuse.AttrOut{}
			in.NodeId, in.Valid, in.Mtime, in.Ctime = file, fuse.FATTR_MTIME|fuse.FATTR_CTIME, uint64(i), uint64(i)
			must(b, l.SetAttr(nil, &in, &out))
		}},
		{"NoXattr", 0, func(b *testing.B, _ int) {
			h := fuse.InHeader{NodeId: file}
			if _, st := l.GetXAttr(nil, &h, "security.capability", nil); st != fuse.ENODATA {
				b.Fatal(st)
			}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(c.bytes))
			for i := range b.N {
				c.do(b, i)
			}
		})
	}
}
