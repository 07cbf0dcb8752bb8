package main

import "github.com/spf13/cobra"

// optionsTopic is a page of the help.
func optionsTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "options",
		Short: "Opening a filesystem: devices, options, passphrases",
		Long: `Devices
  The devices (or image files) of a filesystem are joined by colons: /dev/sda:/dev/sdb. Where only devices are expected they
  may also be several arguments. Members that are not given are looked for among the block devices, or in the directories that
  --scan names. UUID=... stands for all members that are found so of the filesystem with this external UUID.

  A filesystem that was not unmounted is shown as the driver would recover it: its journal is replayed in memory. Nothing is
  ever written to a device.

Options (-o, separated by commas)
  degraded            members may be missing as long as nothing else is
  very_degraded       data or metadata may be missing too; what is there can be read
  norecovery          ignore the journal: the trees as they lie on disk, which may be inconsistent
  salvage             look for btree nodes that nothing points to any more, and use intact parts of damaged ones
  no_splitbrain_check accept members that were written to without the others
  subvol=PATH         as --subvol
  snapshot=ID         as --snapshot
  sb=SECTOR           read the superblock at this sector, in units of 512 bytes
  ro, nochanges, ...  options of the reference's mount that make no difference here are accepted

Passphrase of an encrypted filesystem, the first of these that is there
  --passphrase-file FILE   the first line of a file
  --passphrase-fd N        the first line read from a file descriptor
  BCACHEFS_PASSPHRASE      the environment
  a question               on a terminal, without echo

Exit codes
  0  all was done
  1  something failed or could not be read; each such thing has a line on standard error
  2  the command line was wrong`,
	}
}
