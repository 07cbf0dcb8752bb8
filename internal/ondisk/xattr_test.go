package ondisk

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const (
	// user.foo = "val-user.foo", as the driver stored it.
	xattrVal = "00 03 0c00 666f6f 76616c2d757365722e666f6f"

	// u::rw-,u:1000:r--,u:1001:rwx,g::r--,g:50:-w-,m::rwx,o::---, as the driver stored it.
	aclVal = "01000000 01000600 02000400e8030000 02000700e9030000 04000400 0800020032000000 10000700 20000000"
)

func TestDecodeXattr(t *testing.T) {
	k := Key{Type: KeyXattr, Val: hexVal(t, xattrVal)}
	x, err := DecodeXattr(k)
	if err != nil {
		t.Fatal(err)
	}
	if x.FullName() != "user.foo" || string(x.Value) != "val-user.foo" {
		t.Errorf("%q = %q", x.FullName(), x.Value)
	}
	if err := x.Validate(&k); err != nil {
		t.Error(err)
	}
	if enc := x.Encode(); !bytes.Equal(enc, k.Val) {
		t.Errorf("encodes to %x, want %x", enc, k.Val)
	}
}

func TestXattrInvalid(t *testing.T) {
	for name, c := range map[string]struct{ val, id string }{
		"empty value": {"00 03 0000 666f6f", ""},
		"spare word":  {"00 03 0100 666f6f 61 0000000000000000", ""},
		"cut off":     {"00 03 0c00 666f6f 76", "xattr_val_size_too_small"},
		"too long":    {"00 03 0100 666f6f 61 00000000000000000000000000000000", "xattr_val_size_too_big"},
		"namespace":   {"05 03 0100 666f6f 61", "xattr_invalid_type"},
		"NUL":         {"00 03 0100 660066 61", "xattr_name_invalid_chars"},
	} {
		k := Key{Type: KeyXattr, Val: hexVal(t, c.val)}
		x, err := DecodeXattr(k)
		if err == nil {
			err = x.Validate(&k)
		}
		checkID(t, name, err, c.id)
	}
}

func TestParseXattrName(t *testing.T) {
	for _, c := range []struct {
		name string
		typ  XattrType
		rest string
		ok   bool
	}{
		{"user.foo", XattrUser, "foo", true},
		{"user.", 0, "", false}, // attributes without a name exist only as ACLs
		{"security.capability", XattrSecurity, "capability", true},
		{"trusted.x", XattrTrusted, "x", true},
		{"system.posix_acl_access", XattrACLAccess, "", true},
		{"system.posix_acl_default", XattrACLDefault, "", true},
		{"system.posix_acl_access.x", 0, "", false},
		{"bcachefs.compression", 0, "", false},
	} {
		typ, rest, ok := ParseXattrName(c.name)
		if ok != c.ok || ok && (typ != c.typ || rest != c.rest) {
			t.Errorf("%q: %d %q %v, want %d %q %v", c.name, typ, rest, ok, c.typ, c.rest, c.ok)
		}
	}
}

func TestACL(t *testing.T) {
	stored := hexVal(t, aclVal)[:44]
	acl, err := DecodeACL(stored)
	if err != nil {
		t.Fatal(err)
	}
	none := uint32(ACLUndefinedID)
	want := []ACLEntry{{ACLUserObj, 6, none}, {ACLUser, 4, 1000}, {ACLUser, 7, 1001}, {ACLGroupObj, 4, none},
		{ACLGroup, 2, 50}, {ACLMask, 7, none}, {ACLOther, 0, none}}
	if d := cmp.Diff(want, acl); d != "" {
		t.Fatal(d)
	}
	x, err := ACLToXattr(stored)
	if err != nil {
		t.Fatal(err)
	}
	if want := "0200000001000600ffffffff02000400e8030000"; hex.EncodeToString(x[:20]) != want {
		t.Errorf("getxattr gives %x…, want %s…", x[:20], want)
	}
	back, err := ACLFromXattr(x)
	if err != nil || !bytes.Equal(back, stored) {
		t.Errorf("setxattr stores %x, %v; want %x", back, err, stored)
	}
	for _, bad := range []string{"", "0100", "02000000", "0100000001000600ff", "0100000003000600", "01000000020004"} {
		b, _ := hex.DecodeString(bad)
		if _, err := DecodeACL(b); !errors.Is(err, ErrACL) {
			t.Errorf("%s: error %v, want %v", bad, err, ErrACL)
		}
	}
}

func TestXattrRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := Xattr{
			Type:  XattrType(rapid.Uint8Max(uint8(NumXattrTypes)-1).Draw(t, "type")),
			Name:  rapid.SliceOfN(rapid.ByteRange(1, 255), 0, 255).Draw(t, "name"),
			Value: rapid.SliceOfN(rapid.Byte(), 0, 1700).Draw(t, "value"),
		}
		k := Key{Type: KeyXattr, Val: x.Encode()}
		if len(k.Val) < 8 {
			k.Val = append(k.Val, make([]byte, 8)...)
		}
		got, err := DecodeXattr(k)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(x, got); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzDecodeXattr(f *testing.F) {
	f.Add(hexVal(f, xattrVal))
	f.Add(append(hexVal(f, "01 00 2c00")[:4], hexVal(f, aclVal)...))
	f.Fuzz(func(t *testing.T, val []byte) {
		x, err := DecodeXattr(Key{Type: KeyXattr, Val: val})
		if err != nil {
			return
		}
		if acl, err := DecodeACL(x.Value); err == nil {
			if !bytes.Equal(EncodeACL(acl), x.Value) {
				t.Fatalf("ACL %x re-encodes as %x", x.Value, EncodeACL(acl))
			}
		}
		if again, err := DecodeXattr(Key{Type: KeyXattr, Val: append(x.Encode(), 0, 0, 0, 0, 0, 0, 0, 0)}); err != nil || !cmp.Equal(x, again) {
			t.Fatal(err, cmp.Diff(x, again))
		}
	})
}
