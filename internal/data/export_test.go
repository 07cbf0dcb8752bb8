package data

// SetBetween has fn called between the transactions of one operation.
func (w *Writer) SetBetween(fn func()) { w.between = fn }

// BlockSums counts the extents of which checksums of blocks are remembered.
func (w *Writer) BlockSums() (n int) {
	for i := range w.reader.sums.shards {
		s := &w.reader.sums.shards[i]
		s.mu.Lock()
		n += len(s.sums)
		s.mu.Unlock()
	}
	return n
}
