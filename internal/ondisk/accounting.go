package ondisk

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/codec/compress"
)

// AccountingType says what a counter counts (enum disk_accounting_type).
type AccountingType uint8

// Types of counters, with what their counters are.
const (
	AccountingNrInodes           AccountingType = iota // inodes
	AccountingPersistentReserved                       // sectors of reservations
	AccountingReplicas                                 // sectors
	AccountingDevDataType                              // buckets, sectors, fragmented sectors
	AccountingCompression                              // extents, uncompressed sectors, compressed sectors
	AccountingSnapshot                                 // sectors; since 1.39 keys, bytes of keys, sectors
	AccountingBtree                                    // sectors; since 1.31 also nodes, interior nodes
	AccountingRebalanceWork                            // sectors; up to 1.32
	AccountingInum                                     // extents, sectors of keys, sectors on devices; since 1.11
	AccountingReconcileWork                            // sectors of data, of metadata; since 1.33
	AccountingDevLeaving                               // sectors that are still to leave a device
	NumAccountingTypes
)

var accountingTypeNames = [NumAccountingTypes]string{"nr_inodes", "persistent_reserved", "replicas", "dev_data_type", "compression",
	"snapshot", "btree", "rebalance_work", "inum", "reconcile_work", "dev_leaving"}

func (t AccountingType) String() string {
	if t < NumAccountingTypes {
		return accountingTypeNames[t]
	}
	return fmt.Sprintf("(unknown accounting type %d)", uint8(t))
}

// ReconcileAccounting is the kind of work that a counter of type reconcile_work counts.
type ReconcileAccounting uint8

var reconcileAccountingNames = [...]string{"replicas", "checksum", "erasure_code", "compression", "target", "high_priority",
	"pending", "stripes"}

func (r ReconcileAccounting) String() string {
	if int(r) < len(reconcileAccountingNames) {
		return reconcileAccountingNames[r]
	}
	return fmt.Sprintf("(unknown reconcile accounting type %d)", uint8(r))
}

// versionAccountingBigEndian is the first version whose accounting positions order by type.
const versionAccountingBigEndian MetadataVersion = 1<<10 | 15

// maxAccountingDevs is how many devices a position of type replicas has room for.
const maxAccountingDevs = PosSize - 4

// AccountingPos is the position of an accounting key: what is counted (struct disk_accounting_pos). Only the fields of its type
// are set.
type AccountingPos struct {
	Type AccountingType

	DataType    DataType                 // replicas, dev_data_type
	NrDevs      uint8                    // replicas
	NrRequired  uint8                    // replicas: devices needed to read; 0 if data is in a stripe too
	Devs        [maxAccountingDevs]uint8 // replicas: NrDevs of them, ascending
	NrReplicas  uint8                    // persistent_reserved
	Dev         uint32                   // dev_data_type, dev_leaving
	Compression compress.Type            // compression
	ID          uint32                   // snapshot
	Btree       uint32                   // btree; snapshot since 1.39
	Inum        uint64                   // inum
	Reconcile   ReconcileAccounting      // reconcile_work

	Raw [PosSize]byte // of unknown types: all bytes
}

// DevList returns the devices of a position of type replicas.
func (a *AccountingPos) DevList() []uint8 { return a.Devs[:min(int(a.NrDevs), maxAccountingDevs)] }

// accountingBytes returns the packed structure behind a position of the btree accounting.
func accountingBytes(p Pos, v MetadataVersion) (b [PosSize]byte) {
	p.Put(b[:])
	if v >= versionAccountingBigEndian {
		slices.Reverse(b[:])
	}
	return b
}

// DecodeAccountingPos decodes a position of the btree accounting as filesystems of the version have it: the mapping changed in
// 1.15. The second result is false if bytes are set behind what the type uses, as a position of the other mapping has.
func DecodeAccountingPos(p Pos, v MetadataVersion) (AccountingPos, bool) {
	b := accountingBytes(p, v)
	a := AccountingPos{Type: AccountingType(b[0])}
	le := binary.LittleEndian
	end := 1
	switch a.Type {
	case AccountingNrInodes, AccountingRebalanceWork:
	case AccountingPersistentReserved:
		a.NrReplicas, end = b[1], 2
	case AccountingReplicas:
		a.DataType, a.NrDevs, a.NrRequired = DataType(b[1]), b[2], b[3]
		end = 4 + copy(a.DevList(), b[4:])
	case AccountingDevDataType:
		a.Dev, a.DataType, end = uint32(b[1]), DataType(b[2]), 3
	case AccountingCompression:
		a.Compression, end = compress.Type(b[1]), 2
	case AccountingSnapshot:
		a.ID, a.Btree, end = le.Uint32(b[1:]), le.Uint32(b[5:]), 9
	case AccountingBtree:
		a.Btree, end = le.Uint32(b[1:]), 5
	case AccountingInum:
		a.Inum, end = le.Uint64(b[1:]), 9
	case AccountingReconcileWork:
		a.Reconcile, end = ReconcileAccounting(b[1]), 2
	case AccountingDevLeaving:
		a.Dev, end = le.Uint32(b[1:]), 5
	default:
		a.Raw, end = b, PosSize
	}
	for _, c := range b[end:] {
		if c != 0 {
			return a, false
		}
	}
	return a, true
}

// Pos returns the position in the btree.
func (a *AccountingPos) Pos(v MetadataVersion) Pos {
	var b [PosSize]byte
	le := binary.LittleEndian
	switch a.Type {
	case AccountingNrInodes, AccountingRebalanceWork:
	case AccountingPersistentReserved:
		b[1] = a.NrReplicas
	case AccountingReplicas:
		b[1], b[2], b[3] = byte(a.DataType), a.NrDevs, a.NrRequired
		copy(b[4:], a.DevList())
	case AccountingDevDataType:
		b[1], b[2] = byte(a.Dev), byte(a.DataType)
	case AccountingCompression:
		b[1] = byte(a.Compression)
	case AccountingSnapshot:
		le.PutUint32(b[1:], a.ID)
		le.PutUint32(b[5:], a.Btree)
	case AccountingBtree:
		le.PutUint32(b[1:], a.Btree)
	case AccountingInum:
		le.PutUint64(b[1:], a.Inum)
	case AccountingReconcileWork:
		b[1] = byte(a.Reconcile)
	case AccountingDevLeaving:
		le.PutUint32(b[1:], a.Dev)
	default:
		b = a.Raw
	}
	b[0] = byte(a.Type)
	if v >= versionAccountingBigEndian {
		slices.Reverse(b[:])
	}
	return DecodePos(b[:])
}

// Validate reports what is wrong with the position of k, which a was decoded from.
func (a *AccountingPos) Validate(k *Key) error {
	if a.Type != AccountingReplicas {
		return nil
	}
	switch {
	case a.NrDevs == 0:
		return keyErr(k, "accounting_key_replicas_nr_devs_0", "replicas on no device")
	case a.NrDevs > maxAccountingDevs:
		return keyErr(k, "accounting_key_junk_at_end", "replicas on %d devices, room for %d", a.NrDevs, maxAccountingDevs)
	case a.NrRequired > a.NrDevs || a.NrRequired > 1 && a.NrRequired == a.NrDevs:
		return keyErr(k, "accounting_key_replicas_nr_required_bad", "%d of %d devices required", a.NrRequired, a.NrDevs)
	}
	devs := a.DevList()
	for i := range len(devs) - 1 {
		if devs[i] != DevInvalid && devs[i] >= devs[i+1] {
			return keyErr(k, "accounting_key_replicas_devs_unsorted", "devices %d are not ascending", devs)
		}
	}
	return nil
}

// NrAccountingCounters returns the number of counters of k, of type accounting.
func NrAccountingCounters(k *Key) int { return len(k.Val) / 8 }

// AccountingCounter returns counter i of k, of type accounting; 0 if there is none. In btrees it is the total, in the journal what to
// add to it.
func AccountingCounter(k *Key, i int) int64 {
	if i < 0 || 8*i+8 > len(k.Val) {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(k.Val[8*i:]))
}

// EncodeAccounting returns the value of a key of type accounting.
func EncodeAccounting(counters ...int64) []byte {
	v := make([]byte, 0, 8*len(counters))
	for _, c := range counters {
		v = binary.LittleEndian.AppendUint64(v, uint64(c))
	}
	return v
}
