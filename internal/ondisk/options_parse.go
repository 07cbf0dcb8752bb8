package ondisk

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// IsBool reports whether the option is on or off and nothing else.
func (o Option) IsBool() bool { return o.kind == optBool }

// IsSize reports whether the value is a number of bytes.
func (o Option) IsSize() bool { return o.kind == optSectors || o.kind == optSectors2 }

// IsTarget reports whether the value is a device or a label.
func (o Option) IsTarget() bool { return o.kind == optTarget }

// Limited is the option with a smaller largest value.
func (o Option) Limited(most uint64) Option {
	o.max = most
	return o
}

// Choices are the names that the value is one of, nil if it is none. Those of compression may have a level behind them.
func (o Option) Choices() []string {
	if o.kind == optCompression {
		return slices.Clone(compressOptions)
	}
	return slices.Clone(o.names)
}

// ParseOption reads a value of an option as [Superblock.OptionText] writes it, sizes as [ParseSize] takes them and switches as
// 0 and 1. Labels of targets are those that sb has; numbers of devices are taken as such. What is stored is checked, but for
// limits that only some versions have.
func (sb *Superblock) ParseOption(o Option, text string) (uint64, error) {
	v, err := sb.parseOption(o, text)
	if err == nil {
		err = o.check(v)
	}
	if err != nil {
		return 0, fmt.Errorf("%s=%s: %w", o.Name, text, o.wanted())
	}
	return v, nil
}

func (sb *Superblock) parseOption(o Option, text string) (uint64, error) {
	switch o.kind {
	case optSectors, optSectors2:
		n, err := ParseSize(text)
		if err == nil && n%SectorSize != 0 {
			err = fmt.Errorf("%d bytes are no whole sectors", n)
		}
		return uint64(n), err
	case optEnum:
		return indexOf(o.names, text)
	case optCompression:
		name, level, hasLevel := strings.Cut(text, ":")
		v, err := indexOf(compressOptions, name)
		if err != nil || !hasLevel {
			return v, err
		}
		n, err := strconv.ParseUint(level, 10, 8)
		if err != nil || n > 15 {
			return 0, fmt.Errorf("level %s", level)
		}
		return v | n<<4, nil
	case optTarget:
		return sb.parseTarget(text)
	}
	return strconv.ParseUint(text, 10, 64)
}

func indexOf(names []string, name string) (uint64, error) {
	i := slices.Index(names, name)
	if i < 0 {
		return 0, fmt.Errorf("no choice is named %q", name)
	}
	return uint64(i), nil
}

// wanted says what values an option takes.
func (o Option) wanted() error {
	switch o.kind {
	case optBool:
		return errors.New("want 0 or 1")
	case optEnum:
		return fmt.Errorf("want %s", strings.Join(o.names, ", "))
	case optCompression:
		return fmt.Errorf("want %s, with a level as in zstd:3 or without", strings.Join(compressOptions, ", "))
	case optTarget:
		return errors.New("want a device of the filesystem, the label of one, or none")
	case optSectors, optSectors2:
		power := ""
		if o.kind == optSectors2 || o.pow2() {
			power = ", a power of two"
		}
		if o.max > 0 {
			return fmt.Errorf("want a size from %s to %s%s", SizeText(max(o.min, SectorSize)), SizeText(o.max), power)
		}
		return fmt.Errorf("want a size%s", power)
	}
	if o.max > 0 {
		return fmt.Errorf("want a number from %d to %d", o.min, o.max)
	}
	return errors.New("want a number")
}

// pow2 reports whether an option that is stored in sectors must be a power of two.
func (o Option) pow2() bool { return o.word < 0 || o.Name == "btree_node_size" }

// parseTarget reads what TargetText writes.
func (sb *Superblock) parseTarget(text string) (uint64, error) {
	if text == "none" || text == "" {
		return 0, nil
	}
	if n, ok := strings.CutPrefix(text, "device "); ok {
		i, err := strconv.ParseUint(n, 10, 8)
		if err != nil || i >= uint64(sb.NrDevices) {
			return 0, fmt.Errorf("no device %s", n)
		}
		return DeviceTarget(int(i)), nil
	}
	group, ok := sb.FindGroup(text)
	if !ok {
		return 0, fmt.Errorf("no label %q", text)
	}
	return targetGroups + uint64(group), nil
}

// DeviceTarget is the value of a target that is the device with this index.
func DeviceTarget(index int) uint64 { return uint64(index) + 1 }

// SizeText writes a number of bytes as show-super does: 64.0 KiB.
func SizeText(v uint64) string { return sizeText(v) }

// ParseSize reads a size in bytes: 4096, 4k, 512M, 1.5T, with or without a following iB or B; units are binary.
func ParseSize(s string) (int64, error) {
	const units = "KMGTPE"
	num := strings.TrimSpace(s)
	num = strings.TrimSuffix(num, "B")
	num = strings.TrimSuffix(num, "i")
	shift := 0
	if num != "" {
		if i := strings.IndexByte(units, num[len(num)-1]&^0x20); i >= 0 && num[len(num)-1] > '9' {
			shift = 10 * (i + 1)
			num = num[:len(num)-1]
		}
	}
	if n, err := strconv.ParseUint(num, 10, 63); err == nil {
		if shift > 0 && n > math.MaxInt64>>shift {
			return 0, fmt.Errorf("size %q is too large", s)
		}
		return int64(n) << shift, nil
	}
	f, err := strconv.ParseFloat(num, 64)
	if err != nil || !(f >= 0) || strings.ContainsAny(num, "xXpPeEnN") {
		return 0, fmt.Errorf("size %q: want a number of bytes such as 4096, 4k, 512M or 1.5T", s)
	}
	f *= float64(uint64(1) << shift)
	if f >= math.MaxInt64 {
		return 0, fmt.Errorf("size %q is too large", s)
	}
	return int64(f), nil
}
