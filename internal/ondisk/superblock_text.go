package ondisk

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// TextOptions choose what [Superblock.Text] prints.
type TextOptions struct {
	Layout   bool          // where the copies are
	All      bool          // every section
	Only     bool          // nothing but Sections
	Sections []SectionType // these sections
}

// textWriter collects lines "name:<tab>value" and aligns the values, as the reference's printbufs do.
type textWriter struct {
	b      strings.Builder
	indent string
}

const valueColumn = 44

func (w *textWriter) row(name, format string, args ...any) {
	line := w.indent + name + ":"
	w.b.WriteString(line)
	w.b.WriteString(strings.Repeat(" ", max(1, valueColumn-len(line))))
	fmt.Fprintf(&w.b, format, args...)
	w.b.WriteByte('\n')
}

func (w *textWriter) line(format string, args ...any) {
	w.b.WriteString(w.indent)
	fmt.Fprintf(&w.b, format, args...)
	w.b.WriteByte('\n')
}

func (w *textWriter) in(f func()) {
	old := w.indent
	w.indent += "  "
	f()
	w.indent = old
}

// Text prints the superblock as the reference's show-super does.
func (sb *Superblock) Text(out io.Writer, o TextOptions) error {
	w := &textWriter{}
	if !o.Only {
		sb.headText(w)
		if o.Layout {
			w.line("")
			w.line("layout:")
			w.in(func() { sb.Layout.text(w) })
		}
	}
	for i := range sb.Sections {
		if o.All || slices.Contains(o.Sections, sb.Sections[i].Type) {
			if w.b.Len() > 0 {
				w.line("")
			}
			sb.sectionText(w, &sb.Sections[i])
		}
	}
	_, err := io.WriteString(out, w.b.String())
	return err
}

func date(seconds uint64, zero string) string {
	if seconds == 0 {
		return zero
	}
	return time.Unix(int64(min(seconds, 1<<40)), 0).UTC().Format("Mon Jan _2 15:04:05 2006")
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

func (sb *Superblock) headText(w *textWriter) {
	members, _ := sb.Members()
	alive := 0
	for i := range members {
		if members[i].Alive() {
			alive++
		}
	}
	size := SuperblockFixed
	var sections []string
	for _, s := range sb.Sections {
		size += 8 + len(s.Data)
		sections = append(sections, s.Type.String())
	}
	slices.SortStableFunc(sections, func(a, b string) int { return slices.Index(sectionNames[:], a) - slices.Index(sectionNames[:], b) })
	clean := 0
	if sb.IsClean() {
		clean = 1
	}
	w.row("External UUID", "%v", sb.UserUUID)
	w.row("Internal UUID", "%v", sb.UUID)
	w.row("Magic number", "%v", sb.Magic)
	w.row("Device index", "%d", sb.DevIdx)
	w.row("Label", "%s", orNone(sb.Label()))
	w.row("Version", "%s", sb.Version.Long())
	if sb.hasIncompatVersion() {
		w.row("Incompatible features allowed", "%s", sb.VersionIncompatAllowed().Long())
		w.row("Incompatible features in use", "%s", sb.VersionIncompat().Long())
	}
	w.row("Version upgrade complete", "%s", MetadataVersion(sb.flag(5, 0, 16)).Long())
	w.row("Oldest version on disk", "%s", sb.VersionMin.Long())
	w.row("Created", "%s", date(sb.TimeBase/1e9, "(not set)"))
	w.row("Sequence number", "%d", sb.Seq)
	w.row("Time of last write", "%s", date(sb.WriteTime, "Thu Jan  1 00:00:00 1970"))
	w.row("Superblock size", "%s/%s", humanSize(uint64(size)), humanSize(SectorSize<<sb.Layout.MaxSizeBits))
	w.row("Clean", "%d", clean)
	w.row("Devices", "%d", alive)
	w.row("Sections", "%s", strings.Join(sections, ","))
	w.row("Features", "%s", strings.Join(sb.FeatureNames(), ","))
	w.row("Compat features", "%s", strings.Join(sb.CompatNames(), ","))
	w.line("")
	w.line("Options:")
	w.in(func() {
		for _, opt := range Options(sb.Version) {
			w.row(opt.Name, "%s", sb.optionText(opt, true))
		}
	})
}

func (l *Layout) text(w *textWriter) {
	w.row("Type", "%d", l.Type)
	w.row("Superblock max size", "%s", humanSize(SectorSize<<min(l.MaxSizeBits, 40)))
	w.row("Nr superblocks", "%d", l.Copies)
	s := make([]string, 0, l.Copies)
	for _, o := range l.Sectors() {
		s = append(s, fmt.Sprint(o))
	}
	w.row("Offsets", "%s", strings.Join(s, ", "))
}

func (sb *Superblock) sectionText(w *textWriter, s *Section) {
	w.line("%v (size %d):", s.Type, 8+len(s.Data))
	var err error
	w.in(func() { err = sb.sectionBody(w, s.Type) })
	if err != nil {
		w.line("  (%v)", err)
	}
}

func (sb *Superblock) sectionBody(w *textWriter, t SectionType) error {
	switch t {
	case SectionMembersV1, SectionMembersV2:
		return sb.membersText(w)
	case SectionJournal, SectionJournalV2:
		ranges, err := sb.Journal()
		var s []string
		for _, r := range ranges {
			s = append(s, fmt.Sprintf("%d-%d", r.Start, r.End))
		}
		w.row("Buckets", "%s", strings.Join(s, " "))
		return err
	case SectionCrypt:
		c, err := sb.Crypt()
		if err != nil {
			return err
		}
		w.row("KFD", "scrypt")
		w.row("scrypt n", "%d", c.KDF.Flags()&0xffff)
		w.row("scrypt r", "%d", c.KDF.Flags()>>16&0xffff)
		w.row("scrypt p", "%d", c.KDF.Flags()>>32&0xffff)
		w.row("Encrypted key", "%t", c.Key.Encrypted())
	case SectionReplicas, SectionReplicasV0:
		all, err := sb.Replicas()
		var s []string
		for _, r := range all {
			s = append(s, r.String())
		}
		w.line("%s", strings.Join(s, " "))
		return err
	case SectionQuota:
		all, err := sb.Quota()
		for i, q := range all {
			w.line("%s: flags %x, space: timelimit %d warnlimit %d, inodes: timelimit %d warnlimit %d",
				[]string{"user", "group", "project"}[i], q.Flags, q.TimeLimits[0], q.WarnLimits[0], q.TimeLimits[1], q.WarnLimits[1])
		}
		return err
	case SectionDiskGroups:
		groups, err := sb.DiskGroups()
		for i, g := range groups {
			if g.Deleted {
				w.line("%d: (deleted)", i)
			} else {
				w.line("%d: %s, parent %d, allowed %s", i, g.Name, g.Parent, dataTypeList(uint64(g.DataAllowed)))
			}
		}
		return err
	case SectionClean:
		c, err := sb.Clean()
		if err != nil {
			return err
		}
		w.row("flags", "%x", c.Flags)
		w.row("journal_seq", "%d", c.JournalSeq)
		for i := range c.Entries {
			if e := &c.Entries[i]; len(e.Data) > 0 {
				w.line("%v", e)
			}
		}
	case SectionJournalSeqBlacklist:
		ranges, err := sb.Blacklist()
		for _, r := range ranges {
			w.line("%d-%d", r.Start, r.End)
		}
		return err
	case SectionCounters:
		for i, c := range sb.Counters() {
			w.row(CounterID(i).Name(sb.Version), "%d", c)
		}
	case SectionErrors, SectionErrorsV2:
		for _, e := range sb.Errors() {
			w.row(ErrorID(e.ID).String(), "%d\t%s", e.Count, date(e.Last, "never"))
		}
	case SectionExt:
		return sb.extText(w)
	case SectionDowngrade:
		all, err := sb.Downgrades()
		for _, d := range all {
			w.line("version %s", d.Version.Long())
			w.in(func() {
				w.row("recovery passes", "%s", PassSet(d.Passes).Text(sb.Version))
				var names []string
				for _, id := range d.Errors {
					names = append(names, ErrorID(id).String())
				}
				w.row("errors", "%s", strings.Join(names, ","))
			})
		}
		return err
	case SectionRecoveryPasses:
		tw := tabwriter.NewWriter(&w.b, 0, 8, 2, ' ', 0)
		for i, p := range sb.RecoveryPasses() {
			if p.LastRun != 0 {
				fmt.Fprintf(tw, "%s%s\tlast ran %s\truntime %ds\n", w.indent, PassID(i).Name(sb.Version), date(p.LastRun, "never"), p.Runtime)
			}
		}
		return tw.Flush()
	case SectionExtentTypeU64s:
		for i, n := range sb.ExtentTypeU64s() {
			w.row(fmt.Sprintf("entry type %d", i), "%d", n)
		}
	default:
		w.line("(unknown section)")
	}
	return nil
}

// String writes an entry as "btree: 1/1 [0]": how many of how many devices are needed, and which.
func (r Replicas) String() string {
	devs := make([]string, len(r.Devs))
	for i, d := range r.Devs {
		devs[i] = fmt.Sprint(d)
	}
	return fmt.Sprintf("%v: %d/%d [%s]", r.DataType, r.Required, len(r.Devs), strings.Join(devs, " "))
}

func dataTypeList(mask uint64) string {
	var s []string
	for t := range NumDataTypes {
		if mask>>t&1 != 0 {
			s = append(s, t.String())
		}
	}
	return orNone(strings.Join(s, ","))
}

func (sb *Superblock) membersText(w *textWriter) error {
	members, err := sb.Members()
	if err != nil {
		return err
	}
	replicas, err := sb.Replicas()
	if err != nil {
		return err
	}
	for i := range members {
		m := &members[i]
		if !m.Alive() {
			continue
		}
		var has uint64
		for _, r := range replicas {
			if slices.Contains(r.Devs, uint8(i)) {
				has |= 1 << r.DataType
			}
		}
		w.row("Device", "%d", i)
		w.in(func() { sb.memberText(w, m, i, has) })
	}
	return nil
}

func (sb *Superblock) memberText(w *textWriter, m *Member, index int, has uint64) {
	label := "(none)"
	if g, ok := m.Group(); ok {
		label = fmt.Sprintf("%s (%d)", sb.MemberLabel(index), g)
	}
	bit := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	w.row("Label", "%s", label)
	w.row("UUID", "%v", m.UUID)
	w.row("Size", "%s", humanSize(uint64(m.Bytes())))
	for i, name := range []string{"read", "write", "checksum"} {
		w.row(name+" errors", "%d", m.Errors[i])
	}
	for i, name := range []string{"seqread", "seqwrite", "randread", "randwrite"} {
		w.row(name+" iops", "%d", m.IOPS[i])
	}
	w.row("Bucket size", "%s", humanSize(uint64(m.BucketBytes())))
	w.row("First bucket", "%d", m.FirstBucket)
	w.row("Buckets", "%d", m.NBuckets)
	w.row("Last mount", "%s", date(m.LastMount, "(never)"))
	w.row("Last superblock write", "%d", m.Seq)
	w.row("State", "%v", m.State())
	w.row("Data allowed", "%s", dataTypeList(m.DataAllowed()))
	w.row("Has data", "%s", dataTypeList(has))
	w.row("Btree allocated bitmap blocksize", "%s", humanSize(SectorSize<<m.BtreeBitmapShift))
	w.row("Btree allocated bitmap", "%064b", m.BtreeBitmap)
	w.row("Durability", "%d", m.Durability())
	w.row("Discard", "%d", bit(m.Discard()))
	w.row("Freespace initialized", "%d", bit(m.FreespaceInitialized()))
	if m.ResizeOnMount() {
		w.row("Resize on mount", "1")
	}
	if is, known := m.Rotational(); known {
		w.row("Rotational", "%d", bit(is))
	}
	for _, s := range []struct{ name, value string }{{"Device name", m.DeviceName}, {"Model", m.DeviceModel},
		{"Serial", m.DeviceSerial}, {"Failure domain", m.FailureDomain}} {
		if s.value != "" {
			w.row(s.name, "%s", s.value)
		}
	}
}

func (sb *Superblock) extText(w *textWriter) error {
	e, err := sb.Ext()
	if err != nil {
		return err
	}
	w.row("Recovery passes required", "%s", PassSet(e.PassesRequired).Text(sb.Version))
	var silent []string
	for i, word := range e.ErrorsSilent {
		for bit := range 64 {
			if word>>bit&1 != 0 {
				silent = append(silent, ErrorID(64*i+bit).String())
			}
		}
	}
	w.row("Errors to silently fix", "%s", strings.Join(silent, ","))
	btrees := func(mask uint64) string {
		var s []string
		for id := range BtreeID(MaxBtrees) {
			if mask>>id&1 != 0 {
				s = append(s, id.String())
			}
		}
		return strings.Join(s, ",")
	}
	w.row("Btrees with missing data", "%s", btrees(e.BtreesLostData))
	if len(sb.Section(SectionExt)) > 96 {
		w.row("Btrees that ever lost data", "%s", btrees(e.BtreesLostDataEver))
		w.row("Btrees clean", "%s", btrees(e.BtreesClean))
	}
	return nil
}
