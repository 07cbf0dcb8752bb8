// Package ondisk is the bcachefs on-disk format: superblock, keys, btree nodes, journal sets and every value type.
//
// Everything here is a pure function over bytes: decode, encode, validate, print. There is no I/O, no state and no
// lock, so all of it may be called from any number of goroutines at once.
//
// Conventions:
//
//   - a sector is 512 bytes, always; fields counted in sectors say so in their type ([Sector]) or name;
//   - all integers are little-endian, but for structures of hosts that wrote big-endian, which are converted when decoded;
//   - decoders validate once and return an error that names structure, field and position; the code behind them trusts;
//   - decoded values alias the bytes they were decoded from wherever that saves a copy, and say so;
//   - names are those of the reference implementation, `bi_` and `bch_` prefixes dropped.
package ondisk
