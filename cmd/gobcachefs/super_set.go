package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/super"
)

// setFlags are the flags of the commands that change superblocks.
type setFlags struct {
	options []string // -o
	scan    []string
	quiet   bool
}

func (s *setFlags) register(f *pflag.FlagSet) {
	f.StringArrayVarP(&s.options, "options", "o", nil, "degraded: members may be missing; no_splitbrain_check")
	f.StringArrayVar(&s.scan, "scan", nil, "look in `DIR` for members that were not given")
	f.BoolVarP(&s.quiet, "quiet", "q", false, "print errors only")
}

// openSet is the superblocks of a filesystem, all of whose devices are open for this program alone.
type openSet struct {
	*super.Set
	devs []blockdev.Device
	todo string // the command
}

// open opens all members of the filesystem that the devices given belong to.
func (s *setFlags) open(ctx context.Context, a *app, todo string, args []string) (*openSet, error) {
	m, err := parseMountOptions(s.options)
	if err != nil {
		return nil, err
	}
	devices, err := splitDevices(args)
	if err != nil {
		return nil, err
	}
	where := strings.Join(devices, ":")
	paths, messages, err := engine.FindMembers(ctx, devices,
		engine.Options{ScanDirs: s.scan, NoSplitBrainCheck: m.noSplitBrainCheck})
	if err != nil {
		return nil, openError(todo, where, devices, err)
	}
	if !s.quiet {
		for _, msg := range messages {
			a.warnf("%s", msg)
		}
	}
	set := &openSet{todo: todo}
	for _, path := range paths {
		dev, err := blockdev.OpenFile(path, blockdev.FileOptions{})
		if err != nil {
			return nil, errors.Join(openError(todo, path, nil, err), set.close())
		}
		set.devs = append(set.devs, dev)
	}
	if set.Set, err = super.OpenSet(ctx, set.devs, m.noSplitBrainCheck); err != nil {
		return nil, errors.Join(openError(todo, where, devices, err), set.close())
	}
	missing, err := set.Missing()
	if err == nil && len(missing) > 0 && !m.degraded && !m.veryDegraded {
		err = fmt.Errorf("device %d of the filesystem is missing", missing[0])
		err = failedTodo(todo, where, err, "give it too, or use -o degraded to change the others only")
	}
	if err != nil {
		return nil, errors.Join(err, set.close())
	}
	return set, nil
}

func (s *openSet) close() error {
	var err error
	for _, d := range s.devs {
		err = errors.Join(err, d.Close())
	}
	s.devs = nil
	return err
}

// index returns which member the device with a path is, -1 if none.
func (s *openSet) index(path string) int {
	st, err := os.Stat(path)
	if err != nil {
		return -1
	}
	for _, d := range s.devs {
		if other, err := os.Stat(d.Name()); err == nil && os.SameFile(st, other) {
			return s.Index(d)
		}
	}
	return -1
}

// failed is the error of changing the superblocks.
func (s *openSet) failed(err error) error {
	var names []string
	for _, d := range s.devs {
		names = append(names, d.Name())
	}
	var we *super.WriteError
	switch {
	case errors.As(err, &we) && len(we.Written) > 0:
		return failedTodo(s.todo, "", err, "the other devices have the change")
	case errors.Is(err, super.ErrOtherWriter):
		return failedTodo(s.todo, "", err, "stop it and try again")
	}
	return failed(s.todo, strings.Join(names, ":"), err)
}
