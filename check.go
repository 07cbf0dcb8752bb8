package bcachefs

import (
	"context"
	"errors"

	"github.com/go-bcachefs/bcachefs/internal/fsck"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// CheckOptions say how to check a filesystem. The zero value, or nil, makes all checks.
type CheckOptions struct {
	// Passes are the names of the checks to make, of those that [CheckPasses] lists; none: all.
	Passes []string
	// MaxFindings is how many findings are kept, 10000 if it is 0; more are only counted.
	MaxFindings int
	// MemoryBytes bounds the memory that the checks take beside the caches of the filesystem; 0 means 2 GiB.
	MemoryBytes int64
	// Progress, if set, is told now and then which pass is at work and how many keys it has looked at.
	Progress func(pass string, keys uint64)
}

// CheckReport is what a check found. If Total is 0 the filesystem is clean, as far as it was checked.
type CheckReport struct {
	Findings []Finding
	Total    int            // of findings, also those that were not kept
	ByName   map[string]int // how many there are of each name
	Silenced int            // findings that the superblock says to expect; they are not in Total
	Notes    []string       // what was not checked and why, and what is no error but worth knowing
	Passes   []CheckPass    // in the order in which they ran
}

// Finding is one thing that is wrong with a filesystem.
type Finding struct {
	Name   string // as the reference calls the error; "" if it has no name for it
	Number int    // of the error; -1 without name
	Pass   string // that found it
	Btree  string // where: "" if it is not about a key
	Level  int
	Pos    string // inode:offset:snapshot
	Text   string // what was found, and what it should be
	Repair string // what a repair would do
}

// String is the finding in one line, without Pass and Repair.
func (f Finding) String() string {
	s := f.Text
	if f.Btree != "" {
		s = "btree " + f.Btree + " level " + string('0'+rune(f.Level%10)) + " " + f.Pos + ": " + s
	}
	if f.Name != "" {
		s += " [" + f.Name + "]"
	}
	return s
}

// CheckPass is one check that was made.
type CheckPass struct {
	Name     string
	Findings int
	Keys     uint64 // that it looked at
}

// CheckPasses lists the names of all checks, in the order in which they run.
func CheckPasses() []string { return fsck.PassNames() }

// Check checks the filesystem on devices, see [Open], as far as that can be done without writing. Problems are not errors but findings
// of the report; the error says why the check could not be made, or was ended, and then the report, if any, is of what was done before.
func Check(ctx context.Context, devices []string, open *OpenOptions, opts *CheckOptions) (*CheckReport, error) {
	f, err := Open(ctx, devices, open)
	if err != nil {
		return nil, err
	}
	r, err := f.Check(ctx, opts)
	return r, errors.Join(err, f.Close())
}

// Check checks an open filesystem: whether what its btrees say fits together, and fits what lies in the buckets of its devices. A
// filesystem that was not unmounted is checked as replaying its journal would leave it. Directories and what files hold are not looked at yet.
func (f *FS) Check(ctx context.Context, opts *CheckOptions) (*CheckReport, error) {
	if opts == nil {
		opts = &CheckOptions{}
	}
	r, err := fsck.Check(ctx, fsck.Of(f.engine), fsck.Options{Passes: opts.Passes, MaxFindings: opts.MaxFindings, MemoryBytes: opts.MemoryBytes,
		Progress: opts.Progress})
	if r == nil {
		return nil, err
	}
	out := &CheckReport{Total: r.Total, ByName: map[string]int{}, Silenced: r.Silenced, Notes: r.Notes}
	for _, x := range r.Findings {
		out.Findings = append(out.Findings, newFinding(&x))
	}
	for id, n := range r.ByID {
		out.ByName[errorName(id)] += n
	}
	for _, p := range r.Passes {
		out.Passes = append(out.Passes, CheckPass{p.Name, p.Findings, p.Keys})
	}
	return out, err
}

func newFinding(x *fsck.Finding) Finding {
	f := Finding{Name: x.Name(), Number: int(x.ID), Pass: x.Pass, Text: x.Text, Repair: x.Repair}
	if x.ID == fsck.NoID {
		f.Number = -1
	}
	if x.Place {
		f.Btree, f.Level, f.Pos = x.Btree.String(), int(x.Level), x.Pos.String()
	}
	return f
}

func errorName(id ondisk.ErrorID) string {
	if id == fsck.NoID {
		return ""
	}
	return id.String()
}
