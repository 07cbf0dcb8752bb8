package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

type showSuperCmd struct {
	*app
	fields    string
	fieldOnly string
	layout    bool
	sector    uint64
	json      bool
}

func newShowSuperCmd(a *app) *cobra.Command {
	s := &showSuperCmd{app: a}
	c := a.command(&cobra.Command{
		Use:   "show-super [flags] DEV...",
		Short: "Print superblock information",
		Long: "show-super prints the superblock of each device: of its copies, the valid one that was written last. The devices\n" +
			"need not be all of a filesystem, nor of a version that can be opened.",
		Args: cobra.MinimumNArgs(1),
	}, s.run)
	f := c.Flags()
	f.StringVarP(&s.fields, "fields", "f", "", "print these `SECTIONS` (separated by commas), or all")
	f.StringVarP(&s.fieldOnly, "field-only", "F", "", "print this `SECTION` only, without the header")
	f.BoolVarP(&s.layout, "layout", "l", false, "print the layout: where the copies are")
	f.Uint64Var(&s.sector, "sb", 0, "read the superblock at this `SECTOR`, in units of 512 bytes")
	jsonFlag(c, &s.json)
	return c
}

func (s *showSuperCmd) run(ctx context.Context, args []string) error {
	devices, err := splitDevices(args)
	if err != nil {
		return err
	}
	opts, err := s.textOptions()
	if err != nil {
		return err
	}
	p := problems{app: s.app}
	var all []*superJSON
	printed := false
	for _, dev := range devices {
		sb, notes, err := engine.ReadSuperblock(ctx, dev, engine.Options{SBSector: ondisk.Sector(s.sector)})
		if err != nil {
			if len(devices) == 1 {
				return openError("show-super", dev, devices, err)
			}
			p.count++
			s.report(openError("show-super", dev, []string{dev}, err))
			continue
		}
		for _, n := range notes {
			s.warnf("%s: %s", dev, n)
		}
		if s.json {
			all = append(all, superToJSON(dev, sb))
			continue
		}
		if printed {
			s.out.WriteByte('\n')
		}
		printed = true
		o := opts
		if s.fields == "" && s.fieldOnly == "" {
			o.Sections = defaultSections(sb)
		}
		if err := sb.Text(s.out, o); err != nil {
			return failed("writing the output", "", err)
		}
	}
	if s.json {
		if err := s.writeJSON(all); err != nil {
			return err
		}
	}
	return p.result()
}

// defaultSections are printed unless others are asked for.
func defaultSections(sb *ondisk.Superblock) []ondisk.SectionType {
	members := ondisk.SectionMembersV1
	if sb.Section(ondisk.SectionMembersV2) != nil {
		members = ondisk.SectionMembersV2
	}
	return []ondisk.SectionType{ondisk.SectionExt, members, ondisk.SectionErrors, ondisk.SectionErrorsV2}
}

// superJSON is what --json tells of a device's superblock. Sizes are in bytes.
type superJSON struct {
	Device         string       `json:"device"`
	UUID           string       `json:"uuid"`
	InternalUUID   string       `json:"internal_uuid"`
	Label          string       `json:"label"`
	Version        string       `json:"version"`
	VersionMin     string       `json:"version_min"`
	DeviceIndex    uint8        `json:"device_index"`
	Devices        int          `json:"devices"`
	Seq            uint64       `json:"sequence_number"`
	Clean          bool         `json:"clean"`
	Encrypted      bool         `json:"encrypted"`
	BlockSize      int          `json:"block_size"`
	BtreeNodeSize  int          `json:"btree_node_size"`
	Features       []string     `json:"features"`
	CompatFeatures []string     `json:"compat_features"`
	Members        []memberJSON `json:"members"`
}

type memberJSON struct {
	Index      int    `json:"index"`
	UUID       string `json:"uuid"`
	Label      string `json:"label,omitempty"`
	State      string `json:"state"`
	Size       int64  `json:"size"`
	BucketSize int64  `json:"bucket_size"`
	Buckets    uint64 `json:"buckets"`
	Durability uint8  `json:"durability"`
}

func superToJSON(device string, sb *ondisk.Superblock) *superJSON {
	j := &superJSON{
		Device: device, UUID: ondisk.UUID(sb.UserUUID).String(), InternalUUID: ondisk.UUID(sb.UUID).String(), Label: sb.Label(),
		Version: sb.Version.String(), VersionMin: sb.VersionMin.String(), DeviceIndex: uint8(sb.DevIdx), Seq: uint64(sb.Seq),
		Clean: sb.IsClean(), Encrypted: sb.Encrypted(), BlockSize: sb.BlockBytes(), BtreeNodeSize: sb.BtreeNodeSize(),
		Features: sb.FeatureNames(), CompatFeatures: sb.CompatNames(), Members: []memberJSON{},
	}
	members, err := sb.Members()
	if err != nil {
		return j
	}
	for i := range members {
		m := &members[i]
		if !m.Alive() {
			continue
		}
		j.Members = append(j.Members, memberJSON{Index: i, UUID: m.UUID.String(), Label: sb.MemberLabel(i), State: m.State().String(),
			Size: m.Bytes(), BucketSize: m.BucketBytes(), Buckets: m.NBuckets, Durability: m.Durability()})
	}
	j.Devices = len(j.Members)
	return j
}

// textOptions turns the flags into what is printed.
func (s *showSuperCmd) textOptions() (ondisk.TextOptions, error) {
	o := ondisk.TextOptions{Layout: s.layout}
	parse := func(flag, name string) (ondisk.SectionType, error) {
		t, err := ondisk.ParseSectionType(name)
		if err != nil {
			return 0, usagef("%s: %v", flag, err)
		}
		return t, nil
	}
	switch {
	case s.fields != "" && s.fieldOnly != "":
		return o, usagef("--fields and --field-only exclude each other")
	case s.fieldOnly != "":
		t, err := parse("--field-only", s.fieldOnly)
		if err != nil {
			return o, err
		}
		o.Only, o.Sections = true, []ondisk.SectionType{t}
	case s.fields == "all":
		o.All = true
	case s.fields != "":
		for _, name := range strings.Split(s.fields, ",") {
			t, err := parse("--fields", name)
			if err != nil {
				return o, err
			}
			o.Sections = append(o.Sections, t)
		}
	}
	return o, nil
}
