package ondisk

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// section prints what a section holds.
func (p *sbPrinter) section(s *Section) {
	sb := p.sb
	switch s.Type {
	case SectionJournal:
		p.journal(s.Data)
	case SectionJournalV2:
		p.journalV2(s.Data)
	case SectionMembersV1, SectionMembersV2:
		p.members(s)
	case SectionCrypt:
		c, err := sb.Crypt()
		if c != nil {
			p.text("KFD:               %d", c.KDF.Type)
			p.text("scrypt n:          %d", c.KDF.LogN)
			p.text("scrypt r:          %d", c.KDF.LogR)
			p.text("scrypt p:          %d", c.KDF.LogP)
		}
		p.problem(err)
	case SectionReplicasV0, SectionReplicas:
		p.replicas(s)
	case SectionQuota:
		p.quota()
	case SectionDiskGroups:
		p.diskGroups()
	case SectionClean:
		p.clean()
	case SectionJournalSeqBlacklist:
		p.blacklist()
	case SectionCounters:
		for i, n := range sb.Counters() {
			p.row(CounterID(i).Name(sb.Version)+" ", fmt.Sprint(n))
		}
	case SectionErrors, SectionErrorsV2:
		p.errors(s)
	case SectionExt:
		p.ext()
	case SectionDowngrade:
		p.downgrade()
	case SectionRecoveryPasses:
		p.recoveryPasses()
	case SectionExtentTypeU64s:
		for i, n := range sb.ExtentTypeU64s() {
			p.row(ExtentEntryType(i).String()+":", fmt.Sprint(n))
		}
	}
}

func (p *sbPrinter) journal(b []byte) {
	line := "Buckets: "
	for ; len(b) >= 8; b = b[8:] {
		line += fmt.Sprintf(" %d", binary.LittleEndian.Uint64(b))
	}
	p.text("%s", line)
}

func (p *sbPrinter) journalV2(b []byte) {
	line := "Buckets: "
	for ; len(b) >= 16; b = b[16:] {
		start := binary.LittleEndian.Uint64(b)
		line += fmt.Sprintf(" %d-%d", start, start+binary.LittleEndian.Uint64(b[8:]))
	}
	p.text("%s", line)
}

// dataTypes lists the data types of a set, separated by commas.
func dataTypes(set uint64) string {
	var names []string
	for t := range NumDataTypes {
		if set>>t&1 != 0 {
			names = append(names, t.String())
		}
	}
	if names == nil {
		return "(none)"
	}
	return strings.Join(names, ",")
}

// dataOn is the set of types of data on a device, by the replicas table.
func (sb *Superblock) dataOn(dev int) (set uint64) {
	all, _ := sb.Replicas()
	for _, r := range all {
		if slices.Contains(r.Devs, uint8(dev)) {
			set |= 1 << r.DataType
		}
	}
	return set
}

func (p *sbPrinter) members(s *Section) {
	recs, err := p.sb.sectionMembers(s)
	for i, rec := range recs {
		if m := decodeMember(rec); m.Alive() {
			p.indent = 0
			p.field("Device:", "%s", p.deviceTitle(i))
			p.indent = 2
			p.member(i, &m, len(rec))
		}
	}
	p.indent = 0
	p.problem(err)
}

func (p *sbPrinter) deviceTitle(i int) string {
	if p.o.DeviceName != nil {
		if name := p.o.DeviceName(i); name != "" {
			return fmt.Sprintf("%d (%s)", i, printable(name))
		}
	}
	return fmt.Sprint(i)
}

// member prints a device's record of so many bytes. What newer versions added is printed if the record has it.
func (p *sbPrinter) member(i int, m *Member, size int) {
	label := "(none)"
	if g, ok := m.Group(); ok {
		if label = printable(p.sb.GroupPath(g)); label == "" {
			label = fmt.Sprintf("invalid label %d", g)
		}
		label += fmt.Sprintf(" (%d)", g)
	}
	p.field("Label:", "%s", label)
	if m.FailureDomain != "" {
		p.field("Failure domain:", "%s", printable(m.FailureDomain))
	}
	p.field("UUID:", "%v", m.UUID)
	p.field("Size:", "%s", sizeText(m.NBuckets*uint64(m.BucketSize)*SectorSize))
	for i, what := range [...]string{"read", "write", "checksum"} {
		p.field(what+" errors:", "%d", m.Errors[i])
	}
	for i, what := range [...]string{"seqread", "seqwrite", "randread", "randwrite"} {
		p.field(what+" iops:", "%d", m.IOPS[i])
	}
	p.field("Bucket size:", "%s", sizeText(uint64(m.BucketSize)*SectorSize))
	p.field("First bucket:", "%d", m.FirstBucket)
	p.field("Buckets:", "%d", m.NBuckets)
	p.field("Last mount:", "%s", p.dateOr(m.LastMount, "(never)"))
	p.field("Last superblock write:", "%d", m.Seq)
	p.field("State:", "%s", m.State().Name(p.sb.Version))
	p.field("Data allowed:", "%s", dataTypes(m.DataAllowed()))
	p.field("Has data:", "%s", dataTypes(p.sb.dataOn(i)))
	if is, known := m.Rotational(); known {
		p.field("Rotational:", "%d", zeroOne(is))
	}
	if m.BtreeBitmapShift < 64 {
		p.field("Btree allocated bitmap blocksize:", "%s", sizeText(1<<m.BtreeBitmapShift))
	} else {
		p.field("Btree allocated bitmap blocksize:", "(invalid shift %d)", m.BtreeBitmapShift)
	}
	p.field("Btree allocated bitmap:", "%064b", m.BtreeBitmap)
	p.field("Durability:", "%d", m.Durability())
	p.field("Discard:", "%d", zeroOne(m.Discard()))
	p.field("Freespace initialized:", "%d", zeroOne(m.FreespaceInitialized()))
	if size > memberNamesAt {
		p.field("Resize on mount:", "%d", zeroOne(m.ResizeOnMount()))
		p.field("Last device name:", "%s", printable(m.DeviceName))
		p.field("Last device model:", "%s", printable(m.DeviceModel))
		p.field("Last device serial:", "%s", printable(m.DeviceSerial))
	}
	if m.FlushErrors != 0 {
		p.field("Flush errors:", "%d", m.FlushErrors)
	}
}

// memberNamesAt is where the names of the device start in a record, which records before 1.32 end at.
const memberNamesAt = 144

func zeroOne(b bool) int {
	if b {
		return 1
	}
	return 0
}

// replicas prints entries on one line: what is on which devices.
func (p *sbPrinter) replicas(s *Section) {
	all, err := decodeReplicas(s.Data, s.Type == SectionReplicasV0)
	texts := make([]string, len(all))
	for i, r := range all {
		if texts[i] = r.String(); s.Type == SectionReplicasV0 {
			texts[i] = fmt.Sprintf("%v: %d [%s]", r.DataType, len(r.Devs), r.devices())
		}
	}
	p.text("%s", strings.Join(texts, " "))
	p.problem(err)
}

func (p *sbPrinter) quota() {
	all, err := p.sb.Quota()
	for i, q := range all {
		line := fmt.Sprintf("%s: flags %x", [...]string{"user", "group", "project"}[i], q.Flags)
		for c, what := range [...]string{"space", "inodes"} {
			line += fmt.Sprintf(" %s timelimit %d warnlimit %d", what, q.TimeLimits[c], q.WarnLimits[c])
		}
		p.text("%s", line)
	}
	p.problem(err)
}

func (p *sbPrinter) diskGroups() {
	groups, err := p.sb.DiskGroups()
	texts := make([]string, len(groups))
	for i, g := range groups {
		if texts[i] = "[deleted]"; !g.Deleted {
			texts[i] = fmt.Sprintf("[parent %d name %s]", g.Parent+1, printable(g.Name))
		}
	}
	p.text("%s", strings.Join(texts, " "))
	p.problem(err)
}

func (p *sbPrinter) clean() {
	c, err := p.sb.Clean()
	if c == nil {
		p.problem(err)
		return
	}
	p.text("flags:          %x", c.Flags)
	p.text("journal_seq:    %d", c.JournalSeq)
	env := TextEnv{Version: p.sb.Version, ExtentTypeU64s: p.sb.ExtentTypeU64s()}
	for i := range c.Entries {
		if c.Entries[i].IsEmpty() {
			continue
		}
		p.b = c.Entries[i].AppendText(p.b, func(dst []byte, id BtreeID, _ uint8, k *Key) []byte {
			return AppendKeyText(dst, id, k, &env)
		})
		p.newline()
	}
	p.problem(err)
}

func (p *sbPrinter) blacklist() {
	ranges, err := p.sb.Blacklist()
	texts := make([]string, len(ranges))
	for i, r := range ranges {
		texts[i] = fmt.Sprintf("%d-%d", r.Start, r.End)
	}
	p.text("%s", strings.Join(texts, " "))
	p.problem(err)
}

// errors prints how often each error was met, those met last at the end.
func (p *sbPrinter) errors(s *Section) {
	counts := decodeErrors(s.Data, s.Type == SectionErrorsV2)
	slices.SortStableFunc(counts, func(a, b FsckErrorCount) int {
		switch {
		case a.Last < b.Last:
			return -1
		case a.Last > b.Last:
			return 1
		}
		return 0
	})
	for _, e := range counts {
		if s.Type == SectionErrors {
			p.row(ErrorID(e.ID).String(), fmt.Sprint(e.Count), p.date(e.Last))
		} else {
			p.row(ErrorID(e.ID).String(), fmt.Sprint(e.Count), p.date(e.First), "", p.date(e.Last))
		}
	}
}

func (p *sbPrinter) ext() {
	e, err := p.sb.Ext()
	if e == nil {
		p.problem(err)
		return
	}
	p.field("Recovery passes required:", "%s", PassSet(e.PassesRequired).Text(p.sb.Version))
	var silent []string
	for i, w := range e.ErrorsSilent {
		for bit := range 64 {
			if w>>bit&1 != 0 {
				silent = append(silent, ErrorID(64*i+bit).String())
			}
		}
	}
	p.field("Errors to silently fix:", "%s", strings.Join(silent, ","))
	p.field("Btrees with missing data:", "%s", btreeSet(e.BtreesLostData))
	if len(p.sb.Section(SectionExt)) >= extSize {
		p.field("Btrees that have ever lost data:", "%s", btreeSet(e.BtreesLostDataEver))
		p.field("Btrees validated clean:", "%s", btreeSet(e.BtreesClean))
	}
}

// extSize is the size of the newest form of the ext section, without its header.
const extSize = 112

// btreeSet lists the btrees of a set, separated by commas.
func btreeSet(set uint64) string {
	var names []string
	for id := range BtreeID(64) {
		if set>>id&1 != 0 {
			names = append(names, id.String())
		}
	}
	return strings.Join(names, ",")
}

func (p *sbPrinter) downgrade() {
	all, err := p.sb.Downgrades()
	for _, d := range all {
		p.field("version:", "%s", d.Version.Long())
		p.field("recovery passes:", "%s", PassSet(d.Passes).Text(p.sb.Version))
		names := make([]string, len(d.Errors))
		for i, id := range d.Errors {
			names[i] = ErrorID(id).String()
		}
		p.field("errors:", "%s", strings.Join(names, ","))
	}
	p.problem(err)
}

func (p *sbPrinter) recoveryPasses() {
	p.text("%-32s%-32s%s", "Pass", "Last run", "Last runtime")
	for i, r := range p.sb.RecoveryPasses() {
		if r.LastRun == 0 {
			continue
		}
		note := ""
		if r.NoRatelimit {
			note = " (no ratelimit)"
		}
		p.text("%-32s%-32s%d s%s", PassID(min(i, 255)), p.date(r.LastRun), r.Runtime, note)
	}
}

// String is "btree: 1/2 [0 1]": how many of how many devices are needed, and which they are.
func (r Replicas) String() string {
	return fmt.Sprintf("%v: %d/%d [%s]", r.DataType, r.Required, len(r.Devs), r.devices())
}

func (r Replicas) devices() string { return strings.Trim(fmt.Sprint(r.Devs), "[]") }
