package racedemo

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/schedule"
	"github.com/go-bcachefs/bcachefs/internal/six"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// Points of the tasks themselves.
const (
	pointSubmit   = "io:submit"
	pointComplete = "io:complete"
)

// demo is what all runs of an exploration share.
type demo struct {
	o       *Options
	img     *image
	explore schedule.Options
	caught  atomic.Int64
	broken  once // what went wrong, as opposed to what was found
}

func (d *demo) err() error {
	if err := d.broken.get(); err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return nil
}

// play is one run. Only the task whose turn it is uses what is not constant.
type play struct {
	*filesystem
	d      *demo
	r      *schedule.Run
	owners map[ondisk.Bucket]string // the first witness: who was given the bucket since it was free
	double *Double
	trip   error // what the tripwire said
}

// program implements [schedule.Program].
func (d *demo) program(r *schedule.Run) (*schedule.World, error) {
	img := *d.img
	img.disk = img.disk.Clone()
	p := &play{d: d, r: r, owners: map[ondisk.Bucket]string{}}
	var err error
	p.filesystem, err = mount(&img, d.o, &hooks{alloc: p.allocHook, trans: p.transHook, locks: r.Locks(), io: p.ioHook, quiet: true,
		tripped: func(err error) { p.trip = err }, freed: func(b ondisk.Bucket) { delete(p.owners, b) }})
	if err != nil {
		return nil, err
	}
	r.NameLock = p.nameLock
	w := &schedule.World{Check: p.check}
	for i := range d.o.Tasks {
		w.Tasks = append(w.Tasks, schedule.Task{Name: taskNames[i], Do: func(ctx context.Context) error { return p.work(ctx, i) }})
	}
	if d.o.Cleaner {
		w.Tasks = append(w.Tasks, schedule.Task{Name: cleanerName, Do: p.clean})
	}
	return w, nil
}

// work is what a task does that allocates.
func (p *play) work(ctx context.Context, index int) error {
	for round := range p.d.o.Rounds {
		if err := p.bucket(ctx, index, round); err != nil {
			return err
		}
	}
	if !p.d.o.Remove {
		return nil
	}
	p.r.Note(ctx, noteRemove)
	return p.remove(ctx, inodeOf(index), 0)
}

// inodeOf is the inode that a task's extents belong to.
func inodeOf(index int) uint64 { return uint64(index + 1) }

// bucket allocates a bucket, writes to it, commits and releases it.
func (p *play) bucket(ctx context.Context, index, round int) error {
	var al alloc.Allocation
	if err := p.allocate(ctx, alloc.WritePoint(index+1), false, &al); err != nil {
		return err
	}
	defer al.Done(ctx)
	b := p.bucketOf(&al)
	if owner := p.owners[b]; owner != "" {
		p.found(&Double{Bucket: uint64(b), First: owner, Second: taskNames[index]})
		p.r.Note(ctx, noteDouble)
	} else {
		p.r.Note(ctx, noteGot)
	}
	p.owners[b] = taskNames[index]
	buf := make([]byte, ondisk.SectorSize)
	copy(buf, taskNames[index])
	if err := p.data.WriteAt(ctx, buf, int64(b)*bucketSectors*ondisk.SectorSize); err != nil {
		return err
	}
	p.r.Point(ctx, pointComplete, fmt.Sprint(b))
	err := p.commit(ctx, inodeOf(index), round, &al)
	if errors.Is(err, alloc.ErrInconsistent) {
		p.trip = err
		p.found(&Double{Bucket: uint64(b), Second: taskNames[index]})
		p.r.Note(ctx, noteTripped+err.Error())
	}
	return err
}

// found notes the first bucket that a task should not have got.
func (p *play) found(d *Double) {
	if p.double == nil {
		p.double = d
	}
}

// clean is the task that makes buckets free.
func (p *play) clean(ctx context.Context) error {
	if _, err := p.alloc.Invalidate(ctx, p.alloc.DevSpace(0), 1); err != nil {
		return err
	}
	_, err := p.alloc.DiscardRound(ctx, true)
	return err
}

// check judges a run.
func (p *play) check(errs []error) error {
	defer p.abort()
	if p.double != nil && !p.d.o.protected() {
		if p.double.Caught = p.trip; p.trip != nil {
			p.d.caught.Add(1)
		}
		return p.double
	}
	err := errors.Join(append(errs, p.trip)...)
	if p.double != nil {
		err = errors.Join(p.double, err)
	}
	if err == nil {
		err = p.verify(context.Background())
	}
	if err != nil {
		p.d.broken.set(err)
	}
	return nil
}

// verify checks that what the tasks have is what the filesystem says.
func (p *play) verify(ctx context.Context) error {
	return p.View(ctx, func(tx alloc.Tx) error {
		for b, task := range p.owners {
			k, err := alloc.GetAlloc(tx, 0, b, alloc.Committed)
			if err != nil {
				return err
			}
			if k.DataType == ondisk.DataNeedDiscard && p.d.o.Remove {
				continue // its task has deleted what was there
			}
			if k.DataType != ondisk.DataUser || k.DirtyTotal() != bucketSectors {
				return fmt.Errorf("bucket %d of task %s is %v with %d sectors", b, task, k.DataType, k.DirtyTotal())
			}
			buf := make([]byte, ondisk.SectorSize)
			if err := p.disk.ReadAt(ctx, buf, int64(b)*bucketSectors*ondisk.SectorSize); err != nil {
				return err
			}
			if got := string(buf[:len(task)]); got != task {
				return fmt.Errorf("bucket %d of task %s has data of %q", b, task, got)
			}
		}
		return nil
	})
}

func (p *play) allocHook(ctx context.Context, point alloc.Point, _ uint8, b ondisk.Bucket) {
	detail := ""
	if p.r.Tracing() {
		detail = fmt.Sprint(b)
	}
	p.r.Point(ctx, string(point), detail)
}

func (p *play) transHook(tx *trans.Tx, point trans.Point, btree ondisk.BtreeID, pos ondisk.Pos) {
	if point == trans.PointBegin {
		p.r.Bind(tx.Context(), tx.Locker())
	}
	detail := ""
	if btree == ondisk.BtreeAlloc && p.r.Tracing() {
		detail = fmt.Sprint(pos.Offset)
	}
	p.r.Point(tx.Context(), string(point), detail)
}

func (p *play) ioHook(ctx context.Context, op blockdev.Op, off, _ int64) error {
	if op == blockdev.OpWrite {
		p.r.Point(ctx, pointSubmit, fmt.Sprint(off/(bucketSectors*ondisk.SectorSize)))
	}
	return nil
}

// nameLock says what a lock is for.
func (p *play) nameLock(l *six.Lock) string {
	btree, pos, slot, ok := p.store.LockPlace(l)
	switch {
	case !ok:
		return "a lock"
	case slot && btree == ondisk.BtreeAlloc:
		return fmt.Sprint(slotOfBucket, pos.Offset)
	case slot:
		return fmt.Sprintf("a slot of the %v btree", btree)
	}
	return fmt.Sprintf("a node of the %v btree", btree)
}
