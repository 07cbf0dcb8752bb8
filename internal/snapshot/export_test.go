package snapshot

// BeforeEach has fn called before each transaction of deletions, which end if it returns an error.
func (v *Volumes) BeforeEach(fn func() error) { v.each = fn }
