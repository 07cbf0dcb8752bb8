package bcachefs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"
)

// newInode is what a file is made with.
func (l *loader) newInode(f *TreeFile) NewInode {
	n := NewInode{RawMode: f.RawMode, UID: l.fs.owner.uid, GID: l.fs.owner.gid, RdevMajor: f.RdevMajor, RdevMinor: f.RdevMinor}
	a := l.attrs(f)
	if a.UID != nil {
		n.UID = *a.UID
	}
	if a.GID != nil {
		n.GID = *a.GID
	}
	if a.RawMode != nil {
		n.RawMode = f.RawMode&^0o7777 | *a.RawMode
	}
	return n
}

// attrs are the attributes that a file is to have.
func (l *loader) attrs(f *TreeFile) (a Attrs) {
	uid, gid := &f.UID, &f.GID
	if l.opts.NoOwner {
		uid, gid = nil, nil
	}
	if l.opts.UID != nil {
		uid = l.opts.UID
	}
	if l.opts.GID != nil {
		gid = l.opts.GID
	}
	a.UID, a.GID = uid, gid
	if f.Mode()&fs.ModeSymlink == 0 {
		mode := f.RawMode & 0o7777
		if l.opts.NoMode {
			mode &= 0o755
		}
		a.RawMode = &mode
	}
	if !l.opts.NoTimes {
		a = l.addTimes(a, f)
	}
	return a
}

func (l *loader) addTimes(a Attrs, f *TreeFile) Attrs {
	t := times(f.Atime, f.Mtime)
	if at := l.opts.Atime; !at.IsZero() {
		t.Atime = &at
	}
	a.Atime, a.Mtime = t.Atime, t.Mtime
	return a
}

// make makes a file that is not there yet. After an error there is nothing of it.
func (l *loader) make(ctx context.Context, f *TreeFile, dir *loadDir, base string) error {
	if f.LinkTo != "" {
		return l.link(ctx, f, dir, base)
	}
	st, err := l.makeName(ctx, f, dir, base)
	if err != nil {
		return err
	}
	if err = l.fill(ctx, f, dir, st); err != nil {
		_, rerr := l.fs.RemoveName(context.WithoutCancel(ctx), dir.id, base, RemoveFile)
		if l.fs.Writable() != nil {
			rerr = nil // nothing can be removed any more
		}
		return errors.Join(err, rerr)
	}
	return nil
}

func (l *loader) makeName(ctx context.Context, f *TreeFile, dir *loadDir, base string) (*Stat, error) {
	if f.Mode()&fs.ModeSymlink != 0 {
		return l.fs.MakeSymlink(ctx, dir.id, base, f.Target, l.newInode(f), 0)
	}
	return l.fs.MakeInode(ctx, dir.id, base, l.newInode(f), 0)
}

// link gives a file that came before another name.
func (l *loader) link(ctx context.Context, f *TreeFile, dir *loadDir, base string) error {
	id, err := l.view.Resolve(ctx, path.Join(l.opts.At, f.LinkTo), false)
	if err != nil {
		return fmt.Errorf("a link to %s: %w", f.LinkTo, err)
	}
	_, err = l.fs.MakeLink(ctx, id, dir.id, base, 0)
	return err
}

// fill gives a new file all that it is to have.
func (l *loader) fill(ctx context.Context, f *TreeFile, dir *loadDir, st *Stat) error {
	end := int64(0)
	if f.Data != nil {
		err := f.Data(ctx, func(p []byte, off int64) error {
			end = off + int64(len(p))
			return l.write(ctx, st.ID, p, off)
		})
		if err != nil {
			return err
		}
	}
	if err := l.disinherit(ctx, dir, st); err != nil {
		return err
	}
	return l.setMeta(ctx, st.ID, f, end)
}

func (l *loader) write(ctx context.Context, id InodeID, p []byte, off int64) error {
	if _, err := l.fs.WriteInode(ctx, id, p, off, 0); err != nil {
		return err
	}
	if l.opts.Progress != nil {
		l.opts.Progress(int64(len(p)))
	}
	return l.settle(ctx, len(p))
}

// disinherit removes ACLs that a new file or directory has from the directory that it is in.
func (l *loader) disinherit(ctx context.Context, dir *loadDir, st *Stat) error {
	if !dir.inherits || l.opts.NoXattrs {
		return nil
	}
	attrs := []string{xattrACLAccess}
	switch {
	case st.Mode.IsDir():
		attrs = append(attrs, xattrACLDefault)
	case st.Mode&fs.ModeSymlink != 0:
		return nil
	}
	for _, attr := range attrs {
		if err := l.fs.RemoveXattr(ctx, st.ID, attr); err != nil && !errors.Is(err, ErrNoXattr) {
			return err
		}
	}
	return nil
}

// setMeta gives a new file that ends at end its attributes and its size.
func (l *loader) setMeta(ctx context.Context, id InodeID, f *TreeFile, end int64) error {
	if !l.opts.NoXattrs {
		for _, attr := range sortedNames(f.Xattrs) {
			if err := l.fs.SetXattr(ctx, id, attr, []byte(f.Xattrs[attr]), XattrKeepSetGID); err != nil {
				return fmt.Errorf("attribute %s: %w", attr, err)
			}
		}
	}
	a := l.attrs(f)
	if f.Mode().IsRegular() && end != f.Size {
		a.Size = &f.Size
	}
	_, err := l.fs.SetAttr(ctx, id, a)
	return err
}

// adjust gives a file that stays the attributes that it does not have yet, and reports whether there were any.
func (l *loader) adjust(ctx context.Context, id InodeID, f *TreeFile) (changed bool, err error) {
	if !l.opts.NoXattrs {
		if changed, err = l.adjustXattrs(ctx, id, f); err != nil {
			return changed, err
		}
	}
	st, err := l.fs.Stat(ctx, id)
	if err != nil {
		return changed, err
	}
	a := l.attrs(f)
	if a.RawMode != nil && *a.RawMode == st.RawMode&0o7777 {
		a.RawMode = nil
	}
	if a.UID != nil && *a.UID == st.UID {
		a.UID = nil
	}
	if a.GID != nil && *a.GID == st.GID {
		a.GID = nil
	}
	if a.Mtime != nil && l.sameTime(*a.Mtime, st.Mtime) {
		a.Mtime = nil
	}
	if a.RawMode == nil && a.UID == nil && a.GID == nil && a.Mtime == nil {
		return changed, nil // it being read makes no difference
	}
	_, err = l.fs.SetAttr(ctx, id, a)
	return true, err
}

// sameTime reports whether the filesystem has a time, as exactly as it can.
func (l *loader) sameTime(want, have time.Time) bool {
	d := want.Sub(have)
	return d.Abs() < max(time.Duration(l.fs.engine.SB.TimePrecision), 1)
}

func (l *loader) adjustXattrs(ctx context.Context, id InodeID, f *TreeFile) (changed bool, err error) {
	have, err := l.fs.ListXattr(ctx, id)
	if err != nil {
		return false, err
	}
	same := map[string]bool{}
	for _, attr := range have {
		if !loadable(attr) {
			continue
		}
		want, ok := f.Xattrs[attr]
		if !ok {
			// Who merges trees keeps what he does not know of.
			if l.opts.Update {
				if err := l.fs.RemoveXattr(ctx, id, attr); err != nil {
					return changed, fmt.Errorf("attribute %s: %w", attr, err)
				}
				changed = true
			}
			continue
		}
		v, err := l.fs.GetXattr(ctx, id, attr)
		if err != nil {
			return changed, fmt.Errorf("attribute %s: %w", attr, err)
		}
		same[attr] = string(v) == want
	}
	for _, attr := range sortedNames(f.Xattrs) {
		if same[attr] {
			continue
		}
		if err := l.fs.SetXattr(ctx, id, attr, []byte(f.Xattrs[attr]), XattrKeepSetGID); err != nil {
			return changed, fmt.Errorf("attribute %s: %w", attr, err)
		}
		changed = true
	}
	return changed, nil
}

// replace puts a file in the place of one that is there.
func (l *loader) replace(ctx context.Context, f *TreeFile, dir *loadDir, base string, old *Stat) error {
	if old.Mode.IsDir() {
		if !l.opts.Update {
			return ErrIsDir
		}
		if err := l.fs.removeAll(ctx, dir.id, base); err != nil {
			return err
		}
		err := l.make(ctx, f, dir, base)
		if err == nil {
			l.loaded(f, true)
		}
		return err
	}
	if f.LinkTo != "" {
		if id, err := l.view.Resolve(ctx, path.Join(l.opts.At, f.LinkTo), false); err == nil && id == old.ID {
			l.loaded(f, false)
			return nil
		}
	}
	var r replacement
	if l.opts.Update && f.LinkTo == "" && l.alike(ctx, f, old) {
		same, err := r.compare(ctx, l, f, dir, old)
		if err == nil && same {
			changed, err := l.adjust(ctx, old.ID, f)
			if err == nil {
				l.loaded(f, changed)
			}
			return err
		}
		if err != nil {
			r.drop(l)
			return err
		}
	}
	err := r.install(ctx, l, f, dir, base)
	r.drop(l)
	if err == nil {
		l.loaded(f, true)
	}
	return err
}

// alike reports whether a file need not be replaced if its content is the same.
func (l *loader) alike(ctx context.Context, f *TreeFile, old *Stat) bool {
	if f.RawMode>>12 != old.RawMode>>12 || old.Nlink > 1 && !f.Linked {
		return false
	}
	switch f.Mode().Type() {
	case 0:
		return f.Size == old.Size && (l.opts.Compare || l.sameTime(f.Mtime, old.Mtime))
	case fs.ModeSymlink:
		target, err := l.fs.Readlink(ctx, old.ID)
		return err == nil && target == f.Target
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		return f.RdevMajor == old.RdevMajor && f.RdevMinor == old.RdevMinor
	}
	return true
}

// replacement is a file that is being made to replace another. It has no name until it is complete.
type replacement struct {
	id      InodeID // 0: there is none yet
	written bool    // it has its data
}

// drop gives the file up, unless it has a name.
func (r *replacement) drop(l *loader) {
	if r.id.Inum != 0 {
		l.fs.Release(r.id, 1)
	}
}

func (r *replacement) begin(ctx context.Context, l *loader, f *TreeFile, dir *loadDir) error {
	st, err := l.fs.MakeUnnamed(ctx, dir.id, l.newInode(f), 1)
	if err == nil {
		r.id = st.ID
	}
	return err
}

// compare goes through the data of a file, which can be read once only, and reports whether it is that of the old one. At the first difference the replacement is begun
// with what was the same.
func (r *replacement) compare(ctx context.Context, l *loader, f *TreeFile, dir *loadDir, old *Stat) (same bool, err error) {
	if f.Data == nil || !l.opts.Compare {
		return true, nil
	}
	pos := int64(0)
	differ := func() error {
		if err := r.begin(ctx, l, f, dir); err != nil {
			return err
		}
		return l.copyOld(ctx, old.ID, r.id, pos)
	}
	err = f.Data(ctx, func(p []byte, off int64) error {
		if r.id.Inum == 0 {
			equal, err := l.equal(ctx, old.ID, pos, off, p)
			if err != nil {
				return err
			}
			if equal {
				pos = off + int64(len(p))
				return nil
			}
			if err := differ(); err != nil {
				return err
			}
		}
		return l.write(ctx, r.id, p, off)
	})
	if err == nil && r.id.Inum == 0 {
		var equal bool
		if equal, err = l.equal(ctx, old.ID, pos, old.Size, nil); err == nil && !equal {
			err = differ()
		}
	}
	r.written = r.id.Inum != 0
	return !r.written, err
}

// equal reports whether a file holds zeros from one offset to another, and p there.
func (l *loader) equal(ctx context.Context, id InodeID, from, to int64, p []byte) (bool, error) {
	buf := make([]byte, loadChunk)
	for from < to {
		part := buf[:min(loadChunk, to-from)]
		n, err := l.fs.ReadInode(ctx, id, part, from)
		if err != nil || n < len(part) {
			return false, err
		}
		if len(bytes.Trim(part, "\x00")) > 0 {
			return false, nil
		}
		from += int64(n)
	}
	for len(p) > 0 {
		part := buf[:min(len(buf), len(p))]
		n, err := l.fs.ReadInode(ctx, id, part, from)
		if err != nil || n < len(part) || !bytes.Equal(part, p[:n]) {
			return false, err
		}
		p, from = p[n:], from+int64(n)
	}
	return true, nil
}

// copyOld copies the start of a file, without blocks of zeros.
func (l *loader) copyOld(ctx context.Context, from, to InodeID, size int64) error {
	buf := make([]byte, min(loadChunk, size))
	for off := int64(0); off < size; {
		p := buf[:min(int64(len(buf)), size-off)]
		n, err := l.fs.ReadInode(ctx, from, p, off)
		if err != nil {
			return err
		}
		if n < len(p) {
			return fmt.Errorf("it is shorter than it was: %w", fs.ErrInvalid)
		}
		if err := writeRuns(p, off, true, func(p []byte, off int64) error { return l.write(ctx, to, p, off) }); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// install makes the replacement complete and gives it the name.
func (r *replacement) install(ctx context.Context, l *loader, f *TreeFile, dir *loadDir, base string) error {
	if f.Mode().IsRegular() && f.LinkTo == "" {
		if err := r.write(ctx, l, f, dir); err != nil {
			return err
		}
	}
	temp, err := r.name(ctx, l, f, dir)
	if err != nil {
		return err
	}
	if _, err = l.fs.RenameName(ctx, dir.id, temp, dir.id, base, 0, 0, 0); err != nil {
		_, rerr := l.fs.RemoveName(context.WithoutCancel(ctx), dir.id, temp, RemoveFile)
		return errors.Join(err, rerr)
	}
	return nil
}

// name gives the replacement a name beside the one that it is to have.
func (r *replacement) name(ctx context.Context, l *loader, f *TreeFile, dir *loadDir) (temp string, err error) {
	const tries = 1000 // of names that a crash may have left
	for range tries {
		l.part++
		temp = fmt.Sprintf(".gobcachefs-part-%d", l.part)
		if r.id.Inum != 0 {
			_, err = l.fs.MakeLink(ctx, r.id, dir.id, temp, 0)
		} else {
			err = l.make(ctx, f, dir, temp)
		}
		if !errors.Is(err, ErrExist) {
			break
		}
	}
	return temp, err
}

// write gives the replacement data and attributes.
func (r *replacement) write(ctx context.Context, l *loader, f *TreeFile, dir *loadDir) error {
	if r.id.Inum == 0 {
		if err := r.begin(ctx, l, f, dir); err != nil {
			return err
		}
	}
	st := &Stat{ID: r.id, Mode: f.Mode()}
	if !r.written {
		return l.fill(ctx, f, dir, st)
	}
	if err := l.disinherit(ctx, dir, st); err != nil {
		return err
	}
	return l.setMeta(ctx, r.id, f, -1)
}
