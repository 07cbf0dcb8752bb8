package blockdev

import (
	"context"
	"errors"
	"sync"
)

// ErrPowerLost is what everything fails with after a Tearer lost its power.
var ErrPowerLost = errors.New("power lost")

// Power supplies one or more Tearers and fails for all of them at once.
type Power struct {
	mu   sync.RWMutex // held for reading while an operation runs
	left int          // writes until the cut
	keep Keep
	lost bool
}

// NewPower returns a supply that lasts for so many writes. Of the next one the
// device only carries out the sectors that keep chooses; from then on nothing
// works. To lose flushed data is not what it is for: what is written before is
// there. [Log] has the rest.
func NewPower(writes int, keep Keep) *Power {
	return &Power{left: writes, keep: keep}
}

// Lost says whether the power has failed.
func (p *Power) Lost() bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.lost
}

// Tearer is a device that loses power in the middle of a write.
type Tearer struct {
	Device
	power *Power
}

// NewTearer returns a device that works as long as its power does.
func NewTearer(d Device, power *Power) *Tearer {
	return &Tearer{Device: d, power: power}
}

func (d *Tearer) run(op Op, off, n int64, do func() error) error {
	d.power.mu.RLock()
	defer d.power.mu.RUnlock()
	if d.power.lost {
		return d.lost(op, off, n)
	}
	return do()
}

func (d *Tearer) lost(op Op, off, n int64) error {
	return &IOError{Op: op, Device: d.Name(), Offset: off, Len: n, Err: ErrPowerLost}
}

// ReadAt implements Device.
func (d *Tearer) ReadAt(ctx context.Context, p []byte, off int64) error {
	return d.run(OpRead, off, int64(len(p)), func() error { return d.Device.ReadAt(ctx, p, off) })
}

// Flush implements Device.
func (d *Tearer) Flush(ctx context.Context) error {
	return d.run(OpFlush, 0, 0, func() error { return d.Device.Flush(ctx) })
}

// Discard implements Device.
func (d *Tearer) Discard(ctx context.Context, off, n int64) error {
	return d.run(OpDiscard, off, n, func() error { return d.Device.Discard(ctx, off, n) })
}

// WriteAt implements Device. Writes go one by one, so that which one is torn
// depends on their order alone.
func (d *Tearer) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := check(ctx, d, OpWrite, off, int64(len(p))); err != nil {
		return err
	}
	d.power.mu.Lock()
	defer d.power.mu.Unlock()
	switch {
	case d.power.lost:
		return d.lost(OpWrite, off, int64(len(p)))
	case d.power.left > 0:
		d.power.left--
		return d.Device.WriteAt(ctx, p, off)
	}
	d.power.lost = true
	r := &Record{Op: OpWrite, Offset: off, Len: int64(len(p)), Data: p}
	sectors := make([]bool, r.Sectors())
	d.power.keep(r, sectors)
	if err := d.tear(ctx, r, sectors); err != nil {
		return err
	}
	return d.lost(OpWrite, off, int64(len(p)))
}

// tear writes the chosen sectors only.
func (d *Tearer) tear(ctx context.Context, r *Record, sectors []bool) error {
	base := r.Offset / SectorSize * SectorSize
	for i, kept := range sectors {
		if !kept {
			continue
		}
		from := max(base+int64(i)*SectorSize, r.Offset)
		to := min(base+int64(i+1)*SectorSize, r.Offset+r.Len)
		if err := d.Device.WriteAt(ctx, r.Data[from-r.Offset:to-r.Offset], from); err != nil {
			return err
		}
	}
	return nil
}
