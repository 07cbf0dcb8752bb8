// Package fsck checks a filesystem against itself: what one btree says of another, and what all of them say of the buckets.
//
// # Passes
//
// The checks are the recovery passes of the reference that need no repair to be made first, each in a file of its name, and two more for
// what comes before any pass there: the superblock and the journal. They run in the reference's order. A pass reads through a
// [Filesystem], an interface small enough for a filesystem that is open for writing as well, and tells each thing that is wrong as a
// [Finding]: a value that says where, what, and what repair would do.
//
// # What damage hides
//
// A node that cannot be read is a finding of check_topology, and a range of positions of which nothing is known. Later passes say
// nothing of what would stand there: one lost node is one finding and not the thousand that follow from taking it for empty. What
// could not be checked for that is in [Report.Notes].
//
// # Versions
//
// All of metadata versions 1.0 to 1.39. What a version does not have is not looked for; what it has and this package cannot judge is
// noted.
//
// # Memory and concurrency
//
// Memory is bounded by [Options.MemoryBytes] and the findings that are kept by [Options.MaxFindings]: buckets in use take 20 bytes each,
// inodes with extents 40 while allocations are counted; backpointers, directory entries and what they lead to are matched in windows.
// What inodes hold is merged with them as both are read; only names of files that say to have several, and directories on the way up from
// others, are kept in tables. [Check] may run beside readers of the filesystem and beside itself.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Filesystem is what the passes read. Its methods must be safe for concurrent use and, of a filesystem that changes, show one state.
type Filesystem interface {
	Superblock() *ondisk.Superblock
	// Devices are the slots in use, by index.
	Devices() []Device
	// KeyVersion is the greatest version of a key that was given out; false if that is not recorded.
	KeyVersion() (uint64, bool)
	Root(id ondisk.BtreeID) (btree.Root, bool)
	// Keys goes over the keys of nodes of a level, journal and all caches taken into account, in all snapshots, from and to included.
	// After a *[btree.NodeError] it goes on behind the range that is unknown.
	Keys(ctx context.Context, id ondisk.BtreeID, level uint8, from, to ondisk.Pos) iter.Seq2[ondisk.Key, error]
	// Nodes goes over the nodes of a level, with errors as Keys.
	Nodes(ctx context.Context, id ondisk.BtreeID, level uint8) iter.Seq2[btree.NodeRef, error]
	// Get returns the key at exactly pos in a leaf.
	Get(ctx context.Context, id ondisk.BtreeID, pos ondisk.Pos) (ondisk.Key, bool, error)
}

// Device is a slot of the filesystem.
type Device struct {
	Index uint8
	ondisk.Member
	Name string
	SB   *ondisk.Superblock // its own; nil if the device is missing
	// Problems are what ails the device's superblocks other than SB, in words.
	Problems []string
}

// holds reports whether the device has the bucket.
func (d *Device) holds(b ondisk.Bucket) bool {
	return b >= ondisk.Bucket(d.FirstBucket) && uint64(b) < d.NBuckets
}

// NoID is the [Finding.ID] of what upstream has no number for.
const NoID ondisk.ErrorID = 1<<16 - 1

// Finding is one thing that is wrong.
type Finding struct {
	ID     ondisk.ErrorID // as upstream numbers it; NoID if it does not
	Pass   string         // that found it
	Place  bool           // Btree, Level and Pos say where
	Btree  ondisk.BtreeID
	Level  uint8
	Pos    ondisk.Pos
	Text   string // what was found, and what it should be
	Repair string // what repair would do
}

// Name is upstream's name of the error; "" if it has none.
func (f *Finding) Name() string {
	if f.ID == NoID {
		return ""
	}
	return f.ID.String()
}

func (f *Finding) String() string {
	s := f.Text
	if f.Place {
		s = fmt.Sprintf("btree %v level %d %v: %s", f.Btree, f.Level, f.Pos, s)
	}
	if f.ID != NoID {
		s += fmt.Sprintf(" [%v]", f.ID)
	}
	return s
}

// Options say how to check. The zero value is fine.
type Options struct {
	// Passes are those to run; none: all.
	Passes []string
	// MaxFindings is how many findings are kept; more are only counted. 0 is [DefaultMaxFindings].
	MaxFindings int
	// MemoryBytes bounds what the passes hold beside the filesystem's own caches. 0 is [DefaultMemoryBytes].
	MemoryBytes int64
	// Parallel is how many goroutines share a walk; 0 is one for each processor.
	Parallel int
	// Progress, if set, is told now and then which pass is at work and how many keys it has looked at. It is called from one
	// goroutine at a time.
	Progress func(pass string, keys uint64)
}

// Defaults of [Options].
const (
	DefaultMaxFindings = 10000
	DefaultMemoryBytes = 2 << 30
)

// ErrMemory means that a check needs more than [Options.MemoryBytes].
var ErrMemory = errors.New("fsck: more memory is needed than is allowed")

// Report is the outcome of a check.
type Report struct {
	Findings []Finding // in order of the passes and, within one, of positions
	// Total counts all findings, ByID each kind, also those that were not kept.
	Total int
	ByID  map[ondisk.ErrorID]int
	// Silenced counts findings that the superblock says to expect, as after a change of version; they are not in Total.
	Silenced int
	// Notes are what was not checked and why, and what is worth knowing but no error.
	Notes  []string
	Passes []PassReport // in the order they ran
}

// PassReport tells of one pass.
type PassReport struct {
	Name     string
	Findings int
	Keys     uint64 // looked at
	Duration time.Duration
}

// Clean reports whether nothing is wrong.
func (r *Report) Clean() bool { return r.Total == 0 }

// pass is a check. Its run returns errors that keep it from going on: those of the context, and ErrMemory.
type pass struct {
	name  string
	run   func(c *checker, ctx context.Context) error
	alloc bool // it is about allocation information, which filesystems that are never written to may do without
}

// passes are all passes in the order of the reference.
var passes = []pass{
	{"superblock", (*checker).checkSuperblock, false},
	{"journal", (*checker).checkJournal, false},
	{"check_topology", (*checker).checkTopology, false},
	{"accounting_read", (*checker).accountingRead, true},
	{"check_allocations", (*checker).checkAllocations, true},
	{"check_alloc_info", (*checker).checkAllocInfo, true},
	{"check_lrus", (*checker).checkLRUs, true},
	{"check_btree_backpointers", (*checker).checkBtreeBackpointers, true},
	{"check_backpointers_to_extents", (*checker).checkBackpointersToExtents, true},
	{"check_extents_to_backpointers", (*checker).checkExtentsToBackpointers, true},
	{"check_alloc_to_lru_refs", (*checker).checkAllocToLRURefs, true},
	{"check_snapshot_trees", (*checker).checkSnapshotTrees, false},
	{"check_snapshots", (*checker).checkSnapshots, false},
	{"check_subvols", (*checker).checkSubvols, false},
	{"check_subvol_children", (*checker).checkSubvolChildren, false},
	{"check_inodes", (*checker).checkInodes, false},
	{"check_extents", (*checker).checkExtents, false},
	{"check_indirect_extents", (*checker).checkIndirectExtents, false},
	{"check_dirents", (*checker).checkDirents, false},
	{"check_xattrs", (*checker).checkXattrs, false},
	{"check_damage", (*checker).checkDamage, false},
	{"check_root", (*checker).checkRoot, false},
	{"check_unreachable_inodes", (*checker).checkUnreachableInodes, false},
	{"check_subvolume_structure", (*checker).checkSubvolumeStructure, false},
	{"check_directory_structure", (*checker).checkDirectoryStructure, false},
	{"check_nlinks", (*checker).checkNlinks, false},
	{"resume_logged_ops", (*checker).resumeLoggedOps, false},
	{"delete_dead_inodes", (*checker).deleteDeadInodes, false},
}

// PassNames are the names of all passes, in the order they run.
func PassNames() []string {
	var names []string
	for _, p := range passes {
		names = append(names, p.name)
	}
	return names
}

// checker is one run of [Check].
type checker struct {
	fs      Filesystem
	opts    Options
	sb      *ondisk.Superblock
	version ondisk.MetadataVersion
	devices []Device
	byIndex [256]*Device
	types   ondisk.ExtentTypeU64s
	bpShift uint8
	silent  func(ondisk.ErrorID) bool
	pass    string // at work
	lost    lostRanges
	targets targets // set by check_allocations

	files    *files           // once a pass has read them
	unbacked map[inodeID]bool // inodes whose entry is not where they say; set by check_inodes

	mu      sync.Mutex
	report  Report
	current []Finding // of the pass at work
	kept    int
	keys    uint64 // looked at by the pass at work
	noted   map[string]bool

	inumsOff int    // inodes whose counters are wrong
	inumOff  uint64 // the first
}

// Check runs the passes on a filesystem. The error is the context's or [ErrMemory], and then the report tells how far it came.
func Check(ctx context.Context, fs Filesystem, opts Options) (*Report, error) {
	c, err := newChecker(fs, opts)
	if err != nil {
		return nil, err
	}
	for _, p := range passes {
		// Later passes rely on what check_topology knows of lost nodes.
		if len(opts.Passes) > 0 && !slices.Contains(opts.Passes, p.name) && p.name != "check_topology" {
			continue
		}
		if p.alloc && c.sb.HasFeature(ondisk.FeatureNoAllocInfo) {
			c.pass = p.name
			c.note("the filesystem has no allocation information: nothing to check")
			continue
		}
		if err := c.runPass(ctx, p); err != nil {
			return &c.report, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return &c.report, nil
}

func newChecker(fs Filesystem, opts Options) (*checker, error) {
	for _, name := range opts.Passes {
		if !slices.Contains(PassNames(), name) {
			return nil, fmt.Errorf("fsck: no pass is named %q", name)
		}
	}
	if opts.MaxFindings <= 0 {
		opts.MaxFindings = DefaultMaxFindings
	}
	if opts.MemoryBytes <= 0 {
		opts.MemoryBytes = DefaultMemoryBytes
	}
	if opts.Parallel <= 0 {
		opts.Parallel = runtime.GOMAXPROCS(0)
	}
	sb := fs.Superblock()
	c := &checker{fs: fs, opts: opts, sb: sb, version: sb.Version, devices: fs.Devices(), types: sb.ExtentTypeU64s(),
		bpShift: uint8(sb.BackpointerShift()), noted: map[string]bool{}}
	c.report.ByID = map[ondisk.ErrorID]int{}
	for i := range c.devices {
		c.byIndex[c.devices[i].Index] = &c.devices[i]
	}
	ext, err := sb.Ext()
	c.silent = func(id ondisk.ErrorID) bool {
		return err == nil && ext != nil && int(id) < 64*len(ext.ErrorsSilent) && ext.ErrorsSilent[id/64]>>(id%64)&1 != 0
	}
	return c, nil
}

func (c *checker) runPass(ctx context.Context, p pass) error {
	start := time.Now()
	c.pass, c.current, c.keys = p.name, nil, 0
	before := c.report.Total
	if c.opts.Progress != nil {
		c.opts.Progress(p.name, 0)
	}
	err := p.run(c, ctx)
	slices.SortStableFunc(c.current, compareFindings)
	c.report.Findings = append(c.report.Findings, c.current...)
	c.report.Passes = append(c.report.Passes, PassReport{Name: p.name, Findings: c.report.Total - before, Keys: c.keys,
		Duration: time.Since(start)})
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// at least the version.
func (c *checker) since(minor uint16) bool { return c.version >= 1<<10|ondisk.MetadataVersion(minor) }

// device returns a device that has the bucket, or nil.
func (c *checker) device(dev uint64, b ondisk.Bucket) *Device {
	if dev >= uint64(len(c.byIndex)) {
		return nil
	}
	if d := c.byIndex[dev]; d != nil && d.BucketSize != 0 && d.holds(b) {
		return d
	}
	return nil
}
