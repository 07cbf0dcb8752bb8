package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

func newStatCmd(a *app) *cobra.Command {
	var ff fileFlags
	var json, follow, human bool
	c := a.command(&cobra.Command{
		Use:   "stat [flags] DEV[:DEV]... [PATH]...",
		Short: "Print all that is known of files",
		Args:  cobra.MinimumNArgs(1),
	}, func(ctx context.Context, args []string) error {
		return ff.with(ctx, a, args[0], func(v *bcachefs.View) error {
			paths := args[1:]
			if len(paths) == 0 {
				paths = []string{"/"}
			}
			p := problems{app: a}
			rows := []*fileJSON{}
			for _, name := range paths {
				id, err := v.Resolve(ctx, name, follow || strings.HasSuffix(name, "/"))
				if err != nil {
					p.add("stat", name, err)
					continue
				}
				st, err := v.FS().Stat(ctx, id)
				if err != nil {
					p.add("stat", name, err)
					continue
				}
				j := toJSON(ctx, v.FS(), cleanPath(name), st)
				addXattrs(ctx, v.FS(), st, j, &p)
				rows = append(rows, j)
				if !json {
					a.printStat(name, st, j, human)
				}
			}
			if json {
				if err := a.writeJSON(rows); err != nil {
					return err
				}
			}
			return p.result()
		})
	})
	c.Flags().BoolVarP(&follow, "dereference", "L", false, "follow a symbolic link at the end of a path")
	humanFlag(c, &human)
	jsonFlag(c, &json)
	ff.register(c)
	return c
}

// addXattrs puts the extended attributes of an inode into j.
func addXattrs(ctx context.Context, f *bcachefs.FS, st *bcachefs.Stat, j *fileJSON, p *problems) {
	names, err := f.ListXattr(ctx, st.ID)
	p.add("list attributes", j.Path, err)
	for _, name := range names {
		if strings.HasPrefix(name, "bcachefs.") || strings.HasPrefix(name, "bcachefs_effective.") {
			continue // shown as options
		}
		value, err := f.GetXattr(ctx, st.ID, name)
		if err != nil {
			p.add("read attribute "+name, j.Path, err)
			continue
		}
		if j.Xattrs == nil {
			j.Xattrs = map[string]string{}
		}
		j.Xattrs[name] = base64.StdEncoding.EncodeToString(value)
	}
}

func (a *app) printStat(name string, st *bcachefs.Stat, j *fileJSON, human bool) {
	line := func(label, format string, args ...any) {
		fmt.Fprintf(a.out, "%9s %s\n", label+":", fmt.Sprintf(format, args...))
	}
	shown := a.shownName(name)
	if st.Mode&fs.ModeSymlink != 0 {
		shown += " -> " + a.shownName(j.Target)
	}
	line("File", "%s", shown)
	line("Size", "%s\tAllocated: %s\tSectors: %d\t%s",
		size(uint64(max(st.Size, 0)), human), size(st.Sectors*512, human), st.Sectors, fileKind(st.Mode))
	inode := fmt.Sprintf("%d\tLinks: %d", st.ID.Inum, st.Nlink)
	if j.Rdev != "" {
		inode += "\tDevice type: " + j.Rdev
	}
	line("Inode", "%s", inode)
	subvol := fmt.Sprint(st.ID.Subvol)
	if st.ID.Subvol == 0 {
		subvol = "-"
	}
	if st.SubvolRoot {
		subvol += " (its root)"
	}
	line("Subvolume", "%s\tSnapshot: %d\tGeneration: %d", subvol, st.ID.Snapshot, st.Generation)
	line("Access", "(%04o/%s)\tUid: %d\tGid: %d", st.RawMode&0o7777, modeString(st), st.UID, st.GID)
	stamp := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000000000 -0700") }
	line("Access", "%s", stamp(st.Atime))
	line("Modify", "%s", stamp(st.Mtime))
	line("Change", "%s", stamp(st.Ctime))
	line("Birth", "%s", stamp(st.Btime))
	if len(j.Flags) > 0 {
		line("Flags", "%s", strings.Join(j.Flags, ","))
	}
	if st.Project != 0 {
		line("Project", "%d", st.Project)
	}
	if st.Casefold {
		line("Casefold", "names are found in any case")
	}
	for _, o := range st.Options {
		inherited := ""
		if !o.Explicit {
			inherited = " (inherited)"
		}
		line("Option", "%s=%s%s", o.Name, o.Value, inherited)
	}
	for _, name := range sortedKeys(j.Xattrs) {
		value, err := base64.StdEncoding.DecodeString(j.Xattrs[name])
		if err != nil {
			continue // it was encoded above
		}
		line("Attribute", "%s=%q", a.shownName(name), value)
	}
}
