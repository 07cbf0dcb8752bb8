//go:build !purego

package crypt

import (
	"encoding/binary"

	"golang.org/x/sys/cpu"
)

// strideBytes is what one round of the assembly handles: six blocks.
const strideBytes = 6 * BlockSize

// pairState is the initial state of two blocks with successive counters: each row of one, then the same row of the other.
type pairState [4][2][4]uint32

// xorAVX2 xors strides*strideBytes bytes at data with the keystream and moves the counters of state along. Counters wrap
// at 2^32, as the format has it. Needs AVX2.
//
//go:noescape
func xorAVX2(state *pairState, data *byte, strides int)

// shortBytes is the length below which the library is quicker than a whole stride.
const shortBytes = 2 * BlockSize

// xorFast encrypts b from its start as far as the assembly is of use and returns how many bytes that was: all of b, or a
// multiple of the block size; 0 if the processor lacks what it takes. The library has no assembly for this architecture
// outside of its AEAD, whose counter starts at a fixed value.
func (k *Key) xorFast(n Nonce, b []byte) int {
	if len(b) < shortBytes || !cpu.X86.HasAVX2 {
		return 0
	}
	var s pairState
	for i := range 2 {
		s[0][i] = [4]uint32{0x61707865, 0x3320646e, 0x79622d32, 0x6b206574} // "expand 32-byte k"
		for w := range 4 {
			s[1][i][w] = binary.LittleEndian.Uint32(k[4*w:])
			s[2][i][w] = binary.LittleEndian.Uint32(k[16+4*w:])
		}
		s[3][i] = [4]uint32{n[0] + uint32(i), n[1], n[2], n[3]}
	}
	strides := len(b) / strideBytes
	xorAVX2(&s, &b[0], strides)
	done := strides * strideBytes
	if rest := b[done:]; len(rest) >= shortBytes {
		var whole [strideBytes]byte
		copy(whole[:], rest)
		xorAVX2(&s, &whole[0], 1)
		copy(rest, whole[:])
		done = len(b)
	}
	return done
}
