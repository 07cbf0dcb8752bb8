package blockdev

import (
	"bytes"
	"context"
	"slices"
	"sync"
)

// Log records, in order, all that is written to one or more devices, so that
// every state can be rebuilt that a power cut could have left them in.
//
// Time is counted in ticks: every beginning and every end of a write, discard
// or flush is one. A cut at tick t comes after the first t of these. What had
// ended before a flush began that has ended too is then on the disk for sure;
// of the rest, any subset of sectors is. See [Log.Crash].
//
// A Log keeps all data that was ever written through it in memory.
type Log struct {
	mu      sync.Mutex
	bases   []*Memory // content when recording began, by device
	records []*Record // in the order in which they began
	ticks   int
	cursor  *replay // where the last Crash stood; nil if nowhere
}

// Record is one operation in a Log.
type Record struct {
	Device int // in the order of the calls of Log.Record
	Op     Op  // OpWrite, OpDiscard or OpFlush
	Offset int64
	Len    int64
	Data   []byte // of a write
	Begin  int    // tick at which it began
	End    int    // tick at which it ended; 0 if it has not
}

// Sectors returns how many sectors, of the 512 bytes that are written or lost as
// one, the operation touches. The first and the last may be touched in part.
func (r *Record) Sectors() int {
	if r.Len == 0 {
		return 0
	}
	return int((r.Offset+r.Len-1)/SectorSize - r.Offset/SectorSize + 1)
}

// NewLog returns an empty log.
func NewLog() *Log { return new(Log) }

// Record returns a device that passes everything on to m and logs it. What m
// holds now is where replays start from. All devices of a filesystem share a
// log, which then knows the order of writes across them.
func (l *Log) Record(m *Memory) *Recorder {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bases = append(l.bases, m.Clone())
	l.cursor = nil
	return &Recorder{Memory: m, log: l, device: len(l.bases) - 1}
}

// Ticks returns the present time. A test that has just seen a flush succeed
// may demand what it flushed of every crash from this tick on.
func (l *Log) Ticks() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ticks
}

// Records returns all operations so far, in the order in which they began.
// Their data must not be changed.
func (l *Log) Records() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Record, len(l.records))
	for i, r := range l.records {
		out[i] = *r
	}
	return out
}

func (l *Log) begin(r *Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ticks++
	r.Begin = l.ticks
	l.records = append(l.records, r)
}

func (l *Log) end(r *Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ticks++
	r.End = l.ticks
}

// Crash returns the devices as a power cut at a tick may leave them: all that
// is sure, and of the rest what keep chooses. Walking ticks upwards is cheap,
// going back starts from the beginning. The devices are the caller's.
func (l *Log) Crash(at int, keep Keep) []*Memory {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cursor == nil || l.cursor.at > at {
		l.cursor = newReplay(l.bases)
	}
	pending := l.cursor.advance(l.records, at)
	out := make([]*Memory, len(l.cursor.devices))
	for i, m := range l.cursor.devices {
		out[i] = m.Clone()
	}
	for _, r := range pending {
		sectors := make([]bool, r.Sectors())
		keep(r, sectors)
		applySectors(out[r.Device], r, sectors)
	}
	return out
}

// replay is the sure part of the state at a tick.
type replay struct {
	at      int
	devices []*Memory
	pending []*Record // begun, not sure
	next    int       // index of the first record not looked at
	flushes []*Record // begun, end not passed
}

func newReplay(bases []*Memory) *replay {
	p := new(replay)
	for _, m := range bases {
		p.devices = append(p.devices, m.Clone())
	}
	return p
}

// advance moves to a tick and returns what is pending then.
func (p *replay) advance(records []*Record, at int) []*Record {
	for ; p.next < len(records) && records[p.next].Begin <= at; p.next++ {
		if r := records[p.next]; r.Op == OpFlush {
			p.flushes = append(p.flushes, r)
		} else {
			p.pending = append(p.pending, r)
		}
	}
	p.flushes = slices.DeleteFunc(p.flushes, func(f *Record) bool {
		if f.End == 0 || f.End > at {
			return false
		}
		p.settle(f)
		return true
	})
	p.at = at
	return p.pending
}

// settle makes sure what a flush that ended covers.
func (p *replay) settle(flush *Record) {
	p.pending = slices.DeleteFunc(p.pending, func(r *Record) bool {
		if r.Device != flush.Device || r.End == 0 || r.End > flush.Begin {
			return false
		}
		apply(p.devices[r.Device], r, 0, r.Len)
		return true
	})
}

// applySectors carries out the chosen sectors of an operation.
func applySectors(m *Memory, r *Record, sectors []bool) {
	for i := 0; i < len(sectors); i++ {
		first := i
		for i < len(sectors) && sectors[i] {
			i++
		}
		if i == first {
			continue
		}
		base := r.Offset / SectorSize * SectorSize
		from := max(base+int64(first)*SectorSize, r.Offset)
		to := min(base+int64(i)*SectorSize, r.Offset+r.Len)
		apply(m, r, from-r.Offset, to-r.Offset)
	}
}

// apply carries out bytes from up to to of an operation.
func apply(m *Memory, r *Record, from, to int64) {
	// Neither can fail: the range was checked when it was recorded.
	if r.Op == OpWrite {
		m.WriteAt(context.Background(), r.Data[from:to], r.Offset+from)
	} else {
		m.Discard(context.Background(), r.Offset+from, to-from)
	}
}

// Recorder is a Memory whose changes are logged; see Log.Record.
type Recorder struct {
	*Memory
	log    *Log
	device int
}

// WriteAt implements Device.
func (d *Recorder) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := check(ctx, d, OpWrite, off, int64(len(p))); err != nil {
		return err
	}
	r := &Record{Device: d.device, Op: OpWrite, Offset: off, Len: int64(len(p)), Data: bytes.Clone(p)}
	d.log.begin(r)
	defer d.log.end(r)
	return d.Memory.WriteAt(context.WithoutCancel(ctx), p, off)
}

// Discard implements Device.
func (d *Recorder) Discard(ctx context.Context, off, n int64) error {
	if err := check(ctx, d, OpDiscard, off, n); err != nil {
		return err
	}
	r := &Record{Device: d.device, Op: OpDiscard, Offset: off, Len: n}
	d.log.begin(r)
	defer d.log.end(r)
	return d.Memory.Discard(context.WithoutCancel(ctx), off, n)
}

// Flush implements Device.
func (d *Recorder) Flush(ctx context.Context) error {
	if err := check(ctx, d, OpFlush, 0, 0); err != nil {
		return err
	}
	r := &Record{Device: d.device, Op: OpFlush}
	d.log.begin(r)
	defer d.log.end(r)
	return nil
}
