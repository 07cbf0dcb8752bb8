package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// openFlags are the flags of every command that opens a filesystem.
type openFlags struct {
	options        []string // -o, each a comma-separated list
	scan           []string
	passphraseFile string
	passphraseFD   int
	cache          string
	quiet          bool
	salvage        bool // as -o salvage; the flag --salvage of some commands

	opened []os.FileInfo // the devices, which no output may go to
}

// noFD is the value of --passphrase-fd when it is not given.
const noFD = -1

func (o *openFlags) register(f *pflag.FlagSet) {
	f.StringArrayVarP(&o.options, "options", "o", nil,
		"mount options, separated by commas: degraded, very_degraded, norecovery, ...")
	f.StringArrayVar(&o.scan, "scan", nil, "look in `DIR` for members that were not given")
	f.StringVar(&o.passphraseFile, "passphrase-file", "", "read the passphrase from the first line of `FILE`")
	f.IntVar(&o.passphraseFD, "passphrase-fd", noFD, "read the passphrase from file descriptor `N`")
	f.StringVar(&o.cache, "node-cache", "256M", "memory for btree nodes")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "do not tell what was noticed when opening")
}

// mountOptions are what -o lists say.
type mountOptions struct {
	degraded, veryDegraded bool
	noRecovery             bool
	salvage                bool
	noSplitBrainCheck      bool
	verbose                bool
	superblockSector       uint64
	subvol                 string
	snapshot               string
}

// parseMountOptions reads -o lists as the reference's mount takes them. Options that make no difference to a read-only
// opening are accepted, so that the line of an fstab can be used as it is.
func parseMountOptions(lists []string) (mountOptions, error) {
	var m mountOptions
	for _, opt := range strings.Split(strings.Join(lists, ","), ",") {
		name, value, hasValue := strings.Cut(strings.TrimSpace(opt), "=")
		on, isBool := true, true
		if hasValue {
			on, isBool = parseBool(value)
		}
		if rest, ok := strings.CutPrefix(name, "no"); ok && !hasValue && (rest == "degraded" || rest == "very_degraded") {
			name, on = rest, false
		}
		switch name {
		case "":
			continue
		case "degraded":
			switch {
			case value == "very":
				m.veryDegraded = true
			case value == "ask":
			case !isBool:
				return m, usagef("option degraded=%s: want yes, no, ask or very", value)
			default:
				m.degraded = on
			}
			continue
		case "very_degraded":
			m.veryDegraded = on
		case "norecovery":
			m.noRecovery = on
		case "salvage":
			m.salvage = on
		case "no_splitbrain_check":
			m.noSplitBrainCheck = on
		case "verbose", "v":
			m.verbose = on
		case "rw":
			return m, usagef("option rw: filesystems are opened read-only")
		case "subvol", "X-mount.subdir":
			m.subvol = value
			continue
		case "snapshot":
			m.snapshot = value
			continue
		case "sb":
			n, err := strconv.ParseUint(value, 10, 63)
			if err != nil {
				return m, usagef("option sb=%s: want a sector", value)
			}
			m.superblockSector = n
			continue
		default:
			if !slices.Contains(ignoredOptions, name) {
				return m, usagef("option %s is not known: see 'gobcachefs help options'", name)
			}
			continue
		}
		if !isBool {
			return m, usagef("option %s=%s: want yes or no", name, value)
		}
	}
	return m, nil
}

// ignoredOptions make no difference to what is read; what must not happen does not happen anyway.
var ignoredOptions = []string{
	"ro", "read_only", "nochanges", "noexcl", "nostart", "fsck", "fix_errors", "errors", "retain_recovery_info",
	"no_version_check", "no_data_io", "journal_transaction_names", "version_upgrade", "ratelimit_errors", "noatime",
	"relatime", "nodiratime", "lazytime", "nodev", "nosuid", "noexec", "defaults", "nofail", "_netdev", "acl",
	"read_journal_only", "read_entire_journal", "nojournal_rewind", "direct_io", "noauto", "user", "allow_other",
}

func parseBool(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "1", "yes", "true", "on", "y":
		return true, true
	case "0", "no", "false", "off", "n":
		return false, true
	}
	return false, false
}

// prepare reads the flags and the devices, which it checks to be there.
func (o *openFlags) prepare(devices []string) (m mountOptions, devs []string, cache int64, err error) {
	if m, err = parseMountOptions(o.options); err != nil {
		return m, nil, 0, err
	}
	if devs, err = splitDevices(devices); err != nil {
		return m, nil, 0, err
	}
	if cache, err = parseSize(o.cache); err != nil {
		return m, nil, 0, usagef("--node-cache: %v", err)
	}
	if o.passphraseFile != "" && o.passphraseFD >= 0 {
		return m, nil, 0, usagef("--passphrase-file and --passphrase-fd exclude each other")
	}
	if o.passphraseFD < noFD {
		return m, nil, 0, usagef("--passphrase-fd %d: want a file descriptor", o.passphraseFD)
	}
	for _, d := range devs {
		if isUUID(d) {
			continue
		}
		st, err := os.Stat(d)
		if errors.Is(err, fs.ErrNotExist) {
			return m, nil, 0, failedTodo("open", d, errors.New("no such file or device"),
				"give the devices of the filesystem as dev1:dev2")
		}
		if err == nil {
			o.opened = append(o.opened, st)
		}
	}
	return m, devs, cache, nil
}

// addMembers remembers the devices that were found by scanning, too.
func (o *openFlags) addMembers(f *engine.FS) {
	for _, m := range f.Members {
		if st, err := os.Stat(m.Path); m.Device != nil && err == nil && !o.isDevice(st) {
			o.opened = append(o.opened, st)
		}
	}
}

// isDevice reports whether a file of this machine is a device of the filesystem that was opened.
func (o *openFlags) isDevice(st os.FileInfo) bool {
	return slices.ContainsFunc(o.opened, func(d os.FileInfo) bool { return os.SameFile(d, st) })
}

// errIsDevice keeps output from going where input comes from.
var errIsDevice = errors.New("it is a device of the filesystem that is read")

// open opens the filesystem on devices, as splitDevices takes them, and writes what was noticed to standard error.
func (o *openFlags) open(ctx context.Context, a *app, devices []string) (*bcachefs.FS, mountOptions, error) {
	m, devs, cache, err := o.prepare(devices)
	if err != nil {
		return nil, m, err
	}
	where := strings.Join(devs, ":")
	f, err := bcachefs.Open(ctx, devs, &bcachefs.OpenOptions{
		Passphrase:        func(ctx context.Context) ([]byte, error) { return o.passphrase(ctx, a, where) },
		Degraded:          m.degraded,
		VeryDegraded:      m.veryDegraded,
		NoRecovery:        m.noRecovery,
		Salvage:           m.salvage || o.salvage,
		NoSplitBrainCheck: m.noSplitBrainCheck,
		ScanDirs:          o.scan,
		SuperblockSector:  m.superblockSector,
		NodeCacheBytes:    cache,
	})
	if err != nil {
		return nil, m, openError("open", where, devs, err)
	}
	o.addMembers(f.Engine())
	if !o.quiet {
		for _, msg := range f.Messages() {
			a.warnf("%s", msg)
		}
	}
	return f, m, nil
}

// openError adds where and what to do to an error of opening one of devices.
func openError(what, where string, devices []string, err error) error {
	switch {
	case errors.Is(err, engine.ErrNoSuperblock):
		return noSuperblock(what, where, devices, err)
	case errors.Is(err, bcachefs.ErrPassphraseNeeded), errors.Is(err, errNoPassphrase):
		return failedTodo(what, where, bcachefs.ErrPassphraseNeeded,
			"use --passphrase-file, --passphrase-fd or BCACHEFS_PASSPHRASE, or run it on a terminal")
	case errors.Is(err, bcachefs.ErrPassphrase), errors.Is(err, engine.ErrPassphrase):
		return failedTodo(what, where, bcachefs.ErrPassphrase, "try again with the passphrase it was formatted or last set with")
	case errors.Is(err, fs.ErrPermission):
		return failedTodo(what, where, err, "run it as a user who may read the device")
	case errors.Is(err, blockdev.ErrNotDevice):
		return failedTodo(what, where, err, "give a block device or an image of one")
	}
	if slices.ContainsFunc(devices, isUUID) {
		return failedTodo(what, where, err, "--scan DIR looks among images; block devices are looked at as far as you may read them")
	}
	return failed(what, where, err)
}

// viewFlags select the subvolume or snapshot that a command works in.
type viewFlags struct {
	subvol   string
	snapshot string
}

func (v *viewFlags) register(f *pflag.FlagSet) {
	f.StringVar(&v.subvol, "subvol", "", "work in the subvolume with this `PATH` or id")
	f.StringVar(&v.snapshot, "snapshot", "", "work in the snapshot with this `ID`, or path of its subvolume")
}

// view returns what the flags, or else the mount options, select: by default the root of the filesystem.
func (v *viewFlags) view(f *bcachefs.FS, m mountOptions) (*bcachefs.View, error) {
	subvol, snapshot := v.subvol, v.snapshot
	if subvol == "" && snapshot == "" {
		subvol, snapshot = m.subvol, m.snapshot
	}
	switch {
	case subvol != "" && snapshot != "":
		return nil, usagef("--subvol and --snapshot exclude each other")
	case snapshot != "":
		id, err := strconv.ParseUint(snapshot, 10, 32)
		if err != nil {
			subvol = snapshot
			break
		}
		view, err := f.SnapshotView(uint32(id))
		if err != nil {
			return nil, failedTodo("find", "snapshot "+snapshot, err, "'gobcachefs subvolume list-snapshots' lists them")
		}
		return view, nil
	case subvol == "":
		return f.Root(), nil
	}
	view, err := f.Subvolume(subvol)
	if err != nil {
		return nil, failedTodo("find subvolume", subvol, err, "'gobcachefs subvolume list -R' lists them")
	}
	return view, nil
}

// fileFlags are the flags of the commands that work on files: DEV PATH...
type fileFlags struct {
	openFlags
	viewFlags
}

func (ff *fileFlags) register(c *cobra.Command) {
	ff.openFlags.register(c.Flags())
	ff.viewFlags.register(c.Flags())
}

// with opens the filesystem on dev, an argument as splitDevices takes it, and runs fn on the view that the flags select.
func (ff *fileFlags) with(ctx context.Context, a *app, dev string, fn func(v *bcachefs.View) error) error {
	f, m, err := ff.open(ctx, a, []string{dev})
	if err != nil {
		return err
	}
	defer f.Close()
	v, err := ff.view(f, m)
	if err != nil {
		return err
	}
	return fn(v)
}

// openEngine opens the filesystem for commands that look below files.
func (o *openFlags) openEngine(ctx context.Context, a *app, devices []string) (*engine.FS, error) {
	m, devs, cache, err := o.prepare(devices)
	if err != nil {
		return nil, err
	}
	where := strings.Join(devs, ":")
	f, err := engine.Open(ctx, devs, engine.Options{
		Passphrase:        func(ctx context.Context) ([]byte, error) { return o.passphrase(ctx, a, where) },
		Degraded:          m.degraded,
		VeryDegraded:      m.veryDegraded,
		NoRecovery:        m.noRecovery,
		Salvage:           m.salvage,
		NoSplitBrainCheck: m.noSplitBrainCheck,
		ScanDirs:          o.scan,
		SBSector:          ondisk.Sector(m.superblockSector),
		NodeCacheBytes:    cache,
	})
	if err != nil {
		return nil, openError("open", where, devs, err)
	}
	o.addMembers(f)
	if !o.quiet {
		for _, msg := range f.Messages() {
			a.warnf("%s", msg)
		}
	}
	return f, nil
}
