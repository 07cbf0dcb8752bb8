package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// journalFilter says which transactions of journal entries are printed and how.
type journalFilter struct {
	filtering    bool // else all records are printed, in transactions or not
	allHeaders   bool
	log, logOnly bool
	btrees       uint64 // bit n: keys of btree n pass
	functions    []string
	notFunctions bool
	ranges       []keyRange
	offsets      bool
	noValues     bool
	colors       bool
}

// keyRange is a range of positions of one btree or several.
type keyRange struct {
	not        bool
	start, end btreePos
}

type btreePos struct {
	btree ondisk.BtreeID
	pos   ondisk.Pos
}

func (p btreePos) less(q btreePos) bool {
	return p.btree < q.btree || p.btree == q.btree && p.pos.Less(q.pos)
}

// parseKeyRange reads btree:pos or btree:pos-btree:pos; a btree alone is all of it.
func parseKeyRange(s string) (keyRange, error) {
	parse := func(s string, otherwise ondisk.Pos) (btreePos, bool, error) {
		name, pos, hasPos := strings.Cut(s, ":")
		id, err := ondisk.ParseBtreeID(name)
		if err != nil {
			return btreePos{}, false, err
		}
		if !hasPos {
			return btreePos{id, otherwise}, false, nil
		}
		p, err := ondisk.ParsePos(pos)
		return btreePos{id, p}, true, err
	}
	a, b, isRange := strings.Cut(s, "-")
	start, hasPos, err := parse(a, ondisk.PosMin)
	if err != nil {
		return keyRange{}, err
	}
	r := keyRange{start: start, end: start}
	switch {
	case isRange:
		if r.end, _, err = parse(b, ondisk.SPosMax); err != nil {
			return keyRange{}, err
		}
	case !hasPos:
		r.end.pos = ondisk.SPosMax
	}
	if r.end.less(r.start) {
		r.start, r.end = r.end, r.start
	}
	return r, nil
}

func (r *keyRange) contains(id ondisk.BtreeID, p ondisk.Pos) bool {
	if r.start.pos.Snapshot == 0 && r.end.pos.Snapshot == 0 {
		p.Snapshot = 0
	}
	at := btreePos{id, p}
	return !at.less(r.start) && !r.end.less(at)
}

// touches reports whether a record has a key in the range.
func (r *keyRange) touches(e *ondisk.JsetEntry) bool {
	if e.Level != 0 || e.Type != ondisk.JsetBtreeKeys && e.Type != ondisk.JsetOverwrite && e.Type != ondisk.JsetWriteBufferKeys {
		return false
	}
	for k, err := range e.Keys() {
		if err == nil && r.contains(e.BtreeID, k.Pos) {
			return true
		}
	}
	return false
}

// startsTransaction reports whether a record is the name of a transaction, whose records follow.
func startsTransaction(e *ondisk.JsetEntry) bool { return e.Type == ondisk.JsetLog && e.Level == 0 }

// endsTransaction reports whether a record belongs to no transaction.
func endsTransaction(e *ondisk.JsetEntry) bool {
	switch e.Type {
	case ondisk.JsetBtreeRoot, ondisk.JsetDatetime, ondisk.JsetUsage, ondisk.JsetClock:
		return true
	}
	return startsTransaction(e)
}

// internalMessages are log messages of subsystems that come in all transactions of theirs.
var internalMessages = []string{"rebalance", "reconcile", "copygc", "promote"}

func isLogMessage(e *ondisk.JsetEntry) bool {
	text, ok := e.Log()
	return ok && e.Level != 0 && !slices.Contains(internalMessages, text)
}

func hasPrintedKeys(e *ondisk.JsetEntry) bool {
	switch e.Type {
	case ondisk.JsetBtreeRoot, ondisk.JsetBtreeKeys, ondisk.JsetWriteBufferKeys, ondisk.JsetOverwrite:
		return true
	}
	return false
}

func (f *journalFilter) passesBtree(e *ondisk.JsetEntry) bool {
	return f.btrees == ^uint64(0) ||
		e.Level == 0 && e.Type != ondisk.JsetBtreeRoot && e.BtreeID < ondisk.MaxBtrees && f.btrees>>e.BtreeID&1 != 0
}

// passes judges a transaction: its name and the records that follow.
func (f *journalFilter) passes(name *ondisk.JsetEntry, records []ondisk.JsetEntry) bool {
	any := func(test func(e *ondisk.JsetEntry) bool) bool {
		for i := range records {
			if test(&records[i]) {
				return true
			}
		}
		return false
	}
	if f.log && len(records) > 0 && !any(func(e *ondisk.JsetEntry) bool { return len(e.Data) > 0 && !isLogMessage(e) }) {
		return true
	}
	if f.logOnly && !any(isLogMessage) {
		return false
	}
	if f.btrees != ^uint64(0) && !any(func(e *ondisk.JsetEntry) bool { return hasPrintedKeys(e) && f.passesBtree(e) }) {
		return false
	}
	if len(f.functions) > 0 {
		text, _ := name.Log()
		if slices.Contains(f.functions, text) == f.notFunctions {
			return false
		}
	}
	wanted, found := false, false
	for i := range f.ranges {
		r := &f.ranges[i]
		switch hit := any(r.touches); {
		case r.not && hit:
			return false
		case !r.not:
			wanted = true
			found = found || hit
		}
	}
	return found || !wanted
}

// journalPrinter prints journal entries.
type journalPrinter struct {
	filter *journalFilter
	keys   *keyPrinter
	fs     *engine.FS
	cfg    *journal.Config
}

const (
	colorRed    = "\x1b[31m"
	colorNormal = "\x1b[0m"
)

// entry prints an entry with its header.
func (j *journalPrinter) entry(w io.Writer, c *journal.Candidate, set *ondisk.Jset, blacklisted, headersOnly bool) error {
	var b bytes.Buffer
	f := j.filter
	if !f.filtering {
		j.header(&b, c, set, blacklisted)
		if !headersOnly {
			offset := 0
			for i := range set.Entries {
				j.record(&b, &set.Entries[i], offset)
				offset += 1 + len(set.Entries[i].Data)/8
			}
		}
		return writeStarred(w, b.Bytes(), blacklisted)
	}
	printed := f.allHeaders
	if printed {
		j.header(&b, c, set, blacklisted)
	}
	offset := 0
	for i := 0; i < len(set.Entries); {
		start, startOffset := i, offset
		offset += 1 + len(set.Entries[i].Data)/8
		i++
		if !startsTransaction(&set.Entries[start]) {
			continue
		}
		for i < len(set.Entries) && !endsTransaction(&set.Entries[i]) {
			offset += 1 + len(set.Entries[i].Data)/8
			i++
		}
		if !f.passes(&set.Entries[start], set.Entries[start+1:i]) {
			continue
		}
		if !printed {
			j.header(&b, c, set, blacklisted)
			printed = true
		}
		at := startOffset
		for k := start; k < i; k++ {
			j.record(&b, &set.Entries[k], at)
			at += 1 + len(set.Entries[k].Data)/8
		}
	}
	return writeStarred(w, b.Bytes(), blacklisted)
}

func (j *journalPrinter) header(b *bytes.Buffer, c *journal.Candidate, set *ondisk.Jset, blacklisted bool) {
	prefix, flush := "", 1
	if blacklisted {
		prefix = "blacklisted "
	}
	if set.NoFlush() {
		flush = 0
	}
	block := max(j.cfg.BlockSize, ondisk.SectorSize)
	sectors := (set.Bytes() + block - 1) / block * block / ondisk.SectorSize
	fmt.Fprintf(b, "\n%sjournal entry     %d\n  bytes           %d\n  sectors         %d\n  version         %d\n"+
		"  last seq        %d\n  flush           %d\n  written at      ",
		prefix, set.Seq, set.Bytes(), sectors, uint32(set.Version), set.LastSeq, flush)
	for i, at := range c.Copies {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(j.place(at))
	}
	b.WriteByte('\n')
}

// place names where a copy of an entry is: device, its index, journal bucket, offset in it, and sector on the device.
func (j *journalPrinter) place(at journal.Location) string {
	m := &j.cfg.Members[at.Member]
	sector := at.Offset / ondisk.SectorSize
	bucket, offset := -1, int64(0)
	if m.BucketBytes > 0 {
		bucket = slices.Index(m.Buckets, uint64(at.Offset/m.BucketBytes))
		offset = at.Offset % m.BucketBytes / ondisk.SectorSize
	}
	return fmt.Sprintf("%s %d:%d:%d (sector %d)", baseName(m.Device.Name()), m.Index, bucket, offset, sector)
}

// record prints one record.
func (j *journalPrinter) record(b *bytes.Buffer, e *ondisk.JsetEntry, offset int) {
	f := j.filter
	if hasPrintedKeys(e) && (len(e.Data) == 0 || !f.passesBtree(e)) {
		return
	}
	indent := "    "
	switch {
	case startsTransaction(e), e.Type == ondisk.JsetBtreeRoot, e.Type == ondisk.JsetDatetime, e.Type == ondisk.JsetUsage:
		indent = "  "
	}
	text := string(e.AppendText(nil, j.keyText))
	if f.offsets {
		text = fmt.Sprintf("%4d %s", offset, text)
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	red := f.colors && slices.ContainsFunc(f.ranges, func(r keyRange) bool { return r.touches(e) })
	if red {
		b.WriteString(colorRed)
	}
	for _, line := range lines {
		b.WriteString(indent)
		b.WriteString(line)
		b.WriteByte('\n')
	}
	if red {
		b.WriteString(colorNormal)
	}
}

func (j *journalPrinter) keyText(dst []byte, id ondisk.BtreeID, level uint8, k *ondisk.Key) []byte {
	if j.filter.noValues {
		return j.keys.appendKey(dst, id, k)
	}
	return j.keys.append(dst, id, k)
}

// datetime prints when an entry was written.
func (j *journalPrinter) datetime(w io.Writer, set *ondisk.Jset, blacklisted bool) error {
	prefix, at := "", ""
	if blacklisted {
		prefix = "blacklisted "
	}
	if t, ok := entryTime(set); ok {
		at = t.Format("Mon Jan _2 15:04:05 2006")
	}
	_, err := fmt.Fprintf(w, "%sjournal entry     %-8d %s\n", prefix, set.Seq, at)
	return err
}

func entryTime(set *ondisk.Jset) (time.Time, bool) {
	for i := range set.Entries {
		if t, ok := set.Entries[i].Datetime(); ok {
			return t, true
		}
	}
	return time.Time{}, false
}

// writeStarred writes b, of blacklisted entries with a star for the space that lines begin with.
func writeStarred(w io.Writer, b []byte, blacklisted bool) error {
	if blacklisted {
		b = bytes.ReplaceAll(b, []byte("\n "), []byte("\n*"))
	}
	_, err := w.Write(b)
	return err
}

// entryJSON is what --json tells of an entry, one on a line.
type entryJSON struct {
	Seq         uint64       `json:"seq"`
	LastSeq     uint64       `json:"last_seq"`
	Flush       bool         `json:"flush"`
	Blacklisted bool         `json:"blacklisted,omitempty"`
	Version     string       `json:"version"`
	Bytes       int          `json:"bytes"`
	Time        string       `json:"time,omitempty"`
	WrittenAt   []string     `json:"written_at"`
	Records     []recordJSON `json:"records,omitempty"`
}

type recordJSON struct {
	Type  string   `json:"type"`
	Btree string   `json:"btree,omitempty"`
	Level uint8    `json:"level"`
	Text  string   `json:"text,omitempty"`
	Keys  []string `json:"keys,omitempty"`
}

func (j *journalPrinter) json(c *journal.Candidate, set *ondisk.Jset, blacklisted, headersOnly bool) entryJSON {
	out := entryJSON{Seq: set.Seq, LastSeq: set.LastSeq, Flush: !set.NoFlush(), Blacklisted: blacklisted,
		Version: ondisk.MetadataVersion(set.Version).String(), Bytes: set.Bytes()}
	if t, ok := entryTime(set); ok {
		out.Time = t.Format(time.RFC3339)
	}
	for _, at := range c.Copies {
		out.WrittenAt = append(out.WrittenAt, j.place(at))
	}
	if headersOnly {
		return out
	}
	for i := range set.Entries {
		e := &set.Entries[i]
		if e.IsEmpty() || hasPrintedKeys(e) && !j.filter.passesBtree(e) {
			continue
		}
		r := recordJSON{Type: e.Type.String(), Level: e.Level}
		if e.Type.HasKeys() {
			r.Btree = e.BtreeID.String()
			for k, err := range e.Keys() {
				if err == nil {
					r.Keys = append(r.Keys, string(j.keyText(nil, e.BtreeID, e.Level, &k)))
				}
			}
		} else {
			r.Text = string(e.AppendText(nil, j.keyText))
		}
		out.Records = append(out.Records, r)
	}
	return out
}
