// Package ondisk is the bcachefs on-disk format: superblock, keys, btree nodes, journal sets and every value type.
//
// Everything here is a pure function over bytes: decode, encode, validate, print. There is no I/O, no state and no
// lock, so all of it may be called from any number of goroutines at once.
//
// # Where to find what
//
//   - superblock: superblock*.go, sb*.go (one file a group of sections), options.go, versions.go;
//   - keys: pos.go, key.go, format.go (packed keys), ids.go (types and btrees), value*.go (what all values share);
//   - nodes: bset.go (layout), node.go (what decoding gives), node_decode.go, node_merge.go, node_raw.go (as it lies on disk);
//   - journal: jset*.go;
//   - values: a file each, named for the type: inode.go, extent*.go, alloc*.go, …;
//   - text, as the reference tools print it: keytext*.go, jset_text.go, sb_text*.go.
//
// docs/format.md is the map that goes with it.
//
// # Conventions
//
//   - a sector is 512 bytes, always; fields counted in sectors say so in their type ([Sector]) or name;
//   - all integers are little-endian; structures that a big-endian host wrote are refused;
//   - decoders validate once and return an error that names structure, field and position; the code behind them trusts;
//   - decoded values alias the bytes they were decoded from wherever that saves a copy, and say so;
//   - names are those of the reference implementation, `bi_` and `bch_` prefixes dropped.
package ondisk
