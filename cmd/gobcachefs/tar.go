package main

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// tarWriter writes archives in the format of POSIX.1-2001 (pax), with sparse files as GNU tar's version 1.0 of them,
// which archive/tar cannot write.
type tarWriter struct {
	w       io.Writer
	written int64
	left    int64 // bytes of the current member that are still to come
}

const (
	tarBlock  = 512
	tarRecord = 20 * tarBlock // archives are padded to whole records
)

// A tarHeader describes a member.
type tarHeader struct {
	name     string // without leading slash; directories end in one
	typ      byte   // '0' file, '1' hard link, '2' symbolic link, '3', '4' devices, '5' directory, '6' FIFO
	mode     uint16
	uid, gid uint32
	size     int64 // of files, in bytes, holes included
	mtime    time.Time
	atime    time.Time
	ctime    time.Time
	link     string
	major    uint32
	minor    uint32
	xattrs   map[string]string // raw values
	sparse   []segment         // where there is data, for files with holes; nil for others
	isSparse bool
}

// header begins a member. For files the content follows: size bytes, or those of the segments in order.
func (t *tarWriter) header(h *tarHeader) error {
	if t.left > 0 {
		return fmt.Errorf("tar: %d bytes of a member are missing", t.left)
	}
	pax := map[string]string{}
	name, size := h.name, h.size
	var sparseMap []byte
	if h.isSparse {
		pax["GNU.sparse.major"], pax["GNU.sparse.minor"] = "1", "0"
		pax["GNU.sparse.name"] = name
		pax["GNU.sparse.realsize"] = strconv.FormatInt(h.size, 10)
		sparseMap, size = encodeSparseMap(h.sparse, h.size)
		name = path.Join(path.Dir(name), "GNUSparseFile.0", path.Base(name))
	}
	var b [tarBlock]byte
	prefix, short, fits := splitTarName(name)
	if !fits {
		if !h.isSparse {
			pax["path"] = name
		}
		prefix, short = "", asciiOnly(path.Base(name), 100)
	}
	copy(b[0:100], short)
	copy(b[345:500], prefix)
	octal := func(field []byte, v int64, key string) {
		if v < 0 || v>>(3*(len(field)-1)) != 0 {
			pax[key] = strconv.FormatInt(v, 10)
			v = 0
		}
		copy(field, fmt.Sprintf("%0*o", len(field)-1, v))
	}
	octal(b[100:108], int64(h.mode), "")
	octal(b[108:116], int64(h.uid), "uid")
	octal(b[116:124], int64(h.gid), "gid")
	octal(b[124:136], size, "size")
	octal(b[136:148], max(h.mtime.Unix(), 0), "mtime")
	b[156] = h.typ
	if len(h.link) > 100 || !isASCII(h.link) {
		pax["linkpath"] = h.link
	}
	copy(b[157:257], asciiOnly(h.link, 100))
	copy(b[257:265], "ustar\x0000")
	octal(b[329:337], int64(h.major), "SCHILY.devmajor")
	octal(b[337:345], int64(h.minor), "SCHILY.devminor")
	for key, at := range map[string]time.Time{"mtime": h.mtime, "atime": h.atime, "ctime": h.ctime} {
		if !at.IsZero() && (key != "mtime" || at.Nanosecond() != 0 || at.Unix() < 0) {
			pax[key] = paxTime(at)
		}
	}
	for name, value := range h.xattrs {
		if !strings.ContainsAny(name, "=\n") {
			pax["SCHILY.xattr."+name] = value
		}
	}
	if err := t.paxHeader(h, pax); err != nil {
		return err
	}
	sealTarHeader(b[:])
	if err := t.write(b[:]); err != nil {
		return err
	}
	if h.typ != '0' {
		return nil
	}
	t.left = size
	if len(sparseMap) > 0 {
		return t.content(sparseMap)
	}
	return nil
}

// paxHeader writes the records that go before a member, if any.
func (t *tarWriter) paxHeader(h *tarHeader, pax map[string]string) error {
	if len(pax) == 0 {
		return nil
	}
	var records bytes.Buffer
	for _, text := range []string{h.name, h.link} {
		if !utf8.ValidString(text) {
			records.WriteString(paxRecord("hdrcharset", "BINARY"))
			break
		}
	}
	for _, key := range sortedKeys(pax) {
		records.WriteString(paxRecord(key, pax[key]))
	}
	var b [tarBlock]byte
	copy(b[0:100], asciiOnly(path.Join("PaxHeaders.0", path.Base(h.name)), 100))
	copy(b[100:108], "0000644")
	copy(b[108:116], "0000000")
	copy(b[116:124], "0000000")
	copy(b[124:136], fmt.Sprintf("%011o", records.Len()))
	copy(b[136:148], fmt.Sprintf("%011o", 0))
	b[156] = 'x'
	copy(b[257:265], "ustar\x0000")
	sealTarHeader(b[:])
	if err := t.write(b[:]); err != nil {
		return err
	}
	return t.pad(records.Bytes())
}

// content writes the next bytes of the member.
func (t *tarWriter) content(p []byte) error {
	if int64(len(p)) > t.left {
		return fmt.Errorf("tar: %d bytes too many for a member", int64(len(p))-t.left)
	}
	if err := t.write(p); err != nil {
		return err
	}
	if t.left -= int64(len(p)); t.left == 0 {
		return t.align(tarBlock)
	}
	return nil
}

// close ends the archive.
func (t *tarWriter) close() error {
	if t.left > 0 {
		return fmt.Errorf("tar: %d bytes of a member are missing", t.left)
	}
	if err := t.write(make([]byte, 2*tarBlock)); err != nil {
		return err
	}
	return t.align(tarRecord)
}

func (t *tarWriter) write(p []byte) error {
	n, err := t.w.Write(p)
	t.written += int64(n)
	return err
}

// pad writes p and zeros up to the end of its last block.
func (t *tarWriter) pad(p []byte) error {
	if err := t.write(p); err != nil {
		return err
	}
	return t.align(tarBlock)
}

func (t *tarWriter) align(to int64) error {
	if rest := t.written % to; rest != 0 {
		return t.write(make([]byte, to-rest))
	}
	return nil
}

// sealTarHeader sets the checksum of a header.
func sealTarHeader(b []byte) {
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// paxRecord is "length key=value\n" with the length of the whole.
func paxRecord(key, value string) string {
	n := len(key) + len(value) + 3
	total := n + len(strconv.Itoa(n))
	if len(strconv.Itoa(total)) > len(strconv.Itoa(n)) {
		total++
	}
	return fmt.Sprintf("%d %s=%s\n", total, key, value)
}

// paxTime is seconds since 1970 as a decimal fraction, which is negative as a whole before.
func paxTime(t time.Time) string {
	sec, nsec := t.Unix(), t.Nanosecond()
	sign := ""
	if sec < 0 {
		sign = "-"
		sec = -sec
		if nsec > 0 {
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	s := fmt.Sprintf("%s%d.%09d", sign, sec, nsec)
	return strings.TrimRight(strings.TrimRight(s, "0"), ".")
}

// splitTarName splits a name into the prefix and name fields of a header; ok is false if it does not fit in them.
func splitTarName(name string) (prefix, short string, ok bool) {
	if !isASCII(name) {
		return "", "", false
	}
	if len(name) <= 100 {
		return "", name, true
	}
	for i := min(len(name)-2, 155); i > 0; i-- {
		if name[i] == '/' && len(name)-i-1 <= 100 {
			return name[:i], name[i+1:], true
		}
	}
	return "", "", false
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 || s[i] == 0 {
			return false
		}
	}
	return true
}

// asciiOnly returns s without other characters, n bytes long at most.
func asciiOnly(s string, n int) string {
	b := slices.DeleteFunc([]byte(s), func(c byte) bool { return c >= 0x80 || c == 0 })
	return string(b[:min(n, len(b))])
}

// encodeSparseMap returns the map that precedes the data of a sparse file, padded to whole blocks, and the length of
// both together.
func encodeSparseMap(segs []segment, size int64) ([]byte, int64) {
	data := int64(0)
	var b bytes.Buffer
	// A segment of no length at the end tells the size to readers that take it from the map.
	segs = append(slices.Clip(segs), segment{size, size})
	fmt.Fprintf(&b, "%d\n", len(segs))
	for _, s := range segs {
		fmt.Fprintf(&b, "%d\n%d\n", s.start, s.end-s.start)
		data += s.end - s.start
	}
	if rest := b.Len() % tarBlock; rest != 0 {
		b.Write(make([]byte, tarBlock-rest))
	}
	return b.Bytes(), int64(b.Len()) + data
}
