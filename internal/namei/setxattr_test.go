package namei_test

import (
	"encoding/binary"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// getXattr returns an attribute as the read side has it in what was closed, "-" if there is none.
func getXattr(v *volume, fsys *bcachefs.FS, view *bcachefs.View, path, name string) string {
	v.Helper()
	id, err := view.Resolve(v.Context(), path, false)
	if err != nil {
		v.Fatalf("%s: %v", path, err)
	}
	value, err := fsys.GetXattr(v.Context(), id, name)
	if err != nil {
		v.wants("getxattr", err, namei.ErrNoXattr)
		return "-"
	}
	return string(value)
}

func TestSetXattrs(t *testing.T) {
	v := newVolume(t)
	f, d, l := v.file(v.root, "f"), v.mkdir(v.root, "d"), v.create(v.root, "l", lnk|0o777).ID
	long := strings.Repeat("x", 1996-len("long"))
	for _, tt := range []struct {
		id    namei.ID
		name  string
		value string
		flags namei.XattrFlags
		want  error
	}{
		{f, "user.a", "1", namei.XattrReplace, namei.ErrNoXattr},
		{f, "user.a", "1", namei.XattrCreate, nil},
		{f, "user.a", "2", namei.XattrCreate, fs.ErrExist},
		{f, "user.a", "22", namei.XattrReplace, nil},
		{f, "user.b", "", 0, nil},
		{f, "user.long", long, 0, nil},
		{f, "user.long", long + "x", 0, syscall.ERANGE},
		{f, "user." + strings.Repeat("n", 250), "", 0, nil},
		{f, "user." + strings.Repeat("n", 251), "", 0, syscall.ERANGE},
		{f, "trusted.a", "t", 0, nil},
		{f, "security.a", "s", 0, nil},
		{l, "trusted.a", "t", 0, nil},
		{l, "user.a", "t", 0, syscall.EPERM},
		{f, "user.", "t", 0, syscall.EINVAL},
		{f, "user.a\x00b", "t", 0, syscall.EINVAL},
		{f, "other.a", "t", 0, syscall.EOPNOTSUPP},
		{f, "system.other", "t", 0, syscall.EOPNOTSUPP},
		{f, "a", "t", 0, syscall.EOPNOTSUPP},
		{f, "bcachefs_effective.compression", "lz4", 0, nil}, // nothing happens
		{f, "bcachefs.nonsense", "1", 0, syscall.EINVAL},
		{f, "bcachefs.compression", "bzip2", 0, syscall.EINVAL},
		{f, "bcachefs.data_replicas", "99", 0, syscall.EINVAL},
		{f, "bcachefs.project", "4294967295", 0, syscall.EINVAL},
		{f, "bcachefs.casefold", "1", 0, syscall.EINVAL},
		{namei.ID{Subvol: 1, Inum: 77777}, "user.a", "1", 0, fs.ErrNotExist},
	} {
		v.wants("set "+tt.name, v.setXattr(tt.id, tt.name, tt.value, tt.flags), tt.want)
	}
	before := v.inode(f).Ctime
	v.wants("remove", v.removeXattr(f, "security.a"), nil)
	v.wants("remove again", v.removeXattr(f, "security.a"), namei.ErrNoXattr)
	if v.inode(f).Ctime <= before {
		t.Error("ctime is as it was")
	}
	v.setOptions(d)
	v.reader(func(fsys *bcachefs.FS, view *bcachefs.View) {
		for _, tt := range []struct{ path, name, want string }{
			{"f", "user.a", "22"}, {"f", "user.b", ""}, {"f", "user.long", long}, {"f", "trusted.a", "t"}, {"f", "security.a", "-"},
			{"f", "bcachefs_effective.compression", "-"}, {"l", "trusted.a", "t"},
			{"d", "bcachefs.compression", "zstd:7"}, {"d", "bcachefs.background_compression", "lz4"}, {"d", "bcachefs.data_checksum", "xxhash"},
			{"d", "bcachefs.project", "17"}, {"d", "bcachefs.nocow", "-"}, {"d", "bcachefs_effective.nocow", "-"},
			{"d/f", "bcachefs.compression", "-"}, {"d/f", "bcachefs_effective.compression", "zstd:7"}, {"d/f", "bcachefs_effective.project", "17"},
			{"d/f", "bcachefs.data_replicas", "2"}, {"d/g", "bcachefs_effective.compression", "zstd:7"},
		} {
			if got := getXattr(v, fsys, view, tt.path, tt.name); got != tt.want {
				t.Errorf("%s of %s: %q, want %q", tt.name, tt.path, got, tt.want)
			}
		}
	})
	v.close()
}

// setOptions sets options on a directory and on files in it.
func (v *volume) setOptions(d namei.ID) {
	v.Helper()
	g := v.file(d, "g")
	for _, tt := range [][2]string{{"compression", "zstd:7"}, {"background_compression", "lz4"}, {"data_checksum", "xxhash"}, {"project", "17"}, {"nocow", "1"},
		{"background_compression", "lz4"}} {
		v.wants(tt[0], v.setXattr(d, "bcachefs."+tt[0], tt[1], 0), nil)
	}
	v.wants("remove an option", v.removeXattr(d, "bcachefs.nocow"), nil)
	f := v.file(d, "f")
	for _, tt := range [][2]string{{"compression", "none"}, {"data_replicas", "2"}} {
		v.wants(tt[0], v.setXattr(f, "bcachefs."+tt[0], tt[1], 0), nil)
	}
	v.wants("inherit again", v.removeXattr(f, "bcachefs.compression"), nil)
	if v.inode(g).Compression != 0 {
		v.Error("what is in the directory has changed by itself")
	}
	for _, want := range []bool{true, false} {
		v.do(func(tx *trans.Tx) error {
			_, did, err := v.w.Reinherit(tx, d, []byte("g"))
			if did != want {
				v.Errorf("reinherited: %v", did)
			}
			return err
		})
	}
}

// aclXattr is an ACL as the system has it: entries of tag, permissions and id.
func aclXattr(entries ...[3]uint32) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return string(b)
}

func TestACLs(t *testing.T) {
	const none, access, def = ondisk.ACLUndefinedID, "system.posix_acl_access", "system.posix_acl_default"
	u := func(p uint32) [3]uint32 { return [3]uint32{ondisk.ACLUserObj, p, none} }
	g := func(p uint32) [3]uint32 { return [3]uint32{ondisk.ACLGroupObj, p, none} }
	o := func(p uint32) [3]uint32 { return [3]uint32{ondisk.ACLOther, p, none} }
	m := func(p uint32) [3]uint32 { return [3]uint32{ondisk.ACLMask, p, none} }
	nu := func(id, p uint32) [3]uint32 { return [3]uint32{ondisk.ACLUser, p, id} }
	ng := func(id, p uint32) [3]uint32 { return [3]uint32{ondisk.ACLGroup, p, id} }
	full := aclXattr(u(7), nu(1000, 6), nu(1001, 7), g(5), ng(50, 4), m(6), o(1))
	v := newVolume(t)
	f, d, l := v.create(v.root, "f", reg|0o2644).ID, v.mkdir(v.root, "d"), v.create(v.root, "l", lnk|0o777).ID
	for _, tt := range []struct {
		what  string
		id    namei.ID
		name  string
		value string
		flags namei.XattrFlags
		want  error
		mode  uint16 // afterwards; 0: as it was
	}{
		{"a full one", f, access, full, namei.XattrKeepSetGID, nil, reg | 0o2761},
		{"of another group", f, access, full, 0, nil, reg | 0o761},
		{"no mask", f, access, aclXattr(u(7), nu(1, 7), g(5), o(1)), 0, ondisk.ErrACL, 0},
		{"no others", f, access, aclXattr(u(7), g(5)), 0, ondisk.ErrACL, 0},
		{"order", f, access, aclXattr(g(7), u(5), o(1)), 0, ondisk.ErrACL, 0},
		{"twice", f, access, aclXattr(u(7), u(5), g(1), o(1)), 0, ondisk.ErrACL, 0},
		{"permissions", f, access, aclXattr(u(8), g(1), o(1)), 0, ondisk.ErrACL, 0},
		{"nobody", f, access, aclXattr(u(7), nu(none, 7), g(5), m(7), o(1)), 0, ondisk.ErrACL, 0},
		{"version", f, access, "\x01\x00\x00\x00", 0, ondisk.ErrACL, 0},
		{"default of a file", f, def, full, 0, syscall.EACCES, 0},
		{"of a link", l, access, full, 0, syscall.EOPNOTSUPP, 0},
		{"default", d, def, full, 0, nil, dirMode | 0o755},
	} {
		before := v.inode(tt.id).Mode
		if tt.mode == 0 {
			tt.mode = before
		}
		v.wants(tt.what, v.setXattr(tt.id, tt.name, tt.value, tt.flags), tt.want)
		if got := v.inode(tt.id).Mode; got != tt.mode {
			t.Errorf("%s: mode %#o, want %#o", tt.what, got, tt.mode)
		}
	}
	many := [][3]uint32{u(7)}
	for i := range uint32(300) {
		many = append(many, nu(i, 7))
	}
	v.wants("long", v.setXattr(f, access, aclXattr(append(many, g(1), m(1), o(1))...), 0), syscall.E2BIG)

	chmod := func(id namei.ID, mode uint16) {
		v.do(func(tx *trans.Tx) error {
			_, err := v.w.SetAttr(tx, id, &namei.Attrs{Set: namei.SetMode, Mode: mode})
			return err
		})
	}
	chmod(f, 0o517)
	// What is made in the directory.
	for name, n := range map[string]namei.NewInode{"sub": {Mode: dirMode | 0o777, Umask: 0o077}, "file": {Mode: reg | 0o640, Umask: 0o777}, "link": {Mode: lnk | 0o777}} {
		v.do(func(tx *trans.Tx) error {
			_, err := v.w.Create(tx, d, []byte(name), &n)
			return err
		})
	}
	plain := v.mkdir(v.root, "plain")
	v.wants("default as a mode", v.setXattr(plain, def, aclXattr(u(7), g(4), o(0)), 0), nil)
	if in := v.create(plain, "file", reg|0o666).Inode; in.Mode != reg|0o640 {
		t.Errorf("mode %#o", in.Mode)
	}
	emptied := v.mkdir(v.root, "emptied")
	for _, value := range []string{full, aclXattr()} {
		v.wants("ACL without entries", v.setXattr(emptied, def, value, 0), nil)
	}
	for range 2 {
		v.wants("remove", v.removeXattr(emptied, access), nil)
	}
	asMode := v.file(v.root, "as mode")
	for _, value := range []string{full, aclXattr(u(6), g(4), o(4))} {
		v.wants("set", v.setXattr(asMode, access, value, 0), nil)
	}
	v.reader(func(fsys *bcachefs.FS, view *bcachefs.View) {
		for _, tt := range []struct{ path, name, want string }{
			{"f", access, aclXattr(u(5), nu(1000, 6), nu(1001, 7), g(5), ng(50, 4), m(1), o(7))}, {"d", def, full}, {"d", access, "-"},
			{"d/sub", def, full}, {"d/sub", access, full}, {"d/file", def, "-"},
			{"d/file", access, aclXattr(u(6), nu(1000, 6), nu(1001, 7), g(5), ng(50, 4), m(4), o(0))}, {"d/link", access, "-"},
			{"plain/file", access, "-"}, {"emptied", def, "-"}, {"as mode", access, "-"},
		} {
			if got := getXattr(v, fsys, view, tt.path, tt.name); got != tt.want {
				t.Errorf("%s of %s: %x, want %x", tt.name, tt.path, got, tt.want)
			}
		}
	})
	for path, want := range map[string]uint16{"sub": dirMode | 0o761, "file": reg | 0o640, "link": lnk | 0o777} {
		if a, err := v.lookup(d, path); err != nil || a.Inode.Mode != want {
			t.Errorf("%s: %#o %v, want %#o", path, a.Inode.Mode, err, want)
		}
	}
	if mode := v.inode(asMode).Mode; mode != reg|0o644 {
		t.Errorf("mode %#o", mode)
	}
	v.close()
}
