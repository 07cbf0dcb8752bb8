package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "4096": 4096, "4k": 4096, "4K": 4096, "4KiB": 4096, "512M": 512 << 20, "1.5T": 3 << 39, "7E": 7 << 60, "0.5k": 512,
		"1G": 1 << 30, "1GB": 1 << 30, "9223372036854775807": 1<<63 - 1,
	} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "k", "-1", "8E", "1e3", "0x10", "NaN", "inf", "4kk", "4 k x", "9223372036854775808", "1.5.5", "-0.5k"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("%q: %d, want an error", s, got)
		}
	}
}

func TestHumanSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0", 1023: "1023", 1024: "1.00K", 4096: "4.00K", 10240: "10.0K", 262144: "256K", 1 << 20: "1.00M", 1<<20 - 1: "1.00M",
		3 << 39: "1.50T", 1<<64 - 1: "16.0E", 102300: "99.9K", 102400: "100K",
	} {
		if got := humanSize(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestSplitDevices(t *testing.T) {
	dir := t.TempDir()
	colon := filepath.Join(dir, "a:b")
	if err := os.WriteFile(colon, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string // joined by blanks; "!" is an error
	}{
		{[]string{"a"}, "a"}, {[]string{"a:b:c"}, "a b c"}, {[]string{"a", "b:c"}, "a b c"}, {[]string{colon}, colon},
		{[]string{"a:"}, "!"}, {[]string{""}, "!"}, {[]string{":"}, "!"}, {[]string{"a:a"}, "!"}, {[]string{"a", "a"}, "!"},
	} {
		got, err := splitDevices(c.args)
		have := strings.Join(got, " ")
		var usage *usageError
		if err != nil {
			have = "!"
			if !errors.As(err, &usage) {
				t.Errorf("%q: %v is no usage error", c.args, err)
			}
		}
		if have != c.want {
			t.Errorf("%q: %q, want %q", c.args, have, c.want)
		}
	}
}

func TestParseMountOptions(t *testing.T) {
	for list, want := range map[string]mountOptions{
		"":                                   {},
		"ro,nochanges,noexcl":                {},
		"degraded":                           {degraded: true},
		"degraded=yes,verbose":               {degraded: true, verbose: true},
		"degraded=very":                      {veryDegraded: true},
		"degraded,degraded=no":               {},
		"degraded,nodegraded":                {},
		"very_degraded,norecovery":           {veryDegraded: true, noRecovery: true},
		" degraded , ,norecovery=1,":         {degraded: true, noRecovery: true},
		"subvol=a/b,sb=2048":                 {subvol: "a/b", superblockSector: 2048},
		"fsck,fix_errors=no,errors=continue": {},
	} {
		if got, err := parseMountOptions([]string{list}); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", list, got, err, want)
		}
	}
	for _, list := range []string{"rw", "bogus", "degraded=maybe", "norecovery=7", "sb=x"} {
		if _, err := parseMountOptions([]string{list}); err == nil {
			t.Errorf("%q was accepted", list)
		}
	}
}

func TestReadPassphrase(t *testing.T) {
	for in, want := range map[string]string{"secret\n": "secret", "secret": "secret", "a b\r\nmore": "a b", "\n": "", "": ""} {
		got, err := readPassphrase(strings.NewReader(in), "test")
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

func TestParseSeqRange(t *testing.T) {
	for s, want := range map[string][2]uint64{"7": {7, 7}, "3..9": {3, 9}, "9..3": {3, 9}, "5..": {5, 1<<64 - 1}, "..5": {0, 5}} {
		first, last, err := parseSeqRange(s)
		if err != nil || first != want[0] || last != want[1] {
			t.Errorf("%q: %d %d %v", s, first, last, err)
		}
	}
	for _, s := range []string{"", "x", "1..y", "-1"} {
		if _, _, err := parseSeqRange(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func TestKeyRange(t *testing.T) {
	p := func(i, o uint64, s uint32) ondisk.Pos { return ondisk.Pos{Inode: i, Offset: o, Snapshot: s} }
	for _, c := range []struct {
		text  string
		btree ondisk.BtreeID
		pos   ondisk.Pos
		want  bool
	}{
		{"inodes", ondisk.BtreeInodes, p(0, 4096, 7), true},
		{"inodes", ondisk.BtreeExtents, p(0, 4096, 7), false},
		{"inodes:0:4096", ondisk.BtreeInodes, p(0, 4096, 7), true},
		{"inodes:0:4096", ondisk.BtreeInodes, p(0, 4097, 7), false},
		{"inodes:0:4096:3", ondisk.BtreeInodes, p(0, 4096, 7), false},
		{"extents:1-extents:3", ondisk.BtreeExtents, p(2, 9, 1), true},
		{"extents:3-extents:1", ondisk.BtreeExtents, p(2, 9, 1), true},
		{"extents-dirents", ondisk.BtreeInodes, p(2, 9, 1), true},
	} {
		r, err := parseKeyRange(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
		} else if got := r.contains(c.btree, c.pos); got != c.want {
			t.Errorf("%s contains %v %v: %v, want %v", c.text, c.btree, c.pos, got, c.want)
		}
	}
	for _, s := range []string{"", "bogus", "inodes:x", "inodes:1-bogus"} {
		if _, err := parseKeyRange(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func TestFindArgs(t *testing.T) {
	for in, want := range map[string]string{
		"find d / -name *.c -type f": "find d / --name *.c --type f",
		"find -o degraded d":         "find -o degraded d",
		"find d --name x -print0":    "find d --name x --print0",
		"find d -- -name":            "find d -- -name",
		"ls -name":                   "ls -name",
		"find d -size=+4k":           "find d --size=+4k",
	} {
		if got := strings.Join(findArgs(strings.Fields(in)), " "); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{"plain": "plain", "zürück": "zürück", "a\nb": `a\x0ab`, "\x1b[31m": `\x1b[31m`,
		"\xff": `\xff`, "\ufffd": "\ufffd", "a\x7f": `a\x7f`, "\u0085": `\u0085`} {
		if got := visible(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
