package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSubvolumesOnAMount makes, snapshots and deletes subvolumes through the driver's ioctls, which our mount serves.
func TestSubvolumesOnAMount(t *testing.T) {
	needMounts(t)
	img, dir := newImage(t, "64M"), mountPoint(t)
	if out, err := program(t, "mount", img, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	mustRun(t, "", "subvolume", "create", at("home"), at("home/joe"))
	if err := os.WriteFile(at("home/joe/file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "", "subvolume", "snapshot", "-r", at("home/joe"), at("snap"))
	mustRun(t, "", "subvolume", "snapshot", at("home/joe"), at("writable"))
	if b, err := os.ReadFile(at("snap/file")); err != nil || string(b) != "content" {
		t.Errorf("in the snapshot: %q, %v", b, err)
	}
	if err := os.WriteFile(at("snap/other"), nil, 0o644); err == nil {
		t.Error("the read-only snapshot can be written to")
	}
	if err := os.WriteFile(at("writable/other"), nil, 0o644); err != nil {
		t.Error(err)
	}
	for _, args := range [][]string{{"create", at("home")}, {"create", at("nothing/x")}, {"delete", at("nothing")}, {"delete", at("home")}, {"snapshot", at("nothing"), at("x")}} {
		if r := runCLI(context.Background(), "", nil, append([]string{"subvolume"}, args...)...); r.code != exitFailed || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%v: exit %d, %q", args, r.code, r.err)
		}
	}
	mustRun(t, "", "subvolume", "delete", at("writable"), at("home/joe"))
	if r := runCLI(context.Background(), "", nil, "mkdir", img, "/x"); r.code != exitFailed || !strings.Contains(r.err, "in use: unmount it") {
		t.Errorf("while it is mounted: exit %d, %q", r.code, r.err)
	}
	umount(t, dir)
	eventually(t, "the filesystem is closed", func() bool {
		return runCLI(context.Background(), "", nil, "touch", img, "/home/seen").code == exitOK
	})
	if out := mustRun(t, "", "subvolume", "list", "-s", img); !strings.Contains(out, "home") || !strings.Contains(out, "snap") || strings.Contains(out, "writable") {
		t.Errorf("afterwards:\n%s", out)
	}
	mustBeClean(t, img)
}
