package fstest

import (
	"bytes"
	"fmt"
	"sync"
)

// Recording is what was done to a filesystem, one operation after the other, with what of it was promised to be durable. It says whether what a crash
// left can be: the filesystem does one thing after the other, so that what it has after a crash is what it had after some operation, not earlier than
// the last of those that are promised, and only the data of the one under way may be there in part.
type Recording struct {
	Compare Compare
	// Clock is the time in which promises and crashes are told; nil: it counts operations.
	Clock func() int

	start  int
	mu     sync.Mutex
	states []recorded
	acks   []promise
}

// recorded is an operation and the filesystem after it.
type recorded struct {
	op    Op
	begin int // tick
	m     *Model
	tree  Tree // of m, made when it is wanted
}

// promise says that what was done up to a state is durable from a tick on.
type promise struct{ tick, state int }

// NewRecording begins with a filesystem that is durable.
func NewRecording(m *Model, c Compare, clock func() int) *Recording {
	r := &Recording{Compare: c, Clock: clock, states: []recorded{{m: m.Clone()}}}
	if clock == nil {
		r.Clock = func() int { return len(r.states) }
	}
	r.start = r.Clock()
	return r
}

// Start is the tick at which the recording began.
func (r *Recording) Start() int { return r.start }

// Began returns the tick at which an operation begins, for Done.
func (r *Recording) Began() int { return r.Clock() }

// Done notes an operation that began at a tick, whether it succeeded, and the filesystem after it.
func (r *Recording) Done(o *Op, began int, m *Model, ok bool) {
	c := m.Clone()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.states = append(r.states, recorded{op: *o, begin: began, m: c})
	if n := c.durable(o); ok && n > 0 {
		// The number of the operation is that of the model; the state before the first has the number of operations that were before.
		if s := n - r.states[0].m.ops; s > 0 {
			r.acks = append(r.acks, promise{r.Clock(), min(s, len(r.states)-1)})
		}
	}
}

// durable returns the number of the last operation that is durable now that o has succeeded; 0 if it promises nothing.
func (m *Model) durable(o *Op) int {
	var n *node
	switch o.Kind {
	case OpSync, OpRemount:
		return m.ops
	case OpFsync, OpFdatasync:
		if s, e := m.file(o); e == 0 {
			n = s.n
		}
	case OpWrite:
		if s, e := m.file(o); e == 0 && s.flags&OpenSync != 0 {
			return m.ops
		}
	}
	if n == nil {
		return 0
	}
	return n.changed
}

// clean notes that the data of what an operation made durable is.
func (m *Model) clean(o *Op) {
	switch o.Kind {
	case OpSync, OpRemount:
		for _, e := range m.Tree() {
			e.n.dirty = 0
		}
		for _, s := range m.slots {
			if s.n != nil {
				s.n.dirty = 0
			}
		}
	case OpFsync, OpFdatasync:
		if s, e := m.file(o); e == 0 {
			s.n.dirty = 0
		}
	case OpWrite: // what it wrote, not what was written before by others
		if s, e := m.file(o); e == 0 && s.flags&OpenSync != 0 && s.n.dirty == m.ops {
			s.n.dirty = 0
		}
	}
}

// Forget drops what no crash can lead back to any more.
func (r *Recording) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := 0
	for _, a := range r.acks {
		first = max(first, a.state)
	}
	r.states = append([]recorded(nil), r.states[first:]...)
	r.states[0].begin = 0
	r.acks = nil
}

// Len is how many operations there are.
func (r *Recording) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.states) - 1
}

// Check returns the filesystem, without open files, that a crash at a tick has left, of which all that can be seen is given; or an error that says
// what is not as it can be. It may be called from several goroutines.
func (r *Recording) Check(tick int, got Tree) (*Model, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first, last := 0, 0
	for _, a := range r.acks {
		if a.tick <= tick {
			first = max(first, a.state)
		}
	}
	for last+1 < len(r.states) && r.states[last+1].begin <= tick {
		last++
	}
	var versions map[uint64][][]byte
	if r.Compare.InPlace {
		versions = r.versions(first, last)
	}
	var best []string
	at := 0
	for i := last; i >= first; i-- {
		tree := r.tree(i).placed(got, versions)
		diff := r.Compare.Diff(tree, got)
		if len(diff) > 0 && i > first {
			if mixed := r.Compare.between(r.tree(i-1), tree, got); len(mixed) < len(diff) {
				diff = mixed
			}
		}
		if len(diff) == 0 {
			m := r.states[i].m.Clone()
			m.afterCrash()
			m.take(got)
			return m, nil
		}
		if best == nil || len(diff) < len(best) {
			best, at = diff, i
		}
	}
	var done []Op
	for i := max(1, at-10); i <= min(at+10, len(r.states)-1); i++ {
		done = append(done, r.states[i].op)
	}
	return nil, fmt.Errorf("what a crash left is none of the states after operations %d (durable) to %d; like that after operation %d (%v) but for%s\noperations around:%s",
		first, last, at, r.states[at].op, texts(best, 20), lines(done, 30))
}

// tree returns what can be seen of a state.
func (r *Recording) tree(i int) Tree {
	s := &r.states[i]
	if s.tree == nil {
		s.tree = s.m.Tree()
	}
	return s.tree
}

// versions returns all data that files had in some states.
func (r *Recording) versions(first, last int) map[uint64][][]byte {
	all := map[uint64][][]byte{}
	for i := first; i <= last; i++ {
		for _, e := range r.tree(i) {
			v := all[e.n.id]
			if e.n.mode&ModeType == ModeRegular && (len(v) == 0 || !bytes.Equal(v[len(v)-1], e.Data)) {
				all[e.n.id] = append(v, e.Data)
			}
		}
	}
	return all
}

// take makes the data and times of files what they were found to be.
func (m *Model) take(got Tree) {
	t := m.Tree()
	t.adopt(got)
	for p, e := range t {
		if g := got[p]; g != nil && e.n.mode&ModeType == ModeRegular {
			e.n.data = g.Data
		}
		e.n.dirty = 0
	}
}

func texts(all []string, most int) string {
	s := ""
	for i, t := range all {
		if i == most {
			return s + fmt.Sprintf("\n  and %d more", len(all)-most)
		}
		s += "\n  " + t
	}
	return s
}
