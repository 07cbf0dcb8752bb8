package fstest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"time"
)

// Random does random operations on a tree of files and compares all results, error numbers among them, with a [Model]. It works in a directory of its
// own, made in the root. What the implementation lacks is left out from the first time on that it says so.
type Random struct {
	FS   FS
	Seed uint64

	Ops      int           // 0: 2000
	Duration time.Duration // after which no more are done; 0: no bound
	Names    int           // in each directory; 0: 5
	MaxSize  int64         // of a file; 0: 48 KiB
	Every    int           // operations between comparisons of the whole tree; 0: 50
	Compare  Compare
	Block    int64 // to which the ranges of clone, insert and collapse are aligned; 0: 4096
	// Without are kinds of operations to leave out.
	Without []OpKind
	// Allow says that a number is as good as the one that is expected of an operation; nil: none is.
	Allow func(o *Op, want, got Errno) bool

	// Remount, if set, ends the use of the filesystem and begins it anew. Crash, if set, does so without ending it.
	Remount, Crash func() (FS, error)
	// Keep leaves what there is in the end.
	Keep bool
	// ShrinkFor bounds the time in which a sequence that fails is made shorter; 0: 20 s, less than 0: it is not.
	ShrinkFor time.Duration
	Logf      func(format string, args ...any)
}

// randomRun is one execution of a sequence.
type randomRun struct {
	*Random
	base    FS
	name    string // of the directory
	rng     *rand.Rand
	s       session
	m       *Model
	rec     *Recording
	lacking map[lack]bool // what there is not; false: there is
	done    []Op
	failure string // what went wrong in short, to know it again
}

// lack is a kind of operation that may be lacking, with its flags or mode.
type lack struct {
	kind  OpKind
	flags uint32
}

func lackOf(o *Op) lack {
	switch o.Kind {
	case OpAllocate, OpRename:
		return lack{o.Kind, o.Flags}
	case OpMknod:
		return lack{o.Kind, o.Mode & ModeType}
	case OpSetXattr, OpGetXattr, OpRemoveXattr:
		return lack{OpSetXattr, uint32(hash([]byte(o.Name[:5])))}
	}
	return lack{kind: o.Kind}
}

// Run does what the configuration says. An error tells what differs and the shortest sequence that was found to lead there.
func (x *Random) Run() error {
	c := *x
	set(&c.Ops, 2000)
	set(&c.Names, 5)
	set(&c.MaxSize, 48<<10)
	set(&c.Every, 50)
	set(&c.Block, 4096)
	set(&c.ShrinkFor, 20*time.Second)
	if c.Logf == nil {
		c.Logf = func(string, ...any) {}
	}
	r := &randomRun{Random: &c, base: c.FS, name: fmt.Sprintf("random-%d", c.Seed), lacking: map[lack]bool{}}
	err := r.random()
	for l, is := range r.lacking {
		if is {
			c.Logf("random: without %s (%#o)", opNames[l.kind], l.flags)
		}
	}
	if err == nil {
		return nil
	}
	ops := r.done
	err = fmt.Errorf("random, seed %d, operation %d of at most %d: %w%s", c.Seed, len(ops), c.Ops, err, lines(ops, 20))
	if c.ShrinkFor < 0 {
		return err
	}
	n := 0
	base := r.base
	short := shrink(ops, c.ShrinkFor, func(ops []Op) bool {
		n++
		again := &randomRun{Random: &c, base: base, name: fmt.Sprintf("random-%d-%d", c.Seed, n), lacking: r.lacking}
		failed := again.repeat(ops) != nil
		base = again.base
		return failed && again.failure == r.failure
	})
	return fmt.Errorf("%w\nshorter, %d operations:%s", err, len(short), lines(short, 100))
}

// begin makes the directory.
func (r *randomRun) begin() error {
	r.rng = newRand(r.Seed, 2)
	if err := r.base.Mkdir(r.name, 0o755); err != nil {
		return err
	}
	if err := r.base.Chmod(r.name, 0o755); err != nil {
		return err
	}
	if err := r.base.Sync(); err != nil {
		return err
	}
	r.s.fs = Sub{r.base, r.name}
	r.m = NewModel(0o755, 0, 0)
	r.m.Block = r.Block
	r.rec = NewRecording(r.m, r.Compare, nil)
	return nil
}

// end removes what is left.
func (r *randomRun) end() error {
	r.s.closeAll()
	return RemoveAll(r.base, r.name)
}

func (r *randomRun) random() error {
	if err := r.begin(); err != nil {
		return err
	}
	start := time.Now()
	for i := 1; i <= r.Ops && (r.Duration == 0 || time.Since(start) < r.Duration); {
		op := r.choose()
		op.Tag = mix(r.Seed)>>16 + uint64(i)
		did, err := r.step(&op)
		if err == nil && did && i%r.Every == 0 {
			err = r.compare()
		}
		if err != nil {
			r.s.closeAll()
			return err
		}
		if did {
			i++
		}
	}
	if err := r.compare(); err != nil {
		return err
	}
	if r.Keep {
		r.s.closeAll()
		return nil
	}
	return r.end()
}

// repeat does given operations and compares at the end.
func (r *randomRun) repeat(ops []Op) error {
	defer r.end()
	if r.begin() != nil {
		return nil // nothing that would tell of the operations
	}
	for i := range ops {
		if _, err := r.step(&ops[i]); err != nil {
			return err
		}
	}
	return r.compare()
}

// step does an operation and compares what it returns; it reports false if the operation was not to be done.
func (r *randomRun) step(o *Op) (bool, error) {
	if o.Kind == OpRemount || o.Kind == OpCrash {
		r.done = append(r.done, *o)
		return true, r.again(o)
	}
	next := r.m.Clone()
	want := next.Do(o)
	l := lackOf(o)
	if want.Skip || r.lacking[l] || slices.Contains(r.Without, o.Kind) {
		return false, nil
	}
	began := r.rec.Began()
	text, err := r.s.do(o)
	got := ErrnoOf(err)
	if _, known := r.lacking[l]; lacking(err) && !known {
		r.lacking[l] = true
		return false, nil
	}
	r.done = append(r.done, *o)
	if got == 0 {
		r.lacking[l] = false
	}
	r.failure = fmt.Sprintf("%s: %v, not %v", opNames[o.Kind], got, want.Errno)
	if got != want.Errno && !r.allowed(o, want.Errno, got) {
		return true, fmt.Errorf("%v: want %v, got %v (%w)", o, want.Errno, got, orDone(err))
	}
	if got == 0 && text != want.Text {
		return true, fmt.Errorf("%v: want %q, got %q", o, want.Text, text)
	}
	r.failure = ""
	if got == 0 {
		next.clean(o)
	}
	r.m = next
	r.rec.Done(o, began, r.m, got == 0)
	if r.rec.Len() > 256 {
		if err := r.s.fs.Sync(); err != nil {
			return true, err
		}
		r.synced()
	}
	return true, nil
}

// synced begins a new recording, as everything so far is durable.
func (r *randomRun) synced() {
	r.m.clean(&Op{Kind: OpSync})
	r.rec = NewRecording(r.m, r.Compare, nil)
}

func orDone(err error) error {
	if err == nil {
		return Errno(0)
	}
	return err
}

// allowed reports whether an error that is not the expected one will do. Where something is read-only, it is not said which of several errors is told.
func (r *randomRun) allowed(o *Op, want, got Errno) bool {
	if want == 0 || got == 0 {
		return false
	}
	return want == EROFS && got != EIO || got == EROFS && r.m.anyReadOnly() || r.Allow != nil && r.Allow(o, want, got)
}

// anyReadOnly reports whether there is a read-only subvolume.
func (m *Model) anyReadOnly() bool {
	for _, e := range m.Tree() {
		if e.n.subvol.readOnly {
			return true
		}
	}
	return false
}

// again remounts or crashes.
func (r *randomRun) again(o *Op) (err error) {
	hook := r.Remount
	if o.Kind == OpCrash {
		hook = r.Crash
	}
	if hook == nil {
		return nil
	}
	if o.Kind == OpRemount {
		r.s.closeAll()
	}
	base, err := hook()
	if err != nil {
		return fmt.Errorf("%v: %w", o, err)
	}
	r.s = session{fs: Sub{base, r.name}} // what was open at a crash is no more
	r.base = base
	if o.Kind == OpRemount {
		r.m.afterCrash()
		r.synced()
		return r.compare()
	}
	got, err := Observe(r.s.fs)
	if err != nil {
		return fmt.Errorf("after a crash: %w", err)
	}
	m, err := r.rec.Check(1<<60, got)
	if err != nil {
		return err
	}
	r.m = m
	r.synced()
	return nil
}

// compare looks at everything, open files included.
func (r *randomRun) compare() error {
	want := r.m.Tree()
	got, err := Observe(r.s.fs)
	if err != nil {
		return err
	}
	c := r.Compare
	c.Cached = false // nothing is lost yet
	if diff := c.Diff(want, got); len(diff) > 0 {
		return fmt.Errorf("the trees differ:%s", texts(diff, 20))
	}
	want.adopt(got)
	for i, s := range r.m.slots {
		if s.n == nil {
			continue
		}
		o := Op{Kind: OpFstat, Slot: i}
		text, err := r.s.do(&o)
		if err == nil && text != s.n.text() {
			err = fmt.Errorf("want %q, got %q", s.n.text(), text)
		}
		if err != nil {
			return fmt.Errorf("%v: %w", o, err)
		}
		data, err := content(r.s.slots[i])
		if err != nil {
			return fmt.Errorf("slot %d: %w", i, err)
		}
		if at, n := firstDifference(s.n.data, data); at >= 0 {
			return fmt.Errorf("slot %d: %d bytes differ, from %#x on", i, n, at)
		}
	}
	return nil
}

// weights are how often operations of a kind are chosen.
var weights = []struct {
	kind   OpKind
	weight int
}{
	{OpOpen, 14}, {OpOpenUnlinked, 2}, {OpLinkFile, 2}, {OpClose, 6}, {OpWrite, 16}, {OpRead, 6}, {OpTruncate, 5}, {OpAllocate, 6}, {OpFsync, 3},
	{OpFdatasync, 2}, {OpClone, 4}, {OpCopy, 3}, {OpFstat, 3}, {OpCreate, 8}, {OpMkdir, 9}, {OpRmdir, 5}, {OpUnlink, 8}, {OpLink, 7}, {OpSymlink, 4},
	{OpReadlink, 2}, {OpMknod, 2}, {OpRename, 18}, {OpStat, 4}, {OpReadDir, 3}, {OpChmod, 3}, {OpChown, 3}, {OpSetTimes, 3}, {OpSetXattr, 6},
	{OpGetXattr, 3}, {OpListXattr, 2}, {OpRemoveXattr, 3}, {OpSync, 1}, {OpSubvolume, 2}, {OpSnapshot, 2}, {OpDeleteSubvolume, 1}, {OpRemount, 1},
	{OpCrash, 1},
}

// choose returns a random operation.
func (r *randomRun) choose() Op {
	total := 0
	for _, w := range weights {
		total += w.weight
	}
	n := r.rng.IntN(total)
	o := Op{}
	for _, w := range weights {
		if n -= w.weight; n < 0 {
			o.Kind = w.kind
			break
		}
	}
	rng := r.rng
	o.Slot, o.Slot2 = rng.IntN(slotCount), rng.IntN(slotCount)
	o.Path, o.Path2 = r.path(), r.path()
	o.Off, o.Off2, o.N = rng.Int64N(r.MaxSize), rng.Int64N(r.MaxSize), 1+rng.Int64N(r.MaxSize>>rng.IntN(8))
	o.Mode = uint32(rng.IntN(0o1000)) | 0o400
	switch o.Kind {
	case OpOpen:
		o.Flags = uint32(pick(rng, 0, OpenCreate, OpenCreate, OpenCreate|OpenExclusive, OpenCreate|OpenAppend, OpenTruncate, OpenReadOnly, OpenCreate|OpenSync))
	case OpWrite, OpRead, OpTruncate, OpAllocate, OpFsync, OpFdatasync:
		r.chooseFile(&o)
	case OpClone, OpCopy:
		o.Path = ""
		if o.Kind == OpClone {
			o.Off, o.Off2, o.N = o.Off/r.Block*r.Block, o.Off2/r.Block*r.Block, (o.N/r.Block+1)*r.Block
		}
	case OpLinkFile, OpClose, OpFstat:
		if o.Kind != OpLinkFile {
			o.Path = ""
		}
	case OpSymlink:
		o.Name = r.target()
	case OpMknod:
		o.Mode = o.Mode&0o777 | pick[uint32](rng, ModeFIFO, ModeChar, ModeSocket, ModeBlock)
		if t := o.Mode & ModeType; t == ModeChar || t == ModeBlock {
			o.Rdev = uint64(1+rng.IntN(200))<<8 | uint64(rng.IntN(200))
		}
	case OpRename:
		o.Flags = uint32(pick(rng, 0, 0, 0, RenameNoReplace, RenameExchange))
	case OpChmod:
		o.Mode = uint32(rng.IntN(0o10000))
	case OpChown:
		o.UID, o.GID = uint32(rng.IntN(3)), uint32(rng.IntN(70000))
	case OpSetTimes:
		o.Time = time.Unix(rng.Int64N(2_000_000_000), rng.Int64N(1_000_000_000))
	case OpSetXattr, OpGetXattr, OpRemoveXattr:
		o.Name = pick(rng, "user.a", "user.b", "user.long-name-of-an-attribute", "trusted.a", "security.a")
		o.N = int64(rng.IntN(200))
		o.Flags = uint32(pick(rng, 0, 0, XattrCreate, XattrReplace))
	case OpSnapshot:
		o.Flags = uint32(rng.IntN(3) / 2)
		o.Path2 = r.subvolume(o.Path2)
	case OpDeleteSubvolume:
		o.Path = r.subvolume(o.Path)
	}
	return o
}

// chooseFile completes an operation on a file: mostly of one that is open.
func (r *randomRun) chooseFile(o *Op) {
	if r.rng.IntN(4) > 0 {
		o.Path = ""
	}
	switch o.Kind {
	case OpWrite:
		o.N = min(o.N, r.MaxSize-o.Off)
	case OpTruncate:
		o.N = r.rng.Int64N(r.MaxSize)
	case OpAllocate:
		o.Flags = uint32(pick(r.rng, AllocExtend, AllocKeepSize, AllocPunch, AllocZero, AllocInsert, AllocCollapse, AllocZero))
		if m := AllocMode(o.Flags); m == AllocInsert || m == AllocCollapse {
			o.Off, o.N = o.Off/r.Block*r.Block, min(o.N/r.Block+1, 4)*r.Block
		}
	}
}

// pick returns one of several values.
func pick[T any](rng *rand.Rand, all ...T) T { return all[rng.IntN(len(all))] }

// subvolume returns the path of a subvolume; another if there is none.
func (r *randomRun) subvolume(other string) string {
	var all []string
	for p, e := range r.m.Tree() {
		if e.n.subvol.root == e.n && e.n != r.m.root {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		return other
	}
	slices.Sort(all)
	return all[r.rng.IntN(len(all))]
}

// path returns a path: mostly one that exists or whose directory does.
func (r *randomRun) path() string {
	dirs := []string{"."}
	var walk func(p string, n *node, depth int)
	walk = func(p string, n *node, depth int) {
		for _, name := range slices.Sorted(maps.Keys(n.names)) {
			if c := n.names[name]; c.isDir() && depth < 4 {
				dirs = append(dirs, path.Join(p, name))
				walk(path.Join(p, name), c, depth+1)
			}
		}
	}
	walk(".", r.m.root, 0)
	dir := dirs[r.rng.IntN(len(dirs))]
	switch r.rng.IntN(30) {
	case 0:
		dir = path.Join(dir, r.nameOf()) // which may be anything
	case 1:
		return "."
	}
	return path.Join(dir, r.nameOf())
}

func (r *randomRun) nameOf() string {
	n := r.rng.IntN(r.Names)
	name := string(rune('a' + n%26))
	if n >= 26 {
		name += itoa(n)
	}
	if n == 3 { // one is as long as can be
		for len(name) < 255 {
			name += "x"
		}
	}
	return name
}

// target returns what a symbolic link points to.
func (r *randomRun) target() string {
	name := r.nameOf()
	switch r.rng.IntN(4) {
	case 0:
		name = "../" + name
	case 1:
		name += "/" + r.nameOf()
	}
	return name
}
