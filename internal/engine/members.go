package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/super"
)

// Errors of opening.
var (
	// ErrNotMember means that a device belongs to another filesystem than the others given.
	ErrNotMember = super.ErrNotMember
	// ErrDegraded means that data or metadata would be absent for the lack of a device.
	ErrDegraded = errors.New("devices are missing")
)

func (f *found) candidate() super.Candidate {
	return super.Candidate{Name: f.path, SB: f.sb.Superblock}
}

// newest returns the superblock that was written last.
func newest(all []*found) *found {
	best := all[0]
	for _, f := range all[1:] {
		if f.candidate().Newer(best.candidate()) {
			best = f
		}
	}
	return best
}

// choose sorts the devices into members of the filesystem of the newest superblock and such that are left out, with the reason.
func choose(all []*found, best *found, noSplitBrainCheck bool) (members []*found, ignored map[*found]string, err error) {
	table, err := best.sb.Members()
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", best.path, err)
	}
	ignored = map[*found]string{}
	bySlot := map[uint8]*found{}
	for _, f := range all {
		reason, err := f.candidate().Judge(best.candidate(), table, noSplitBrainCheck)
		if err != nil {
			return nil, nil, err
		}
		slot := f.sb.DevIdx
		switch other := bySlot[slot]; {
		case reason != "":
			ignored[f] = reason
		case other != nil && samePath(other.path, f.path):
			ignored[f] = "given twice"
		case other != nil && !f.given: // those given come first
			ignored[f] = fmt.Sprintf("it claims to be device %d, as %s does", slot, other.path)
		case other != nil:
			return nil, nil, fmt.Errorf("%s and %s both claim to be device %d: one is a copy of the other; give only one",
				other.path, f.path, slot)
		default:
			bySlot[slot] = f
			members = append(members, f)
		}
	}
	return members, ignored, nil
}

// addMembers fills in the slots of the member table, with the devices that are there.
func (fs *FS) addMembers(members []*found) error {
	table, err := fs.SB.Members()
	if err != nil {
		return err
	}
	for i := range table {
		if !table[i].Alive() {
			continue
		}
		m := &Member{Index: uint8(i), Member: table[i], Label: fs.SB.MemberLabel(i)}
		fs.byIndex[i] = m
		fs.Members = append(fs.Members, m)
	}
	for _, f := range members {
		m := fs.byIndex[f.sb.DevIdx]
		if m == nil {
			continue
		}
		m.Path, m.Device, m.SB = f.path, f.dev, f.sb.Superblock
		need := int64(m.NBuckets) * int64(m.BucketSize) * ondisk.SectorSize
		if need > f.dev.Size() {
			fs.message("%s: %d bytes, but the filesystem on it needs %d: what is behind its end cannot be read", f.path,
				f.dev.Size(), need)
		}
	}
	return nil
}

// loss is what a set of missing devices costs.
type loss struct {
	metadata, data bool // something cannot be read at all
	unknown        bool // the table that would tell cannot be read
	degraded       bool // something has fewer copies than it should
	examples       []string
}

func (l *loss) any() bool { return l.metadata || l.data || l.unknown }

// String names what cannot be read.
func (l *loss) String() string {
	var s []string
	if len(l.examples) > 0 {
		s = append(s, strings.Join(l.examples, ", ")+" cannot be read")
	}
	if l.unknown {
		s = append(s, "the table of where data is cannot be read, so that what else is lost is not known")
	}
	return strings.Join(s, ", and ")
}

// weigh looks at one entry of the replicas tables: data of a type on devs, of which required must be there.
func (fs *FS) weigh(l *loss, t ondisk.DataType, devs []uint8, required int) {
	if t == ondisk.DataCached {
		return
	}
	online, gone := 0, 0
	for _, d := range devs {
		switch m := fs.byIndex[d]; {
		case m == nil:
			gone++
		case m.Device != nil:
			online++
		}
	}
	switch {
	case online+gone == len(devs):
		return
	case online < required: // 0: a stripe has the data too
		if t < ondisk.DataUser {
			l.metadata = true
		} else {
			l.data = true
		}
		const maxExamples = 8
		if len(l.examples) < maxExamples {
			l.examples = append(l.examples, fmt.Sprintf("%v on %s", t, deviceList(devs)))
		}
	default:
		l.degraded = true
	}
}

func deviceList(devs []uint8) string {
	s := make([]string, len(devs))
	for i, d := range devs {
		s[i] = fmt.Sprint(d)
	}
	if len(s) == 1 {
		return "device " + s[0]
	}
	return "devices " + strings.Join(s, ", ")
}

// checkMissing decides, from the superblock, whether the filesystem may be opened with the members that are there.
func (fs *FS) checkMissing() error {
	missing := fs.Missing()
	if len(missing) == 0 {
		return nil
	}
	replicas, err := fs.SB.Replicas()
	var l loss
	if err != nil {
		fs.message("superblock: %v", err)
		l.unknown = true
	}
	for _, r := range replicas {
		fs.weigh(&l, r.DataType, r.Devs, int(r.Required))
	}
	return fs.report(missing, &l, !fs.dataInAccounting())
}

// dataInAccounting: from then on the superblock does not list where user data is.
func (fs *FS) dataInAccounting() bool { return fs.SB.VersionIncompat() >= 1<<10|36 }

// report turns a loss into messages, or into the error to refuse with. With all false, nothing is known yet of user data.
func (fs *FS) report(missing []*Member, l *loss, all bool) error {
	names := make([]string, len(missing))
	for i, m := range missing {
		names[i] = m.Name()
	}
	list := strings.Join(names, ", ")
	what := "is"
	if len(names) > 1 {
		what = "are"
	}
	switch {
	case l.any() && !fs.opts.VeryDegraded:
		return fmt.Errorf("%w: %s %s not there: %s; give the missing devices, or ask for very_degraded to read the rest",
			ErrDegraded, list, what, l)
	case l.any():
		fs.message("%s %s missing: %s", list, what, l)
	case l.degraded && !all:
		fs.message("%s %s missing: all metadata can be read, but some of it has fewer copies than it should", list, what)
	case l.degraded:
		fs.message("%s %s missing: everything can be read, but some of it has fewer copies than it should", list, what)
	case all:
		fs.message("%s %s missing: nothing is on it that is not elsewhere too", list, what)
	default:
		fs.message("%s %s missing: all metadata can be read", list, what)
	}
	return nil
}

// checkAccounting is checkMissing for filesystems that keep the table of where data is in the accounting btree.
func (fs *FS) checkAccounting(ctx context.Context) error {
	missing := fs.Missing()
	if len(missing) == 0 || !fs.dataInAccounting() {
		return nil
	}
	var l loss
	for k, err := range fs.Reader.Keys(ctx, ondisk.BtreeAccounting, ondisk.PosMin, ondisk.SPosMax) {
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			fs.message("where data is: %v", err)
			l.unknown = true
			continue
		}
		if k.Type != ondisk.KeyAccounting || allZero(k.Val) {
			continue
		}
		if a, ok := ondisk.DecodeAccountingPos(k.Pos, fs.SB.Version); ok && a.Type == ondisk.AccountingReplicas {
			fs.weigh(&l, a.DataType, a.DevList(), int(a.NrRequired))
		}
	}
	return fs.report(missing, &l, true)
}

func allZero(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 })
}
