package namei

import (
	"fmt"
	"strconv"

	"github.com/go-bcachefs/bcachefs/internal/codec/casefold"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

var (
	checksumNames    = [...]string{"none", "crc32c", "crc64", "xxhash"}
	compressionNames = [...]string{"none", "lz4", "gzip", "zstd"}
)

// OptionText returns the value of an option that is set in an inode, as mount options have it; "" if it is not set.
func (t *Tree) OptionText(in *ondisk.Inode, o ondisk.InodeOption) string {
	stored := in.Option(o)
	if stored == 0 {
		return ""
	}
	v := stored - 1
	switch o {
	case ondisk.InodeOptDataChecksum:
		if int(v) < len(checksumNames) {
			return checksumNames[v]
		}
	case ondisk.InodeOptCompression, ondisk.InodeOptBackgroundCompression:
		// The type is in the low four bits, the level in those above.
		typ, level := v&15, v>>4
		if int(typ) >= len(compressionNames) {
			break
		}
		if level == 0 {
			return compressionNames[typ]
		}
		return fmt.Sprintf("%s:%d", compressionNames[typ], level)
	case ondisk.InodeOptPromoteTarget, ondisk.InodeOptForegroundTarget, ondisk.InodeOptBackgroundTarget:
		if v == 0 {
			return "none"
		}
		if t.cfg.Target != nil {
			return t.cfg.Target(v)
		}
	}
	return strconv.FormatUint(uint64(v), 10)
}

// foldName folds a name for a casefolded directory.
func foldName(name []byte) ([]byte, error) { return casefold.Fold(name) }
