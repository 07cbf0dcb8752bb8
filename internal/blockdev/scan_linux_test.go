package blockdev

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestScanSysfs(t *testing.T) {
	root := writeTree(t, map[string]string{
		"sys/sda/size":           "2048\n",
		"sys/sda/ro":             "0\n",
		"sys/sda/device/model":   "Some Disk   \n",
		"sys/sda/holders/":       "",
		"sys/sda1/size":          "1024\n",
		"sys/sda1/partition":     "1\n",
		"sys/sda1/ro":            "1\n",
		"sys/sda1/holders/dm-0/": "",
		"sys/dm-0/size":          "1000\n",
		"sys/loop0/size":         "0\n",
		"sys/cciss!c0d0/size":    "8\n",
		"sys/strange/size":       "many\n",
		"sys/nonode/size":        "8\n",
		"dev/sda":                "", // any file will do
		"dev/sda1":               "",
		"dev/dm-0":               "",
		"dev/loop0":              "",
		"dev/cciss/c0d0":         "",
		"dev/strange":            "",
	})
	dev := filepath.Join(root, "dev")
	found, err := scanSysfs(filepath.Join(root, "sys"), dev)
	if err != nil {
		t.Fatal(err)
	}
	want := []Candidate{
		{Path: filepath.Join(dev, "cciss/c0d0"), Size: 4096, Block: true},
		{Path: filepath.Join(dev, "dm-0"), Size: 512000, Block: true},
		{Path: filepath.Join(dev, "sda"), Size: 1 << 20, Block: true, Model: "Some Disk"},
		{Path: filepath.Join(dev, "sda1"), Size: 1 << 19, Block: true, Partition: true, ReadOnly: true, Holders: []string{"dm-0"}},
	}
	if diff := cmp.Diff(want, tidy(found)); diff != "" {
		t.Error(diff)
	}

	if found, err := scanSysfs(filepath.Join(root, "nothing"), dev); err != nil || found != nil {
		t.Errorf("without /sys: %v, %v", found, err)
	}
}
