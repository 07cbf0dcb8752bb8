package main

import (
	"io/fs"
	"strconv"
	"strings"
)

// A modeChange says how permissions are to be changed, as chmod(1) takes it: an octal number, or clauses such as "u=rwx,go-w,+X".
type modeChange struct {
	octal  int // -1: clauses
	exact  bool
	clause []modeClause
}

// modeClause is a part of a symbolic mode.
type modeClause struct {
	who  uint16 // of the bits 0o4700, 0o2070, 0o1007; 0: all that the umask leaves
	op   byte   // + - =
	perm uint16 // for everybody: r 0o444, w 0o222, x 0o111, s 0o6000, t 0o1000
	bigX bool
	from byte // u, g, o: perm is what these have
}

// usualMask is what a mode without "who" leaves alone.
const usualMask = 0o022

// parseMode reads a mode.
func parseMode(s string) (modeChange, error) {
	bad := usagef("mode %q: want an octal number or the like of u=rwx,go-w", s)
	if n, err := strconv.ParseUint(s, 8, 16); err == nil {
		if n > 0o7777 {
			return modeChange{}, bad
		}
		return modeChange{octal: int(n), exact: len(s) > 4}, nil
	}
	m := modeChange{octal: -1}
	for clause := range strings.SplitSeq(strings.TrimPrefix(s, ","), ",") {
		who, rest := uint16(0), clause
		for rest != "" && strings.IndexByte("ugoa", rest[0]) >= 0 {
			who |= map[byte]uint16{'u': 0o4700, 'g': 0o2070, 'o': 0o1007, 'a': 0o7777}[rest[0]]
			rest = rest[1:]
		}
		if rest == "" {
			return m, bad
		}
		for rest != "" {
			c := modeClause{who: who, op: rest[0]}
			if strings.IndexByte("+-=", c.op) < 0 {
				return m, bad
			}
			for rest = rest[1:]; rest != "" && strings.IndexByte("+-=", rest[0]) < 0; rest = rest[1:] {
				if !c.letter(rest[0]) {
					return m, bad
				}
			}
			m.clause = append(m.clause, c)
		}
	}
	return m, nil
}

// letter takes one of the letters behind an operator.
func (c *modeClause) letter(b byte) bool {
	switch b {
	case 'r':
		c.perm |= 0o444
	case 'w':
		c.perm |= 0o222
	case 'x':
		c.perm |= 0o111
	case 'X':
		c.bigX = true
	case 's':
		c.perm |= 0o6000
	case 't':
		c.perm |= 0o1000
	case 'u', 'g', 'o':
		c.from = b
	default:
		return false
	}
	return true
}

// apply returns the permissions of a file that has old. An octal number of up to four digits leaves the set-id bits of directories, unless it
// says them.
func (m modeChange) apply(old uint16, dir bool) uint16 {
	if m.octal >= 0 {
		n := uint16(m.octal)
		if dir && !m.exact {
			n |= old & 0o6000
		}
		return n
	}
	for _, c := range m.clause {
		old = c.apply(old, dir)
	}
	return old
}

func (c modeClause) apply(old uint16, dir bool) uint16 {
	perm := c.perm
	if c.bigX && (dir || old&0o111 != 0) {
		perm |= 0o111
	}
	if shift, ok := map[byte]uint16{'u': 6, 'g': 3, 'o': 0}[c.from]; ok {
		perm |= old >> shift & 7 * 0o111
	}
	who := c.who
	if who == 0 {
		who = 0o7777 &^ usualMask
		if perm&0o6000 != 0 {
			who |= 0o6000
		}
	}
	perm &= who
	switch c.op {
	case '+':
		return old | perm
	case '-':
		return old &^ perm
	}
	cleared := who
	if c.who == 0 {
		cleared = 0o7777
	}
	if dir {
		cleared &^= 0o6000 // they are taken from directories only where that is said
	}
	if c.who&0o1007 == 0o1007 || c.who == 0 {
		cleared |= 0o1000
	} else {
		cleared &^= 0o1000
	}
	return old&^cleared | perm
}

// fileModeOf returns permissions as package fs has them.
func fileModeOf(mode uint16) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for bit, is := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= is
		}
	}
	return m
}
