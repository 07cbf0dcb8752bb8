package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/foreign"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/super"
)

type recoverCmd struct {
	*app
	devSize, offset, scanLen string
	source                   string
	index                    int
	uuid                     string
	yes, dryRun, force       bool

	size, at, length int64
	hasJournal       bool // where the journal lies was found out
}

func newRecoverSuperCmd(a *app) *cobra.Command {
	r := &recoverCmd{app: a}
	c := a.command(&cobra.Command{
		Use:   "recover-super [flags] DEV",
		Short: "Restore superblocks that were overwritten",
		Long: "recover-super looks for copies of a device's superblock, shows the newest, and writes it to all places where copies belong:\n" +
			"those that a layout names, those of formatting, and whatever is at the start and end of the device. With\n" +
			"--src-device the superblock is made from that of another member of the filesystem.\n\n" +
			"Run it before fsck, and before anything else is written to the device.",
		Args: cobra.ExactArgs(1),
	}, r.run)
	f := c.Flags()
	f.SetNormalizeFunc(upstreamNames)
	f.StringVarP(&r.devSize, "dev_size", "d", "", "`SIZE` of the device when it was formatted (default: its size)")
	f.StringVarP(&r.offset, "offset", "o", "", "use the superblock at this `OFFSET` in bytes")
	f.StringVarP(&r.scanLen, "scan_len", "l", "16M", "look at so much of the start and the end of the device (`SIZE`)")
	f.StringVarP(&r.source, "src_device", "s", "", "make it from the superblock of this member, `DEV`")
	f.IntVarP(&r.index, "dev_idx", "i", -1, "`INDEX` of the device, with --src_device")
	f.StringVar(&r.uuid, "uuid", "", "of several filesystems found, restore that with this `UUID`")
	f.BoolVarP(&r.yes, "yes", "y", false, "do not ask")
	f.BoolVarP(&r.dryRun, "dry_run", "n", false, "show what would be written, and write nothing")
	f.BoolVarP(&r.force, "force", "f", false, "write although the device holds something else by now")
	f.BoolP("verbose", "v", false, "accepted for the habit: everything is told anyway")
	return c
}

// parse reads the flags.
func (r *recoverCmd) parse() error {
	for _, x := range []struct {
		flag, text string
		to         *int64
	}{{"dev_size", r.devSize, &r.size}, {"offset", r.offset, &r.at}, {"scan_len", r.scanLen, &r.length}} {
		if x.text == "" {
			continue
		}
		n, err := parseSize(x.text)
		if err != nil {
			return usagef("--%s: %v", x.flag, err)
		}
		*x.to = n
	}
	switch {
	case r.at%ondisk.SectorSize != 0:
		return usagef("--offset %s: want a multiple of %d", r.offset, ondisk.SectorSize)
	case (r.source != "") != (r.index >= 0):
		return usagef("--src_device and --dev_idx go together")
	case r.source != "" && r.offset != "":
		return usagef("--src_device and --offset exclude each other")
	}
	return nil
}

func (r *recoverCmd) run(ctx context.Context, args []string) (err error) {
	if err := r.parse(); err != nil {
		return err
	}
	dev, err := blockdev.OpenFile(args[0], blockdev.FileOptions{ReadOnly: r.dryRun})
	if err != nil {
		return openError("recover-super", args[0], nil, err)
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	if r.size == 0 {
		r.size = dev.Size()
	}
	if r.size > dev.Size() {
		return failed("recover-super", args[0], fmt.Errorf("it has %d bytes, not %d", dev.Size(), r.size))
	}
	sb, err := r.find(ctx, dev)
	if err != nil {
		return err
	}
	if whole, err := super.Read(ctx, dev, 0); err == nil && len(whole.Problems) == 0 && whole.UUID == sb.UUID && r.offset == "" {
		_, err := fmt.Fprintf(r.out, "All superblocks of %s are intact: there is nothing to do.\n", args[0])
		return err
	}
	if err := r.checkHeld(ctx, dev, sb); err != nil {
		return err
	}
	fmt.Fprintf(r.out, "Found superblock:\n")
	if err := sb.Text(r.out, ondisk.TextOptions{Layout: true, Sections: []ondisk.SectionType{ondisk.SectionMembersV2}}); err != nil {
		return failed("writing the output", "", err)
	}
	if r.dryRun {
		return nil
	}
	if err := r.confirm(args[0]); err != nil {
		return err
	}
	if err := super.Restore(ctx, dev, sb); err != nil {
		return failed("recover-super", args[0], err)
	}
	if r.source != "" && !r.hasJournal {
		fmt.Fprintln(r.out, "The device has no journal any more: run fsck.")
	}
	return nil
}

// find chooses the superblock to be written.
func (r *recoverCmd) find(ctx context.Context, dev blockdev.Device) (*ondisk.Superblock, error) {
	if r.source != "" {
		src, _, err := engine.ReadSuperblock(ctx, r.source, engine.Options{})
		if err != nil {
			return nil, openError("recover-super", r.source, []string{r.source}, err)
		}
		sb, err := super.FromMember(src, r.index, r.size)
		if err == nil {
			err = r.findJournal(ctx, sb)
		}
		if err != nil {
			return nil, failed("recover-super", r.source, err)
		}
		return sb, nil
	}
	if r.offset != "" {
		sb, err := super.ReadAt(ctx, dev, ondisk.Sector(r.at/ondisk.SectorSize))
		if err != nil {
			return nil, failed("recover-super", dev.Name(), err)
		}
		return sb, nil
	}
	all, err := super.Places(ctx, dev)
	for _, part := range [][2]int64{{0, r.length}, {max(r.length, r.size-r.length), r.size}} {
		if err != nil {
			break
		}
		var more []super.Found
		more, err = super.Scan(ctx, dev, part[0], min(part[1], r.size))
		all = append(all, more...)
	}
	if err != nil {
		return nil, failed("recover-super", dev.Name(), err)
	}
	return r.choose(dev, super.Newest(all))
}

// findJournal asks the filesystem, as far as it can be read without the device, which buckets of that are the journal's. Their
// order in the ring is taken for that on the device, which is how they are allocated.
func (r *recoverCmd) findJournal(ctx context.Context, sb *ondisk.Superblock) error {
	key := openFlags{passphraseFD: noFD}
	f, err := engine.Open(ctx, []string{r.source}, engine.Options{VeryDegraded: true,
		Passphrase: func(ctx context.Context) ([]byte, error) { return key.passphrase(ctx, r.app, r.source) }})
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.warnf("where the journal lay cannot be found out: %v", err)
		return nil
	}
	defer f.Close()
	var ring []ondisk.SeqRange
	dev := uint64(r.index)
	for k, err := range f.Reader.Keys(ctx, ondisk.BtreeAlloc, ondisk.Pos{Inode: dev}, ondisk.Pos{Inode: dev, Offset: math.MaxUint64}) {
		if err != nil {
			r.warnf("where the journal lay cannot be found out: %v", err)
			return ctx.Err()
		}
		a, err := ondisk.DecodeAlloc(k)
		if err != nil || a.DataType != ondisk.DataJournal {
			continue
		}
		if n := len(ring); n > 0 && ring[n-1].End == k.Pos.Offset {
			ring[n-1].End++
		} else {
			ring = append(ring, ondisk.SeqRange{Start: k.Pos.Offset, End: k.Pos.Offset + 1})
		}
	}
	if len(ring) == 0 {
		return nil
	}
	r.hasJournal = true
	sb.SetJournal(ring)
	_, err = sb.Journal()
	return err
}

// choose picks one of the filesystems that were found.
func (r *recoverCmd) choose(dev blockdev.Device, best []super.Found) (*ondisk.Superblock, error) {
	if len(best) == 0 {
		return nil, failedTodo("recover-super", dev.Name(), errors.New("no superblock was found"),
			"a larger --scan_len looks at more of it; --src_device makes one from another member")
	}
	if r.uuid == "" {
		if len(best) == 1 {
			return best[0].Superblock, nil
		}
		var list []string
		for _, f := range best {
			list = append(list, fmt.Sprintf("%v (sector %d)", f.UserUUID, f.Sector))
		}
		return nil, failedTodo("recover-super", dev.Name(), errors.New("superblocks of several filesystems were found: "+
			strings.Join(list, ", ")), "choose one with --uuid")
	}
	uuid, err := ondisk.ParseUUID(r.uuid)
	if err != nil {
		return nil, usagef("--uuid: %v", err)
	}
	for _, f := range best {
		if f.UserUUID == uuid || f.UUID == uuid {
			return f.Superblock, nil
		}
	}
	return nil, failed("recover-super", dev.Name(), fmt.Errorf("no superblock of a filesystem with UUID %v was found", uuid))
}

// checkHeld refuses devices that hold something else now.
func (r *recoverCmd) checkHeld(ctx context.Context, dev blockdev.Device, sb *ondisk.Superblock) error {
	if r.force {
		return nil
	}
	held := ""
	if now, err := super.ReadAt(ctx, dev, ondisk.SuperblockSector); err == nil && now.UUID != sb.UUID {
		held = "another bcachefs filesystem"
	}
	found, err := foreign.ProbeDevice(ctx, dev)
	if err != nil {
		return nil // parts of it may be unreadable: that is what this command is for
	}
	for _, f := range found {
		if !f.Bcachefs && held == "" {
			held = f.String()
		}
	}
	if held == "" {
		return nil
	}
	return failedTodo("recover-super", dev.Name(), errors.New("it holds "+held+" now"), "--force writes all the same")
}

// confirm asks on a terminal.
func (r *recoverCmd) confirm(where string) error {
	if r.yes {
		return nil
	}
	if !isTerminal(r.in) {
		return failedTodo("recover-super", where, errors.New("nobody is there to ask"), "--yes writes without asking")
	}
	r.out.Flush()
	fmt.Fprint(r.err, "Write it? (y,n) ")
	line, err := bufio.NewReader(r.in).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); err != nil || answer != "y" && answer != "yes" {
		return failed("recover-super", where, errors.New("nothing was written"))
	}
	return nil
}
