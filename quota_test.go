package bcachefs_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/go-bcachefs/bcachefs"
)

// What somebody has is counted through the library, held to limits, and counted the same after opening again.
func TestQuota(t *testing.T) {
	d := newDisk(t, 64, map[string]string{"usrquota": "1", "prjquota": "1"})
	const user = 7 // who owns what the test makes
	usage := func() bcachefs.Quota {
		t.Helper()
		q, err := d.fs.Quota(bcachefs.QuotaUser, user)
		d.must(err)
		return q
	}
	d.must(d.WriteFile("a", make([]byte, 100000), 0o644))
	d.must(d.Mkdir("dir", 0o755))
	if q := usage(); q.Bytes != 102400 || q.Inodes != 2 {
		t.Errorf("%d bytes and %d inodes", q.Bytes, q.Inodes)
	}
	d.must(d.fs.SetQuota(t.Context(), bcachefs.QuotaUser, user, bcachefs.QuotaLimits{Hard: 200 << 10}, bcachefs.QuotaLimits{Hard: 4}))
	d.fails(d.WriteFile("b", make([]byte, 200000), 0o644), bcachefs.EDQUOT)
	d.must(d.WriteFile("b", make([]byte, 50000), 0o644))
	d.must(d.Mkdir("dir2", 0o755))
	d.fails(d.Mkdir("dir3", 0o755), bcachefs.EDQUOT)
	d.must(d.Chown("a", 8, -1))
	d.must(d.Mkdir("dir3", 0o755))
	before := usage()
	d.close()
	d.open()
	if after := usage(); after != before {
		t.Errorf("%+v after opening again, %+v before", after, before)
	}
	d.fails(d.Mkdir("dir4", 0o755), bcachefs.EDQUOT)
	d.must(d.Remove("dir2"))
	d.must(d.fs.WaitDeleted(t.Context()))
	d.must(d.Mkdir("dir4", 0o755))
	all, err := d.fs.Quotas(bcachefs.QuotaUser)
	d.must(err)
	got := ""
	for _, q := range all {
		got += fmt.Sprintf("%d:%d/%d ", q.ID, q.Bytes, q.Inodes)
	}
	if want := "0:0/2 7:53248/4 8:102400/1 "; got != want {
		t.Errorf("all: %q, want %q", got, want)
	}
	if _, err := d.fs.Quota(bcachefs.QuotaGroup, 0); !errors.Is(err, bcachefs.ErrQuotaOff) {
		t.Errorf("quotas of groups, which are off: %v", err)
	}
}
