package main

import (
	"errors"
	"os"
	"path"
)

// A destDir is a directory of the destination, open: names in it need no walk from the root, in which each step costs
// two system calls.
type destDir struct {
	rel  string // relative to the root of the destination
	root *os.Root
	file *os.File // the same, for calls that os.Root does not have
}

// parent returns the directory that rel is in, and its name there. The directory is valid until the next call.
func (c *cpCmd) parent(rel string) (*destDir, string, error) {
	dir, base := path.Split(rel)
	dir = path.Clean(dir)
	if c.dest.root != nil && c.dest.rel == dir {
		return &c.dest, base, nil
	}
	c.closeDest()
	root, err := c.root.OpenRoot(dir)
	if err != nil {
		return nil, "", err
	}
	file, err := root.Open(".")
	if err != nil {
		return nil, "", errors.Join(err, root.Close())
	}
	c.dest = destDir{dir, root, file}
	return &c.dest, base, nil
}

// closeDest forgets the directory that parent returned.
func (c *cpCmd) closeDest() {
	if c.dest.root != nil {
		c.dest.file.Close()
		c.dest.root.Close()
	}
	c.dest = destDir{}
}
