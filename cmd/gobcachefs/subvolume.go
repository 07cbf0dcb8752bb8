package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

func newSubvolumeCmd(a *app) *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "subvolume",
		Aliases: []string{"subvol"},
		Short:   "Make, delete and list subvolumes and snapshots",
	}, newSubvolumeCreateCmd(a), newSubvolumeDeleteCmd(a), newSubvolumeSnapshotCmd(a), newSubvolumeListCmd(a), newSubvolumeListSnapshotsCmd(a))
}

type subvolumeListCmd struct {
	*app
	openFlags
	json, tree, recursive, snapshots, readonly bool
	sort, subvol                               string

	all   []bcachefs.SubvolumeInfo
	byID  map[uint32]bcachefs.SubvolumeInfo
	sizes map[uint32]uint64 // cumulative, by subvolume; nil if there is no accounting
}

func newSubvolumeListCmd(a *app) *cobra.Command {
	s := &subvolumeListCmd{app: a}
	c := a.command(&cobra.Command{
		Use:     "list [flags] DIR | DEV...",
		Aliases: []string{"ls"},
		Short:   "List subvolumes",
		Long: "list prints the subvolumes in the root of the filesystem, or in the one that --subvol names, with -R also those\n" +
			"below. Sizes are those of all data that a subvolume can see, with what it shares with snapshots, before compression.\n" +
			"DIR is the root of a subvolume on a mounted filesystem, of which those below are listed; there sizes are not known.",
		Args: cobra.MinimumNArgs(1),
	}, s.run)
	f := c.Flags()
	f.BoolVarP(&s.tree, "tree", "t", false, "print a tree (implies -R)")
	f.BoolVarP(&s.recursive, "recursive", "R", false, "list subvolumes in subvolumes too")
	f.BoolVarP(&s.snapshots, "snapshots", "s", false, "list snapshots too")
	f.BoolVar(&s.readonly, "readonly", false, "list read-only subvolumes only")
	f.StringVar(&s.sort, "sort", "", "sort by name, size or time")
	f.StringVar(&s.subvol, "subvol", "", "list what is in the subvolume with this `PATH` or id")
	jsonFlag(c, &s.json)
	s.register(f)
	return c
}

// sortOrders are the values of --sort.
var sortOrders = []string{"", "name", "size", "time"}

func (s *subvolumeListCmd) run(ctx context.Context, args []string) error {
	if !slices.Contains(sortOrders, s.sort) {
		return usagef("--sort %s: want name, size or time", s.sort)
	}
	if len(args) == 1 {
		if done, err := s.mounted(args[0]); done {
			return err
		}
	}
	f, m, err := s.open(ctx, s.app, args)
	if err != nil {
		return err
	}
	defer f.Close()
	vf := viewFlags{subvol: s.subvol}
	v, err := vf.view(f, m)
	if err != nil {
		return err
	}
	if s.all, err = f.Subvolumes(ctx); err != nil {
		return failed("list subvolumes", strings.Join(args, ":"), err)
	}
	if s.sizes, err = subvolumeSizes(ctx, f); err != nil {
		s.warnf("subvolume list: sizes: %v", err)
	}
	return s.print(v.RootInode().Subvol)
}

// mounted lists subvolumes of a mounted filesystem, if dir is a directory of one.
func (s *subvolumeListCmd) mounted(dir string) (done bool, err error) {
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return false, nil
	}
	if s.all, err = subvolumesMounted(dir); errors.Is(err, errNotMounted) {
		return false, nil
	}
	switch {
	case err != nil:
		return true, failed("list subvolumes", dir, err)
	case s.subvol != "":
		return true, usagef("--subvol is for devices: give the directory of the subvolume")
	}
	return true, s.print(0)
}

// print prints what is in a subvolume.
func (s *subvolumeListCmd) print(root uint32) error {
	s.byID = map[uint32]bcachefs.SubvolumeInfo{}
	for _, sv := range s.all {
		s.byID[sv.ID] = sv
	}
	switch {
	case s.json:
		return s.writeJSON(s.toJSON(root))
	case s.tree:
		fmt.Fprintln(s.out, s.shownName("/"+s.byID[root].Path))
		s.printTree(root, "")
	default:
		s.printFlat(root)
	}
	return nil
}

// children returns the subvolumes in a subvolume in the order of paths.
func (s *subvolumeListCmd) children(of uint32) []bcachefs.SubvolumeInfo {
	var list []bcachefs.SubvolumeInfo
	for _, sv := range s.all {
		if sv.Parent == of && sv.ID != of {
			list = append(list, sv)
		}
	}
	slices.SortFunc(list, func(a, b bcachefs.SubvolumeInfo) int { return strings.Compare(a.Path, b.Path) })
	return list
}

// below returns what is listed under root, parents first. A damaged image's loops are walked once.
func (s *subvolumeListCmd) below(root uint32) []bcachefs.SubvolumeInfo {
	var list []bcachefs.SubvolumeInfo
	seen := map[uint32]bool{root: true}
	var visit func(of uint32)
	visit = func(of uint32) {
		for _, sv := range s.children(of) {
			if seen[sv.ID] {
				continue
			}
			seen[sv.ID] = true
			list = append(list, sv)
			if s.recursive {
				visit(sv.ID)
			}
		}
	}
	visit(root)
	return list
}

func (s *subvolumeListCmd) printFlat(root uint32) {
	list := slices.DeleteFunc(s.below(root), func(sv bcachefs.SubvolumeInfo) bool {
		return sv.IsSnapshot && !s.snapshots || s.readonly && !sv.ReadOnly
	})
	switch s.sort {
	case "size":
		slices.SortStableFunc(list, func(a, b bcachefs.SubvolumeInfo) int { return -compareUint(s.sizes[a.ID], s.sizes[b.ID]) })
	case "time":
		slices.SortStableFunc(list, func(a, b bcachefs.SubvolumeInfo) int { return b.Created.Compare(a.Created) })
	case "name":
		slices.SortStableFunc(list, func(a, b bcachefs.SubvolumeInfo) int { return strings.Compare(a.Path, b.Path) })
	}
	row := func(p string, id any, created, flags, size, snapshot string) {
		line := fmt.Sprintf("%-24s %-8v %-16s %-12s %-12s %s", p, id, created, flags, size, snapshot)
		fmt.Fprintln(s.out, strings.TrimRight(line, " "))
	}
	head := ""
	if s.snapshots {
		head = "Snapshot"
	}
	row("Path", "ID", "Created", "Flags", "Size", head)
	for _, sv := range list {
		of := ""
		if s.snapshots && sv.CreationParent != 0 {
			of = s.shownName("/" + s.byID[sv.CreationParent].Path)
		}
		row(s.shownName(s.relative(root, sv)), sv.ID, subvolTime(sv.Created), orDash(subvolFlags(sv)), s.sizeOf(sv.ID), of)
	}
}

// relative is the path of a subvolume as seen from root.
func (s *subvolumeListCmd) relative(root uint32, sv bcachefs.SubvolumeInfo) string {
	return strings.TrimPrefix(strings.TrimPrefix(sv.Path, s.byID[root].Path), "/")
}

func (s *subvolumeListCmd) sizeOf(id uint32) string {
	if n, ok := s.sizes[id]; ok {
		return shortSize(n)
	}
	return ""
}

func (s *subvolumeListCmd) printTree(of uint32, prefix string) {
	list := slices.DeleteFunc(s.children(of), func(sv bcachefs.SubvolumeInfo) bool { return sv.IsSnapshot && !s.snapshots })
	for i, sv := range list {
		branch, below := "├── ", "│   "
		if i == len(list)-1 {
			branch, below = "└── ", "    "
		}
		var notes []string
		if sv.CreationParent != 0 {
			notes = append(notes, "snap of "+s.shownName("/"+s.byID[sv.CreationParent].Path))
		}
		for _, n := range []string{subvolFlags(sv), s.sizeOf(sv.ID)} {
			if n != "" {
				notes = append(notes, n)
			}
		}
		if t := subvolTime(sv.Created); t != "-" {
			notes = append(notes, t)
		}
		note := ""
		if len(notes) > 0 {
			note = " [" + strings.Join(notes, ", ") + "]"
		}
		fmt.Fprintf(s.out, "%s%s%s%s\n", prefix, branch, s.shownName(s.relative(of, sv)), note)
		if len(prefix) < 64*len("│   ") { // deeper only in a loop
			s.printTree(sv.ID, prefix+below)
		}
	}
}

// subvolJSON is what --json tells of a subvolume.
type subvolJSON struct {
	ID             uint32        `json:"subvolid"`
	Path           string        `json:"path"`
	RawPath        string        `json:"path_base64,omitempty"`
	Snapshot       uint32        `json:"snapshot"`
	Created        string        `json:"otime,omitempty"`
	CreatedUnix    int64         `json:"otime_unix,omitempty"`
	SnapshotParent string        `json:"snapshot_parent,omitempty"`
	Flags          string        `json:"flags,omitempty"`
	Size           string        `json:"size,omitempty"`
	Sectors        uint64        `json:"sectors,omitempty"`
	Children       []*subvolJSON `json:"children,omitempty"`
}

func (s *subvolumeListCmd) toJSON(root uint32) []*subvolJSON {
	out := []*subvolJSON{}
	nodes := map[uint32]*subvolJSON{}
	for _, sv := range s.below(root) {
		if sv.IsSnapshot && !s.snapshots || s.readonly && !sv.ReadOnly {
			continue
		}
		p := s.relative(root, sv)
		j := &subvolJSON{ID: sv.ID, Path: p, RawPath: rawName(p), Snapshot: sv.Snapshot, Flags: subvolFlags(sv)}
		if !sv.Created.IsZero() {
			j.Created, j.CreatedUnix = sv.Created.UTC().Format(time.RFC3339Nano), sv.Created.Unix()
		}
		if sv.CreationParent != 0 {
			j.SnapshotParent = "/" + s.byID[sv.CreationParent].Path
		}
		if n, ok := s.sizes[sv.ID]; ok {
			j.Size, j.Sectors = shortSize(n), n/512
		}
		nodes[sv.ID] = j
		if parent := nodes[sv.Parent]; parent != nil {
			parent.Children = append(parent.Children, j)
		} else {
			out = append(out, j)
		}
	}
	return out
}

func subvolFlags(sv bcachefs.SubvolumeInfo) string {
	var f []string
	if sv.ReadOnly {
		f = append(f, "ro")
	}
	if sv.Unlinked {
		f = append(f, "unlinked")
	}
	return strings.Join(f, ",")
}

func subvolTime(t time.Time) string {
	if t.IsZero() || t.Unix() == 0 {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func compareUint(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// subvolumeSizes returns the bytes that each subvolume can see: those of its snapshot and all above it.
func subvolumeSizes(ctx context.Context, f *bcachefs.FS) (map[uint32]uint64, error) {
	own, err := snapshotBytes(ctx, f)
	if err != nil || own == nil {
		return nil, err
	}
	snaps, err := f.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	parents := map[uint32]uint32{}
	for _, s := range snaps {
		parents[s.ID] = s.Parent
	}
	sizes := map[uint32]uint64{}
	for _, s := range snaps {
		if s.Subvol == 0 {
			continue
		}
		id, total := s.ID, uint64(0)
		for range len(snaps) { // no more, even if a damaged image has a loop
			total += own[id]
			if id = parents[id]; id == 0 {
				break
			}
		}
		sizes[s.Subvol] = total
	}
	return sizes, nil
}

// subvolPath is a subvolume's absolute path.
func subvolPath(sv bcachefs.SubvolumeInfo) string { return path.Join("/", sv.Path) }
