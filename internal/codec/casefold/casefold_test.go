package casefold

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestFold(t *testing.T) {
	for _, c := range []struct{ name, want string }{
		{"", ""},
		{"ReadMe.TXT", "readme.txt"},
		{"ÄÖÜ", "a\u0308o\u0308u\u0308"},
		{"A\u0308", "a\u0308"},
		{"straße", "strasse"},
		{"STRASSE", "strasse"},
		{"Σίσυφος", "σι\u0301συφοσ"},
		{"zero\u200dwidth", "zerowidth"},
		{"soft\u00adhyphen\ufe0f", "softhyphen"},
		{"日本", "日本"},
		{"한", "\u1112\u1161\u11ab"},
		{"\u0130", "i\u0307"},
		{"\u1e9b\u0323", "s\u0323\u0307"},
		{"\u03b1\u0345\u0301", "\u03b1\u03b9\u0301"},                     // folded first, ordered then
		{"a\u0301\u034f\u0323", "a\u0301\u0323"},                         // ignored, but marks do not cross it
		{"\u13a0\u13f8\uab70", "\u13a0\u13f0\u13a0"},                     // Cherokee folds to capitals
		{"\u2c2f\u1abf\u0301\U00011938", "\u2c2f\u1abf\u0301\U00011938"}, // assigned after Unicode 12.1
		{"\u2065", ""},
		{"A\x80", "a\x80"},
	} {
		got, err := Fold([]byte(c.name))
		if err != nil || string(got) != c.want {
			t.Errorf("%q: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
	for _, name := range []string{"a\xff", "\x80", "\xc3", "\xed\xa0\x80", "\xc0\x80"} {
		if _, err := Fold([]byte(name)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q, which is no UTF-8: %v", name, err)
		}
	}
}

// TestFoldEveryCodePoint compares with a digest of what utf8_casefold of Linux, with its tables of Unicode 12.1, gives for
// each code point by itself, each result followed by a zero byte.
func TestFoldEveryCodePoint(t *testing.T) {
	h := sha256.New()
	for r := rune(1); r <= unicode.MaxRune; r++ {
		if !utf8.ValidRune(r) {
			continue
		}
		folded, err := Fold([]byte(string(r)))
		if err != nil {
			t.Fatalf("%U: %v", r, err)
		}
		h.Write(folded)
		h.Write([]byte{0})
	}
	if got, want := fmt.Sprintf("%x", h.Sum(nil)), "52de1736b7a1c01c7024f44b4a163c397dfba6de6ac7c25a5bdb336e9935caef"; got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
}

func FuzzFold(f *testing.F) {
	for _, s := range []string{"Straße", "ÅNGSTRÖM", "\u0345\u0344", "a\xff", "İ"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, name []byte) {
		got, err := Fold(name)
		if err != nil {
			return
		}
		if !utf8.Valid(name) {
			return // stray continuation bytes are kept
		}
		if !utf8.Valid(got) {
			t.Fatalf("%q folds to %q, which is not UTF-8", name, got)
		}
		// An ignorable code point keeps the marks beside it apart only once.
		second, err := Fold(got)
		if err != nil {
			t.Fatalf("%q folds to %q, and that not: %v", name, got, err)
		}
		third, err := Fold(second)
		if err != nil || string(third) != string(second) {
			t.Fatalf("%q folds to %q, and that to %q, %v", name, second, third, err)
		}
	})
}

func BenchmarkFold(b *testing.B) {
	for _, name := range []string{"lower-case-name.txt", "Mixed-Case-Name.TXT", "Größenänderung.txt"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Fold([]byte(name)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
