package casefold

import (
	"errors"
	"testing"
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
	} {
		got, err := Fold([]byte(c.name))
		if err != nil || string(got) != c.want {
			t.Errorf("%q: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
	if _, err := Fold([]byte("a\xff")); !errors.Is(err, ErrInvalid) {
		t.Errorf("bytes that are no UTF-8: %v", err)
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
		if !utf8.Valid(got) {
			t.Fatalf("%q folds to %q, which is not UTF-8", name, got)
		}
		again, err := Fold(got)
		if err != nil || string(again) != string(got) {
			t.Fatalf("%q folds to %q, and that to %q, %v", name, got, again, err)
		}
	})
}
