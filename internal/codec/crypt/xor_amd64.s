//go:build !purego

#include "textflag.h"

// Two blocks share a set of four registers: one holds the same row of both states, the first block in its low half. Three
// sets run side by side, Y0-Y3, Y4-Y7 and Y8-Y11, so that one set's latency hides behind the others. Y12 and Y13 are
// scratch, Y14 and Y15 hold the byte shuffles that rotate by 16 and by 8.

DATA rotate16<>+0(SB)/8, $0x0504070601000302
DATA rotate16<>+8(SB)/8, $0x0d0c0f0e09080b0a
DATA rotate16<>+16(SB)/8, $0x0504070601000302
DATA rotate16<>+24(SB)/8, $0x0d0c0f0e09080b0a
GLOBL rotate16<>(SB), RODATA|NOPTR, $32

DATA rotate8<>+0(SB)/8, $0x0605040702010003
DATA rotate8<>+8(SB)/8, $0x0e0d0c0f0a09080b
DATA rotate8<>+16(SB)/8, $0x0605040702010003
DATA rotate8<>+24(SB)/8, $0x0e0d0c0f0a09080b
GLOBL rotate8<>(SB), RODATA|NOPTR, $32

// Steps of the block counter of both halves.
DATA plus2<>+0(SB)/8, $2
DATA plus2<>+8(SB)/8, $0
DATA plus2<>+16(SB)/8, $2
DATA plus2<>+24(SB)/8, $0
GLOBL plus2<>(SB), RODATA|NOPTR, $32

DATA plus4<>+0(SB)/8, $4
DATA plus4<>+8(SB)/8, $0
DATA plus4<>+16(SB)/8, $4
DATA plus4<>+24(SB)/8, $0
GLOBL plus4<>(SB), RODATA|NOPTR, $32

DATA plus6<>+0(SB)/8, $6
DATA plus6<>+8(SB)/8, $0
DATA plus6<>+16(SB)/8, $6
DATA plus6<>+24(SB)/8, $0
GLOBL plus6<>(SB), RODATA|NOPTR, $32

#define ROTATE(n, inverse, row) \
	VPSLLD $n, row, Y12; \
	VPSRLD $inverse, row, row; \
	VPXOR  Y12, row, row

#define ROTATE_B(n, inverse) \
	VPSLLD $n, Y1, Y12; \
	VPSLLD $n, Y5, Y13; \
	VPSRLD $inverse, Y1, Y1; \
	VPSRLD $inverse, Y5, Y5; \
	VPXOR  Y12, Y1, Y1; \
	VPXOR  Y13, Y5, Y5; \
	ROTATE(n, inverse, Y9)

#define ADD_AB \
	VPADDD Y1, Y0, Y0; \
	VPADDD Y5, Y4, Y4; \
	VPADDD Y9, Y8, Y8

#define ADD_CD \
	VPADDD Y3, Y2, Y2; \
	VPADDD Y7, Y6, Y6; \
	VPADDD Y11, Y10, Y10

#define XOR_DA(shuffle) \
	VPXOR   Y0, Y3, Y3; \
	VPXOR   Y4, Y7, Y7; \
	VPXOR   Y8, Y11, Y11; \
	VPSHUFB shuffle, Y3, Y3; \
	VPSHUFB shuffle, Y7, Y7; \
	VPSHUFB shuffle, Y11, Y11

#define XOR_BC \
	VPXOR Y2, Y1, Y1; \
	VPXOR Y6, Y5, Y5; \
	VPXOR Y10, Y9, Y9

#define ROUND \
	ADD_AB; \
	XOR_DA(Y14); \
	ADD_CD; \
	XOR_BC; \
	ROTATE_B(12, 20); \
	ADD_AB; \
	XOR_DA(Y15); \
	ADD_CD; \
	XOR_BC; \
	ROTATE_B(7, 25)

#define TURN(b, c, d) \
	VPSHUFD $b, Y1, Y1; \
	VPSHUFD $b, Y5, Y5; \
	VPSHUFD $b, Y9, Y9; \
	VPSHUFD $c, Y2, Y2; \
	VPSHUFD $c, Y6, Y6; \
	VPSHUFD $c, Y10, Y10; \
	VPSHUFD $d, Y3, Y3; \
	VPSHUFD $d, Y7, Y7; \
	VPSHUFD $d, Y11, Y11

// Adds the first three rows of the initial state and xors both blocks of a set onto 128 bytes at DI+offset.
#define OUTPUT(offset, a, b, c, d) \
	VPADDD     0(SI), a, a; \
	VPADDD     32(SI), b, b; \
	VPADDD     64(SI), c, c; \
	VPERM2I128 $0x20, b, a, Y12; \
	VPERM2I128 $0x20, d, c, Y13; \
	VPXOR      offset+0(DI), Y12, Y12; \
	VPXOR      offset+32(DI), Y13, Y13; \
	VMOVDQU    Y12, offset+0(DI); \
	VMOVDQU    Y13, offset+32(DI); \
	VPERM2I128 $0x31, b, a, Y12; \
	VPERM2I128 $0x31, d, c, Y13; \
	VPXOR      offset+64(DI), Y12, Y12; \
	VPXOR      offset+96(DI), Y13, Y13; \
	VMOVDQU    Y12, offset+64(DI); \
	VMOVDQU    Y13, offset+96(DI)

// func xorAVX2(state *pairState, data *byte, strides int)
TEXT ·xorAVX2(SB), NOSPLIT, $0-24
	MOVQ    state+0(FP), SI
	MOVQ    data+8(FP), DI
	MOVQ    strides+16(FP), CX
	VMOVDQU rotate16<>(SB), Y14
	VMOVDQU rotate8<>(SB), Y15

stride:
	TESTQ   CX, CX
	JLE     done
	VMOVDQU 0(SI), Y0
	VMOVDQU 32(SI), Y1
	VMOVDQU 64(SI), Y2
	VMOVDQU 96(SI), Y3
	VMOVDQA Y0, Y4
	VMOVDQA Y1, Y5
	VMOVDQA Y2, Y6
	VPADDD  plus2<>(SB), Y3, Y7
	VMOVDQA Y0, Y8
	VMOVDQA Y1, Y9
	VMOVDQA Y2, Y10
	VPADDD  plus4<>(SB), Y3, Y11
	MOVQ    $10, AX

rounds:
	ROUND
	TURN(0x39, 0x4e, 0x93)
	ROUND
	TURN(0x93, 0x4e, 0x39)
	DECQ AX
	JNZ  rounds

	VMOVDQU 96(SI), Y12
	VPADDD  Y12, Y3, Y3
	VPADDD  plus2<>(SB), Y12, Y13
	VPADDD  Y13, Y7, Y7
	VPADDD  plus4<>(SB), Y12, Y13
	VPADDD  Y13, Y11, Y11
	VPADDD  plus6<>(SB), Y12, Y12
	VMOVDQU Y12, 96(SI)
	OUTPUT(0, Y0, Y1, Y2, Y3)
	OUTPUT(128, Y4, Y5, Y6, Y7)
	OUTPUT(256, Y8, Y9, Y10, Y11)
	ADDQ    $384, DI
	DECQ    CX
	JMP     stride

done:
	VZEROUPPER
	RET
