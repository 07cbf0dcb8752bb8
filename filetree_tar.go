package bcachefs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// TarTree is a tar archive as a [FileTree], of the formats that GNU tar, BSD tar and star write, with the extended attributes of pax headers, as it is or compressed
// with gzip, bzip2 or zstd. Files come in the order of the archive; those of the same name replace what came before. What is left out of sparse files,
// and whole blocks of zeros in them, become holes.
type TarTree struct {
	// Open opens the archive from its start. It is called once for each time that the files are gone through.
	Open func() (io.ReadCloser, error)
}

// ErrTar is about an archive that cannot be read.
var ErrTar = errors.New("not a tar archive, or a damaged one")

// Files implements [FileTree].
func (t TarTree) Files(ctx context.Context) iter.Seq2[*TreeFile, error] {
	return func(yield func(*TreeFile, error) bool) {
		in, err := t.Open()
		if err != nil {
			yield(nil, err)
			return
		}
		defer in.Close()
		plain, err := decompressor(in)
		if err != nil {
			yield(nil, fmt.Errorf("%w: %w", ErrTar, err))
			return
		}
		defer plain.Close()
		first := true
		for r := tar.NewReader(plain); ; first = false {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				if first && !onlyZeros(plain) { // a disk image, say
					yield(nil, ErrTar)
				}
				return
			}
			if err != nil {
				yield(nil, fmt.Errorf("%w: %w", ErrTar, err))
				return
			}
			f, err := tarFile(h, r)
			if f == nil && err == nil {
				continue // a header for headers
			}
			if !yield(f, err) {
				return
			}
		}
	}
}

// onlyZeros reports whether nothing but zeros comes.
func onlyZeros(r io.Reader) bool {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return false
		}
		if err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

// decompressor undoes what the first bytes tell that an archive was compressed with.
func decompressor(in io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(in, 1<<20)
	magic, err := b.Peek(6)
	if err != nil && len(magic) == 0 {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(b)
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case bytes.HasPrefix(magic, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(b)), nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		return nil, errors.New("it is compressed with xz: use a pipe from xz -dc")
	}
	return io.NopCloser(b), nil
}

// tarFile is a member as a file; nil if it is none.
func tarFile(h *tar.Header, r *tar.Reader) (*TreeFile, error) {
	typ, ok := map[byte]uint16{
		tar.TypeReg: 0x8000, tar.TypeGNUSparse: 0x8000, tar.TypeCont: 0x8000, tar.TypeLink: 0x8000, tar.TypeSymlink: 0xa000,
		tar.TypeDir: 0x4000, tar.TypeChar: 0x2000, tar.TypeBlock: 0x6000, tar.TypeFifo: 0x1000,
	}[h.Typeflag]
	name, err := treePath(h.Name)
	f := &TreeFile{Path: name, RawMode: typ | uint16(h.Mode&0o7777), Mtime: h.ModTime, Atime: h.AccessTime}
	switch {
	case h.Typeflag == tar.TypeXGlobalHeader:
		return nil, nil
	case err != nil:
		f.Path = h.Name
		return f, err
	case !ok:
		return f, fmt.Errorf("members of type %q are not known", h.Typeflag)
	case int64(int(uint32(h.Uid))) != int64(h.Uid) || int64(int(uint32(h.Gid))) != int64(h.Gid):
		return f, fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, fs.ErrInvalid)
	}
	f.UID, f.GID = uint32(h.Uid), uint32(h.Gid)
	if f.Xattrs, err = tarXattrs(h.PAXRecords); err != nil {
		return f, err
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		f.Size, f.Linked = h.Size, true
		f.Data = func(ctx context.Context, write func([]byte, int64) error) error {
			return tarData(ctx, r, h.Size, isSparse(h), write)
		}
	case tar.TypeLink:
		if f.LinkTo, err = treePath(h.Linkname); err != nil {
			return f, fmt.Errorf("a link to %q: %w", h.Linkname, err)
		}
	case tar.TypeSymlink:
		f.Target, f.Linked = h.Linkname, true
	case tar.TypeChar, tar.TypeBlock:
		f.Linked = true
		if f.RdevMajor, err = tarDev(h.Devmajor, h.PAXRecords["SCHILY.devmajor"]); err == nil {
			f.RdevMinor, err = tarDev(h.Devminor, h.PAXRecords["SCHILY.devminor"])
		}
	case tar.TypeFifo:
		f.Linked = true
	}
	return f, err
}

// treePath returns a member's name as a path of a tree, in which no ".." leads up.
func treePath(name string) (string, error) {
	p := path.Clean("./" + name)
	if !fs.ValidPath(p) && !validBytes(p) {
		return "", fmt.Errorf("a name that leads out of the archive's tree: %w", fs.ErrInvalid)
	}
	return p, nil
}

// validBytes is fs.ValidPath for cleaned names that are not UTF-8.
func validBytes(p string) bool {
	return p != ".." && !strings.HasPrefix(p, "../") && !strings.HasPrefix(p, "/") && !strings.Contains(p, "\x00")
}

func tarDev(n int64, pax string) (uint32, error) {
	if pax != "" {
		var err error
		if n, err = strconv.ParseInt(pax, 10, 64); err != nil {
			return 0, fmt.Errorf("device number %q: %w", pax, fs.ErrInvalid)
		}
	}
	if n < 0 || n > 1<<32-1 {
		return 0, fmt.Errorf("device number %d: %w", n, fs.ErrInvalid)
	}
	return uint32(n), nil
}

// tarXattrs returns the extended attributes that pax records tell, as star and GNU tar or as BSD tar write them.
func tarXattrs(records map[string]string) (map[string]string, error) {
	attrs := map[string]string{}
	for key, value := range records {
		if name, ok := strings.CutPrefix(key, "LIBARCHIVE.xattr."); ok {
			name, err := url.PathUnescape(name)
			b, err2 := base64.StdEncoding.WithPadding(base64.NoPadding).DecodeString(strings.TrimRight(value, "="))
			if err != nil || err2 != nil {
				return nil, fmt.Errorf("attribute %q: %w", key, errors.Join(err, err2))
			}
			if loadable(name) {
				attrs[name] = string(b)
			}
		}
	}
	for key, value := range records {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok && loadable(name) {
			attrs[name] = value
		}
	}
	for key, name := range map[string]string{"SCHILY.acl.access": xattrACLAccess, "SCHILY.acl.default": xattrACLDefault} {
		if text := records[key]; text != "" && attrs[name] == "" {
			acl, err := parseACLText(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			attrs[name] = acl
		}
	}
	if len(attrs) == 0 {
		return nil, nil
	}
	return attrs, nil
}

// isSparse reports whether a member was written as a file with holes.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// tarData reads a member; blocks of zeros of a sparse one are left out.
func tarData(ctx context.Context, r io.Reader, size int64, sparse bool, write func([]byte, int64) error) error {
	buf := make([]byte, min(loadChunk, size))
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := buf[:min(int64(len(buf)), size-off)]
		if _, err := io.ReadFull(r, p); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("%w: %w", ErrTar, err)
		}
		if err := writeRuns(p, off, sparse, write); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

// writeRuns writes p, without runs of blocks of zeros if it is sparse.
func writeRuns(p []byte, off int64, sparse bool, write func([]byte, int64) error) error {
	const block = 4096
	if !sparse {
		return write(p, off)
	}
	zero := func(i int) bool { return len(bytes.Trim(p[i:min(i+block, len(p))], "\x00")) == 0 }
	for i := 0; i < len(p); {
		if zero(i) {
			i += block
			continue
		}
		end := i + block
		for end < len(p) && !zero(end) {
			end += block
		}
		end = min(end, len(p))
		if err := write(p[i:end], off+int64(i)); err != nil {
			return err
		}
		i = end
	}
	return nil
}
