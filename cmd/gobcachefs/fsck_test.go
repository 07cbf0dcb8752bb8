package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs"
)

// TestFsckHelper calls the program as fsck(8) does, by the name of its link in /sbin.
func TestFsckHelper(t *testing.T) {
	img := place(t, "damage-base")
	for _, tt := range []struct {
		args []string
		code int
		out  string
	}{
		{[]string{"/sbin/fsck.gobcachefs", "-n", img}, 0, "clean"},
		{[]string{"fsck.bcachefs", "-n", "-C3", img}, 0, "clean"},
		{[]string{"/sbin/fsck.gobcachefs", "-a", img}, 16, ""},
		{[]string{"/sbin/fsck.gobcachefs"}, 16, ""},
		{[]string{"/sbin/fsck.gobcachefs", "-n", img + "-not-there"}, 8, ""},
	} {
		var out, errw bytes.Buffer
		code := run(context.Background(), tt.args, strings.NewReader(""), &out, &errw)
		if code != tt.code || !strings.Contains(out.String(), tt.out) {
			t.Errorf("%v: exit code %d, want %d\n%s%s", tt.args, code, tt.code, &out, &errw)
		}
	}
}

// TestFsckPrint: of many errors of a kind the first are printed, with -v all of them.
func TestFsckPrint(t *testing.T) {
	r := &bcachefs.CheckReport{Total: 14, ByName: map[string]int{"lru_entry_bad": 13, "": 1}, Silenced: 2, Notes: []string{"a note"},
		Passes: []bcachefs.CheckPass{{Name: "check_lrus", Keys: 5}, {Name: "check_subvols"}}}
	for range 13 {
		r.Findings = append(r.Findings, bcachefs.Finding{Name: "lru_entry_bad", Pass: "check_lrus", Btree: "lru", Pos: "1:2:0", Text: "bad", Repair: "delete it"})
	}
	for _, tt := range []struct {
		verbose bool
		bad     int
		want    []string
	}{
		{false, 10, []string{"\n  3 more of lru_entry_bad\n", "note: a note\n", "  lru_entry_bad  13\n", "  (no name)      1\n", "x: errors not fixed\n",
			"2 errors that the superblock says to expect\n", "  btree lru level 0 1:2:0: bad [lru_entry_bad]: would delete it\n"}},
		{true, 13, []string{"check_lrus: 5 keys\n", "check_subvols: 0 keys\n", "in 1s\n"}},
	} {
		var out bytes.Buffer
		f := &fsckCmd{app: newApp(strings.NewReader(""), &out, &out), verbose: tt.verbose}
		f.print("x", r, false, time.Second)
		f.out.Flush()
		if n := strings.Count(out.String(), ": bad ["); n != tt.bad {
			t.Errorf("verbose %v: %d findings are printed, want %d", tt.verbose, n, tt.bad)
		}
		for _, line := range tt.want {
			if !strings.Contains(out.String(), line) {
				t.Errorf("verbose %v: no %q in\n%s", tt.verbose, line, &out)
			}
		}
	}
}
