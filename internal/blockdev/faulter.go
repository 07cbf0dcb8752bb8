package blockdev

import (
	"bytes"
	"context"
	"errors"
	"math"
	"sync"
)

// ErrFault is what a Faulter's operations fail with unless a rule says otherwise.
var ErrFault = errors.New("injected fault")

// Rule says which operations go wrong on a Faulter, and how.
type Rule struct {
	Ops      Op    // which kinds; 0 is OpAny
	Off, Len int64 // those that touch this range of bytes; Len 0 is up to the end
	Skip     int   // the first so many of them pass
	Count    int   // only so many then go wrong; 0 is all
	Err      error // what they fail with; nil is ErrFault

	// Corrupt makes reads and writes succeed with wrong data: it changes the
	// bytes p at byte offset off, which may lie partly outside of the range.
	Corrupt func(p []byte, off int64)
	// Drop makes writes, discards and flushes say that they succeeded and do
	// nothing.
	Drop bool
}

// FailWrites is the rule for a device on which nothing can be changed any more.
func FailWrites(err error) Rule {
	return Rule{Ops: OpWrite | OpFlush | OpDiscard, Err: err}
}

func (r *Rule) matches(op Op, off, n int64) bool {
	if r.Ops != 0 && r.Ops&op == 0 {
		return false
	}
	if op == OpFlush {
		return true // it concerns the whole device
	}
	end := int64(math.MaxInt64)
	if r.Len != 0 {
		end = r.Off + r.Len
	}
	return off < end && off+n > r.Off
}

// Faulter is a device that fails or lies by rules. The first rule that matches
// an operation decides.
type Faulter struct {
	Device

	mu    sync.Mutex
	rules []Rule // with Skip and Count counted down
	hits  int
}

// NewFaulter returns a device that does as d does but for the rules.
func NewFaulter(d Device, rules ...Rule) *Faulter {
	f := &Faulter{Device: d}
	f.SetRules(rules...)
	return f
}

// SetRules replaces all rules, at any time. Without any, nothing goes wrong.
func (f *Faulter) SetRules(rules ...Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = make([]Rule, 0, len(rules))
	for _, r := range rules {
		if r.Err == nil {
			r.Err = ErrFault
		}
		if r.Count == 0 {
			r.Count = math.MaxInt
		}
		f.rules = append(f.rules, r)
	}
}

// Hits returns how many operations went wrong so far.
func (f *Faulter) Hits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits
}

// verdict returns the rule for an operation, or false if it shall pass.
func (f *Faulter) verdict(op Op, off, n int64) (Rule, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.rules {
		r := &f.rules[i]
		switch {
		case r.Count == 0 || !r.matches(op, off, n):
		case r.Skip > 0:
			r.Skip--
		default:
			r.Count--
			f.hits++
			return *r, true
		}
	}
	return Rule{}, false
}

func (f *Faulter) fail(op Op, off, n int64, err error) error {
	return &IOError{Op: op, Device: f.Name(), Offset: off, Len: n, Err: err}
}

// ReadAt implements Device.
func (f *Faulter) ReadAt(ctx context.Context, p []byte, off int64) error {
	rule, hit := f.verdict(OpRead, off, int64(len(p)))
	if hit && rule.Corrupt == nil {
		return f.fail(OpRead, off, int64(len(p)), rule.Err)
	}
	if err := f.Device.ReadAt(ctx, p, off); err != nil || !hit {
		return err
	}
	rule.Corrupt(p, off)
	return nil
}

// WriteAt implements Device.
func (f *Faulter) WriteAt(ctx context.Context, p []byte, off int64) error {
	rule, hit := f.verdict(OpWrite, off, int64(len(p)))
	switch {
	case !hit:
		return f.Device.WriteAt(ctx, p, off)
	case rule.Drop:
		return check(ctx, f, OpWrite, off, int64(len(p)))
	case rule.Corrupt != nil:
		p = bytes.Clone(p)
		rule.Corrupt(p, off)
		return f.Device.WriteAt(ctx, p, off)
	}
	return f.fail(OpWrite, off, int64(len(p)), rule.Err)
}

// Flush implements Device.
func (f *Faulter) Flush(ctx context.Context) error {
	rule, hit := f.verdict(OpFlush, 0, 0)
	switch {
	case !hit:
		return f.Device.Flush(ctx)
	case rule.Drop:
		return check(ctx, f, OpFlush, 0, 0)
	}
	return f.fail(OpFlush, 0, 0, rule.Err)
}

// Discard implements Device.
func (f *Faulter) Discard(ctx context.Context, off, n int64) error {
	rule, hit := f.verdict(OpDiscard, off, n)
	switch {
	case !hit:
		return f.Device.Discard(ctx, off, n)
	case rule.Drop:
		return check(ctx, f, OpDiscard, off, n)
	}
	return f.fail(OpDiscard, off, n, rule.Err)
}
