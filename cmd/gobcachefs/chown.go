package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/user"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type chownCmd struct {
	change
	recursive, noDeref bool
}

func newChownCmd(a *app) *cobra.Command {
	o := &chownCmd{change: newChange(a, "chown")}
	c := a.command(&cobra.Command{
		Use:   "chown [flags] DEV[:DEV]... USER[:GROUP] PATH...",
		Short: "Change owners",
		Long: "chown changes owner and group of files in a filesystem that is not mounted. USER and GROUP are numbers or names; names are\n" +
			"looked up in /etc/passwd and /etc/group of the filesystem (of the subvolume that --subvol says), and if these do not have\n" +
			"them, on this machine. \"USER:\" is with the group that the user logs in with, \":GROUP\" changes the group only.",
		Args: cobra.MinimumNArgs(3),
	}, o.run)
	f := c.Flags()
	f.BoolVarP(&o.recursive, "recursive", "R", false, "change all below directories, too")
	f.BoolVarP(&o.noDeref, "no-dereference", "h", false, "change symbolic links themselves")
	f.Bool("help", false, "print help")
	o.register(c)
	return c
}

func (o *chownCmd) run(ctx context.Context, args []string) error {
	if args[1] == "" || args[1] == ":" || strings.Count(args[1], ":") > 1 {
		return usagef("chown: %q: want USER, USER:GROUP, USER: or :GROUP", args[1])
	}
	var who bcachefs.Attrs
	known := false
	return o.each(ctx, args[0], args[2:], func(v *bcachefs.View, p string) error {
		if !known {
			var err error
			if who, err = findOwner(v, args[1]); err != nil {
				return err
			}
			known = true
		}
		return o.walk(ctx, v, p, !o.noDeref, o.recursive, func(st *bcachefs.Stat) error {
			if _, err := v.FS().SetAttr(ctx, st.ID, who); err != nil || !st.Mode.IsRegular() {
				return err
			}
			_, err := v.FS().DropPrivileges(ctx, st.ID) // as it is when a system does it
			return err
		})
	})
}

// findOwner reads USER:GROUP.
func findOwner(v *bcachefs.View, s string) (a bcachefs.Attrs, err error) {
	u, g, both := strings.Cut(s, ":")
	login := ""
	if u != "" {
		id, group, err := lookUp(v, "user", u)
		if err != nil {
			return a, err
		}
		a.UID, login = &id, group
	}
	if both && g == "" {
		if g = login; g == "" {
			return a, failed("chown", s, errors.New("the group that this user logs in with is not known"))
		}
	}
	if g != "" {
		id, _, err := lookUp(v, "group", g)
		if err != nil {
			return a, err
		}
		a.GID = &id
	}
	return a, nil
}

// lookUp returns the number of a user or group, and of a user the number of the group that he logs in with, if it is known.
func lookUp(v *bcachefs.View, kind, name string) (id uint32, group string, err error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil && n != 1<<32-1 {
		return uint32(n), groupOfUID(v, kind, name), nil
	}
	var number string
	if kind == "user" {
		number, group = passwdEntry(v, "etc/passwd", name)
		if number == "" {
			if u, err := user.Lookup(name); err == nil {
				number, group = u.Uid, u.Gid
			}
		}
	} else {
		number, _ = passwdEntry(v, "etc/group", name)
		if number == "" {
			if g, err := user.LookupGroup(name); err == nil {
				number = g.Gid
			}
		}
	}
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return 0, "", failedTodo("chown", name, fmt.Errorf("no such %s, neither in the filesystem nor on this machine", kind), "numbers are always taken")
	}
	return uint32(n), group, nil
}

// groupOfUID returns the group that a user logs in with who is given by his number.
func groupOfUID(v *bcachefs.View, kind, uid string) string {
	if kind != "user" {
		return ""
	}
	if _, group := passwdLine(v, "etc/passwd", func(f []string) bool { return f[2] == uid }); group != "" {
		return group
	}
	if u, err := user.LookupId(uid); err == nil {
		return u.Gid
	}
	return ""
}

// passwdEntry returns the number of a name in passwd(5) or group(5) of the filesystem, and the field behind it.
func passwdEntry(v *bcachefs.View, file, name string) (number, next string) {
	return passwdLine(v, file, func(f []string) bool { return f[0] == name })
}

func passwdLine(v *bcachefs.View, file string, is func(fields []string) bool) (number, next string) {
	const maxBytes = 16 << 20
	st, err := v.Stat(file)
	if err != nil || !st.Mode().IsRegular() || st.Size() > maxBytes {
		return "", ""
	}
	b, err := fs.ReadFile(v, file)
	if err != nil {
		return "", ""
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if f := strings.Split(lines.Text(), ":"); len(f) >= 4 && is(f) {
			return f[2], f[3]
		}
	}
	return "", ""
}
