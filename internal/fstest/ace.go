package fstest

import (
	"fmt"
	"iter"
	"path"
	"strings"
)

// ACE lists workloads as CrashMonkey's Automatic Crash Explorer does (Mohan et al., OSDI 2018): all sequences of so many operations out of a small set,
// on a small set of names, each operation followed by something that makes it durable, or by nothing. What an operation needs (a file to link, an attribute to
// remove) is made before. Of sequences that differ only in which of two like names is which, one is listed.
type ACE struct {
	Ops int // in a sequence
}

// Workload is a sequence of operations on an empty filesystem.
type Workload struct {
	Setup []Op // made durable before the rest
	Ops   []Op
}

// String returns the workload as lines.
func (w Workload) String() string {
	return "setup:" + lines(w.Setup, 100) + "\nworkload:" + lines(w.Ops, 100)
}

// aceFileBytes is how much is in the files that operations need.
const aceFileBytes = 8 << 10

// aceSteps are the operations. Those that work on a file open it by its path.
func aceSteps() (all []Op) {
	files := []string{"foo", "bar", "A/foo", "A/bar", "B/foo", "B/bar"}
	add := func(o Op) { all = append(all, o) }
	for _, f := range files {
		add(Op{Kind: OpCreate, Path: f, Mode: 0o644})
		add(Op{Kind: OpUnlink, Path: f})
		add(Op{Kind: OpWrite, Path: f, Off: aceFileBytes, N: 4096})
		add(Op{Kind: OpWrite, Path: f, N: aceFileBytes})
		for _, to := range files {
			if to != f {
				add(Op{Kind: OpLink, Path: f, Path2: to})
				add(Op{Kind: OpRename, Path: f, Path2: to})
			}
		}
	}
	for _, d := range []string{"A", "B"} {
		add(Op{Kind: OpMkdir, Path: d, Mode: 0o755})
		add(Op{Kind: OpRmdir, Path: d})
	}
	add(Op{Kind: OpMkdir, Path: "A/C", Mode: 0o755})
	add(Op{Kind: OpRename, Path: "A", Path2: "B"})
	add(Op{Kind: OpRename, Path: "B", Path2: "A"})
	add(Op{Kind: OpRename, Path: "A", Path2: "B/C"})
	add(Op{Kind: OpRename, Path: "A/foo", Path2: "B/foo", Flags: uint32(RenameExchange)})
	for _, f := range []string{"foo", "A/foo"} {
		add(Op{Kind: OpSymlink, Path: f, Name: "bar"})
		add(Op{Kind: OpAllocate, Path: f, Flags: uint32(AllocExtend), Off: aceFileBytes, N: 8192})
		add(Op{Kind: OpAllocate, Path: f, Flags: uint32(AllocKeepSize), Off: aceFileBytes, N: 8192})
		add(Op{Kind: OpAllocate, Path: f, Flags: uint32(AllocPunch), Off: 2000, N: 5000})
		add(Op{Kind: OpAllocate, Path: f, Flags: uint32(AllocZero), Off: 2000, N: 5000})
		add(Op{Kind: OpAllocate, Path: f, Flags: uint32(AllocZero | AllocKeepSize), Off: 6000, N: 9000})
		add(Op{Kind: OpTruncate, Path: f, N: 2500})
		add(Op{Kind: OpTruncate, Path: f, N: 12000})
	}
	for _, f := range []string{"foo", "A/foo", "A"} {
		add(Op{Kind: OpSetXattr, Path: f, Name: "user.x", N: 20})
		add(Op{Kind: OpRemoveXattr, Path: f, Name: "user.x"})
	}
	return all
}

// persistence lists what may follow an operation.
func (o *Op) persistence() []Op {
	target := o.Path
	switch o.Kind {
	case OpLink, OpRename:
		target = o.Path2
	}
	all := []Op{{Kind: OpSync}, {Kind: OpFsync, Path: path.Dir(target)}}
	if o.Kind != OpUnlink && o.Kind != OpRmdir && o.Kind != OpSymlink {
		all = append(all, Op{Kind: OpFsync, Path: target})
	}
	return all
}

// All lists all workloads. The last operation of each is one that makes something durable.
func (a ACE) All() iter.Seq[Workload] {
	steps := aceSteps()
	names := newACENames(steps)
	return func(yield func(Workload) bool) { a.extend(steps, names, nil, a.Ops, yield) }
}

// extend lists the workloads that begin with some steps and have n more.
func (a ACE) extend(steps []Op, names *aceNames, begun []Op, n int, yield func(Workload) bool) bool {
	if n == 0 {
		if !names.isFirst(begun) {
			return true
		}
		w, ok := a.complete(begun)
		return !ok || yield(w)
	}
	for _, s := range steps {
		next := append(begun[:len(begun):len(begun)], s)
		if n > 1 && !a.extend(steps, names, next, n-1, yield) { // with nothing in between
			return false
		}
		for _, p := range s.persistence() {
			if !a.extend(steps, names, append(next[:len(next):len(next)], p), n-1, yield) {
				return false
			}
		}
	}
	return true
}

// Sample lists n random workloads.
func (a ACE) Sample(seed uint64, n int) iter.Seq[Workload] {
	steps := aceSteps()
	return func(yield func(Workload) bool) {
		rng := newRand(seed, 3)
		for done := 0; done < n; {
			var ops []Op
			for i := range a.Ops {
				s := steps[rng.IntN(len(steps))]
				ops = append(ops, s)
				all := s.persistence()
				if p := rng.IntN(len(all) + 1); p < len(all) {
					ops = append(ops, all[p])
				} else if i == a.Ops-1 {
					ops = append(ops, all[0])
				}
			}
			w, ok := a.complete(ops)
			if !ok {
				continue
			}
			if done++; !yield(w) {
				return
			}
		}
	}
}

// aceSwaps are the exchanges of names that make no difference, for strings.NewReplacer.
var aceSwaps = [][]string{{"A", "B", "B", "A"}, {"foo", "bar", "bar", "foo"}, {"A", "B", "B", "A", "foo", "bar", "bar", "foo"}}

// aceNames knows what operations are when names are exchanged.
type aceNames struct {
	inSet map[Op]bool
	known map[Op]*aceName
}

// aceName is an operation as text, and what it is after each of the exchanges: "" if that is not in the set.
type aceName struct {
	own     string
	swapped [3]string
}

func newACENames(steps []Op) *aceNames {
	n := &aceNames{inSet: map[Op]bool{}, known: map[Op]*aceName{}}
	for _, o := range steps {
		n.inSet[o] = true
		for _, p := range o.persistence() {
			n.inSet[p] = true
		}
	}
	return n
}

func (n *aceNames) of(o Op) *aceName {
	if a := n.known[o]; a != nil {
		return a
	}
	a := &aceName{own: o.String()}
	for i, swap := range aceSwaps {
		r := strings.NewReplacer(swap...)
		other := o
		other.Path, other.Path2 = r.Replace(o.Path), r.Replace(o.Path2)
		if n.inSet[other] {
			a.swapped[i] = other.String()
		}
	}
	n.known[o] = a
	return a
}

// isFirst reports whether no exchange of like names makes a sequence of the set that is listed before this one.
func (n *aceNames) isFirst(ops []Op) bool {
	for i := range aceSwaps {
		order, inSet := 0, true
		for _, o := range ops {
			a := n.of(o)
			inSet = inSet && a.swapped[i] != ""
			if order == 0 {
				order = strings.Compare(a.swapped[i], a.own)
			}
		}
		if inSet && order < 0 {
			return false
		}
	}
	return true
}

// complete makes a workload of operations, with what they need before them; it reports false if they cannot be done.
func (a ACE) complete(ops []Op) (w Workload, ok bool) {
	m := NewModel(0o755, 0, 0)
	m.Block = 512
	for i, o := range ops {
		o.Tag = uint64(i + 1)
		for range 8 {
			try := m.Clone()
			out := try.Do(&o)
			if out.Errno == 0 {
				m = try
				w.Ops = append(w.Ops, o)
				break
			}
			need, possible := m.need(&o)
			if !possible {
				return w, false
			}
			before := []Op{need}
			if need.Kind == OpCreate {
				before = append(before, Op{Kind: OpWrite, Path: need.Path, N: aceFileBytes, Tag: 100 + uint64(i)})
			}
			for _, b := range before {
				if m.Do(&b).Errno != 0 {
					return w, false
				}
			}
			if len(w.Ops) == 0 {
				w.Setup = append(w.Setup, before...)
			} else {
				w.Ops = append(w.Ops, before...)
			}
		}
		if len(w.Ops) == 0 || w.Ops[len(w.Ops)-1].Kind != o.Kind {
			return w, false
		}
	}
	return w, true
}

// need returns an operation without which another fails; it reports false if nothing helps.
func (m *Model) need(o *Op) (Op, bool) {
	for _, p := range []string{o.Path, o.Path2} {
		if p == "" || p == "." {
			continue
		}
		if dir := path.Dir(p); dir != "." {
			if n, e := m.must(dir, true); e != 0 {
				return Op{Kind: OpMkdir, Path: dir, Mode: 0o755}, e == ENOENT
			} else if !n.isDir() {
				return Op{}, false
			}
		}
	}
	exists := func(p string) bool {
		_, e := m.must(p, false)
		return e == 0
	}
	file := func(p string) (Op, bool) {
		if !exists(p) {
			return Op{Kind: OpCreate, Path: p, Mode: 0o644}, true
		}
		return Op{}, false
	}
	switch o.Kind {
	case OpUnlink, OpLink, OpWrite, OpAllocate, OpTruncate:
		return file(o.Path)
	case OpRename:
		if o.Flags == uint32(RenameExchange) && exists(o.Path) {
			return file(o.Path2)
		}
		if len(o.Path) == 1 && !exists(o.Path) {
			return Op{Kind: OpMkdir, Path: o.Path, Mode: 0o755}, true
		}
		return file(o.Path)
	case OpRmdir:
		return Op{Kind: OpMkdir, Path: o.Path, Mode: 0o755}, !exists(o.Path)
	case OpSetXattr, OpRemoveXattr:
		switch {
		case exists(o.Path) && o.Kind == OpRemoveXattr:
			return Op{Kind: OpSetXattr, Path: o.Path, Name: o.Name, N: 20, Tag: 99}, true
		case len(o.Path) == 1:
			return Op{Kind: OpMkdir, Path: o.Path, Mode: 0o755}, !exists(o.Path)
		}
		return file(o.Path)
	}
	return Op{}, false
}

// Run executes the workload in the root of a filesystem that is empty but for what is in the model of it, and records it. The recording begins when
// what the workload needs is durable.
func (w Workload) Run(fs FS, m *Model, c Compare, clock func() int) (*Recording, error) {
	s := session{fs: fs}
	do := func(o Op) error {
		want := m.Do(&o)
		if _, err := s.do(&o); ErrnoOf(err) != want.Errno {
			return fmt.Errorf("%v: want %v, got %v (%w)", o, want.Errno, ErrnoOf(err), orDone(err))
		}
		return nil
	}
	for _, o := range w.Setup {
		if err := do(o); err != nil {
			return nil, err
		}
	}
	if err := fs.Sync(); err != nil {
		return nil, err
	}
	rec := NewRecording(m, c, clock)
	for _, o := range w.Ops {
		began := rec.Began()
		if err := do(o); err != nil {
			return nil, err
		}
		m.clean(&o)
		rec.Done(&o, began, m, true)
	}
	return rec, nil
}
