// Package fscktest has tests of whatever writes filesystems ask whether what they wrote is sound.
package fscktest

import (
	"context"
	"fmt"
	"testing"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/fsck"
)

// Options say how to open what is checked. The zero value opens files, without passphrase.
type Options struct {
	Passphrase string
	// OpenDevice opens devices by name, for such that are no files.
	OpenDevice func(name string) (blockdev.Device, error)
	// Fsck are the options of the check itself.
	Fsck fsck.Options
	// Degraded accepts that members are missing.
	Degraded bool
}

// maxLogged is how many findings a failing test tells.
const maxLogged = 50

// MustBeClean checks the filesystem on devices, which are paths, and fails the test for each thing that is wrong with it.
func MustBeClean(t testing.TB, devices ...string) {
	t.Helper()
	Options{}.MustBeClean(t, devices...)
}

// MustBeCleanMemory is MustBeClean for devices in memory, or any others that are open. They stay open.
func MustBeCleanMemory(t testing.TB, devices ...blockdev.Device) {
	t.Helper()
	o, names := OnDevices(devices...)
	o.MustBeClean(t, names...)
}

// OnDevices returns options under which the names stand for open devices, which closing the filesystem leaves open.
func OnDevices(devices ...blockdev.Device) (o Options, names []string) {
	byName := map[string]blockdev.Device{}
	for i, d := range devices {
		name := fmt.Sprintf("device-%d", i)
		names = append(names, name)
		byName[name] = keepOpen{d}
	}
	o.OpenDevice = func(name string) (blockdev.Device, error) {
		if d := byName[name]; d != nil {
			return d, nil
		}
		return nil, fmt.Errorf("no device %q", name)
	}
	return o, names
}

// keepOpen is a device that closing leaves open.
type keepOpen struct{ blockdev.Device }

func (keepOpen) Close() error { return nil }

// MustBeClean is the function of the same name with options.
func (o Options) MustBeClean(t testing.TB, devices ...string) {
	t.Helper()
	r := o.Check(t, devices...)
	for i, f := range r.Findings {
		if i == maxLogged {
			t.Errorf("fsck: %d findings in all", r.Total)
			break
		}
		t.Errorf("fsck: %s: %v", f.Pass, &f)
	}
	if t.Failed() {
		for _, n := range r.Notes {
			t.Log("fsck: " + n)
		}
	}
}

// Check checks the filesystem on devices and returns the report; the test ends here if there is none.
func (o Options) Check(t testing.TB, devices ...string) *fsck.Report {
	t.Helper()
	r, err := o.Run(t.Context(), devices...)
	if err != nil {
		t.Fatalf("fsck: %v", err)
	}
	return r
}

// Run is Check for callers that want the error.
func (o Options) Run(ctx context.Context, devices ...string) (*fsck.Report, error) {
	fs, err := engine.Open(ctx, devices, engine.Options{
		Passphrase: func(context.Context) ([]byte, error) { return []byte(o.Passphrase), nil },
		OpenDevice: o.OpenDevice, NoScan: true, Degraded: o.Degraded, VeryDegraded: o.Degraded,
	})
	if err != nil {
		return nil, err
	}
	r, err := fsck.Check(ctx, fsck.Of(fs), o.Fsck)
	if cerr := fs.Close(); err == nil {
		err = cerr
	}
	return r, err
}
