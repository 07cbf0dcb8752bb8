package compress

import (
	"errors"
	"fmt"
	"sync"

	"github.com/pierrec/lz4/v4"
)

var lz4Fast = sync.Pool{New: func() any { return new(lz4.Compressor) }}

// encodeLZ4 writes one raw block. Levels below 3 use the fast compressor, others the thorough one.
func encodeLZ4(level int, dst, src []byte) (int, bool, error) {
	var n int
	var err error
	if level < 3 {
		c := lz4Fast.Get().(*lz4.Compressor)
		n, err = c.CompressBlock(src, dst)
		lz4Fast.Put(c)
	} else {
		c := lz4HC.Get().(*lz4.CompressorHC)
		c.Level = lz4.CompressionLevel(1 << (8 + min(level, 9)))
		n, err = c.CompressBlock(src, dst)
		lz4HC.Put(c)
	}
	if errors.Is(err, lz4.ErrInvalidSourceShortBuffer) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("lz4: %w", err)
	}
	return n, n > 0, nil
}

var lz4HC = sync.Pool{New: func() any { return new(lz4.CompressorHC) }}
