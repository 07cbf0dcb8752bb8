package ondisk

import "encoding/binary"

// QuotaType says whose usage is limited: the inode field of a quota key. The offset is the id.
type QuotaType uint64

// Types of quotas.
const (
	QuotaUser QuotaType = iota
	QuotaGroup
	QuotaProject
	NumQuotaTypes
)

// QuotaLimit are the limits of one counter; 0 is none.
type QuotaLimit struct{ Hard, Soft uint64 }

// Quota is a set of limits (struct bch_quota). Usage is not stored.
type Quota struct {
	Space  QuotaLimit // sectors
	Inodes QuotaLimit
}

// DecodeQuota decodes a key of type quota.
func DecodeQuota(k Key) (Quota, error) {
	v := k.Val
	switch {
	case k.Type != KeyQuota:
		return Quota{}, errType(&k, "quota")
	case len(v) < KeyQuota.MinValSize():
		return Quota{}, errShort(&k, KeyQuota.MinValSize())
	}
	le := binary.LittleEndian
	return Quota{
		Space:  QuotaLimit{le.Uint64(v), le.Uint64(v[8:])},
		Inodes: QuotaLimit{le.Uint64(v[16:]), le.Uint64(v[24:])},
	}, nil
}

// Encode returns the value of the key.
func (q *Quota) Encode() []byte {
	v := make([]byte, 0, 32)
	for _, n := range [...]uint64{q.Space.Hard, q.Space.Soft, q.Inodes.Hard, q.Inodes.Soft} {
		v = binary.LittleEndian.AppendUint64(v, n)
	}
	return v
}
