package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

type listSnapshotsCmd struct {
	*app
	openFlags
	flat, json, readonly, recursive bool
	sort, subvol                    string

	subvols map[uint32]bcachefs.SubvolumeInfo
	snaps   map[uint32]bcachefs.SnapshotInfo
	order   []uint32 // ids, parents first
	own     map[uint32]uint64
}

func newSubvolumeListSnapshotsCmd(a *app) *cobra.Command {
	s := &listSnapshotsCmd{app: a}
	c := a.command(&cobra.Command{
		Use:     "list-snapshots [flags] DEV...",
		Aliases: []string{"list-snap", "ls-snap"},
		Short:   "List snapshots and their disk usage",
		Long: "list-snapshots prints the tree of snapshots of the root subvolume, or of the one that --subvol names: of each node\n" +
			"the subvolume it is the current snapshot of and what only it and those below it can see. Nodes that several\n" +
			"subvolumes share have no name. With --flat there is a line for each subvolume, with the total that it can see.",
		Args: cobra.MinimumNArgs(1),
	}, s.run)
	f := c.Flags()
	f.BoolVarP(&s.flat, "flat", "f", false, "print a table, not a tree")
	f.BoolVar(&s.readonly, "readonly", false, "only read-only snapshots (with --flat)")
	f.StringVar(&s.sort, "sort", "", "sort by name, size or time (with --flat)")
	f.BoolVarP(&s.recursive, "recursive", "R", false, "print the trees of all subvolumes")
	f.StringVar(&s.subvol, "subvol", "", "print the tree of the subvolume with this `PATH` or id")
	jsonFlag(c, &s.json)
	s.register(f)
	return c
}

func (s *listSnapshotsCmd) run(ctx context.Context, args []string) error {
	if !slices.Contains(sortOrders, s.sort) {
		return usagef("--sort %s: want name, size or time", s.sort)
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
	if err := s.load(ctx, f, strings.Join(args, ":")); err != nil {
		return err
	}
	trees := []uint32{s.root(v.RootInode().Snapshot)}
	if s.recursive {
		for _, id := range s.order {
			if r := s.root(id); !slices.Contains(trees, r) {
				trees = append(trees, r)
			}
		}
	}
	if s.json {
		return s.printJSON(trees)
	}
	for i, root := range trees {
		if s.recursive {
			if i > 0 {
				fmt.Fprintln(s.out)
			}
			fmt.Fprintf(s.out, "%s:\n", s.treeName(root))
		}
		if s.flat {
			s.printFlat(root)
		} else {
			fmt.Fprintln(s.out, s.label(root))
			s.printTree(root, "", 0)
		}
	}
	return nil
}

func (s *listSnapshotsCmd) load(ctx context.Context, f *bcachefs.FS, where string) error {
	subvols, err := f.Subvolumes(ctx)
	if err != nil {
		return failed("list subvolumes", where, err)
	}
	s.subvols = map[uint32]bcachefs.SubvolumeInfo{}
	for _, sv := range subvols {
		s.subvols[sv.ID] = sv
	}
	snaps, err := f.Snapshots(ctx)
	if err != nil {
		return failed("list snapshots", where, err)
	}
	s.snaps = map[uint32]bcachefs.SnapshotInfo{}
	for _, sn := range snaps {
		s.snaps[sn.ID] = sn
		s.order = append(s.order, sn.ID)
	}
	if s.own, err = snapshotBytes(ctx, f); err != nil {
		s.warnf("subvolume list-snapshots: sizes: %v", err)
	}
	return nil
}

// root is the top of the tree that a snapshot is in. No more steps are made than there are snapshots, as a damaged
// image may have a loop.
func (s *listSnapshotsCmd) root(id uint32) uint32 {
	for range s.snaps {
		p := s.snaps[id].Parent
		if _, ok := s.snaps[p]; !ok {
			break
		}
		id = p
	}
	return id
}

// treeName is the path of the first subvolume of a tree.
func (s *listSnapshotsCmd) treeName(root uint32) string {
	best := ""
	for _, id := range s.order {
		if s.root(id) != root || s.snaps[id].Subvol == 0 {
			continue
		}
		if sv := s.subvols[s.snaps[id].Subvol]; best == "" || !sv.IsSnapshot {
			best = subvolPath(sv)
			if !sv.IsSnapshot {
				break
			}
		}
	}
	if best == "" { // what is left of deleted subvolumes
		return fmt.Sprintf("snapshot %d", root)
	}
	return s.shownName(best)
}

func (s *listSnapshotsCmd) flags(id uint32) string {
	sn := s.snaps[id]
	var f []string
	if sn.Subvol != 0 {
		if t := subvolFlags(s.subvols[sn.Subvol]); t != "" {
			f = append(f, t)
		}
	}
	if sn.Deleted {
		f = append(f, "deleted")
	}
	if sn.NoKeys {
		f = append(f, "no_keys")
	}
	return strings.Join(f, ",")
}

func (s *listSnapshotsCmd) label(id uint32) string {
	sn := s.snaps[id]
	name := "(shared)"
	if sn.Subvol != 0 {
		name = fmt.Sprintf("subvol %d", sn.Subvol)
		if sv, ok := s.subvols[sn.Subvol]; ok {
			name = s.shownName(subvolPath(sv))
		}
	}
	text := fmt.Sprintf("%s [%d", name, id)
	if s.own != nil {
		text += ", " + shortSize(s.own[id])
	}
	text += "]"
	if f := s.flags(id); f != "" {
		text += " (" + f + ")"
	}
	return text
}

func (s *listSnapshotsCmd) children(id uint32) []uint32 {
	var out []uint32
	for _, c := range s.order {
		if c != id && s.snaps[c].Parent == id {
			out = append(out, c)
		}
	}
	return out
}

func (s *listSnapshotsCmd) printTree(id uint32, prefix string, depth int) {
	children := s.children(id)
	for i, c := range children {
		branch, below := "├── ", "│   "
		if i == len(children)-1 {
			branch, below = "└── ", "    "
		}
		fmt.Fprintf(s.out, "%s%s%s\n", prefix, branch, s.label(c))
		if depth < len(s.snaps) {
			s.printTree(c, prefix+below, depth+1)
		}
	}
}

// total is what a snapshot can see: its own and what is above it.
func (s *listSnapshotsCmd) total(id uint32) uint64 {
	n := uint64(0)
	for range s.snaps {
		n += s.own[id]
		if id = s.snaps[id].Parent; id == 0 {
			break
		}
	}
	return n
}

func (s *listSnapshotsCmd) printFlat(root uint32) {
	var ids []uint32
	for _, id := range s.order {
		sn := s.snaps[id]
		if sn.Subvol != 0 && s.root(id) == root && (!s.readonly || s.subvols[sn.Subvol].ReadOnly) {
			ids = append(ids, id)
		}
	}
	subvol := func(id uint32) bcachefs.SubvolumeInfo { return s.subvols[s.snaps[id].Subvol] }
	slices.SortStableFunc(ids, func(a, b uint32) int {
		switch s.sort {
		case "name":
			return strings.Compare(subvol(a).Path, subvol(b).Path)
		case "size":
			return -compareUint(s.total(a), s.total(b))
		case "time":
			return subvol(b).Created.Compare(subvol(a).Created)
		}
		return 0
	})
	row := func(p string, id any, own, total, flags string) {
		fmt.Fprintln(s.out, strings.TrimRight(fmt.Sprintf("%-24s %-8v %-12s %-12s %s", p, id, own, total, flags), " "))
	}
	row("Path", "ID", "Own", "Total", "Flags")
	for _, id := range ids {
		own, total := "", ""
		if s.own != nil {
			own, total = shortSize(s.own[id]), shortSize(s.total(id))
		}
		row(s.shownName(subvolPath(subvol(id))), s.snaps[id].Subvol, own, total, orDash(s.flags(id)))
	}
}

// snapshotJSON is what --json tells of a node.
type snapshotJSON struct {
	ID       uint32   `json:"id"`
	Parent   uint32   `json:"parent"`
	Children []uint32 `json:"children"`
	Subvol   uint32   `json:"subvol"`
	Tree     uint32   `json:"tree"`
	Depth    uint32   `json:"depth"`
	Sectors  *uint64  `json:"sectors,omitempty"`
	Size     string   `json:"size,omitempty"`
	Flags    string   `json:"flags,omitempty"`
	Path     string   `json:"path,omitempty"`
	RawPath  string   `json:"path_base64,omitempty"`
}

func (s *listSnapshotsCmd) printJSON(trees []uint32) error {
	type tree struct {
		Root  uint32         `json:"root_snapshot"`
		Path  string         `json:"path"`
		Nodes []snapshotJSON `json:"nodes"`
	}
	out := []tree{}
	for _, root := range trees {
		t := tree{Root: root, Path: s.treeName(root), Nodes: []snapshotJSON{}}
		for _, id := range s.order {
			if s.root(id) != root {
				continue
			}
			sn := s.snaps[id]
			j := snapshotJSON{ID: id, Parent: sn.Parent, Children: s.children(id), Subvol: sn.Subvol, Tree: sn.Tree,
				Depth: sn.Depth, Flags: s.flags(id)}
			if j.Children == nil {
				j.Children = []uint32{}
			}
			if s.own != nil {
				sectors := s.own[id] / 512
				j.Sectors, j.Size = &sectors, shortSize(s.own[id])
			}
			if sv, ok := s.subvols[sn.Subvol]; ok {
				j.Path, j.RawPath = subvolPath(sv), rawName(sv.Path)
			}
			t.Nodes = append(t.Nodes, j)
		}
		out = append(out, t)
	}
	if s.recursive {
		return s.writeJSON(out)
	}
	return s.writeJSON(out[0])
}

// snapshotBytes returns the bytes that belong to each snapshot, from the accounting; nil for filesystems without.
func snapshotBytes(ctx context.Context, f *bcachefs.FS) (map[uint32]uint64, error) {
	version, err := parseVersion(f.Version())
	if err != nil || version < ondisk.VersionAccounting {
		return nil, err
	}
	sizes := map[uint32]uint64{}
	for k, err := range f.Keys(ctx, ondisk.BtreeAccounting.String(), ondisk.PosMin, ondisk.SPosMax) {
		if err != nil {
			return nil, err
		}
		at, ok := ondisk.DecodeAccountingPos(k.Pos, version)
		if !ok || at.Type != ondisk.AccountingSnapshot {
			continue
		}
		// Since 1.39 there is a counter for each btree, and sectors come third.
		n := ondisk.AccountingCounter(&k, max(ondisk.NrAccountingCounters(&k), 1)-1)
		sizes[at.ID] += uint64(max(n, 0)) * ondisk.SectorSize
	}
	return sizes, nil
}

// parseVersion reads a metadata version such as 1.13.
func parseVersion(s string) (ondisk.MetadataVersion, error) {
	var major, minor uint16
	if _, err := fmt.Sscanf(s, "%d.%d", &major, &minor); err != nil {
		return 0, fmt.Errorf("metadata version %q", s)
	}
	return ondisk.MetadataVersion(major<<10 | minor), nil
}
