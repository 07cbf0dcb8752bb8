package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/engine"
)

// Disks are the devices of one filesystem. They stay open when the filesystem is closed.
type Disks struct {
	Devices    []blockdev.Device
	Passphrase []byte
}

// Shape says what filesystem to make. The zero value is one device of 64 MiB with all defaults.
type Shape struct {
	Name        string                  // for messages
	Devices     []bcachefs.FormatDevice // without Path and Device
	Bytes       []int64                 // of the devices; nil: 64 MiB each
	Options     bcachefs.FormatOptions
	NoFreespace bool // the early allocator does all the work
}

// Format makes a filesystem on devices in memory.
func Format(ctx context.Context, s *Shape) (*Disks, error) {
	n := max(1, len(s.Devices), len(s.Bytes))
	var all []blockdev.Device
	for i := range n {
		size := int64(64 << 20)
		if i < len(s.Bytes) {
			size = s.Bytes[i]
		}
		all = append(all, blockdev.NewMemory(size))
	}
	return FormatOn(ctx, s, all)
}

// FormatOn makes a filesystem on devices.
func FormatOn(ctx context.Context, s *Shape, devices []blockdev.Device) (*Disks, error) {
	var all []bcachefs.FormatDevice
	for i, d := range devices {
		var f bcachefs.FormatDevice
		if i < len(s.Devices) {
			f = s.Devices[i]
		}
		f.Device, f.Path = d, fmt.Sprint("disk-", i)
		all = append(all, f)
	}
	_, err := bcachefs.Format(ctx, all, s.Options)
	return &Disks{Devices: devices, Passphrase: s.Options.Passphrase}, err
}

func (d *Disks) names() (names []string) {
	for i := range d.Devices {
		names = append(names, fmt.Sprint("disk-", i))
	}
	return names
}

// keepOpen is a device that closing leaves open.
type keepOpen struct{ blockdev.Device }

func (keepOpen) Close() error { return nil }

func (d *Disks) open(name string) (blockdev.Device, error) {
	for i, n := range d.names() {
		if n == name {
			return keepOpen{d.Devices[i]}, nil
		}
	}
	return nil, fmt.Errorf("no device %q", name)
}

// Open opens the filesystem for writing.
func (d *Disks) Open(ctx context.Context, o engine.Options, w engine.WriteOptions) (*engine.RW, error) {
	o.Write, o.NoScan, o.OpenDevice = true, true, d.open
	o.Passphrase = func(context.Context) ([]byte, error) { return slices.Clone(d.Passphrase), nil }
	fs, err := engine.Open(ctx, d.names(), o)
	if err != nil {
		return nil, err
	}
	return fs.GoReadWrite(ctx, w)
}

// Read opens the filesystem for reading.
func (d *Disks) Read(ctx context.Context) (*bcachefs.FS, error) {
	return bcachefs.Open(ctx, d.names(), &bcachefs.OpenOptions{NoScan: true, OpenDevice: d.open,
		Passphrase: func(context.Context) ([]byte, error) { return slices.Clone(d.Passphrase), nil }})
}

// Check opens the filesystem for reading and compares it with a history, see [History.Check].
func (d *Disks) Check(ctx context.Context, h *History, durable uint64) (end uint64, err error) {
	fs, err := d.Read(ctx)
	if err != nil {
		return 0, err
	}
	end, err = h.Check(ctx, fs, durable)
	return end, errors.Join(err, fs.Close())
}

// Clone returns copies of devices in memory: what a crash at this moment would leave if the devices lose nothing.
func (d *Disks) Clone() *Disks {
	c := &Disks{Passphrase: d.Passphrase}
	for _, dev := range d.Devices {
		c.Devices = append(c.Devices, dev.(*blockdev.Memory).Clone())
	}
	return c
}

// Save writes devices to files in a directory and returns their paths.
func (d *Disks) Save(ctx context.Context, dir, name string) (paths []string, err error) {
	for i, dev := range d.Devices {
		path := filepath.Join(dir, fmt.Sprintf("%s.%d.img", name, i))
		if err := SaveDevice(ctx, dev, path); err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// SaveDevice writes a device to a sparse file.
func SaveDevice(ctx context.Context, dev blockdev.Device, path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(dev.Size()); err != nil {
		return err
	}
	buf, zero := blockdev.AlignedBuffer(64<<10), make([]byte, 64<<10)
	for off := int64(0); off < dev.Size(); off += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), dev.Size()-off)]
		if err := dev.ReadAt(ctx, b, off); err != nil {
			return err
		}
		if bytes.Equal(b, zero[:len(b)]) {
			continue
		}
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
	}
	return nil
}

// Load replaces the devices by what is in files.
func (d *Disks) Load(paths []string) error {
	for i, path := range paths {
		m, err := blockdev.LoadMemory(path)
		if err != nil {
			return err
		}
		d.Devices[i] = m
	}
	return nil
}
