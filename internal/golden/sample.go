package golden

import (
	"flag"
	"strings"
	"testing"
)

// The race detector makes tests several times as slow, and what it looks for does not depend on what is in an image: what is proven by going
// through all of them is proven by the run without it. Under the race detector tests therefore take a part, always the same, and say which.

// perKind is of how many images of a kind the sample has one.
const perKind = 8

// Sample returns all images or, under the race detector, some of each kind.
func Sample(t testing.TB) []Image {
	t.Helper()
	all := Images(t)
	if !Race {
		return all
	}
	some := sample(all)
	names := make([]string, len(some))
	for i := range some {
		names[i] = some[i].String()
	}
	t.Logf("race detector: %d of %d images: %s", len(some), len(all), strings.Join(names, " "))
	return some
}

// sample returns one in perKind images of each kind, at least one, and at least one of each version. Which one of a few differs from kind to kind. Left out are
// those that need a passphrase, as to derive a key takes seconds under the race detector, and those with large trees, which would take longer than all
// others together.
func sample(all []Image) (some []Image) {
	byKind := map[string][]int{}
	var kinds []string
	for i := range all {
		kind := all[i].kind()
		if all[i].Passphrase != "" || kind == largeTrees {
			continue
		}
		if byKind[kind] == nil {
			kinds = append(kinds, kind)
		}
		byKind[kind] = append(byKind[kind], i)
	}
	chosen, versions := map[int]bool{}, map[string]bool{}
	for turn, kind := range kinds {
		of := byKind[kind]
		for i := turn % min(perKind, len(of)); i < len(of); i += perKind {
			chosen[of[i]], versions[all[of[i]].Version] = true, true
		}
	}
	for i := range all {
		if img := &all[i]; !chosen[i] && !versions[img.Version] && img.Passphrase == "" && img.kind() != largeTrees {
			chosen[i], versions[img.Version] = true, true
		}
		if chosen[i] {
			some = append(some, all[i])
		}
	}
	return some
}

// largeTrees is the kind of images with many thousands of files.
const largeTrees = "btree"

// kind is what an image is about: the first word of its name, without the version. Those that the driver could not mount are one kind.
func (img Image) kind() string {
	if img.Manifest() == nil {
		return "unlisted"
	}
	name := strings.TrimPrefix(img.Name, "v"+img.Version+"-")
	kind, _, _ := strings.Cut(name, "-")
	return kind
}

// Some returns all or, under the race detector, n of them, evenly spread. It is for lists of names and the like.
func Some[T any](t testing.TB, n int, all []T) []T {
	t.Helper()
	if !Race || n >= len(all) {
		return all
	}
	some := make([]T, n)
	for i := range some {
		some[i] = all[i*len(all)/n]
	}
	t.Logf("race detector: %d of %d: %v", n, len(all), some)
	return some
}

// Times returns how often something random is done, all or, under the race detector, few times.
func Times(t testing.TB, all, few int) int {
	t.Helper()
	if !Race || few >= all {
		return all
	}
	t.Logf("race detector: %d times and not %d", few, all)
	return few
}

// FlagTimes is [Times] of the value of a flag: if that was given, it counts as it is.
func FlagTimes(t testing.TB, name string, all, few int) int {
	t.Helper()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if given {
		return all
	}
	return Times(t, all, few)
}

// DerivesKeys skips a test under the race detector that derives keys from passphrases: it takes seconds there, each time.
func DerivesKeys(t testing.TB) {
	t.Helper()
	if Race {
		t.Skip("race detector: to derive keys from passphrases takes too long")
	}
}

// OneIn skips the test of case i under the race detector unless it is one of each n.
func OneIn(t testing.TB, n, i int) {
	t.Helper()
	if Race && i%n != 0 {
		t.Skipf("race detector: only one case of %d", n)
	}
}
