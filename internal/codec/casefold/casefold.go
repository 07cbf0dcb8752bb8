// Package casefold folds names of case-insensitive directories, so that names that differ only in case or in how accents
// are encoded become equal.
//
// It does what Linux does (utf8_casefold with the tables of Unicode 12.1): each code point is replaced by its full case
// folding, canonically decomposed; code points that are ignorable by default vanish; combining marks are then put into
// canonical order. Code points not assigned in Unicode 12.1 stay as they are and count as base characters, even where newer
// versions of Unicode fold or decompose them, because folded names are stored and hashed on disk.
//
// The one known difference is in names that are not valid UTF-8: Linux keeps stray continuation bytes, and so does this
// package, but it repeats those that follow a combining mark.
//
// All functions may be called concurrently.
package casefold

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
	"golang.org/x/text/unicode/rangetable"
)

// ErrInvalid means that a name is not valid UTF-8, which case-insensitive directories do not accept.
var ErrInvalid = errors.New("name is not valid UTF-8")

// Fold returns the folded form of name. The result may be empty, if all of name is ignorable, and may alias name. The error
// wraps [ErrInvalid].
func Fold(name []byte) ([]byte, error) {
	upper := -1 // first byte that folding changes
	for i, c := range name {
		if c >= utf8.RuneSelf {
			return foldUnicode(name)
		}
		if upper < 0 && 'A' <= c && c <= 'Z' {
			upper = i
		}
	}
	if upper < 0 {
		return name, nil
	}
	folded := slices.Clone(name)
	for i, c := range folded[upper:] {
		if 'A' <= c && c <= 'Z' {
			folded[upper+i] = c + 'a' - 'A'
		}
	}
	return folded, nil
}

func foldUnicode(name []byte) ([]byte, error) {
	var f folder
	for rest := name; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		if r == utf8.RuneError && size == 1 {
			if c := rest[0]; c&0xc0 == 0x80 && len(rest) < len(name) {
				// A stray continuation byte is an error only at the start: elsewhere Linux takes it for the rest of
				// the character before it and keeps it.
				f.flush()
				f.out = append(f.out, c)
				rest = rest[1:]
				continue
			}
			return nil, fmt.Errorf("%w: %q", ErrInvalid, name)
		}
		rest = rest[size:]
		f.add(r)
	}
	return f.finish(), nil
}

// folder collects folded code points and puts combining marks into order.
type folder struct {
	out   []byte
	marks []mark // combining marks since the last base character, not yet written
}

// mark is a code point with a canonical combining class other than 0.
type mark struct {
	r     rune
	class uint8
}

func (f *folder) add(r rune) {
	switch {
	case r < utf8.RuneSelf:
		f.base(unicode.ToLower(r))
	case unicode.Is(ignorable, r):
		f.flush() // gone, but marks do not move across it
	case !unicode.Is(assigned(), r):
		f.base(r)
	default:
		for _, c := range foldRune(r) {
			if class := norm.NFD.PropertiesString(string(c)).CCC(); class != 0 {
				f.marks = append(f.marks, mark{c, class})
			} else {
				f.base(c)
			}
		}
	}
}

func (f *folder) base(r rune) {
	f.flush()
	f.out = utf8.AppendRune(f.out, r)
}

// flush writes the pending marks by class; those of one class keep their order.
func (f *folder) flush() {
	slices.SortStableFunc(f.marks, func(a, b mark) int { return int(a.class) - int(b.class) })
	for _, m := range f.marks {
		f.out = utf8.AppendRune(f.out, m.r)
	}
	f.marks = f.marks[:0]
}

func (f *folder) finish() []byte {
	f.flush()
	return f.out
}

// foldRune is the full case folding of one code point, decomposed.
func foldRune(r rune) string {
	switch {
	case 0x13a0 <= r && r <= 0x13f5:
		return string(r) // Cherokee capitals: Unicode folds to them, the library toggles
	case 0x13f8 <= r && r <= 0x13fd:
		return string(r - 0x13f8 + 0x13f0)
	case 0xab70 <= r && r <= 0xabbf:
		return string(r - 0xab70 + 0x13a0)
	}
	fold := cases.Fold()
	s := norm.NFD.String(fold.String(string(r)))
	// What a decomposition brings out may fold in turn.
	return norm.NFD.String(fold.String(s))
}

// assigned is the set of code points of Unicode 12.1. The library has 12.0, to which 12.1 added one sign.
var assigned = sync.OnceValue(func() *unicode.RangeTable {
	const signOfEraReiwa = 0x32ff
	return rangetable.Merge(rangetable.Assigned("12.0.0"), rangetable.New(signOfEraReiwa))
})

// ignorable is Default_Ignorable_Code_Point of Unicode 12.1, whose code points are ignorable whether assigned or not.
var ignorable = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x00ad, Hi: 0x00ad, Stride: 1},
		{Lo: 0x034f, Hi: 0x034f, Stride: 1},
		{Lo: 0x061c, Hi: 0x061c, Stride: 1},
		{Lo: 0x115f, Hi: 0x1160, Stride: 1},
		{Lo: 0x17b4, Hi: 0x17b5, Stride: 1},
		{Lo: 0x180b, Hi: 0x180e, Stride: 1},
		{Lo: 0x200b, Hi: 0x200f, Stride: 1},
		{Lo: 0x202a, Hi: 0x202e, Stride: 1},
		{Lo: 0x2060, Hi: 0x206f, Stride: 1},
		{Lo: 0x3164, Hi: 0x3164, Stride: 1},
		{Lo: 0xfe00, Hi: 0xfe0f, Stride: 1},
		{Lo: 0xfeff, Hi: 0xfeff, Stride: 1},
		{Lo: 0xffa0, Hi: 0xffa0, Stride: 1},
		{Lo: 0xfff0, Hi: 0xfff8, Stride: 1},
	},
	R32: []unicode.Range32{
		{Lo: 0x1bca0, Hi: 0x1bca3, Stride: 1},
		{Lo: 0x1d173, Hi: 0x1d17a, Stride: 1},
		{Lo: 0xe0000, Hi: 0xe0fff, Stride: 1},
	},
	LatinOffset: 1,
}
