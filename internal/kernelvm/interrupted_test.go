package kernelvm

import "testing"

// Only copygc that an unmount interrupted is passed over, and only if the driver said nothing else.
func TestInterrupted(t *testing.T) {
	const (
		fine   = "  [    1.0] bcachefs (vda): going read-write\n"
		copygc = "E [    9.1] bcachefs (vda): bch2_evacuate_bucket(): error flushing btree write buffer erofs_no_writes\n"
		bad    = "E [    9.2] bcachefs (vda): inode_i_sectors_wrong\n"
	)
	for _, tt := range []struct {
		r    Result
		want bool
	}{
		{Result{Status: 1, Log: fine + copygc + fine}, true},
		{Result{Status: 1, Log: fine, RepairLog: copygc}, true},
		{Result{Status: 1, Log: fine + copygc + bad}, false},
		{Result{Status: 1, Log: fine + bad + copygc}, false},
		{Result{Status: 1, Log: copygc, RepairLog: bad}, false},
		{Result{Status: 1, Log: fine}, false},
		{Result{Status: 2, Log: copygc}, false},
	} {
		if got := interrupted(tt.r); got != tt.want {
			t.Errorf("%+v: %v", tt.r, got)
		}
	}
}
