package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/super"
)

type formatCmd struct {
	*app
	key openFlags // where the passphrase comes from

	opts           bcachefs.FormatOptions
	values         optionFlags
	replicas       uint
	superblockSize string
	noPassphrase   bool
	seed           string
	time           string
	quiet, json    bool

	source string // what is to be put into the filesystem

	flags   *pflag.FlagSet
	devices []deviceOption // in the order in which they were given
}

// A deviceOption holds for the devices behind it.
type deviceOption struct {
	before int // number of devices that stand before it
	set    func(d *bcachefs.FormatDevice) error
}

// newFormatter returns what the commands have in common that format.
func newFormatter(a *app) *formatCmd {
	return &formatCmd{app: a, key: openFlags{passphraseFD: noFD}, values: optionFlags{}}
}

func newFormatCmd(a *app) *cobra.Command {
	f := newFormatter(a)
	c := a.command(&cobra.Command{
		Use:   "format [flags] DEV...",
		Short: "Make a new filesystem",
		Long: "format makes a filesystem of metadata version 1.13 on devices or files. It writes the superblocks; the first read-write mount\n" +
			"makes the rest.\n\n" +
			"Options for a device stand before it and hold for all devices that follow, until they are given again:\n\n" +
			"  gobcachefs format --label=ssd.a /dev/sda --label=hdd.a --durability=2 /dev/sdb --foreground_target=ssd\n\n" +
			"Devices that hold a filesystem, a partition table or the like are refused without --force.",
		Args: cobra.MinimumNArgs(1),
	}, f.run)
	f.registerFlags(c)
	c.Flags().StringVar(&f.source, "source", "", "put the files of this directory or archive `SOURCE` in, as image create does")
	return c
}

// registerFlags registers the flags of the filesystem and its devices.
func (f *formatCmd) registerFlags(c *cobra.Command) {
	f.flags = c.Flags()
	f.flags.SortFlags = false
	f.flags.SetNormalizeFunc(upstreamNames)
	for _, o := range super.Options() {
		if o.Format {
			f.values.register(f.flags, o, ondisk.VersionDefault)
		}
	}
	f.registerOwn()
	f.registerDevice()
	jsonFlag(c, &f.json)
	completeOptions(c)
}

// upstreamNames lets flags be written with dashes or underscores; those that the reference has print as there.
func upstreamNames(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	dashed := strings.ReplaceAll(name, "_", "-")
	if slices.Contains([]string{"no-preserve", "passphrase-file", "passphrase-fd", "new-passphrase-file", "new-passphrase-fd"}, dashed) {
		return pflag.NormalizedName(dashed)
	}
	return pflag.NormalizedName(strings.ReplaceAll(name, "-", "_"))
}

func (f *formatCmd) registerOwn() {
	s := f.flags
	s.UintVar(&f.replicas, "replicas", 0, "metadata_replicas and data_replicas at once")
	s.BoolVar(&f.opts.Encrypted, "encrypted", false, "encrypt data and metadata (ChaCha20/Poly1305)")
	s.BoolVar(&f.noPassphrase, "no_passphrase", false, "store the encryption key in the clear")
	s.StringVar(&f.key.passphraseFile, "passphrase-file", "", "read the passphrase from the first line of `FILE`")
	s.IntVar(&f.key.passphraseFD, "passphrase-fd", noFD, "read the passphrase from file descriptor `N`")
	s.StringVarP(&f.opts.Label, "fs_label", "L", "", "`NAME` of the filesystem")
	s.StringVarP(&f.opts.UUID, "uuid", "U", "", "external `UUID` of the filesystem")
	s.StringVar(&f.superblockSize, "superblock_size", "", "`SIZE` that superblocks may grow to (default 1M)")
	s.StringVar(&f.opts.Version, "version", "", "metadata `VERSION` of the filesystem (default 1.13)")
	s.BoolVar(&f.opts.NoInitialize, "no_initialize", false, "leave it to the first mount to make journal, btrees and root directory")
	s.StringVar(&f.seed, "seed", "", "derive all that is random from `TEXT`, keys too: for images that are built again and again")
	s.StringVar(&f.time, "time", "", "`TIME` of creation, as 2024-05-06T07:08:09Z or seconds since 1970")
	s.BoolVarP(&f.opts.Force, "force", "f", false, "overwrite what is there")
	s.BoolVarP(&f.quiet, "quiet", "q", false, "print errors only")
	s.BoolP("verbose", "v", false, "accepted for the habit: there is nothing more to tell")
}

// registerDevice registers the options for devices.
func (f *formatCmd) registerDevice() {
	add := func(name, short, value, usage string, set func(d *bcachefs.FormatDevice, text string) error) {
		v := &deviceFlag{f: f, kind: value, set: set}
		flag := f.flags.VarPF(v, name, short, usage)
		if value == "bool" {
			flag.NoOptDefVal = "true"
		}
	}
	size := func(field func(d *bcachefs.FormatDevice) *int64) func(*bcachefs.FormatDevice, string) error {
		return func(d *bcachefs.FormatDevice, text string) error {
			n, err := parseSize(text)
			if err == nil && n == 0 {
				err = errors.New("it is zero")
			}
			*field(d) = n
			return err
		}
	}
	add("size", "", "SIZE", "device: make a sparse file of this size", size(func(d *bcachefs.FormatDevice) *int64 { return &d.CreateBytes }))
	add("fs_size", "", "SIZE", "device: use only so much of the next one", size(func(d *bcachefs.FormatDevice) *int64 { return &d.Bytes }))
	bucket := size(func(d *bcachefs.FormatDevice) *int64 { return &d.BucketBytes })
	add("bucket_size", "", "SIZE", "device: size of buckets (default: by the size of the device)", bucket)
	add("bucket", "", "SIZE", "the same", bucket)
	f.flags.Lookup("bucket").Hidden = true
	add("label", "l", "LABEL", "device: its label, as ssd.a", func(d *bcachefs.FormatDevice, text string) error {
		d.Label = text
		return nil
	})
	add("durability", "", "N", "device: how many replicas one on it counts for (default 1)", func(d *bcachefs.FormatDevice, text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > ondisk.MaxDurability {
			return fmt.Errorf("want a number from 0 to %d", ondisk.MaxDurability)
		}
		d.Durability = &n
		return nil
	})
	add("data_allowed", "", "TYPES", "device: what it may hold, of journal,btree,user (default all)", func(d *bcachefs.FormatDevice, text string) error {
		_, err := super.ParseDataAllowed(text)
		d.DataAllowed = strings.Split(text, ",")
		return err
	})
	add("discard", "", "bool", "device: discard what is not needed any more", func(d *bcachefs.FormatDevice, text string) error {
		on, ok := parseBool(text)
		if !ok {
			return errors.New("want yes or no")
		}
		d.Discard = on
		return nil
	})
}

// A deviceFlag remembers where among the devices it stands.
type deviceFlag struct {
	f    *formatCmd
	kind string // of its value
	set  func(d *bcachefs.FormatDevice, text string) error
}

func (v *deviceFlag) String() string { return "" }
func (v *deviceFlag) Type() string   { return v.kind }

func (v *deviceFlag) Set(text string) error {
	if err := v.set(&bcachefs.FormatDevice{}, text); err != nil {
		return err
	}
	set := func(d *bcachefs.FormatDevice) error { return v.set(d, text) }
	v.f.devices = append(v.f.devices, deviceOption{v.f.flags.NArg(), set})
	return nil
}

// plan gives each device the options before it.
func (f *formatCmd) plan(paths []string) ([]bcachefs.FormatDevice, error) {
	var all []bcachefs.FormatDevice
	var d bcachefs.FormatDevice
	opts := f.devices
	for i, path := range paths {
		for len(opts) > 0 && opts[0].before <= i {
			if err := opts[0].set(&d); err != nil {
				return nil, err
			}
			opts = opts[1:]
		}
		if path == "" {
			return nil, usagef("a device's name is empty")
		}
		d.Path = path
		all = append(all, d)
		d.Bytes = 0 // of one device only, as in the reference
	}
	if len(opts) > 0 {
		return nil, usagef("format: options for a device stand before it")
	}
	return all, nil
}

func (f *formatCmd) run(ctx context.Context, args []string) error {
	devices, err := f.plan(args)
	if err != nil {
		return err
	}
	if f.source != "" {
		if len(args) > 1 {
			return usagef("format: --source is for one device")
		}
		return (&imageCreateCmd{formatCmd: f}).create(ctx, f.source, args[0], devices[0])
	}
	if err := f.options(ctx); err != nil {
		return err
	}
	info, err := bcachefs.Format(ctx, devices, f.opts)
	clear(f.opts.Passphrase)
	if err != nil {
		return formatError(args, err)
	}
	for _, d := range info.Devices {
		if d.Held != "" {
			f.warnf("%s: held %s, which was overwritten", d.Path, d.Held)
		}
	}
	if f.quiet && !f.json {
		return nil
	}
	sb, _, err := engine.ReadSuperblock(ctx, args[0], engine.Options{})
	if err != nil {
		return failed("read what was written", args[0], err)
	}
	if f.json {
		return f.writeJSON(superToJSON(args[0], sb))
	}
	if err := sb.Text(f.out, ondisk.TextOptions{Sections: []ondisk.SectionType{ondisk.SectionMembersV2}}); err != nil {
		return failed("writing the output", "", err)
	}
	return nil
}

// options puts the flags together.
func (f *formatCmd) options(ctx context.Context) (err error) {
	f.opts.Options = f.values
	if f.replicas > 0 || f.flags.Changed("replicas") {
		n := strconv.FormatUint(uint64(f.replicas), 10)
		f.values["metadata_replicas"], f.values["data_replicas"] = n, n
	}
	if f.superblockSize != "" {
		if f.opts.SuperblockBytes, err = parseSize(f.superblockSize); err != nil {
			return usagef("--superblock_size: %v", err)
		}
	}
	if f.flags.Changed("seed") {
		f.opts.Seed = []byte(f.seed)
	}
	if f.time != "" {
		if f.opts.Time, err = parseTime(f.time); err != nil {
			return usagef("--time: %v", err)
		}
	}
	if f.key.passphraseFile != "" && f.key.passphraseFD >= 0 {
		return usagef("--passphrase-file and --passphrase-fd exclude each other")
	}
	fromFlags := f.key.passphraseFile != "" || f.key.passphraseFD >= 0
	switch {
	case !f.opts.Encrypted && (f.noPassphrase || fromFlags):
		return usagef("a passphrase, or none, is for --encrypted")
	case f.noPassphrase && fromFlags:
		return usagef("--no_passphrase and a passphrase exclude each other")
	case f.opts.Encrypted && !f.noPassphrase:
		if f.opts.Passphrase, err = f.key.newPassphrase(ctx, f.app, passphraseVar); errors.Is(err, errNoPassphrase) {
			return failedTodo("format", "", err, "use --passphrase-file, --passphrase-fd, BCACHEFS_PASSPHRASE or --no_passphrase")
		}
		return err
	}
	return nil
}

// parseTime reads a time as RFC 3339 has it, or as seconds since 1970.
func parseTime(s string) (time.Time, error) {
	if n, err := strconv.ParseInt(strings.TrimPrefix(s, "@"), 10, 64); err == nil {
		return time.Unix(n, 0), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return t, fmt.Errorf("%q: want 2024-05-06T07:08:09Z or seconds since 1970", s)
	}
	return t, nil
}

// formatError adds what to do to an error of formatting.
func formatError(paths []string, err error) error {
	where := ""
	if len(paths) == 1 {
		where = paths[0]
	}
	switch {
	case errors.Is(err, bcachefs.ErrInUse):
		return failedTodo("format", where, err, "--force overwrites it")
	case errors.Is(err, fs.ErrNotExist):
		return failedTodo("format", where, err, "--size=SIZE before it makes a file")
	case errors.Is(err, blockdev.ErrBusy):
		return failed("format", where, err)
	case errors.Is(err, fs.ErrPermission):
		return failedTodo("format", where, err, "run it as a user who may write to the device")
	}
	return failed("format", where, err)
}

// optionFlags are the values of options of the filesystem that were given, by name.
type optionFlags map[string]string

// register adds the flag of an option, which has the limits of a version.
func (v optionFlags) register(s *pflag.FlagSet, o super.Option, version ondisk.MetadataVersion) {
	usage := o.Help
	if choices := o.Choices(); choices != nil {
		usage += ": " + strings.Join(choices, ", ")
	}
	if o.Default != "" && o.Default != "none" {
		usage += " (default " + o.Default + ")"
	}
	flag := s.VarPF(&optionFlag{v, o, version}, o.Name, "", usage)
	if o.IsBool() {
		flag.NoOptDefVal = "1"
	}
}

// optionFlag is the flag of an option.
type optionFlag struct {
	values  optionFlags
	o       super.Option
	version ondisk.MetadataVersion // whose limits hold
}

func (f *optionFlag) String() string { return "" }

func (f *optionFlag) Type() string {
	switch {
	case f.o.IsBool():
		return "0|1"
	case f.o.IsSize():
		return "SIZE"
	case f.o.IsTarget():
		return "TARGET"
	case f.o.Choices() != nil:
		return "NAME"
	}
	return "N"
}

// Set checks the value as far as it can be without a filesystem: what targets there are is seen later.
func (f *optionFlag) Set(text string) error {
	if f.o.IsBool() {
		if on, ok := parseBool(text); ok {
			text = map[bool]string{true: "1", false: "0"}[on]
		}
	}
	if !f.o.IsTarget() {
		sb := &ondisk.Superblock{Version: f.version}
		if _, err := super.ParseOption(sb, f.o, text); err != nil {
			return err
		}
	}
	f.values[f.o.Name] = text
	return nil
}

// completeOptions completes the names that options are chosen from.
func completeOptions(c *cobra.Command) {
	c.Flags().VisitAll(func(flag *pflag.Flag) {
		if f, ok := flag.Value.(*optionFlag); ok && f.o.Choices() != nil {
			c.RegisterFlagCompletionFunc(flag.Name, cobra.FixedCompletions(f.o.Choices(), cobra.ShellCompDirectiveNoFileComp))
		}
	})
	for _, name := range []string{"data_allowed"} {
		if c.Flags().Lookup(name) != nil {
			c.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(super.DataTypes(), cobra.ShellCompDirectiveNoFileComp))
		}
	}
}
