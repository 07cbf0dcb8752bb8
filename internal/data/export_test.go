package data

// SetBetween has fn called between the transactions of one operation.
func (w *Writer) SetBetween(fn func()) { w.between = fn }
