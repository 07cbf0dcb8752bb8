package ondisk

import (
	"bytes"
	"encoding/binary"
)

// MaxName is the longest name of a directory entry that is written, in bytes; older entries may have longer ones.
const MaxName = 512

// Places within the value of a directory entry (struct bch_dirent). Names are not terminated and their length is not stored
// in the plain form: it ends before the zero bytes of the last word.
const (
	direntType     = 8
	direntName     = 9
	direntCfName   = 11 // casefolded form: length of the name, of the folded name, both names
	direntCfNames  = 15
	direntTypeMask = 1<<5 - 1
	direntCasefold = 1 << 7
)

// Dirent is a directory entry (struct bch_dirent). Names alias the value.
type Dirent struct {
	Type         uint8  // DT_*; [DTSubvol] for roots of subvolumes
	Casefold     bool   // CfName is what is hashed and compared
	Inum         uint64 // of all but DTSubvol
	ChildSubvol  uint32 // of DTSubvol: what the entry leads to
	ParentSubvol uint32 // of DTSubvol: the one subvolume in which the entry is visible
	Name         []byte
	CfName       []byte // the folded name, if Casefold
}

// LookupName returns the name that is hashed and compared: the folded one in casefolded directories.
func (d *Dirent) LookupName() []byte {
	if d.Casefold {
		return d.CfName
	}
	return d.Name
}

// DecodeDirent decodes a key of type dirent. It checks lengths only; [Dirent.Validate] says whether the name is one that may be
// shown. It does not allocate.
func DecodeDirent(k Key) (Dirent, error) {
	v := k.Val
	switch {
	case k.Type != KeyDirent:
		return Dirent{}, errType(&k, "dirent")
	case len(v) < KeyDirent.MinValSize():
		return Dirent{}, errShort(&k, KeyDirent.MinValSize())
	}
	le := binary.LittleEndian
	d := Dirent{Type: v[direntType] & direntTypeMask, Casefold: v[direntType]&direntCasefold != 0}
	if d.Type == DTSubvol {
		d.ChildSubvol, d.ParentSubvol = le.Uint32(v), le.Uint32(v[4:])
	} else {
		d.Inum = le.Uint64(v)
	}
	if !d.Casefold {
		// The last word may reach before the name: that of an empty name.
		d.Name = v[direntName:max(direntName, len(v)-trailingZeros(v))]
		return d, nil
	}
	n, cf := int(le.Uint16(v[direntCfName:])), int(le.Uint16(v[direntCfName+2:]))
	if direntCfNames+n+cf > len(v) {
		return Dirent{}, keyErr(&k, "dirent_val_too_big", "names of %d and %d bytes, room for %d", n, cf, len(v)-direntCfNames)
	}
	d.Name = v[direntCfNames : direntCfNames+n : direntCfNames+n]
	d.CfName = v[direntCfNames+n : direntCfNames+n+cf : direntCfNames+n+cf]
	return d, nil
}

// Validate reports what is wrong with an entry that was decoded from k: names that are empty, hold a NUL or a slash, or are
// "." or ".."; values longer than the names need; an entry that leads to its own directory.
func (d *Dirent) Validate(k *Key) error {
	need := direntName + len(d.Name)
	if d.Casefold {
		need = direntCfNames + len(d.Name) + len(d.CfName)
	}
	switch {
	case len(d.Name) == 0:
		return keyErr(k, "dirent_empty_name", "empty name")
	case len(k.Val) > (need+7)&^7:
		return keyErr(k, "dirent_val_too_big", "value of %d bytes, names need %d", len(k.Val), need)
	case bytes.IndexByte(d.Name, 0) >= 0:
		return keyErr(k, "dirent_name_embedded_nul", "NUL in name %q", d.Name)
	case string(d.Name) == "." || string(d.Name) == "..":
		return keyErr(k, "dirent_name_dot_or_dotdot", "name is %q", d.Name)
	case bytes.IndexByte(d.Name, '/') >= 0:
		return keyErr(k, "dirent_name_has_slash", "slash in name %q", d.Name)
	case d.Type != DTSubvol && d.Inum == k.Pos.Inode:
		return keyErr(k, "dirent_to_itself", "%q leads to its own directory", d.Name)
	case bytes.IndexByte(d.CfName, 0) >= 0:
		return keyErr(k, "dirent_stray_data_after_cf_name", "NUL in folded name %q", d.CfName)
	}
	return nil
}

// Encode returns the value of the key.
func (d *Dirent) Encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, (direntCfNames+len(d.Name)+len(d.CfName)+7)&^7)
	if d.Type == DTSubvol {
		b = le.AppendUint32(b, d.ChildSubvol)
		b = le.AppendUint32(b, d.ParentSubvol)
	} else {
		b = le.AppendUint64(b, d.Inum)
	}
	if !d.Casefold {
		return padVal(append(append(b, d.Type&direntTypeMask), d.Name...), 0)
	}
	b = append(b, d.Type&direntTypeMask|direntCasefold, 0, 0)
	b = le.AppendUint16(b, uint16(len(d.Name)))
	b = le.AppendUint16(b, uint16(len(d.CfName)))
	return padVal(append(append(b, d.Name...), d.CfName...), 0)
}
