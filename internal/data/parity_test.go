package data

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

func makeParity(blocks [][]byte, data int) {
	for i := data; i < len(blocks); i++ {
		clear(blocks[i])
	}
	for i := range data {
		xorInto(blocks[data], blocks[i])
		if data+1 < len(blocks) {
			mulXorInto(blocks[data+1], blocks[i], gf.pow2(i))
		}
	}
}

func TestParityVector(t *testing.T) {
	blocks := [][]byte{{1}, {2}, {4}, {0}, {0}}
	makeParity(blocks, 3)
	if p, q := blocks[3][0], blocks[4][0]; p != 0x07 || q != 0x15 {
		t.Errorf("P %#02x, Q %#02x, want 0x07, 0x15", p, q)
	}
}

func TestRecoverBlock(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for redundant := 1; redundant <= 2; redundant++ {
		for data := 1; data <= 14; data++ {
			blocks := make([][]byte, data+redundant)
			for i := range blocks {
				blocks[i] = make([]byte, 97)
				for j := range blocks[i] {
					blocks[i][j] = byte(rng.Uint32())
				}
			}
			makeParity(blocks, data)
			for a := range blocks {
				for b := a; b < len(blocks); b++ {
					if a >= data || redundant == 1 && a != b {
						continue
					}
					checkRecover(t, blocks, data, a, b)
				}
			}
		}
	}
}

func checkRecover(t *testing.T, blocks [][]byte, data, a, b int) {
	t.Helper()
	damaged := make([][]byte, len(blocks))
	missing := make([]bool, len(blocks))
	for i := range blocks {
		damaged[i] = bytes.Clone(blocks[i])
		if missing[i] = i == a || i == b; missing[i] {
			for j := range damaged[i] {
				damaged[i][j] = 0xee
			}
		}
	}
	name := fmt.Sprintf("%d data of %d, missing %d %d", data, len(blocks), a, b)
	if !recoverBlock(damaged, data, missing, a) {
		t.Fatalf("%s: not recovered", name)
	}
	if !bytes.Equal(damaged[a], blocks[a]) {
		t.Fatalf("%s: block %d is wrong", name, a)
	}
}

func TestRecoverTooManyMissing(t *testing.T) {
	blocks := [][]byte{{1}, {2}, {4}, {7}}
	if recoverBlock(blocks, 3, []bool{true, true, false, false}, 0) {
		t.Error("two of three data blocks were recovered from one parity block")
	}
	if recoverBlock(blocks, 3, []bool{true, false, false, true}, 0) {
		t.Error("a block was recovered without parity")
	}
}
