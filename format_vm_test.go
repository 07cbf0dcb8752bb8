package bcachefs_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/kernelvm"
)

// A formatCase is a filesystem that the driver is to use.
type formatCase struct {
	name    string
	devices []bcachefs.FormatDevice // without their paths
	opts    bcachefs.FormatOptions
}

const vmPassphrase = "a passphrase"

// on are devices of so many MiB.
func on(sizes ...int64) []bcachefs.FormatDevice {
	var all []bcachefs.FormatDevice
	for _, mib := range sizes {
		all = append(all, bcachefs.FormatDevice{CreateBytes: mib << 20})
	}
	return all
}

func durability(n int) *int { return &n }

// formatCases have many options each, so that one boot tries all there are.
func formatCases() []formatCase {
	labelled := on(64, 64, 128)
	labelled[0].Label, labelled[0].Discard, labelled[0].BucketBytes = "ssd.a", true, 64<<10
	labelled[1].Label, labelled[1].BucketBytes = "ssd.b", 128<<10
	labelled[2].Label, labelled[2].Durability, labelled[2].BucketBytes = "hdd.a", durability(2), 256<<10
	cached := on(64, 96)
	cached[0].Durability, cached[0].DataAllowed = durability(0), []string{"user"}
	cached[1].Bytes = 80 << 20
	return []formatCase{
		// The one whose passphrase the machine is told comes first.
		{"passphrase", on(64), bcachefs.FormatOptions{Encrypted: true, Passphrase: []byte(vmPassphrase),
			Options: map[string]string{"wide_macs": "1", "compression": "zstd:3"}}},
		{"plain", on(64), bcachefs.FormatOptions{}},
		{"targets", labelled, bcachefs.FormatOptions{Label: "a filesystem", Options: map[string]string{
			"foreground_target": "ssd", "promote_target": "ssd", "background_target": "hdd", "metadata_target": "ssd",
			"metadata_replicas": "2", "data_replicas": "2", "metadata_replicas_required": "2", "data_replicas_required": "2",
			"data_checksum": "xxhash", "metadata_checksum": "xxhash", "erasure_code": "1"}}},
		{"durability", cached, bcachefs.FormatOptions{Options: map[string]string{"errors": "ro", "data_checksum": "none",
			"background_compression": "lz4", "str_hash": "crc64", "metadata_checksum": "crc64", "gc_reserve_percent": "12", "root_reserve_percent": "10",
			"allocator_stuck_timeout": "5"}}},
		{"small", on(32), bcachefs.FormatOptions{SuperblockBytes: 256 << 10, Encrypted: true, Options: map[string]string{
			"block_size": "512", "btree_node_size": "16k", "encoded_extent_max": "16k", "compression": "gzip:9",
			"inodes_32bit": "0", "shard_inode_numbers": "0", "usrquota": "1", "grpquota": "1", "prjquota": "1", "acl": "0"}}},
		{"old", on(64), bcachefs.FormatOptions{Version: "1.4", Options: map[string]string{"nocow": "1", "metadata_checksum": "none",
			"inodes_use_key_cache": "0", "journal_transaction_names": "0", "gc_reserve_bytes": "4M"}}},
	}
}

// Each option has another value than the default in one of the filesystems that every run gives to the driver.
func TestFormatCases(t *testing.T) {
	tried := map[string]bool{}
	for _, c := range formatCases() {
		for name := range c.opts.Options {
			tried[name] = true
		}
	}
	for _, name := range bcachefs.FormatOptionNames() {
		if !tried[name] {
			t.Errorf("no filesystem has %s", name)
		}
	}
}

// everyOption is a filesystem for each value of each option that there is.
func everyOption() []formatCase {
	var cases []formatCase
	add := func(name string, devices []bcachefs.FormatDevice, o bcachefs.FormatOptions) {
		cases = append(cases, formatCase{name, devices, o})
	}
	values := map[string][]string{
		"block_size": {"512", "1k", "2k", "4k"}, "btree_node_size": {"32k", "64k", "256k"}, "errors": {"continue", "panic", "ro"},
		"encoded_extent_max": {"4k", "1M"}, "metadata_checksum": {"none", "crc64", "xxhash"}, "data_checksum": {"none", "crc64", "xxhash"},
		"compression": {"lz4", "lz4:9", "gzip", "zstd:15"}, "background_compression": {"lz4", "gzip:1", "zstd"},
		"str_hash": {"crc32c", "crc64"}, "erasure_code": {"1"}, "inodes_32bit": {"0"}, "shard_inode_numbers": {"0"},
		"inodes_use_key_cache": {"0"}, "gc_reserve_percent": {"5", "20"}, "gc_reserve_bytes": {"4M"}, "root_reserve_percent": {"10"},
		"wide_macs": {"1"}, "acl": {"0"}, "usrquota": {"1"}, "grpquota": {"1"}, "prjquota": {"1"}, "journal_transaction_names": {"0"},
		"allocator_stuck_timeout": {"5"}, "nocow": {"1"},
	}
	replicated := []string{"metadata_replicas", "data_replicas", "metadata_replicas_required", "data_replicas_required"}
	for _, name := range bcachefs.FormatOptionNames() {
		for _, v := range values[name] {
			add(name+"="+v, on(64), bcachefs.FormatOptions{Options: map[string]string{name: v}})
		}
	}
	for i, name := range replicated {
		opts := map[string]string{name: "2"}
		opts[replicated[i%2]] = "2"
		add(name, on(64, 64), bcachefs.FormatOptions{Options: opts})
	}
	for _, name := range []string{"metadata_target", "foreground_target", "background_target", "promote_target"} {
		devices := on(64, 64)
		devices[1].Label = "x.y"
		add(name, devices, bcachefs.FormatOptions{Options: map[string]string{name: "x"}})
	}
	for minor := range 14 {
		add(fmt.Sprint("version 1.", minor), on(64), bcachefs.FormatOptions{Version: fmt.Sprint("1.", minor)})
	}
	for _, bucket := range []int64{32 << 10, 512 << 10, 1 << 20, 96 << 10} {
		devices := on(80)
		devices[0].BucketBytes = bucket
		add(fmt.Sprint("buckets of ", bucket), devices, bcachefs.FormatOptions{})
	}
	for _, size := range []int64{16 << 10, 64 << 10, 300 << 10, 4 << 20} {
		add(fmt.Sprint("superblocks of ", size), on(64), bcachefs.FormatOptions{SuperblockBytes: size})
	}
	add("small nodes", on(64), bcachefs.FormatOptions{Options: map[string]string{"block_size": "2k", "btree_node_size": "16k"}})
	add("replicas=3", on(64, 64, 64, 64), bcachefs.FormatOptions{Options: map[string]string{"metadata_replicas": "3", "data_replicas": "3"}})
	return cases
}

// useScript mounts filesystems read-write and leaves something in them. Its arguments are the number of disks of each.
const useScript = `
disk=0
for count in %s; do
  devices=
  while [ "$count" -gt 0 ]; do
    letter=$(echo abcdefghijklmnopqrstuvwxyz | cut -c $((disk + 1)))
    devices=${devices:+$devices:}/dev/vd$letter
    disk=$((disk + 1)) count=$((count - 1))
  done
  echo "$devices"
  vm_dmesg_mark
  mount -t bcachefs -o rw "$devices" /mnt || { echo "$devices: cannot be mounted"; vm_dmesg_since; exit 1; }
  guesttool populate /mnt/tree 1 5 60 30000 && sync && guesttool churn /mnt/tree 2 60 20 || { echo "$devices: cannot be used"; exit 1; }
  umount /mnt || exit 1
done
`

// addKey is the line of a script that tells the machine the key of a filesystem.
func addKey(t *testing.T, uuid string, passphrase []byte) string {
	t.Helper()
	key, err := crypt.DeriveKey(passphrase, crypt.DefaultKDF())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("guesttool addkey bcachefs:%s %s\n", uuid, hex.EncodeToString(key[:]))
}

// driverUses formats filesystems, has the driver use and then check them, and lists them with our own code: it finds what the
// driver lists.
func driverUses(t *testing.T, cases []formatCase) {
	t.Helper()
	dir := t.TempDir()
	var all [][]string
	var disks, counts []string
	prelude, passphrase := "", ""
	for i, c := range cases {
		var paths []string
		for d := range c.devices {
			c.devices[d].Path = filepath.Join(dir, fmt.Sprintf("%d.%d", i, d))
			paths = append(paths, c.devices[d].Path)
		}
		info, err := bcachefs.Format(t.Context(), c.devices, c.opts)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if c.opts.Passphrase != nil {
			prelude, passphrase = addKey(t, info.UUID, c.opts.Passphrase), vmPassphrase
		}
		all, disks, counts = append(all, paths), append(disks, paths...), append(counts, fmt.Sprint(len(paths)))
	}
	var attach []kernelvm.Disk
	for _, d := range disks {
		attach = append(attach, kernelvm.Disk{Path: d, Keep: true})
	}
	out := kernelvm.RunScript(t, prelude+fmt.Sprintf(useScript, strings.Join(counts, " ")),
		kernelvm.RunOptions{Disks: attach, Timeout: 2 * time.Minute})
	if out.Status != 0 {
		t.Fatalf("the driver cannot use them: status %d\n%s%s", out.Status, out.Stdout, out.Stderr)
	}
	for i, r := range kernelvm.MustBeClean(t, all, kernelvm.CheckOptions{Passphrase: passphrase}) {
		fs, err := bcachefs.Open(t.Context(), all[i], &bcachefs.OpenOptions{NoScan: true,
			Passphrase: func(context.Context) ([]byte, error) { return []byte(vmPassphrase), nil }})
		if err != nil {
			t.Errorf("%s: %v", cases[i].name, err)
			continue
		}
		ours, unread := writeManifest(t, fs.Root())
		if unread > 0 || !bytes.Equal(ours, r.Manifest) {
			t.Errorf("%s: %d things could not be read, and we list %d bytes where the driver lists %d", cases[i].name, unread, len(ours),
				len(r.Manifest))
		}
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
	}
}

// What Format makes the driver mounts, uses and finds clean, and we read what it wrote.
func TestFormatDriver(t *testing.T) {
	kernelvm.Available(t)
	driverUses(t, formatCases())
}

// The same for every value of every option. It takes five minutes; set BCACHEFS_VM_MATRIX to run it.
func TestFormatDriverEveryOption(t *testing.T) {
	if os.Getenv("BCACHEFS_VM_MATRIX") == "" {
		t.Skip("every option takes five minutes in the virtual machine: set BCACHEFS_VM_MATRIX=1")
	}
	kernelvm.Available(t)
	cases := everyOption()
	const disksPerBoot = 16
	for len(cases) > 0 {
		n, disks := 0, 0
		for n < len(cases) && disks+len(cases[n].devices) <= disksPerBoot {
			disks += len(cases[n].devices)
			n++
		}
		t.Run(cases[0].name, func(t *testing.T) { driverUses(t, cases[:n]) })
		cases = cases[n:]
	}
}
