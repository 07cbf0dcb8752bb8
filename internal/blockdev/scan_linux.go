package blockdev

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

func scanSystem() ([]Candidate, error) { return scanSysfs("/sys/class/block", "/dev") }

// scanSysfs lists the block devices below class, whose nodes are in dev.
func scanSysfs(class, dev string) ([]Candidate, error) {
	entries, err := os.ReadDir(class)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a container without /sys
	}
	if err != nil {
		return nil, err
	}
	var found []Candidate
	for _, e := range entries {
		c := describeSysfs(filepath.Join(class, e.Name()))
		c.Path = filepath.Join(dev, strings.ReplaceAll(e.Name(), "!", "/"))
		if c.Size > 0 && exists(c.Path) {
			found = append(found, c)
		}
	}
	return found, nil
}

// describeSysfs reads what /sys says in the directory of a device. Without
// media, or unused like a free loop device, its size is 0.
func describeSysfs(dir string) Candidate {
	sectors, err := strconv.ParseInt(readLine(dir, "size"), 10, 64)
	if err != nil || sectors < 0 || sectors > 1<<54 {
		sectors = 0
	}
	c := Candidate{
		Size:      sectors * SectorSize, // in /sys always 512
		Block:     true,
		Partition: exists(filepath.Join(dir, "partition")),
		ReadOnly:  readLine(dir, "ro") == "1",
		Model:     readLine(dir, "device/model"),
	}
	if c.Model == "" && c.Partition {
		if whole, err := filepath.EvalSymlinks(dir); err == nil {
			c.Model = readLine(filepath.Dir(whole), "device/model")
		}
	}
	holders, _ := os.ReadDir(filepath.Join(dir, "holders"))
	for _, h := range holders {
		c.Holders = append(c.Holders, h.Name())
	}
	return c
}

// describeDevice finds the entry in /sys of a device node, whatever its name.
func describeDevice(path string) Candidate {
	var c Candidate
	if real, err := filepath.EvalSymlinks(path); err == nil {
		name := strings.TrimPrefix(real, "/dev/")
		c = describeSysfs(filepath.Join("/sys/class/block", strings.ReplaceAll(name, "/", "!")))
	}
	c.Path, c.Block = path, true
	return c
}

func readLine(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
