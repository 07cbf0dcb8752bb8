package blockdev

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBlockSizes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(path, FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, d := range []Device{f, NewMemory(1 << 20)} {
		physical, usual := BlockSizes(d)
		if physical != SectorSize || usual < physical || usual&(usual-1) != 0 {
			t.Errorf("%s: blocks of %d bytes, %d by default", d.Name(), physical, usual)
		}
	}
	if _, usual := BlockSizes(NewMemory(1 << 20)); usual != 4096 {
		t.Errorf("in memory: blocks of %d bytes by default, want 4096", usual)
	}
}
