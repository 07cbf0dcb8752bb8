package super

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Errors of writing.
var (
	// ErrOtherWriter means that a device holds a newer superblock than was written here: someone else uses the filesystem.
	ErrOtherWriter = errors.New("another program has written to the filesystem")
	// ErrLostWrite means that a device holds an older superblock than was written to it.
	ErrLostWrite = errors.New("the device lost an earlier write")
	// ErrTooLarge means that a superblock outgrows the room that the layout of a device has for it.
	ErrTooLarge = errors.New("no room for a larger superblock")
)

// Set is the superblocks of the devices of a filesystem. Its methods are safe for concurrent use.
type Set struct {
	mu   sync.Mutex         // guards all below; held while superblocks are written
	fs   *ondisk.Superblock // what the devices have in common
	devs []*setDevice       // by index

	now func() time.Time
}

// setDevice is a device that is there.
type setDevice struct {
	dev blockdev.Device
	own *ondisk.Superblock // its layout, journal and unknown sections count
	// The sequence number of the first copy is between these, or someone else wrote it: what was last written in full, 0
	// if nothing was yet, and what was last read or at least begun to be written.
	written, seen uint64
}

// OpenSet reads the superblocks of the given devices, all of one filesystem. Members that are not given are not written to;
// it is the caller's business whether that is right, see [Set.Missing]. Those that must be left out are an error.
func OpenSet(ctx context.Context, devs []blockdev.Device, noSplitBrainCheck bool) (*Set, error) {
	if len(devs) == 0 {
		return nil, errors.New("no device given")
	}
	all := make([]Candidate, len(devs))
	best := 0
	for i, dev := range devs {
		found, err := Read(ctx, dev, 0)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dev.Name(), err)
		}
		all[i] = Candidate{dev.Name(), found.Superblock}
		if all[i].Newer(all[best]) {
			best = i
		}
	}
	newest := all[best]
	if err := newest.SB.CheckSupported(); err != nil {
		return nil, fmt.Errorf("%s: %w", newest.Name, err)
	}
	table, err := newest.SB.Members()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", newest.Name, err)
	}
	for _, c := range all {
		reason, err := c.Judge(newest, table, noSplitBrainCheck)
		if err == nil && reason != "" {
			err = fmt.Errorf("%s: %s", c.Name, reason)
		}
		if err != nil {
			return nil, err
		}
	}
	own := make([]*ondisk.Superblock, len(all))
	for i := range all {
		own[i] = all[i].SB
	}
	return NewSet(newest.SB, devs, own)
}

// NewSet makes a set of what was read already: fs is the newest superblock, own are those of the devices.
func NewSet(fs *ondisk.Superblock, devs []blockdev.Device, own []*ondisk.Superblock) (*Set, error) {
	s := &Set{fs: clone(fs), devs: make([]*setDevice, fs.NrDevices), now: time.Now}
	for i, dev := range devs {
		slot := own[i].DevIdx
		if int(slot) >= len(s.devs) {
			return nil, fmt.Errorf("%s: device index %d, there are %d devices", dev.Name(), slot, len(s.devs))
		}
		if other := s.devs[slot]; other != nil {
			return nil, fmt.Errorf("%s and %s both claim to be device %d: one is a copy of the other; give only one",
				other.dev.Name(), dev.Name(), slot)
		}
		s.devs[slot] = &setDevice{dev: dev, own: own[i], seen: own[i].Seq}
	}
	return s, nil
}

// SetClock makes superblocks that are written tell the time of a clock; without, it is the system's.
func (s *Set) SetClock(now func() time.Time) { s.now = now }

// Superblock returns what the devices have in common, as it was last written. It is the caller's.
func (s *Set) Superblock() *ondisk.Superblock {
	s.mu.Lock()
	defer s.mu.Unlock()
	return clone(s.fs)
}

// Own returns the superblock of a device that is there, nil if it is not.
func (s *Set) Own(index int) *ondisk.Superblock {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index < 0 || index >= len(s.devs) || s.devs[index] == nil {
		return nil
	}
	return clone(s.devs[index].own)
}

// Index returns which member a device is, -1 if none.
func (s *Set) Index(dev blockdev.Device) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.IndexFunc(s.devs, func(d *setDevice) bool { return d != nil && d.dev == dev })
}

// Missing returns the members that are not there.
func (s *Set) Missing() ([]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	table, err := s.fs.Members()
	if err != nil {
		return nil, err
	}
	var missing []int
	for i := range table {
		if table[i].Alive() && s.devs[i] == nil {
			missing = append(missing, i)
		}
	}
	return missing, nil
}

// WriteError says which devices could not be written.
type WriteError struct {
	Failed  map[int]error // by index
	Written []int         // indexes of those that were, in full
}

func (e *WriteError) Error() string {
	var all []string
	for i := range 256 {
		if err := e.Failed[i]; err != nil {
			all = append(all, err.Error())
		}
	}
	return "writing superblocks: " + strings.Join(all, "; ")
}

// Unwrap returns the errors of the devices.
func (e *WriteError) Unwrap() []error {
	var all []error
	for _, err := range e.Failed {
		all = append(all, err)
	}
	return all
}

// Update applies a change to what the devices have in common, and with perDevice, if it is not nil, to the sections of journals of
// each, and writes the superblocks of all devices. change may add devices to the table but not take any away.
//
// The sequence numbers, time of writing, checksum type and the older copy of the members are filled in. If change or a
// check of its outcome fails, nothing is written. If writing fails on some devices only, the error is a [*WriteError] and the
// change counts; if it fails on all, the change does not count, though some of them may hold it.
func (s *Set) Update(ctx context.Context, change func(sb *ondisk.Superblock) error,
	perDevice func(index int, own *ondisk.Superblock) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fs := clone(s.fs)
	if err := change(fs); err != nil {
		return err
	}
	if err := s.stamp(fs); err != nil {
		return err
	}
	next := make([]*ondisk.Superblock, len(s.devs))
	for i, d := range s.devs {
		if d == nil {
			continue
		}
		own := clone(d.own)
		if perDevice != nil {
			if err := perDevice(i, own); err != nil {
				return err
			}
		}
		next[i] = merge(fs, own, uint8(i))
		if err := next[i].Validate(ondisk.ValidateWrite); err != nil {
			return fmt.Errorf("%s: %w", d.dev.Name(), err)
		}
		if n, most := len(next[i].Encode()), ondisk.SectorSize<<next[i].Layout.MaxSizeBits; n > most {
			return fmt.Errorf("%s: %w: it has %d bytes, want at most %d", d.dev.Name(), ErrTooLarge, n, most)
		}
	}
	return s.write(ctx, fs, next)
}

// stamp fills in what every write changes.
func (s *Set) stamp(fs *ondisk.Superblock) error {
	if err := fs.CheckSupported(); err != nil {
		return err
	}
	if int(fs.NrDevices) < len(s.devs) {
		return fmt.Errorf("superblock: %d devices, there were %d", fs.NrDevices, len(s.devs))
	}
	fs.SetDefaultMagic()
	fs.Seq++
	fs.WriteTime = uint64(max(s.now().Unix(), 0))
	fs.SetChecksumType()
	members, err := fs.RawMembers()
	if err != nil {
		return err
	}
	for i, d := range s.devs {
		if d != nil {
			members[i].Seq = fs.Seq
		}
	}
	return fs.SetMembers(members)
}

// merge makes a device's superblock of what is common and what is its own.
func merge(fs, own *ondisk.Superblock, index uint8) *ondisk.Superblock {
	sb := clone(fs)
	sb.Layout, sb.DevIdx, sb.Offset = own.Layout, index, own.Layout.Offsets[0]
	sb.SetDefaultMagic()
	sb.Sections = slices.DeleteFunc(sb.Sections, func(x ondisk.Section) bool { return ofDevice(x.Type) })
	for _, x := range own.Sections {
		if ofDevice(x.Type) {
			sb.Sections = append(sb.Sections, ondisk.Section{Type: x.Type, Data: slices.Clone(x.Data)})
		}
	}
	return sb
}

// ofDevice reports whether sections of a type differ from device to device; of unknown ones nobody knows.
func ofDevice(t ondisk.SectionType) bool {
	return t == ondisk.SectionJournal || t == ondisk.SectionJournalV2 || t >= ondisk.NumSections
}

// write writes the superblocks, see the package's description for the order.
func (s *Set) write(ctx context.Context, fs *ondisk.Superblock, next []*ondisk.Superblock) error {
	failed := map[int]error{}
	for i, d := range s.devs {
		if d != nil {
			switch err := d.unchanged(ctx); {
			case errors.Is(err, ErrOtherWriter):
				return fmt.Errorf("%s: %w", d.dev.Name(), err)
			case err != nil:
				failed[i] = fmt.Errorf("%s: %w", d.dev.Name(), err)
			}
		}
	}
	copies := 0
	for _, sb := range next {
		if sb != nil {
			copies = max(copies, int(sb.Layout.Copies))
		}
	}
	for n := range copies {
		var wg sync.WaitGroup
		errs := make([]error, len(s.devs))
		for i, d := range s.devs {
			if d == nil || failed[i] != nil || n >= int(next[i].Layout.Copies) {
				continue
			}
			wg.Go(func() { errs[i] = writeCopy(ctx, d.dev, next[i], n) })
		}
		wg.Wait()
		for i, err := range errs {
			if err != nil {
				failed[i] = err
			}
		}
	}
	return s.adopt(fs, next, failed)
}

// adopt makes what was written the present state.
func (s *Set) adopt(fs *ondisk.Superblock, next []*ondisk.Superblock, failed map[int]error) error {
	e := &WriteError{Failed: failed}
	for i, d := range s.devs {
		if d == nil {
			continue
		}
		d.seen = fs.Seq
		if failed[i] == nil {
			d.own, d.written = next[i], fs.Seq
			e.Written = append(e.Written, i)
		}
	}
	if len(e.Written) > 0 {
		s.fs = fs
		s.devs = append(s.devs, make([]*setDevice, int(fs.NrDevices)-len(s.devs))...)
	}
	if len(failed) > 0 {
		return e
	}
	return nil
}

// unchanged checks that the first copy is still the one that was last read or written here. One that cannot be used tells
// nothing: it will be replaced.
func (d *setDevice) unchanged(ctx context.Context) error {
	sb, err := ReadAt(ctx, d.dev, d.own.Layout.Offsets[0])
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return nil
	case sb.UUID != d.own.UUID || sb.Seq > d.seen:
		return ErrOtherWriter
	case sb.Seq < d.written:
		return ErrLostWrite
	}
	return nil
}

// writeCopy writes one copy and makes it durable.
func writeCopy(ctx context.Context, dev blockdev.Device, sb *ondisk.Superblock, n int) error {
	c := *sb
	c.Offset = sb.Layout.Offsets[n]
	b, err := c.Seal()
	if err != nil {
		return fmt.Errorf("%s: %w", dev.Name(), err)
	}
	// Whole blocks, for devices that take nothing else.
	b = append(b, make([]byte, (sb.BlockBytes()-len(b)%sb.BlockBytes())%sb.BlockBytes())...)
	if err := dev.WriteAt(ctx, b, int64(c.Offset)*ondisk.SectorSize); err != nil {
		return err
	}
	return dev.Flush(ctx)
}
