//go:build linux

// Command loopback is the peer of our FUSE mount: go-fuse passing everything through to a directory with its best options, but
// without the kernel's passthrough, so that every byte goes through the server. Usage: loopback MOUNTPOINT DIRECTORY.
package main

import (
	"context"
	"log"
	"os"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

type node struct{ *fs.LoopbackNode }

// WrapChild makes what is found below a node one of ours.
func (n *node) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{child.(*fs.LoopbackNode)}
}

type file struct{ *fs.LoopbackFile }

// PassthroughFd refuses the kernel the file, which would then move the data itself.
func (file) PassthroughFd() (int, bool) { return -1, false }

// Open keeps the page cache over openings.
func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, fl, errno := n.LoopbackNode.Open(ctx, flags)
	if lf, ok := h.(*fs.LoopbackFile); ok && errno == 0 {
		return file{lf}, fl | fuse.FOPEN_KEEP_CACHE, 0
	}
	return h, fl, errno
}

// Create does as Open does.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	child, h, fl, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if lf, ok := h.(*fs.LoopbackFile); ok && errno == 0 {
		return child, file{lf}, fl | fuse.FOPEN_KEEP_CACHE, 0
	}
	return child, h, fl, errno
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: loopback MOUNTPOINT DIRECTORY")
	}
	root, err := fs.NewLoopbackRoot(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	top := &node{root.(*fs.LoopbackNode)}
	lifetime := time.Minute
	srv, err := fs.Mount(os.Args[1], top, &fs.Options{
		AttrTimeout: &lifetime, EntryTimeout: &lifetime, NegativeTimeout: &lifetime, NullPermissions: true,
		MountOptions: fuse.MountOptions{MaxWrite: 1 << 20, MaxReadAhead: 1 << 20, MaxBackground: 64, DirectMount: true,
			Options: []string{"default_permissions"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	srv.Wait()
}
