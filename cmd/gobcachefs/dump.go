package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

type dumpCmd struct {
	*app
	openFlags
	output    string
	force     bool
	noJournal bool

	problems problems
}

func newDumpCmd(a *app) *cobra.Command {
	d := &dumpCmd{app: a, problems: problems{app: a}}
	c := a.command(&cobra.Command{
		Use:   "dump [flags] -o FILE DEV...",
		Short: "Copy the metadata of a filesystem into sparse files",
		Long: "dump copies superblocks, journal and btree nodes to where they are in a file as large as the device, which is otherwise\n" +
			"empty: FILE for a filesystem on one device, FILE.0, FILE.1 and so on, by the index of the device, for one on several.\n" +
			"Commands that read filesystems, and the driver, can open that. File names are in it, and files so small that they are stored\n" +
			"in the btrees; the contents of all others are not.",
		Args: cobra.MinimumNArgs(1),
	}, d.run)
	f := c.Flags()
	f.BoolVarP(&d.force, "force", "f", false, "overwrite files that are there")
	f.BoolVar(&d.noJournal, "nojournal", false, "of the journal, copy only entries that are to be replayed")
	f.BoolP("verbose", "v", false, "accepted for the habit")
	opening := pflag.NewFlagSet("", pflag.ContinueOnError)
	d.register(opening)
	opening.VisitAll(func(flag *pflag.Flag) {
		if flag.Shorthand == "o" {
			flag.Shorthand = "" // it is the output here, as in the reference
		}
		f.AddFlag(flag)
	})
	f.StringVarP(&d.output, "output", "o", "", "write to `FILE`")
	return c
}

func (d *dumpCmd) run(ctx context.Context, args []string) error {
	if d.output == "" {
		return usagef("dump: want -o FILE to write to")
	}
	// As the reference does: what there is, is dumped.
	d.options = append([]string{"very_degraded"}, d.options...)
	f, err := d.openEngine(ctx, d.app, args)
	if err != nil {
		return err
	}
	defer f.Close()
	m := newMetadata(f, d.noJournal)
	if err := m.collect(ctx, d.damage); err != nil {
		return failed("dump", strings.Join(args, ":"), err)
	}
	if !f.SB.IsClean() {
		if err := d.collectOld(ctx, m, args); err != nil {
			return err
		}
	}
	for _, mem := range f.Members {
		if mem.Device == nil {
			d.warnf("%s is missing: nothing of it is in the dump", mem.Name())
			continue
		}
		path := d.output
		if len(f.Members) > 1 {
			path = fmt.Sprintf("%s.%d", d.output, mem.Index)
		}
		if err := d.write(ctx, mem.Device, path, m.ranges[mem.Index].merged()); err != nil {
			return err
		}
	}
	return d.problems.result()
}

// damage reports what keeps parts of a btree from being found.
func (d *dumpCmd) damage(id ondisk.BtreeID, err error) { d.problems.add("dump", id.String(), err) }

// collectOld adds what is found without the journal: the trees as they lie on disk.
func (d *dumpCmd) collectOld(ctx context.Context, m *metadata, args []string) error {
	old := d.openFlags
	old.quiet = true
	old.options = append([]string{"norecovery"}, old.options...)
	f, err := old.openEngine(ctx, d.app, args)
	if err != nil {
		return err
	}
	defer f.Close()
	m.fs = f
	if err := m.btrees(ctx, func(ondisk.BtreeID, error) {}); err != nil {
		return failed("dump", strings.Join(args, ":"), err)
	}
	return nil
}

// write copies ranges of a device to a sparse file of the same size. A file that is not finished is removed.
func (d *dumpCmd) write(ctx context.Context, dev blockdev.Device, path string, ranges []byteRange) (err error) {
	if st, serr := os.Stat(path); serr == nil && d.isDevice(st) {
		return failed("dump", path, errIsDevice)
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if d.force {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	out, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return failedTodo("dump", path, errors.New("it is there already"), "--force overwrites it")
	}
	if err != nil {
		return failed("dump", path, err)
	}
	defer func() {
		if cerr := out.Close(); err == nil && cerr != nil {
			err = failed("dump", path, cerr)
		}
		if err != nil {
			os.Remove(path)
		}
	}()
	if err := out.Truncate(dev.Size()); err != nil {
		return failed("dump", path, err)
	}
	for _, r := range ranges {
		if err := d.copy(ctx, dev, out, r); err != nil {
			return err
		}
	}
	return nil
}

// copy copies a range, without blocks that are all zero. What cannot be read is reported and left out.
func (d *dumpCmd) copy(ctx context.Context, dev blockdev.Device, out *os.File, r byteRange) error {
	const piece, block = 1 << 20, 4096
	b := make([]byte, min(piece, r.end-r.start))
	for off := r.start; off < r.end; off += piece {
		part := b[:min(piece, r.end-off)]
		if err := dev.ReadAt(ctx, part, off); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			d.problems.add("dump", dev.Name(), err)
			continue
		}
		for i := 0; i < len(part); i += block {
			x := part[i:min(i+block, len(part))]
			if allZero(x) {
				continue
			}
			if _, err := out.WriteAt(x, off+int64(i)); err != nil {
				return failed("dump", out.Name(), err)
			}
		}
	}
	return nil
}

// allZero compares with itself, one byte on: many bytes at a time.
func allZero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
