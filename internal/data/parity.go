package data

import "crypto/subtle"

// The parity blocks of a stripe are those of RAID-6: P is the exclusive or of the data blocks, Q = Σ 2^i·D_i in GF(2^8) with
// the polynomial x^8+x^4+x^3+x^2+1.
const gfPoly = 0x11d

// gfTables are logarithms and powers of the generator 2; powers are stored twice so that sums of two logarithms need no modulus.
type gfTables struct {
	log [256]uint8
	exp [510]uint8
}

var gf = makeGF()

func makeGF() (t gfTables) {
	x := 1
	for i := range 255 {
		t.exp[i], t.exp[i+255] = uint8(x), uint8(x)
		t.log[x] = uint8(i)
		if x <<= 1; x > 255 {
			x ^= gfPoly
		}
	}
	return t
}

// pow2 returns 2^i.
func (t *gfTables) pow2(i int) uint8 { return t.exp[i%255] }

func (t *gfTables) inv(a uint8) uint8 { return t.exp[255-int(t.log[a])] }

// mulTable returns the products of c with every byte.
func (t *gfTables) mulTable(c uint8) (m [256]uint8) {
	if c == 0 {
		return m
	}
	l := int(t.log[c])
	for x := 1; x < 256; x++ {
		m[x] = t.exp[l+int(t.log[x])]
	}
	return m
}

func xorInto(dst, src []byte) { subtle.XORBytes(dst, dst, src) }

// mulXorInto adds c·src to dst.
func mulXorInto(dst, src []byte, c uint8) {
	m := gf.mulTable(c)
	for i, x := range src {
		dst[i] ^= m[x]
	}
}

func mulInPlace(b []byte, c uint8) {
	m := gf.mulTable(c)
	for i, x := range b {
		b[i] = m[x]
	}
}

// recoverBlock computes a missing data block of a stripe into blocks[want]. blocks are the data blocks, then P and, if there is one, Q,
// all of one length; missing says which hold nothing of use. It reports false if too many are missing.
func recoverBlock(blocks [][]byte, data int, missing []bool, want int) bool {
	p, q := data, data+1
	hasP := p < len(blocks) && !missing[p]
	hasQ := q < len(blocks) && !missing[q]
	other := -1 // the second missing data block
	for i := range data {
		if !missing[i] || i == want {
			continue
		}
		if other >= 0 {
			return false
		}
		other = i
	}
	dst := blocks[want]
	switch {
	case other < 0 && hasP:
		copy(dst, blocks[p])
		for i := range data {
			if i != want {
				xorInto(dst, blocks[i])
			}
		}
		return true
	case other < 0 && hasQ:
		copy(dst, blocks[q])
		for i := range data {
			if i != want {
				mulXorInto(dst, blocks[i], gf.pow2(i))
			}
		}
		mulInPlace(dst, gf.inv(gf.pow2(want)))
		return true
	case other >= 0 && hasP && hasQ:
		// With P' and Q' the parities of the two missing blocks alone: D_want = (2^other·P' + Q') / (2^want + 2^other).
		clear(dst)
		mulXorInto(dst, blocks[p], gf.pow2(other))
		xorInto(dst, blocks[q])
		for i := range data {
			if !missing[i] {
				mulXorInto(dst, blocks[i], gf.pow2(other)^gf.pow2(i))
			}
		}
		mulInPlace(dst, gf.inv(gf.pow2(want)^gf.pow2(other)))
		return true
	}
	return false
}
