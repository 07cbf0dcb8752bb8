package bcachefs_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/golden"
)

func ExampleCheck() {
	image, remove := exampleImage()
	defer remove()

	report, err := bcachefs.Check(context.Background(), []string{image}, nil, nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range report.Findings {
		fmt.Println(f)
	}
	fmt.Printf("%d findings\n", report.Total)
	// Output: 0 findings
}

func TestCheck(t *testing.T) {
	img := golden.Find(t, "damaged-nocsum-alloc")
	passes := map[string]bool{}
	r, err := bcachefs.Check(t.Context(), img.Unpack(t), &bcachefs.OpenOptions{NoScan: true}, &bcachefs.CheckOptions{
		Progress: func(pass string, _ uint64) { passes[pass] = true }})
	if err != nil {
		t.Fatal(err)
	}
	if r.Total != len(r.Findings) || r.Total != 6 || r.ByName["freespace_hole_missing"] != 1 {
		t.Errorf("%d findings, %d in all: %v", len(r.Findings), r.Total, r.ByName)
	}
	i := slices.IndexFunc(r.Findings, func(f bcachefs.Finding) bool { return f.Name == "alloc_key_dirty_sectors_wrong" })
	if i < 0 {
		t.Fatalf("not found: %v", r.Findings)
	}
	want := bcachefs.Finding{Name: "alloc_key_dirty_sectors_wrong", Number: 108, Pass: "check_allocations", Btree: "alloc", Pos: "0:28:0",
		Text: "bucket 0:28 gen 0 has wrong dirty_sectors: got 0, should be 256", Repair: "set it"}
	if r.Findings[i] != want {
		t.Errorf("%+v, want %+v", r.Findings[i], want)
	}
	text := "btree alloc level 0 0:28:0: bucket 0:28 gen 0 has wrong dirty_sectors: got 0, should be 256 [alloc_key_dirty_sectors_wrong]"
	if got := want.String(); got != text {
		t.Errorf("%q, want %q", got, text)
	}
	if len(passes) != len(bcachefs.CheckPasses()) || len(r.Passes) != len(passes) {
		t.Errorf("progress of %v, passes %v", passes, r.Passes)
	}
}

func TestCheckUnnamed(t *testing.T) {
	r, err := bcachefs.Check(t.Context(), golden.Find(t, "damaged-sb-second").Unpack(t), nil, &bcachefs.CheckOptions{Passes: []string{"superblock"}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Total != 1 || r.Findings[0].Number != -1 || r.Findings[0].Name != "" || r.ByName[""] != 1 || r.Findings[0].Btree != "" {
		t.Errorf("%+v", r)
	}
}

func TestCheckFails(t *testing.T) {
	if _, err := bcachefs.Check(t.Context(), []string{"/dev/null"}, nil, nil); err == nil {
		t.Error("/dev/null is checked")
	}
	paths := golden.Find(t, "damage-base").Unpack(t)
	if _, err := bcachefs.Check(t.Context(), paths, nil, &bcachefs.CheckOptions{Passes: []string{"check_nothing"}}); err == nil {
		t.Error("a check that does not exist is made")
	}
	f, err := bcachefs.Open(t.Context(), paths, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := f.Check(ctx, nil); !errors.Is(err, context.Canceled) || r == nil {
		t.Errorf("%v, %v", r, err)
	}
}
