package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

type setfattrCmd struct {
	change
	name, value, remove string
	noDeref             bool
}

func newSetfattrCmd(a *app) *cobra.Command {
	s := &setfattrCmd{change: newChange(a, "setfattr")}
	c := a.command(&cobra.Command{
		Use:   "setfattr {-n NAME [-v VALUE] | -x NAME} [flags] DEV[:DEV]... PATH...",
		Short: "Set and remove extended attributes",
		Long: "setfattr sets or removes an extended attribute of files in a filesystem that is not mounted: user., trusted., security. and ACLs,\n" +
			"and options of bcachefs such as bcachefs.compression, which what is made in a directory later inherits. VALUE is text, or\n" +
			"0x and hexadecimal digits, or 0s and base64, or text in double quotes with \\ooo for any byte. 'gobcachefs stat' shows them.",
		Example: "  gobcachefs setfattr -n bcachefs.compression -v zstd:3 disk.img /home",
		Args:    cobra.MinimumNArgs(2),
	}, s.run)
	f := c.Flags()
	f.StringVarP(&s.name, "name", "n", "", "set the attribute `NAME`")
	f.StringVarP(&s.value, "value", "v", "", "to this `VALUE`")
	f.StringVarP(&s.remove, "remove", "x", "", "remove the attribute `NAME`")
	f.BoolVarP(&s.noDeref, "no-dereference", "h", false, "change symbolic links themselves")
	f.Bool("help", false, "print help")
	s.register(c)
	return c
}

func (s *setfattrCmd) run(ctx context.Context, args []string) error {
	if (s.name == "") == (s.remove == "") || s.remove != "" && s.value != "" {
		return usagef("setfattr: want either -n NAME with -v VALUE, or -x NAME")
	}
	value, err := parseXattrValue(s.value)
	if err != nil {
		return usagef("setfattr: -v: %v", err)
	}
	return s.each(ctx, args[0], args[1:], func(v *bcachefs.View, p string) error {
		id, err := v.Resolve(ctx, p, !s.noDeref)
		if err != nil {
			return err
		}
		if s.remove != "" {
			err = v.FS().RemoveXattr(ctx, id, s.remove)
		} else {
			err = v.FS().SetXattr(ctx, id, s.name, value, 0)
		}
		if err != nil {
			return fmt.Errorf("attribute %s: %w", s.name+s.remove, err)
		}
		return nil
	})
}

// parseXattrValue reads a value as setfattr(1) does.
func parseXattrValue(s string) ([]byte, error) {
	switch {
	case strings.HasPrefix(s, "0x"), strings.HasPrefix(s, "0X"):
		return hex.DecodeString(s[2:])
	case strings.HasPrefix(s, "0s"), strings.HasPrefix(s, "0S"):
		return base64.StdEncoding.DecodeString(s[2:])
	case len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"':
		return unquoteXattr(s[1 : len(s)-1])
	}
	return []byte(s), nil
}

func unquoteXattr(s string) ([]byte, error) {
	var b []byte
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\':
			b = append(b, s[i])
		case i+4 <= len(s) && s[i+1] >= '0' && s[i+1] <= '7':
			n, err := strconv.ParseUint(s[i+1:i+4], 8, 8)
			if err != nil {
				return nil, fmt.Errorf("%q: want three octal digits", s[i:i+4])
			}
			b = append(b, byte(n))
			i += 3
		case i+1 < len(s):
			i++
			b = append(b, s[i])
		default:
			return nil, fmt.Errorf("a backslash at the end")
		}
	}
	return b, nil
}
