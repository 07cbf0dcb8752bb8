package alloc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// TestChoice runs the scripts in testdata: which devices a request gets.
//
//	groups              one label a line, NAME or PARENT/NAME; resets everything
//	devices             one a line: buckets=N size=SECTORS label=NAME durability=N allowed=TYPE,… state=STATE
//	alloc               KEY=VALUE…: sectors min type target (a label, or dev:N) only replicas required have watermark point times keep
//	counts              sums up a run of times=N by device
//	state dev=N STATE
//	commit              makes what was got since the last commit an extent, and closes it
//
// Each allocation prints its pointers as device:sector, * behind cached ones.
func TestChoice(t *testing.T) {
	datadriven.Walk(t, "testdata/choice", func(t *testing.T, path string) {
		s := &choiceScript{t: t}
		datadriven.RunTest(t, path, s.run)
	})
}

type choiceScript struct {
	t      *testing.T
	labels []string
	groups []ondisk.DiskGroup
	a      *Allocator
	e      *testEngine
	open   []*Allocation
	end    uint64
}

func (s *choiceScript) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "groups":
		s.labels, s.groups = nil, nil
		for line := range strings.Lines(d.Input) {
			line = strings.TrimSpace(line)
			parent := -1
			if i := strings.LastIndex(line, "/"); i >= 0 {
				parent = s.label(d, line[:i])
			}
			s.labels = append(s.labels, line)
			s.groups = append(s.groups, ondisk.DiskGroup{Name: line, Parent: parent})
		}
	case "devices":
		s.devices(t, d)
	case "drop-label":
		s.groups[s.label(d, d.CmdArgs[0].Key)].Deleted = true
		s.a.SetDiskGroups(s.groups)
	case "state":
		for _, arg := range d.CmdArgs[1:] {
			s.a.SetMemberState(uint8(number(d, d.CmdArgs[0].Vals[0])), s.state(d, arg.Key))
		}
	case "alloc":
		return s.alloc(d)
	case "commit":
		for _, al := range s.open {
			s.end += uint64(al.Sectors)
			if err := s.e.commit(t.Context(), 1, s.end, al); err != nil {
				d.Fatalf(t, "%v", err)
			}
			al.Done(t.Context())
		}
		s.open = nil
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	return ""
}

func number(d *datadriven.TestData, s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", d.Pos, err))
	}
	return n
}

func (s *choiceScript) label(d *datadriven.TestData, name string) int {
	for i, l := range s.labels {
		if l == name {
			return i
		}
	}
	d.Fatalf(s.t, "no label %q", name)
	return 0
}

func (s *choiceScript) state(d *datadriven.TestData, name string) ondisk.MemberState {
	for st := ondisk.MemberRW; st <= ondisk.MemberSpare; st++ {
		if st.String() == name {
			return st
		}
	}
	d.Fatalf(s.t, "no state %q", name)
	return 0
}

var choiceTypes = map[string]ondisk.DataType{"user": ondisk.DataUser, "btree": ondisk.DataBtree, "journal": ondisk.DataJournal}

func (s *choiceScript) devices(t *testing.T, d *datadriven.TestData) {
	var devs []testDevice
	states := map[int]ondisk.MemberState{}
	for line := range strings.Lines(d.Input) {
		td := testDevice{buckets: 256, size: 64}
		for f := range strings.FieldsSeq(line) {
			k, v, _ := strings.Cut(f, "=")
			switch k {
			case "buckets":
				td.buckets = number(d, v)
			case "size":
				td.size = uint16(number(d, v))
			case "label":
				td.group = s.label(d, v) + 1
			case "durability":
				td.durability = int(number(d, v)) + 1
			case "allowed":
				for typ := range strings.SplitSeq(v, ",") {
					td.flags |= 1 << choiceTypes[typ] << 15
				}
			case "state":
				states[len(devs)] = s.state(d, v)
			default:
				d.Fatalf(t, "device with %q", f)
			}
		}
		devs = append(devs, td)
	}
	s.a, s.e = newTestAllocator(t, testConfig{devs: devs, cfg: Config{BlockSectors: 8}})
	s.a.SetDiskGroups(s.groups)
	for i, st := range states {
		s.a.SetMemberState(uint8(i), st)
	}
	s.open, s.end = nil, 0
}

func (s *choiceScript) alloc(d *datadriven.TestData) string {
	req := Request{Sectors: 64, DataType: ondisk.DataUser, Replicas: 1, Watermark: WatermarkNormal, WritePoint: 1}
	times, counts, keep := 1, false, true
	for _, arg := range d.CmdArgs {
		v := ""
		if len(arg.Vals) > 0 {
			v = arg.Vals[0]
		}
		switch arg.Key {
		case "sectors":
			req.Sectors = uint32(number(d, v))
		case "min":
			req.Min = uint32(number(d, v))
		case "type":
			req.DataType = choiceTypes[v]
		case "target":
			if dev, ok := strings.CutPrefix(v, "dev:"); ok {
				req.Target = TargetDevice(uint8(number(d, dev)))
			} else {
				req.Target = TargetGroup(s.label(d, v))
			}
		case "only":
			req.OnlySpecified = true
		case "replicas":
			req.Replicas = int(number(d, v))
		case "required":
			req.Required = int(number(d, v))
		case "have":
			for _, dev := range arg.Vals {
				req.Have.Add(uint8(number(d, dev)))
			}
		case "watermark":
			for w := WatermarkStripe; w <= WatermarkInteriorUpdates; w++ {
				if w.String() == v {
					req.Watermark = w
				}
			}
		case "cached":
			req.Cached = true
		case "point":
			req.WritePoint = WritePoint(number(d, v))
		case "times":
			times = int(number(d, v))
		case "counts":
			counts = true
		case "done":
			keep = false
		default:
			d.Fatalf(s.t, "request with %s", arg.Key)
		}
	}
	var b strings.Builder
	var perDev [8]int
	for range times {
		al := new(Allocation)
		err := s.a.AllocSectors(s.t.Context(), &req, al)
		switch {
		case errors.Is(err, ErrNoSpace):
			b.WriteString("no space\n")
			continue
		case err != nil:
			fmt.Fprintf(&b, "%v\n", err)
			continue
		}
		if !counts {
			for _, p := range al.Ptrs() {
				fmt.Fprintf(&b, "%d:%d", p.Dev, p.Offset)
				if p.Cached {
					b.WriteByte('*')
				}
				b.WriteByte(' ')
			}
			fmt.Fprintf(&b, "sectors %d durability %d\n", al.Sectors, al.Durability)
		}
		for _, p := range al.Ptrs() {
			perDev[p.Dev]++
		}
		if keep {
			s.open = append(s.open, al)
		} else {
			al.Done(s.t.Context())
		}
	}
	if counts {
		for i, n := range perDev {
			if n > 0 {
				fmt.Fprintf(&b, "%d: %d\n", i, n)
			}
		}
	}
	return b.String()
}
