package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/super"
)

type setOptionCmd struct {
	*app
	setFlags
	values  optionFlags
	devices map[string]string // options of devices that were given

	index   map[string]int // of devices, by path as it was given
	changes []string       // what was changed, in words
}

// deviceOptions are the options of devices that can be set later, in the order in which they are.
var deviceOptions = []struct{ name, kind, usage string }{
	{"label", "LABEL", "devices given: label, as ssd.a; none removes it"},
	{"durability", "N", "devices given: how many replicas one on them counts for"},
	{"data_allowed", "TYPES", "devices given: what they may hold, of journal,btree,user"},
	{"discard", "bool", "devices given: discard what is not needed any more"},
}

func newSetOptionCmd(a *app) *cobra.Command {
	s := &setOptionCmd{app: a, values: optionFlags{}, devices: map[string]string{}}
	c := a.command(&cobra.Command{
		Use:   "set-fs-option [flags] DEV...",
		Short: "Change options of a filesystem that is not mounted",
		Long: "set-fs-option changes options that a filesystem has from now on, in the superblocks of all its devices. Options of devices\n" +
			"are changed for the devices that are given.\n\n" +
			"Data that is there already stays as it is.",
		Args: cobra.MinimumNArgs(1),
	}, s.run)
	f := c.Flags()
	f.SortFlags = false
	f.SetNormalizeFunc(upstreamNames)
	for _, o := range super.Options() {
		if o.Mount {
			s.values.register(f, o, ondisk.VersionMax)
			flag := f.Lookup(o.Name)
			flag.Usage = o.Help // defaults are of no matter here
		}
	}
	for _, o := range deviceOptions {
		flag := f.VarPF(&mapFlag{s.devices, o.name, o.kind}, o.name, "", o.usage)
		if o.kind == "bool" {
			flag.NoOptDefVal = "1"
		}
	}
	s.register(f)
	completeOptions(c)
	return c
}

// mapFlag is a flag whose value is checked later.
type mapFlag struct {
	to         map[string]string
	name, kind string
}

func (f *mapFlag) String() string { return "" }
func (f *mapFlag) Type() string   { return f.kind }
func (f *mapFlag) Set(s string) error {
	f.to[f.name] = s
	return nil
}

func (s *setOptionCmd) run(ctx context.Context, args []string) (err error) {
	if len(s.values) == 0 && len(s.devices) == 0 {
		return usagef("set-fs-option: no option is given: see 'gobcachefs set-fs-option --help'")
	}
	set, err := s.open(ctx, s.app, "set-fs-option", args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, set.close()) }()
	given, err := splitDevices(args)
	if err != nil {
		return err
	}
	s.index = map[string]int{}
	for _, path := range given {
		if i := set.index(path); i >= 0 {
			s.index[path] = i
		} else if len(s.devices) > 0 {
			return failed("set-fs-option", path, errors.New("its options can only be set if it is given by its path and is there"))
		}
	}
	if err := set.Update(ctx, s.change, nil); err != nil {
		return set.failed(err)
	}
	if !s.quiet {
		for _, line := range s.changes {
			fmt.Fprintln(s.out, line)
		}
	}
	return nil
}

// change applies the options to a superblock.
func (s *setOptionCmd) change(sb *ondisk.Superblock) error {
	s.changes = nil
	if err := s.changeDevices(sb); err != nil {
		return err
	}
	known := ondisk.Options(sb.Version)
	for _, o := range super.Options() {
		text, ok := s.values[o.Name]
		if !ok {
			continue
		}
		if !slices.ContainsFunc(known, func(k ondisk.Option) bool { return k.Name == o.Name }) {
			return fmt.Errorf("filesystems of version %v have no option %s", sb.Version, o.Name)
		}
		if i, ok := s.index[text]; ok && o.IsTarget() {
			text = fmt.Sprintf("device %d", i)
		}
		v, err := super.ParseOption(sb, o, text)
		if err != nil {
			return err
		}
		was := sb.OptionText(o.Option)
		if err := super.SetOption(sb, o, v); err != nil {
			return err
		}
		s.changed(o.Name, was, sb.OptionText(o.Option))
	}
	return super.CheckOptions(sb)
}

func (s *setOptionCmd) changed(name, was, is string) {
	if was == "" {
		was = "none"
	}
	if is == "" {
		is = "none"
	}
	s.changes = append(s.changes, fmt.Sprintf("%s: %s (was %s)", name, is, was))
}

// changeDevices applies the options of devices.
func (s *setOptionCmd) changeDevices(sb *ondisk.Superblock) error {
	for _, o := range deviceOptions {
		text, ok := s.devices[o.name]
		if !ok {
			continue
		}
		group := -1
		if o.name == "label" && text != "none" && text != "" {
			var err error
			if group, err = sb.AddGroup(text); err != nil {
				return err
			}
		}
		members, err := sb.Members()
		if err != nil {
			return err
		}
		was := make([]string, len(members))
		for i := range members {
			was[i] = deviceOptionText(sb, &members[i], i, o.name)
		}
		for _, i := range s.index {
			if err := setDeviceOption(&members[i], o.name, text, group); err != nil {
				return err
			}
		}
		if err := sb.SetMembers(members); err != nil {
			return err
		}
		for i := range members {
			if is := deviceOptionText(sb, &members[i], i, o.name); is != was[i] {
				s.changed(fmt.Sprintf("%s of device %d", o.name, i), was[i], is)
			}
		}
	}
	return nil
}

func setDeviceOption(m *ondisk.Member, name, text string, group int) error {
	switch name {
	case "label":
		m.SetGroup(group)
	case "durability":
		n, err := strconv.ParseUint(text, 10, 8)
		if err != nil || n > ondisk.MaxDurability {
			return fmt.Errorf("durability=%s: want a number from 0 to %d", text, ondisk.MaxDurability)
		}
		m.SetDurability(uint8(n))
	case "data_allowed":
		types, err := super.ParseDataAllowed(text)
		if err != nil {
			return err
		}
		return super.SetDataAllowed(m, types)
	case "discard":
		on, ok := parseBool(text)
		if !ok {
			return fmt.Errorf("discard=%s: want yes or no", text)
		}
		m.SetDiscard(on)
	}
	return nil
}

// deviceOptionText is the value of an option of a device.
func deviceOptionText(sb *ondisk.Superblock, m *ondisk.Member, index int, name string) string {
	switch name {
	case "label":
		return sb.MemberLabel(index)
	case "durability":
		return strconv.Itoa(int(m.Durability()))
	case "data_allowed":
		return super.DataAllowedText(m.DataAllowed())
	case "discard":
		return map[bool]string{false: "0", true: "1"}[m.Discard()]
	}
	return ""
}
