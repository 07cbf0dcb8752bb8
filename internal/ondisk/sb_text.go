package ondisk

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// TextOptions says what [Superblock.Text] prints. The zero value is what show-super prints when asked for nothing.
type TextOptions struct {
	Layout   bool          // where the copies are
	All      bool          // all sections
	Sections []SectionType // these; nil means ext, members and errors
	Only     bool          // Sections alone, without the header and their titles
	// DeviceName returns the path of a member, "" if unknown.
	DeviceName func(index int) string
	Location   *time.Location // of times; nil is [time.Local]
}

// wants reports whether a section is printed.
func (o *TextOptions) wants(sb *Superblock, t SectionType) bool {
	switch {
	case o.All:
		return true
	case o.Sections != nil:
		return slices.Contains(o.Sections, t)
	case t == SectionMembersV1:
		return sb.Section(SectionMembersV2) == nil
	}
	return t == SectionExt || t == SectionMembersV2 || t == SectionErrors || t == SectionErrorsV2
}

// Text prints the superblock in the layout and with the words of the reference's show-super.
//
// Sections that are damaged are printed as far as they can be, with what is wrong in parentheses. The error is that of w.
func (sb *Superblock) Text(w io.Writer, o TextOptions) error {
	p := sbPrinter{sb: sb, o: &o}
	if !o.Only {
		p.header()
		if o.Layout {
			p.newline()
			p.title("layout:")
			p.indent = 2
			p.layout(&sb.Layout)
			p.indent = 0
		}
	}
	for i := range sb.Sections {
		s := &sb.Sections[i]
		if !o.wants(sb, s.Type) {
			continue
		}
		if !o.Only {
			p.newline()
			p.title(fmt.Sprintf("%v (size %d):", s.Type, 8+len(s.Data)))
		}
		p.section(s)
	}
	_, err := w.Write(p.b)
	return err
}

// Text prints the layout as show-super does.
func (l *Layout) Text(w io.Writer) error {
	var p sbPrinter
	p.layout(l)
	_, err := w.Write(p.b)
	return err
}

// Columns that values start at.
const (
	sbColumn      = 44
	sbColumnWidth = 16 // of those behind the first
)

// sbPrinter builds text in columns.
type sbPrinter struct {
	sb     *Superblock
	o      *TextOptions
	b      []byte
	line   int // where the current line starts in b
	indent int
}

func (p *sbPrinter) newline() {
	p.b = append(p.b, '\n')
	p.line = len(p.b)
}

func (p *sbPrinter) title(s string) {
	p.b = append(p.b, s...)
	p.newline()
}

// pad fills the line up to a column with spaces.
func (p *sbPrinter) pad(column int) {
	for n := utf8.RuneCount(p.b[p.line:]); n < column; n++ {
		p.b = append(p.b, ' ')
	}
}

// field prints a line: a name, then in the value column what the format says.
func (p *sbPrinter) field(name, format string, args ...any) {
	p.pad(p.indent)
	p.b = append(p.b, name...)
	p.pad(sbColumn)
	p.b = fmt.Appendf(p.b, format, args...)
	p.newline()
}

// row prints a line of columns.
func (p *sbPrinter) row(columns ...string) {
	p.pad(p.indent)
	for i, c := range columns {
		if i > 0 {
			p.pad(sbColumn + (i-1)*sbColumnWidth)
		}
		p.b = append(p.b, c...)
		if i > 0 && i+1 < len(columns) && utf8.RuneCount(p.b[p.line:]) >= sbColumn+i*sbColumnWidth {
			p.b = append(p.b, ' ')
		}
	}
	p.newline()
}

// text prints a line without columns.
func (p *sbPrinter) text(format string, args ...any) {
	p.pad(p.indent)
	p.b = fmt.Appendf(p.b, format, args...)
	p.newline()
}

// problem says what keeps the rest of a section from being printed.
func (p *sbPrinter) problem(err error) {
	if err != nil {
		p.text("(%v)", err)
	}
}

// date prints seconds since 1970 as ctime does.
func (p *sbPrinter) date(sec uint64) string {
	loc := time.Local
	if p.o != nil && p.o.Location != nil {
		loc = p.o.Location
	}
	if sec > 1<<40 {
		return fmt.Sprintf("(bad time %d)", sec)
	}
	return time.Unix(int64(sec), 0).In(loc).Format(time.ANSIC)
}

func (p *sbPrinter) dateOr(sec uint64, zero string) string {
	if sec == 0 {
		return zero
	}
	return p.date(sec)
}

// sizeText prints a number of bytes with three significant digits and a binary unit, as the reference does.
func sizeText(n uint64) string {
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	if n == 0 {
		return "0 B"
	}
	u, rest := 0, uint64(0)
	for ; n >= 1024; u++ {
		n, rest = n/1024, n%1024
	}
	digits := 2
	for limit := uint64(10); digits > 0 && n >= limit; limit *= 10 {
		digits--
	}
	thousandths := rest*1000/1024 + [...]uint64{500, 50, 5}[digits]
	if thousandths >= 1000 {
		n, thousandths = n+1, thousandths-1000
	}
	if digits == 0 {
		return fmt.Sprintf("%d %s", n, units[u])
	}
	return fmt.Sprintf("%d.%s %s", n, fmt.Sprintf("%03d", thousandths)[:digits], units[u])
}

// printable replaces what would disturb a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

func (p *sbPrinter) header() {
	sb := p.sb
	if p.o.DeviceName != nil {
		if name := p.o.DeviceName(int(sb.DevIdx)); name != "" {
			p.field("Device:", "%s", printable(name))
		}
	}
	p.field("External UUID:", "%v", sb.UserUUID)
	p.field("Internal UUID:", "%v", sb.UUID)
	p.field("Magic number:", "%v", sb.Magic)
	p.field("Device index:", "%d", sb.DevIdx)
	label := printable(sb.Label())
	if label == "" {
		label = "(none)"
	}
	p.field("Label:", "%s", label)
	p.field("Version:", "%s", sb.Version.Long())
	if sb.HasFeature(FeatureIncompatVersionField) {
		p.field("Incompatible features allowed:", "%s", MetadataVersion(sb.flag(5, 48, 64)).Long())
		p.field("Incompatible features in use:", "%s", MetadataVersion(sb.flag(5, 32, 48)).Long())
	}
	p.field("Version upgrade complete:", "%s", MetadataVersion(sb.flag(5, 0, 16)).Long())
	p.field("Oldest version on disk:", "%s", sb.VersionMin.Long())
	p.field("Created:", "%s", p.dateOr(sb.TimeBase/uint64(time.Second), "(not set)"))
	p.field("Sequence number:", "%d", sb.Seq)
	p.field("Time of last write:", "%s", p.date(sb.WriteTime))
	p.field("Superblock size:", "%s/%s", sizeText(uint64(sb.Bytes())), sizeText(sb.Layout.MaxBytes()))
	p.field("Clean:", "%d", sb.flag(0, 1, 2))
	if sb.flag(6, 59, 60) != 0 {
		p.field("Dirents sanitized:", "1")
	}
	p.field("Devices:", "%d", sb.liveMembers())
	p.field("Sections:", "%s", strings.Join(sb.sectionNames(), ","))
	p.field("Features:", "%s", strings.Join(sb.FeatureNames(), ","))
	p.field("Compat features:", "%s", strings.Join(sb.CompatNames(), ","))
	p.newline()
	p.title("Options:")
	p.indent = 2
	p.options()
	p.indent = 0
}

// Bytes is the length of the encoded superblock.
func (sb *Superblock) Bytes() int {
	n := SuperblockFixed
	for _, s := range sb.Sections {
		n += 8 + len(s.Data)
	}
	return n
}

// MaxBytes is how far each copy of the superblock may grow, in bytes.
func (l *Layout) MaxBytes() uint64 { return SectorSize << min(l.MaxSizeBits, 16) }

// liveMembers counts the slots of devices, whatever else is wrong with the members.
func (sb *Superblock) liveMembers() (n int) {
	recs, err := sb.memberRecords()
	if err != nil {
		return int(sb.NrDevices)
	}
	for _, rec := range recs {
		if m := decodeMember(rec); m.Alive() {
			n++
		}
	}
	return n
}

// sectionNames lists the sections that are there, in the order of their types.
func (sb *Superblock) sectionNames() []string {
	types := make([]SectionType, len(sb.Sections))
	for i, s := range sb.Sections {
		types[i] = s.Type
	}
	slices.Sort(types)
	var names []string
	for _, t := range slices.Compact(types) {
		names = append(names, t.String())
	}
	return names
}

func (p *sbPrinter) layout(l *Layout) {
	p.text("Type:                    %d", l.Type)
	p.text("Superblock max size:     %s", sizeText(l.MaxBytes()))
	p.text("Nr superblocks:          %d", l.Copies)
	offsets := make([]string, 0, maxLayoutCopies)
	for _, o := range l.Sectors() {
		offsets = append(offsets, fmt.Sprint(o))
	}
	p.text("Offsets:                 %s", strings.Join(offsets, ", "))
}
