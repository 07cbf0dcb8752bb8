package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mountHelperArgs turns the ways in which mount(8) calls a helper into a call of the mount command:
//
//	mount.fuse.gobcachefs SOURCE DIR [-sfnv] [-N NS] [-t TYPE] [-o OPTIONS]    a link to this program in /sbin
//	gobcachefs SOURCE DIR [-o OPTIONS]                                        by mount.fuse, for -t fuse.gobcachefs
//
// Any other command line is returned as it is. The program's name stays first.
//
// mount(8) says rw whenever nobody said ro, so that it means nothing here; -w is left out, too.
func mountHelperArgs(args []string) []string {
	if len(args) < 3 {
		return args
	}
	helper := isMountHelper(args)
	if !helper && !sourceAndDir(args[1:]) {
		return args
	}
	out := []string{args[0], "mount"}
	var flags []string
	rest := args[1:]
	for len(rest) > 0 {
		arg := rest[0]
		rest = rest[1:]
		switch {
		case arg == "-o" && len(rest) > 0:
			if options := withoutRW(rest[0]); options != "" {
				flags = append(flags, arg, options)
			}
			rest = rest[1:]
		case !helper || !strings.HasPrefix(arg, "-") || arg == "-":
			out = append(out, arg)
		case arg == "-t" || arg == "-N":
			if len(rest) > 0 {
				rest = rest[1:]
			}
		case arg == "-f": // mount(8): everything but the mount itself
			flags = append(flags, "--fake")
		case strings.Trim(arg[1:], "snvw") == "": // sloppy, no mtab, verbose, read-write: nothing to do
		case arg == "-r":
			flags = append(flags, "-o", "ro")
		default:
			flags = append(flags, arg)
		}
	}
	return slices.Concat(out, flags)
}

// withoutRW takes rw out of a list of options.
func withoutRW(options string) string {
	all := strings.Split(options, ",")
	return strings.Join(slices.DeleteFunc(all, func(o string) bool { return o == "rw" }), ",")
}

// isMountHelper reports whether the program was called by the name of a helper of mount(8).
func isMountHelper(args []string) bool {
	return len(args) > 0 && strings.HasPrefix(filepath.Base(args[0]), "mount.")
}

// mountHelperExit is the exit code that mount(8) expects of a helper.
func mountHelperExit(code int) int {
	switch code {
	case exitFailed:
		return 32 // the mount failed
	case exitUsage:
		return 1 // the command line or fstab is wrong
	}
	return code
}

// sourceAndDir reports whether args begin with something that looks like devices and an existing directory, as mount.fuse
// has them; no command does.
func sourceAndDir(args []string) bool {
	if strings.HasPrefix(args[0], "-") || !strings.Contains(args[0], "/") && !isUUID(args[0]) {
		return false
	}
	st, err := os.Stat(args[1])
	return err == nil && st.IsDir()
}
