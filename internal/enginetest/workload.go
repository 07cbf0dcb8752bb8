package enginetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Work says what [Volume.Run] does. The zero value does nothing.
type Work struct {
	Seed       uint64
	Goroutines int // 0: 1
	Ops        int // of each goroutine
	// SyncEvery is after how many operations on average one is made durable at once; 0: never.
	SyncEvery int
	// MaxBlocks bounds the blocks of one write; 0: 40.
	MaxBlocks int
	// Shrink prefers what makes room, Grow what takes it.
	Shrink, Grow bool
	// Full ends the work without error when there is no space left; else that is an error.
	Full bool
	// Verify also reads what is there and compares it.
	Verify bool
	// At are called once that many operations were done.
	At map[int64]func()
}

// Done counts what a workload did.
type Done struct {
	Ops, Refused, Syncs, Verified int64
	Full                          bool        // ended for want of space
	AtFull                        alloc.Usage // the space that there was then
}

// Run does random operations. Goroutines work on the same files and directories; what one makes impossible for the other is refused by the
// transaction, and counted. An error is one of the filesystem, and tells the seed.
func (v *Volume) Run(ctx context.Context, w Work) (Done, error) {
	var refused, syncs, verified, ops atomic.Int64
	var full atomic.Bool
	var atFull alloc.Usage
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for g := range max(1, w.Goroutines) {
		wg.Go(func() {
			p := worker{v: v, w: &w, id: g, rnd: rand.New(rand.NewPCG(w.Seed, uint64(g)))}
			for i := range w.Ops {
				if ctx.Err() != nil || full.Load() {
					return
				}
				name, seq, err := p.step(ctx)
				switch {
				case errors.Is(err, ErrGone), errors.Is(err, ErrExists), errors.Is(err, ErrNotEmpty):
					refused.Add(1)
				case w.Full && errors.Is(err, alloc.ErrNoSpace):
					if full.CompareAndSwap(false, true) {
						atFull = v.RW.Space.Usage()
					}
					return
				case err != nil:
					cancel(fmt.Errorf("seed %d, goroutine %d, step %d: %s: %w", w.Seed, g, i, name, err))
					return
				}
				if at := w.At[ops.Add(1)]; at != nil {
					at()
				}
				if name == "verify" {
					verified.Add(1)
				}
				if err == nil && seq != 0 && w.SyncEvery > 0 && p.rnd.IntN(w.SyncEvery) == 0 {
					if err := v.Sync(ctx, seq); err != nil {
						cancel(fmt.Errorf("seed %d, goroutine %d, step %d: sync after %s: %w", w.Seed, g, i, name, err))
						return
					}
					syncs.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return Done{Ops: ops.Load(), Refused: refused.Load(), Syncs: syncs.Load(), Verified: verified.Load(), Full: full.Load(), AtFull: atFull}, context.Cause(ctx)
}

// worker is one goroutine of a workload.
type worker struct {
	v   *Volume
	w   *Work
	id  int
	rnd *rand.Rand
}

// target is what an operation is to work on, as the model knows it.
type target struct {
	inum    uint64
	name    string // one of the entries of a directory
	entries int
	child   uint64 // that name's inode
	childIs bool   // it is a directory
	blocks  uint64
	xattrs  []string
}

// pick chooses a file or directory; ok is false if there is none.
func (p *worker) pick(dirs bool) (t target, ok bool) {
	h := p.v.History
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.live.files
	if dirs {
		list = h.live.dirs
	}
	if len(list) == 0 {
		return t, false
	}
	t.inum = list[p.rnd.IntN(len(list))]
	in := h.live.inodes[t.inum]
	t.blocks = (in.size + p.v.blockB - 1) / p.v.blockB
	t.entries = len(in.entries)
	// In an order that does not depend on that of maps, so that a seed tells what one goroutine does.
	if n := len(in.entries); n > 0 {
		names := make([]string, 0, n)
		for name := range in.entries {
			names = append(names, name)
		}
		slices.Sort(names)
		t.name = names[p.rnd.IntN(n)]
		t.child = in.entries[t.name]
		t.childIs = h.live.inodes[t.child].isDir
	}
	for name := range in.xattrs {
		t.xattrs = append(t.xattrs, name)
	}
	slices.Sort(t.xattrs)
	return t, true
}

func (p *worker) name() string {
	n := p.rnd.IntN(400)
	s := fmt.Sprintf("name-%d", n)
	if n%17 == 0 {
		s += strings.Repeat("-long", 1+n%40)
	}
	return s
}

// action is one kind of operation and how often it is chosen: in ordinary work, in work that makes room, and in work that takes it.
type action struct {
	name                 string
	weight, shrink, grow int
	do                   func(p *worker, ctx context.Context) (seq uint64, err error)
}

var actions = []action{
	{"create", 18, 3, 4, func(p *worker, ctx context.Context) (uint64, error) { return p.create(ctx, false) }},
	{"mkdir", 5, 1, 1, func(p *worker, ctx context.Context) (uint64, error) { return p.create(ctx, true) }},
	{"link", 3, 0, 0, (*worker).link},
	{"rename", 5, 2, 1, (*worker).rename},
	{"unlink", 9, 50, 1, (*worker).unlink},
	{"write", 30, 0, 60, (*worker).write},
	{"punch", 6, 8, 0, (*worker).punch},
	{"truncate", 4, 8, 0, (*worker).truncate},
	{"setxattr", 9, 2, 6, (*worker).setXattr},
	{"removexattr", 3, 4, 0, (*worker).removeXattr},
	{"verify", 8, 8, 4, (*worker).verify},
}

func (p *worker) step(ctx context.Context) (name string, seq uint64, err error) {
	sum := 0
	weight := func(a *action) int {
		switch {
		case a.name == "verify" && !p.w.Verify:
			return 0
		case p.w.Shrink:
			return a.shrink
		case p.w.Grow:
			return a.grow
		}
		return a.weight
	}
	for i := range actions {
		sum += weight(&actions[i])
	}
	n := p.rnd.IntN(sum)
	for i := range actions {
		if n -= weight(&actions[i]); n < 0 {
			seq, err = actions[i].do(p, ctx)
			return actions[i].name, seq, err
		}
	}
	panic("unreachable")
}

func (p *worker) create(ctx context.Context, isDir bool) (seq uint64, err error) {
	t, _ := p.pick(true)
	_, seq, err = p.v.Create(ctx, t.inum, p.name(), isDir, p.rnd.Uint64())
	return seq, err
}

func (p *worker) link(ctx context.Context) (seq uint64, err error) {
	file, ok := p.pick(false)
	dir, _ := p.pick(true)
	if !ok {
		return 0, ErrGone
	}
	return p.v.Link(ctx, file.inum, dir.inum, p.name())
}

func (p *worker) rename(ctx context.Context) (seq uint64, err error) {
	from, _ := p.pick(true)
	to, _ := p.pick(true)
	if from.entries == 0 || from.childIs {
		return 0, ErrGone
	}
	return p.v.Rename(ctx, from.inum, from.name, to.inum, p.name())
}

func (p *worker) unlink(ctx context.Context) (seq uint64, err error) {
	dir, _ := p.pick(true)
	if dir.entries == 0 || dir.name == "lost+found" {
		return 0, ErrGone
	}
	return p.v.Unlink(ctx, dir.inum, dir.name)
}

func (p *worker) write(ctx context.Context) (seq uint64, err error) {
	t, ok := p.pick(false)
	if !ok {
		return p.create(ctx, false)
	}
	most := p.w.MaxBlocks
	if most == 0 {
		most = 40
	}
	o := WriteOptions{WritePoint: alloc.WritePoint(p.rnd.IntN(4)), Tail: p.rnd.Uint64N(2) * p.rnd.Uint64N(p.v.blockB)}
	o.Checksum = [...]checksum.Type{checksum.None, checksum.CRC32C, checksum.CRC32C, checksum.CRC64}[p.rnd.IntN(4)]
	if p.v.replicas > 1 && p.rnd.IntN(4) == 0 {
		o.Replicas = 1 + p.rnd.IntN(p.v.replicas)
	}
	return p.v.Write(ctx, t.inum, p.rnd.Uint64N(t.blocks+4), 1+uint64(p.rnd.IntN(most)), o)
}

func (p *worker) punch(ctx context.Context) (seq uint64, err error) {
	t, ok := p.pick(false)
	if !ok {
		return 0, ErrGone
	}
	return p.v.Punch(ctx, t.inum, p.rnd.Uint64N(t.blocks+1), 1+p.rnd.Uint64N(20))
}

func (p *worker) truncate(ctx context.Context) (seq uint64, err error) {
	t, ok := p.pick(false)
	if !ok {
		return 0, ErrGone
	}
	return p.v.Truncate(ctx, t.inum, p.rnd.Uint64N((t.blocks+2)*p.v.blockB))
}

func (p *worker) setXattr(ctx context.Context) (seq uint64, err error) {
	t, ok := p.pick(p.rnd.IntN(4) == 0)
	if !ok {
		return 0, ErrGone
	}
	if t.inum == ondisk.RootInum || t.inum == ondisk.RootInum+1 {
		return 0, ErrGone
	}
	return p.v.SetXattr(ctx, t.inum, fmt.Sprintf("attribute-%d", p.rnd.IntN(12)), strings.Repeat("v", p.rnd.IntN(60))+fmt.Sprint(p.rnd.Uint64()))
}

func (p *worker) removeXattr(ctx context.Context) (seq uint64, err error) {
	t, ok := p.pick(p.rnd.IntN(4) == 0)
	if !ok || len(t.xattrs) == 0 {
		return 0, ErrGone
	}
	name := t.xattrs[p.rnd.IntN(len(t.xattrs))]
	return p.v.RemoveXattr(ctx, t.inum, strings.TrimPrefix(name, "user."))
}
