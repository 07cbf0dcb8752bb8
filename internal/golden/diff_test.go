package golden

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiff(t *testing.T) {
	line := func(fields string) string { return strings.ReplaceAll(fields, " ", "\t") + "\n" }
	const head = "# bcachefs-manifest 1\n# path\ttype\n"
	a := line("a f 0644 0 0 1 5 1.0 - data - 7 1 8 - 1 2 3")
	b := line("b d 0755 0 0 2 0 1.0 - - - 8 1 0 - 1 2 3")
	unknown := line("a f - 0 0 1 5 - - data - - 1 - - - - -")
	cases := []struct {
		name      string
		computed  bool
		got, want string
		diff      []string
	}{
		{name: "same", got: head + a + b, want: head + b + a},
		{name: "missing", got: a, want: a + b, diff: []string{"b: is missing"}},
		{name: "too much", got: a + b, want: b, diff: []string{"a: is not in the manifest"}},
		{name: "twice", got: a + a, want: a, diff: []string{"a: listed twice"}},
		{
			name: "fields", got: strings.Replace(strings.Replace(a, "0644", "0600", 1), "3\n", "4\n", 1), want: a,
			diff: []string{"a: mode is 0600, want 0644", "a: btime is 4, want 3"},
		},
		{name: "short", got: "a\tf\n", want: a, diff: []string{"a: 2 fields, want 18"}},
		{name: "unknown", computed: true, got: a, want: unknown},
		{
			name: "computed", computed: true, got: strings.Replace(a, "\t7\t1\t8", "\t9\t2\t9", 1), want: a,
			diff: []string{"a: subvol is 2, want 1"},
		},
		{
			name: "unknown to the driver", got: a, want: unknown,
			diff: []string{
				"a: mode is 0644, want -", "a: mtime is 1.0, want -", "a: ino is 7, want -", "a: sectors is 8, want -",
				"a: atime is 1, want -", "a: ctime is 2, want -", "a: btime is 3, want -",
			},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			img := Image{Computed: c.computed}
			if diff := cmp.Diff(c.diff, img.Diff([]byte(c.got), []byte(c.want))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDiffSelf compares each manifest with itself: nothing may differ.
func TestDiffSelf(t *testing.T) {
	for _, img := range Images(t) {
		m := img.Manifest()
		if diff := img.Diff(m, m); diff != nil {
			t.Errorf("%s: %s", img, diff[0])
		}
	}
}
