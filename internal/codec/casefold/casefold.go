// Package casefold folds the names of casefolded directories, so that names which differ in case or in the way accents are
// encoded become the same bytes.
//
// The form is that of the kernel's utf8 tables: canonical decomposition, full case folding, default-ignorable code points
// removed (NFDICF). The kernel's tables are of Unicode 12.1, those here of the version that golang.org/x/text has: they differ in
// characters that were assigned since, which old kernels leave as they are.
package casefold

import (
	"errors"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// ErrInvalid means that a name is not UTF-8; such a name is compared as it is.
var ErrInvalid = errors.New("name is not valid UTF-8")

// Fold returns the folded form of a name. It may be called from many goroutines at once.
func Fold(name []byte) ([]byte, error) {
	if ascii(name) {
		return lower(name), nil
	}
	if !utf8.Valid(name) {
		return nil, ErrInvalid
	}
	folded := norm.NFD.Bytes(cases.Fold().Bytes(norm.NFD.Bytes(name)))
	out := folded[:0]
	for len(folded) > 0 {
		r, n := utf8.DecodeRune(folded)
		if !ignorable(r) {
			out = append(out, folded[:n]...)
		}
		folded = folded[n:]
	}
	return out, nil
}

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func lower(b []byte) []byte {
	out := make([]byte, len(b))
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		out[i] = c
	}
	return out
}

// ignorable reports whether a code point has the property Default_Ignorable_Code_Point.
func ignorable(r rune) bool {
	switch {
	case r == 0xad, r == 0x34f, r == 0x61c, r == 0x115f, r == 0x1160, r == 0x17b4, r == 0x17b5, r == 0x3164, r == 0xfeff,
		r == 0xffa0, 0x180b <= r && r <= 0x180f, 0x200b <= r && r <= 0x200f, 0x202a <= r && r <= 0x202e,
		0x2060 <= r && r <= 0x206f, 0xfff0 <= r && r <= 0xfff8, 0x1bca0 <= r && r <= 0x1bca3,
		0x1d173 <= r && r <= 0x1d17a, 0xe0000 <= r && r <= 0xe0fff:
		return true
	}
	return unicode.Is(unicode.Variation_Selector, r)
}
