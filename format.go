package bcachefs

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/alloc"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/foreign"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/super"
)

// ErrInUse is returned by [Format] for a device that holds something already, unless it may be overwritten.
var ErrInUse = errors.New("it holds something that would be lost")

// FormatDevice is a device to format.
type FormatDevice struct {
	Path   string // of a file or block device
	Device Device // to be used instead of opening Path; it is not closed

	CreateBytes int64 // make Path a sparse file of this size; a file that is there already must have this size, or be overwritten by Force
	Bytes       int64 // how much of the device to use; 0: all of it
	BucketBytes int64 // size of buckets; 0: chosen by the size of the device

	Label       string   // "ssd.fast": targets may name it, or "ssd" for all below it
	Discard     bool     // tell the device what is not needed any more
	DataAllowed []string // some of journal, btree, user; nil: all of them
	Durability  *int     // how many replicas one on this device counts for, 0 to 2; nil: 1
}

// FormatOptions say what filesystem to make. The zero value is what the reference's mkfs makes without options.
type FormatOptions struct {
	// Options have their values as text, by the names that the reference has for them: "compression": "zstd:3",
	// "metadata_replicas": "2", "foreground_target": "ssd". [FormatOptionNames] lists them.
	Options map[string]string

	Label           string // of the filesystem, at most 32 bytes
	UUID            string // "": random
	Version         string // of the format, "1.13"; "": that
	SuperblockBytes int64  // that superblocks may grow to; 0: 1 MiB

	// Encrypted encrypts all data and metadata. The key is stored in the clear if there is no Passphrase.
	Encrypted  bool
	Passphrase []byte

	// Force overwrites whatever is there. Otherwise devices that hold a filesystem, a partition table or the like are
	// refused with [ErrInUse].
	Force bool

	// NoInitialize leaves it to the first read-write mount to make journal, btrees and root directory. With a Seed, and for versions that
	// are not written to yet, it always is.
	NoInitialize bool

	// Seed, if it is not nil, is where all that is random is derived from, keys too: with the same seed, UUID and Time the same devices
	// get the same bytes, and files hold nothing else. Who knows the seed can decrypt the filesystem: it is for tests and for images
	// that are built again and again.
	Seed []byte
	Time time.Time // of creation; zero: now
}

// FormatInfo is what was made.
type FormatInfo struct {
	UUID    string // external
	Version string
	Devices []FormattedDevice
}

// FormattedDevice is a device of a new filesystem. Sizes are in bytes.
type FormattedDevice struct {
	Path        string
	Bytes       int64
	BucketBytes int64
	Buckets     uint64
	Held        string // what was overwritten by Force, "an XFS filesystem"; "" if nothing was found
}

// FormatOptionNames lists what [FormatOptions].Options may set.
func FormatOptionNames() []string {
	var names []string
	for _, o := range super.Options() {
		if o.Format {
			names = append(names, o.Name)
		}
	}
	return names
}

// Format makes a new filesystem on the devices. They must not be mounted or in use by another program.
//
// The superblocks are written, and then journal, btrees and the root directory, unless NoInitialize leaves these to the first
// read-write mount. Opened for reading before that, the filesystem looks as it will then: empty but for lost+found.
//
// Nothing is written before all is checked. An error while it is being written may leave devices that hold nothing at all.
func Format(ctx context.Context, devices []FormatDevice, opts FormatOptions) (info *FormatInfo, err error) {
	f := formatter{devices: devices, opts: opts}
	defer func() { err = errors.Join(err, f.close(err != nil)) }()
	cfg, err := f.config()
	if err != nil {
		return nil, err
	}
	if err := f.open(ctx); err != nil {
		return nil, err
	}
	if err := f.describe(cfg); err != nil {
		return nil, err
	}
	sbs, err := super.Build(cfg)
	if err != nil {
		return nil, err
	}
	if err := f.clear(ctx, sbs[0].UUID); err != nil {
		return nil, err
	}
	if err := super.WriteNew(ctx, f.opened, sbs); err != nil {
		return nil, err
	}
	if err := f.initialise(ctx, sbs[0].Version); err != nil {
		return nil, fmt.Errorf("initialise: %w", err)
	}
	return f.info(sbs)
}

// initialise does what the first mount would do.
func (f *formatter) initialise(ctx context.Context, version ondisk.MetadataVersion) error {
	if f.opts.NoInitialize || f.opts.Seed != nil || alloc.CheckVersion(version) != nil {
		return nil
	}
	names := make([]string, len(f.opened))
	for i := range names {
		names[i] = fmt.Sprintf("device %d", i)
	}
	fs, err := engine.Open(ctx, names, engine.Options{
		Write: true, NoScan: true,
		OpenDevice: func(name string) (blockdev.Device, error) {
			return lent{f.opened[slices.Index(names, name)]}, nil
		},
		Passphrase: func(context.Context) ([]byte, error) { return slices.Clone(f.opts.Passphrase), nil },
	})
	if err != nil {
		return err
	}
	var now func() time.Time
	if t := f.opts.Time; !t.IsZero() {
		now = func() time.Time { return t }
	}
	rw, err := fs.GoReadWrite(ctx, engine.WriteOptions{Now: now})
	if err != nil {
		return err
	}
	return rw.Close(ctx)
}

// lent is a device that whoever lent it closes.
type lent struct{ blockdev.Device }

func (lent) Close() error { return nil }

// formatter is one call of Format.
type formatter struct {
	devices []FormatDevice
	opts    FormatOptions
	opened  []Device
	held    []string // what each holds
	created []string // files that were not there before
}

// config is what can be said without looking at devices.
func (f *formatter) config() (*super.Config, error) {
	o := &f.opts
	cfg := &super.Config{Options: o.Options, Label: o.Label, SuperblockSize: o.SuperblockBytes, Encrypted: o.Encrypted,
		Passphrase: o.Passphrase, Time: o.Time, Random: seeded(o.Seed)}
	var err error
	if o.UUID != "" {
		if cfg.UUID, err = ondisk.ParseUUID(o.UUID); err != nil {
			return nil, err
		}
		if cfg.UUID.IsZero() {
			return nil, fmt.Errorf("uuid %v: want another than zero", cfg.UUID)
		}
	}
	if o.Version != "" {
		if cfg.Version, err = ondisk.ParseVersion(o.Version); err != nil {
			return nil, err
		}
	}
	if o.Passphrase != nil && !o.Encrypted {
		return nil, errors.New("a passphrase for a filesystem that is not encrypted")
	}
	if cfg.Time.IsZero() {
		cfg.Time = time.Now()
	}
	for i := range f.devices {
		d, err := f.devices[i].config()
		if err != nil {
			return nil, err
		}
		cfg.Devices = append(cfg.Devices, d)
	}
	return cfg, nil
}

func (d *FormatDevice) name() string {
	if d.Path == "" && d.Device != nil {
		return d.Device.Name()
	}
	return d.Path
}

func (d *FormatDevice) config() (super.Device, error) {
	c := super.Device{Name: d.name(), BucketSize: d.BucketBytes, Label: d.Label, Discard: d.Discard, Durability: 1}
	fail := func(format string, args ...any) (super.Device, error) {
		return c, fmt.Errorf("%s: "+format, append([]any{c.Name}, args...)...)
	}
	switch {
	case c.Name == "":
		return c, errors.New("a device without a name")
	case d.CreateBytes < 0 || d.Bytes < 0 || d.BucketBytes < 0:
		return fail("sizes cannot be negative")
	case d.CreateBytes > 0 && d.Device != nil:
		return fail("a device that is given cannot be created")
	case d.CreateBytes > 0 && d.Bytes > d.CreateBytes:
		return fail("%d bytes to use of %d", d.Bytes, d.CreateBytes)
	}
	if d.DataAllowed != nil {
		set, err := super.ParseDataAllowed(strings.Join(d.DataAllowed, ","))
		if err != nil {
			return fail("%w", err)
		}
		c.DataAllowed = set
	}
	if d.Durability != nil {
		if *d.Durability < 0 || *d.Durability > ondisk.MaxDurability {
			return fail("durability %d: want 0 to %d", *d.Durability, ondisk.MaxDurability)
		}
		c.Durability = uint8(*d.Durability)
	}
	return c, nil
}

// open creates and opens the devices and refuses those that must not be overwritten.
func (f *formatter) open(ctx context.Context) error {
	for i := range f.devices {
		d := &f.devices[i]
		if j := slices.IndexFunc(f.devices[:i], func(o FormatDevice) bool { return sameDevice(d, &o) }); j >= 0 {
			return fmt.Errorf("%s and %s are the same device", f.devices[j].name(), d.name())
		}
		dev := d.Device
		if dev == nil {
			if err := f.create(d); err != nil {
				return err
			}
			var err error
			if dev, err = blockdev.OpenFile(d.Path, blockdev.FileOptions{}); err != nil {
				return err
			}
		}
		f.opened = append(f.opened, dev)
		found, err := foreign.ProbeDevice(ctx, dev)
		if err != nil {
			return err
		}
		held := ""
		if len(found) > 0 {
			held = found[0].String()
		}
		if f.held = append(f.held, held); held != "" && !f.opts.Force {
			return fmt.Errorf("%s: %w: %s", d.name(), ErrInUse, held)
		}
	}
	return nil
}

func sameDevice(a, b *FormatDevice) bool {
	if a.Device != nil || b.Device != nil {
		return a.Device == b.Device
	}
	ai, err1 := os.Stat(a.Path)
	bi, err2 := os.Stat(b.Path)
	return a.Path == b.Path || err1 == nil && err2 == nil && os.SameFile(ai, bi)
}

// create makes the file of a device that has CreateBytes.
func (f *formatter) create(d *FormatDevice) error {
	if d.CreateBytes == 0 {
		return nil
	}
	file, err := os.OpenFile(d.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		st, err := os.Stat(d.Path)
		switch {
		case err != nil:
			return err
		case !st.Mode().IsRegular():
			return fmt.Errorf("%s: not a file that could be created with a size", d.Path)
		case st.Size() == d.CreateBytes:
			return nil
		case !f.opts.Force:
			return fmt.Errorf("%s: %w: a file of %d bytes", d.Path, ErrInUse, st.Size())
		}
		return os.Truncate(d.Path, d.CreateBytes)
	}
	if err != nil {
		return err
	}
	f.created = append(f.created, d.Path)
	return errors.Join(file.Truncate(d.CreateBytes), file.Close())
}

// describe fills in what the open devices say of themselves.
func (f *formatter) describe(cfg *super.Config) error {
	for i, dev := range f.opened {
		c := &cfg.Devices[i]
		c.MinBlock, c.Block = blockdev.BlockSizes(dev)
		c.Size = dev.Size()
		if n := f.devices[i].Bytes; n > c.Size {
			return fmt.Errorf("%s: %d bytes to use of %d", c.Name, n, c.Size)
		} else if n > 0 {
			c.Size = n
		}
		if dev.ReadOnly() {
			return fmt.Errorf("%s: %w", c.Name, blockdev.ErrReadOnly)
		}
	}
	return nil
}

// clear removes what gives away what the devices held. With a seed, the remains of a filesystem that was made from the same one
// would pass for the new one's: files are emptied, and other devices must not hold one.
func (f *formatter) clear(ctx context.Context, uuid ondisk.UUID) error {
	for i, dev := range f.opened {
		if f.opts.Seed != nil {
			if err := f.forget(ctx, i, uuid); err != nil {
				return err
			}
		}
		if err := foreign.Wipe(ctx, dev); err != nil {
			return err
		}
	}
	return nil
}

func (f *formatter) forget(ctx context.Context, i int, uuid ondisk.UUID) error {
	dev := f.opened[i]
	if st, err := os.Stat(f.devices[i].Path); f.devices[i].Device == nil && err == nil && st.Mode().IsRegular() {
		return errors.Join(os.Truncate(f.devices[i].Path, 0), os.Truncate(f.devices[i].Path, dev.Size()))
	}
	if old, err := super.Read(ctx, dev, 0); err == nil && old.UUID == uuid {
		return fmt.Errorf("%s: it holds a filesystem made from the same seed, whose remains would pass for the new one's: "+
			"clear the device first, or use another seed", dev.Name())
	}
	return nil
}

func (f *formatter) info(sbs []*ondisk.Superblock) (*FormatInfo, error) {
	members, err := sbs[0].Members()
	if err != nil {
		return nil, err
	}
	info := &FormatInfo{UUID: sbs[0].UserUUID.String(), Version: sbs[0].Version.String()}
	for i := range members {
		info.Devices = append(info.Devices, FormattedDevice{f.devices[i].name(), members[i].Bytes(), members[i].BucketBytes(),
			members[i].NBuckets, f.held[i]})
	}
	return info, nil
}

// close closes what was opened and, after a failure, removes what was created.
func (f *formatter) close(failed bool) (err error) {
	for i, dev := range f.opened {
		if f.devices[i].Device == nil {
			err = errors.Join(err, dev.Close())
		}
	}
	if failed {
		for _, path := range f.created {
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}

// seeded is a source of what is random; with a seed, it is a function of that and the purpose.
func seeded(seed []byte) super.Random {
	if seed == nil {
		return func(_ string, b []byte) { rand.Read(b) }
	}
	return func(purpose string, b []byte) {
		for n := uint64(0); len(b) > 0; n++ {
			h := sha256.New()
			h.Write(binary.LittleEndian.AppendUint64([]byte("bcachefs format\x00"+purpose+"\x00"), n))
			h.Write(seed)
			b = b[copy(b, h.Sum(nil)):]
		}
	}
}
