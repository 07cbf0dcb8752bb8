package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

func newImageCmd(a *app) *cobra.Command {
	return a.group(&cobra.Command{
		Use:   "image",
		Short: "Build filesystems from directories and archives, and update them",
	}, newImageCreateCmd(a), newImageUpdateCmd(a))
}

// imageCreateCmd formats as format does, with one device, and fills what it made.
type imageCreateCmd struct {
	*formatCmd
	loadFlags
	spare string
}

func newImageCreateCmd(a *app) *cobra.Command {
	f := newFormatter(a)
	i := &imageCreateCmd{formatCmd: f}
	c := a.command(&cobra.Command{
		Use:   "create [flags] SOURCE IMAGE",
		Short: "Make a filesystem that holds a directory or an archive",
		Long: "create makes a filesystem with the files of a directory or a tar archive (\"-\": of standard input), in a file or on a block device. It\n" +
			"needs no root: owners and devices are as the source tells, or as --owner says. Without --size the image is as small as it can be,\n" +
			"with --spare left in it.\n\n" +
			"The same source and options make the same bytes, whenever and wherever: names are taken in order, the time is that of --time or\n" +
			"SOURCE_DATE_EPOCH, else the latest in the source, and what is random is derived from --seed, else from the source. An encrypted\n" +
			"image is the same only with --seed: who knows that can decrypt it.",
		Example: "  gobcachefs image create --compression=zstd --owner 0:0 rootfs/ root.img",
		Args:    cobra.ExactArgs(2),
	}, i.run)
	f.registerFlags(c)
	c.Flags().StringVar(&i.spare, "spare", "0", "without --size, leave so much `SIZE` free")
	c.Flags().StringSliceVar(&i.noPreserve, "no-preserve", nil, "do not preserve `WHAT`: owner, mode, timestamps, xattr, links")
	c.Flags().StringVar(&i.owner, "owner", "", "everything belongs to `UID:GID`")
	return c
}

func (i *imageCreateCmd) run(ctx context.Context, args []string) error {
	source, image := args[0], args[1]
	var d bcachefs.FormatDevice
	for _, o := range i.devices {
		if err := o.set(&d); err != nil {
			return err
		}
	}
	return i.create(ctx, source, image, d)
}

// create makes the image that the flags say.
func (i *imageCreateCmd) create(ctx context.Context, source, image string, d bcachefs.FormatDevice) error {
	opts := bcachefs.ImageOptions{Device: d}
	var links bool
	var err error
	if i.spare != "" {
		if opts.SpareBytes, err = parseSize(i.spare); err != nil {
			return usagef("--spare: %v", err)
		}
	}
	if opts.Load, links, err = i.loadFlags.loadOptions(); err != nil {
		return err
	}
	if err := i.options(ctx); err != nil {
		return err
	}
	defer clear(i.opts.Passphrase)
	if opts.Format, err = i.formatOptions(); err != nil {
		return err
	}
	tree, done, err := i.sourceTree(source, image, links)
	if err != nil {
		return failed("image create", source, err)
	}
	defer done()
	// On a device, what was there before would pass for what belongs to a filesystem made from the same seed.
	st, err := os.Stat(image)
	onDevice := err == nil && !st.Mode().IsRegular()
	if opts.Format.Seed == nil && !opts.Format.Encrypted && !onDevice {
		digest, err := bcachefs.DigestTree(ctx, tree)
		if err != nil {
			return i.failed(source, image, err)
		}
		opts.Format.Seed = digest.Sum[:]
	}
	bar := i.progress("image create", 0)
	opts.Load.Progress = func(n int64) { bar.add(0, n) }
	info, err := bcachefs.BuildImage(ctx, image, tree, opts)
	bar.finish()
	if err != nil {
		return i.failed(source, image, err)
	}
	return i.tell(image, info)
}

// formatOptions adds what is the same each time to what format's flags say.
func (i *imageCreateCmd) formatOptions() (bcachefs.FormatOptions, error) {
	o := i.opts
	if epoch := i.getenv("SOURCE_DATE_EPOCH"); epoch != "" && i.time == "" {
		n, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return o, usagef("SOURCE_DATE_EPOCH=%s: want seconds since 1970", epoch)
		}
		o.Time = time.Unix(n, 0)
	}
	return o, nil
}

// sourceTree opens a source that is gone through several times: what comes from standard input is kept in a file meanwhile.
func (i *imageCreateCmd) sourceTree(source, image string, links bool) (tree bcachefs.FileTree, done func(), err error) {
	done = func() {}
	parts := filepath.Base(image) + bcachefs.ImagePartSuffix
	skip := func(name string, st os.FileInfo) error {
		if own, err := os.Stat(image); err == nil && os.SameFile(own, st) || strings.HasPrefix(filepath.Base(name), parts) {
			return errors.New("it is the image that is made")
		}
		return nil
	}
	if source != "-" {
		tree, _, err = openTree(source, i.in, links, skip)
		return tree, done, err
	}
	if isTerminal(i.in) {
		return nil, done, errors.New("an archive is not read from a terminal: use a pipe")
	}
	f, err := os.CreateTemp("", "gobcachefs-image-*")
	if err != nil {
		return nil, done, err
	}
	done = func() {
		f.Close()
		os.Remove(f.Name())
	}
	if _, err := io.Copy(f, i.in); err != nil {
		done()
		return nil, func() {}, err
	}
	return bcachefs.TarTree{Open: func() (io.ReadCloser, error) { return os.Open(f.Name()) }}, done, nil
}

func (i *imageCreateCmd) failed(source, image string, err error) error {
	var pe *fs.PathError
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, bcachefs.ErrInUse):
		return failedTodo("image create", image, err, "--force overwrites it")
	case bcachefs.ErrnoOf(err) == bcachefs.ENOSPC && errors.As(err, &pe) && pe.Op == "load":
		return failedTodo("image create", path.Join(source, pe.Path), pe.Err, "make it larger, or leave --size out: then it is as large as it has to be")
	case errors.As(err, &pe) && (pe.Op == "load" || pe.Op == "read"):
		return failed("image create", path.Join(source, pe.Path), pe.Err)
	}
	return failed("image create", image, err)
}

// tell prints what was made.
func (i *imageCreateCmd) tell(image string, info *bcachefs.ImageInfo) error {
	if i.json {
		return i.writeJSON(map[string]any{"image": image, "bytes": info.Bytes, "uuid": info.UUID, "version": info.Version, "files": info.Tree.Files,
			"data_bytes": info.Tree.Bytes, "source_sha256": fmt.Sprintf("%x", info.Tree.Sum)})
	}
	if !i.quiet {
		fmt.Fprintf(i.out, "%s: %s, %d files, UUID %s\n", i.shownName(image), humanSize(uint64(info.Bytes)), info.Tree.Files, info.UUID)
	}
	return nil
}
