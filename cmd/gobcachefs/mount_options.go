//go:build linux

package main

import (
	"os"
	"slices"
	"strings"

	"github.com/go-bcachefs/bcachefs/fusefs"
)

// writeMode says whether a mount is to be written to.
type writeMode uint8

const (
	writeIfPossible writeMode = iota // and else read
	writeOrFail
	readOnly
)

// mountOpts are the options that only a mount has.
type mountOpts struct {
	mode       writeMode
	why        string // of a mount that is read-only without having been asked for: the option that makes it so
	allowOther bool
	snapshots  string
	kernel     []string

	fsck           bool
	noChanges      bool
	verbose        bool
	earlyAllocator bool // for tests
	extentCache    string
	overlay        string
}

// defaultOverlay is how much memory changes may take that are not written.
const defaultOverlay = "1G"

// take sorts the options out: those of the mount, flags of the command, and the rest, which stay in m.options.
func (m *mountCmd) take() (mountOpts, error) {
	o := mountOpts{allowOther: os.Geteuid() == 0, extentCache: "64M", overlay: defaultOverlay}
	var rest []string
	for _, opt := range strings.Split(strings.Join(m.options, ","), ",") {
		name, value, hasValue := strings.Cut(strings.TrimSpace(opt), "=")
		taken, err := m.option(&o, name, value, hasValue)
		if err != nil {
			return o, err
		}
		if !taken {
			rest = append(rest, opt)
		}
	}
	m.options = rest
	for _, size := range []string{o.extentCache, o.overlay} {
		if _, err := parseSize(size); err != nil {
			return o, usagef("-o: %v", err)
		}
	}
	if o.why == "" {
		return o, nil
	}
	if o.mode == writeOrFail {
		return o, usagef("options rw and %s exclude each other", o.why)
	}
	o.mode = readOnly
	return o, nil
}

// option takes one option, and reports whether it was one of a mount.
func (m *mountCmd) option(o *mountOpts, name, value string, hasValue bool) (taken bool, err error) {
	needs := func(dst *string) {
		if value == "" {
			err = usagef("option %s wants a value", name)
		}
		*dst = value
	}
	isTrue := func(dst *bool) {
		*dst = true
		if hasValue {
			on, ok := parseBool(value)
			if *dst = on; !ok {
				err = usagef("option %s=%s: want yes or no", name, value)
			}
		}
	}
	switch name {
	case "", "defaults":
	case "rw":
		o.mode = writeOrFail
	case "ro", "read_only":
		o.mode = readOnly
	case "norecovery", "very_degraded", "salvage", "snapshot", "sb":
		o.why = name
		return false, nil
	case "degraded":
		if value == "very" {
			o.why = "degraded=very"
		}
		return false, nil
	case "fsck":
		isTrue(&o.fsck)
	case "nochanges":
		isTrue(&o.noChanges)
	case "verbose", "v":
		isTrue(&o.verbose)
		return false, nil
	case "alloc":
		if o.earlyAllocator = value == "early"; !o.earlyAllocator {
			err = usagef("option alloc=%s: want early", value)
		}
	case "allow_other":
		o.allowOther = true
	case "no_allow_other":
		o.allowOther = false
	case "snapshots":
		o.snapshots = fusefs.SnapshotsDir
		if hasValue {
			o.snapshots = value
		}
		if o.snapshots == "" || strings.Contains(o.snapshots, "/") {
			err = usagef("option snapshots=%s: want a name", value)
		}
	case "scan":
		var dir string
		needs(&dir)
		m.scan = append(m.scan, dir)
	case "passphrase_file":
		needs(&m.passphraseFile)
	case "node_cache":
		needs(&m.cache)
	case "extent_cache":
		needs(&o.extentCache)
	case "overlay":
		needs(&o.overlay)
	case "fg", "foreground":
		m.foreground = true
	case "debug":
		m.debug = true
	default:
		switch {
		case fusefs.IsKernelOption(name) && !hasValue:
			o.kernel = append(o.kernel, name)
		case strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-") && name != "X-mount.subdir" || slices.Contains(mountNoise, name):
		default:
			return false, nil
		}
	}
	return true, err
}

// mountNoise are options that say nothing to us.
var mountNoise = []string{"fsname", "subtype", "default_permissions", "users", "user", "auto", "noauto", "nouser", "nofail", "_netdev"}
