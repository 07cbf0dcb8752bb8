package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs/internal/btree"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

type listCmd struct {
	*app
	openFlags
	mode, btree, start, end string
	types                   []string
	level                   uint8
	fsck                    bool
	json                    bool

	id       ondisk.BtreeID
	from, to ondisk.Pos
	wanted   map[ondisk.KeyType]bool // nil: all

	fs       *engine.FS
	problems problems
}

// listModes are the values of --mode.
var listModes = []string{"keys", "formats", "nodes", "nodes-ondisk"}

func newListCmd(a *app) *cobra.Command {
	l := &listCmd{app: a, problems: problems{app: a}}
	c := a.command(&cobra.Command{
		Use:   "list [flags] DEV...",
		Short: "List filesystem metadata in textual form",
		Long: "list prints what is in a btree, each key on a line. Modes:\n\n" +
			"  keys          keys of the level, with their values\n" +
			"  formats       nodes from the level upwards: format of the keys, space used\n" +
			"  nodes         pointers to nodes\n" +
			"  nodes-ondisk  nodes as they are on disk, bset by bset\n\n" +
			"Positions are inode:offset:snapshot. With a snapshot in --start, what that snapshot sees is listed, otherwise the\n" +
			"keys of all snapshots.",
		Example: "  gobcachefs list -b inodes -s 4096 -e 4200 disk.img",
		Args:    cobra.MinimumNArgs(1),
	}, l.run)
	f := c.Flags()
	f.StringVarP(&l.mode, "mode", "m", "keys", "print keys, formats, nodes or nodes-ondisk")
	f.StringVarP(&l.btree, "btree", "b", "extents", "the btree, by `NAME`")
	f.StringSliceVarP(&l.types, "bkey-type", "k", nil, "print keys of these `TYPES` only")
	f.Uint8VarP(&l.level, "level", "l", 0, "depth to descend to, 0 being the leaves")
	f.StringVarP(&l.start, "start", "s", "POS_MIN", "first position")
	f.StringVarP(&l.end, "end", "e", "SPOS_MAX", "last position")
	f.BoolVarP(&l.fsck, "fsck", "f", false, "accepted for the habit: the journal is always taken into account, but for -o norecovery")
	f.BoolP("verbose", "v", false, "accepted for the habit: what was noticed when opening is always told, but for -q")
	f.StringP("colorize", "c", "", "accepted for the habit: nothing is colored")
	jsonFlag(c, &l.json)
	l.register(f)
	c.RegisterFlagCompletionFunc("btree", cobra.FixedCompletions(btreeNames(), cobra.ShellCompDirectiveNoFileComp))
	c.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions(listModes, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func btreeNames() []string {
	var names []string
	for id := ondisk.BtreeID(0); id < ondisk.NumBtrees; id++ {
		names = append(names, id.String())
	}
	return names
}

// parse reads the flags.
func (l *listCmd) parse() error {
	l.mode = strings.ReplaceAll(l.mode, "_", "-")
	if !slices.Contains(listModes, l.mode) {
		return usagef("--mode %s: want %s", l.mode, strings.Join(listModes, ", "))
	}
	var err error
	if l.id, err = ondisk.ParseBtreeID(l.btree); err != nil {
		return usagef("--btree: %v: there are %s", err, strings.Join(btreeNames(), ", "))
	}
	if l.from, err = ondisk.ParsePos(l.start); err != nil {
		return usagef("--start: %v", err)
	}
	if l.to, err = ondisk.ParsePos(l.end); err != nil {
		return usagef("--end: %v", err)
	}
	if l.level > btree.MaxRootLevel {
		return usagef("--level %d: btrees have the levels 0 to %d", l.level, btree.MaxRootLevel)
	}
	if l.json && l.mode != "keys" {
		return usagef("--json is for keys")
	}
	for _, t := range l.types {
		kt, ok := parseKeyType(t)
		if !ok {
			return usagef("--bkey-type: no type of keys is named %q", t)
		}
		if l.wanted == nil {
			l.wanted = map[ondisk.KeyType]bool{}
		}
		l.wanted[kt] = true
	}
	return nil
}

func parseKeyType(name string) (ondisk.KeyType, bool) {
	for t := ondisk.KeyType(0); t < ondisk.NumKeyTypes; t++ {
		if t.String() == name {
			return t, true
		}
	}
	return 0, false
}

func (l *listCmd) run(ctx context.Context, args []string) error {
	if err := l.parse(); err != nil {
		return err
	}
	// As the reference does: what there is, is listed.
	l.options = append([]string{"very_degraded"}, l.options...)
	var err error
	if l.fs, err = l.openEngine(ctx, l.app, args); err != nil {
		return err
	}
	defer l.fs.Close()
	switch l.mode {
	case "keys":
		err = l.keys(ctx)
	default:
		err = l.nodes(ctx)
	}
	if err != nil {
		return err
	}
	return l.problems.result()
}

// keys prints the keys of a level.
func (l *listCmd) keys(ctx context.Context) error {
	text := newKeyPrinter(l.fs)
	seq := l.fs.Reader.KeysAt(ctx, l.id, l.level, l.from, l.to)
	if l.from.Snapshot != 0 && l.level == 0 && l.id.Has(ondisk.BtreeHasSnapshots) {
		seq = l.fs.Reader.KeysIn(ctx, l.id, l.from, l.to, l.from.Snapshot)
	}
	var buf []byte
	for k, err := range seq {
		if err != nil {
			if cerr := ctx.Err(); cerr != nil {
				return cerr
			}
			l.problems.add("list", l.id.String(), err)
			continue
		}
		if l.wanted != nil && !l.wanted[k.Type] {
			continue
		}
		if l.json {
			err = l.keyJSON(text, &k)
		} else {
			buf = append(text.append(buf[:0], l.id, &k), '\n')
			_, err = l.out.Write(buf)
		}
		if err != nil {
			return failed("writing the output", "", err)
		}
	}
	return nil
}

// nodes prints the nodes from the chosen level up.
func (l *listCmd) nodes(ctx context.Context) error {
	root, ok := l.fs.Reader.Root(l.id)
	if !ok {
		return nil // an empty btree may have no root
	}
	for level := l.level; level <= root.Level && level <= btree.MaxRootLevel; level++ {
		for ref, err := range l.fs.Reader.NodesAt(ctx, l.id, level) {
			if err != nil {
				if cerr := ctx.Err(); cerr != nil {
					return cerr
				}
				l.problems.add("list", l.id.String(), err)
				continue
			}
			if ref.Node.Max.Less(l.from) {
				continue
			}
			if l.to.Less(ref.Node.Min) {
				break
			}
			if err := l.node(&ref); err != nil {
				return failed("writing the output", "", err)
			}
		}
	}
	return nil
}

func (l *listCmd) node(ref *btree.NodeRef) error {
	text := newKeyPrinter(l.fs)
	n := ref.Node
	switch l.mode {
	case "nodes":
		_, err := l.out.Write(append(text.append(nil, l.id, &ref.Key), '\n'))
		return err
	case "formats":
		packed, unpacked := 0, 0
		for _, b := range n.Bsets {
			packed += b.Packed
			unpacked += b.Unpacked
		}
		total := l.fs.SB.BtreeNodeSize()
		fmt.Fprintf(l.out, "l %d %v - %v:\n    ptrs: %s\n    format: %s\n", n.Level, n.Min, n.Max,
			text.value(&ref.Key), formatText(&n.Format))
		_, err := fmt.Fprintf(l.out, "    bytes used %d/%d (%d%% full)\n    bytes written %d\n    nr packed keys %d\n    nr unpacked keys %d\n",
			n.LiveBytes(), total, n.LiveBytes()*100/max(int(total), 1), n.Written, packed, unpacked)
		return err
	}
	fmt.Fprintf(l.out, "%s\n  btree %v level %d seq %#x written %d\n", text.append(nil, l.id, &ref.Key),
		n.Btree, n.Level, n.Seq, n.Written)
	for _, b := range n.Bsets {
		note := ""
		if b.Blacklisted {
			note = " (blacklisted)"
		}
		fmt.Fprintf(l.out, "  offset %d version %v, journal seq %d, csum %v, keys %d packed %d unpacked%s\n",
			b.Offset/ondisk.SectorSize, b.Version, b.JournalSeq, b.Csum, b.Packed, b.Unpacked, note)
	}
	for i := range n.Len() {
		k := n.Key(i)
		if l.wanted != nil && !l.wanted[k.Type] {
			continue
		}
		fmt.Fprintf(l.out, "    %s\n", text.append(nil, l.id, &k))
	}
	for _, p := range n.Problems {
		fmt.Fprintf(l.out, "    problem: %v\n", p)
	}
	return nil
}

// formatText prints a format as the reference does: bits:offset of each field.
func formatText(f *ondisk.Format) string {
	var b strings.Builder
	fmt.Fprintf(&b, "u64s %d fields ", f.KeyU64s)
	for i := range f.Bits {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d:%d", f.Bits[i], f.Offset[i])
	}
	return b.String()
}

// keyJSON prints a key as one line of JSON.
func (l *listCmd) keyJSON(text *keyPrinter, k *ondisk.Key) error {
	return writeJSONLine(l.out, struct {
		Btree    string `json:"btree"`
		Level    uint8  `json:"level"`
		Type     string `json:"type"`
		Inode    uint64 `json:"inode"`
		Offset   uint64 `json:"offset"`
		Snapshot uint32 `json:"snapshot"`
		Size     uint32 `json:"size"`
		Value    string `json:"value"`
		Raw      []byte `json:"value_base64"`
	}{l.id.String(), l.level, k.Type.String(), k.Pos.Inode, k.Pos.Offset, k.Pos.Snapshot, k.Size,
		text.value(k), k.Val})
}
