package data

import (
	"context"
	"errors"

	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// access is how a unit is read.
type access uint8

const (
	viaRaw   access = iota // only what is wanted, into the caller's buffer
	viaWhole               // all that one checksum covers, into the caller's buffer
	viaBlob                // stored blob to a buffer, decoded into the caller's
	viaCache               // stored blob, decoded into the cache
	viaRetry               // as is possible: the chosen replica failed, or there is none but in a stripe
)

func (a access) maxBytes() int {
	if a == viaBlob {
		return maxStored
	}
	return maxDirect
}

// unit is a part of an extent that is wanted.
type unit struct {
	ext    extent
	how    access
	ptr    int    // index in the request of the chosen pointer
	at, n  int    // where it goes in the window, bytes
	skip   uint64 // bytes of the key's live data before it
	failed error
}

// errPending marks units that were not tried yet.
var errPending = errors.New("not tried")

// access decides how u is read through a pointer.
func (u *unit) access(ptr *ondisk.DecodedPtr) (access, error) {
	crc := &ptr.CRC
	if err := checkCRC(crc, u.ext.size); err != nil {
		return viaRetry, err
	}
	complete := u.from(crc) == 0 && uint64(u.n) == uint64(crc.UncompressedSize)*sectorSize
	switch {
	case crc.Compression.IsCompressed() && complete:
		return viaBlob, nil
	case crc.Compression.IsCompressed():
		return viaCache, nil
	case crc.Csum == checksum.None:
		return viaRaw, nil
	case complete:
		return viaWhole, nil
	}
	return viaCache, nil
}

// checkCRC refuses CRC entries that contradict themselves or the size of the key, in sectors.
func checkCRC(crc *ondisk.CRC, size uint32) error {
	switch {
	case uint64(crc.Offset)+uint64(size) > uint64(crc.UncompressedSize):
	case !crc.Csum.Valid() || !crc.Compression.Valid():
	case !crc.Compression.IsCompressed() && crc.CompressedSize != crc.UncompressedSize:
	default:
		return nil
	}
	return ErrBadExtent
}

// from is where in the decoded data the unit begins, in bytes.
func (u *unit) from(crc *ondisk.CRC) uint64 { return uint64(crc.Offset)*sectorSize + u.skip }

// deviceStart is where on the device reading begins, in bytes.
func (u *unit) deviceStart(ptr *ondisk.DecodedPtr) uint64 {
	start := uint64(ptr.Offset) * sectorSize
	if u.how == viaRaw {
		start += u.from(&ptr.CRC)
	}
	return start
}

// deviceEnd is where it ends.
func (u *unit) deviceEnd(ptr *ondisk.DecodedPtr) uint64 {
	if u.how == viaBlob {
		return u.deviceStart(ptr) + uint64(ptr.CRC.CompressedSize)*sectorSize
	}
	return u.deviceStart(ptr) + uint64(u.n)
}

// Answers of choose besides the index of a pointer.
const (
	choiceZero    = -1 // there were only cached copies and all are stale
	choiceRebuild = -2 // no replica is readable, a stripe may help
)

// choose picks the replica to read: present, dirty rather than cached, of few faults, then of the device used just before, as
// that makes long reads, then of the least busy one.
func (r *Reader) choose(ctx context.Context, q *request, e *extent) (int, error) {
	best, rebuild, dirty := -1, false, false
	var bestFaults uint32
	var bestBusy int64
	missing := -1
	ptrs := q.ptrs[e.firstPtr : e.firstPtr+e.numPtrs]
	for i := range ptrs {
		p := &ptrs[i]
		dirty = dirty || !p.Cached
		rebuild = rebuild || p.HasStripe
		if p.Cached || p.Dev == ondisk.DevInvalid {
			continue
		}
		if r.cfg.Devices.Device(p.Dev) == nil {
			missing = int(p.Dev)
			continue
		}
		faults, busy := r.faults[p.Dev].Load(), r.busy[p.Dev].Load()
		if int(p.Dev) == q.dev {
			busy = -1
		}
		if best < 0 || faults < bestFaults || faults == bestFaults && busy < bestBusy {
			best, bestFaults, bestBusy = i, faults, busy
		}
	}
	var unknown error // of a cached copy
	if best < 0 {
		for i := range ptrs {
			usable, err := r.cachedUsable(ctx, &ptrs[i])
			if usable {
				best = i
				break
			}
			if err != nil {
				unknown = err
			}
		}
	}
	switch {
	case best >= 0:
		return e.firstPtr + best, nil
	case rebuild:
		return choiceRebuild, nil
	case unknown != nil:
		return 0, unknown
	case !dirty && len(ptrs) > 0:
		return choiceZero, nil
	case missing >= 0:
		return 0, &ReadError{Device: r.cfg.Devices.DeviceName(uint8(missing)), Sector: -1, Err: ErrNoDevice}
	}
	return 0, ErrNoReplica
}

// cachedUsable reports whether a pointer is a cached copy that still holds its data. An error, that it may be one.
func (r *Reader) cachedUsable(ctx context.Context, p *ondisk.DecodedPtr) (bool, error) {
	if !p.Cached || p.Dev == ondisk.DevInvalid || r.cfg.Devices.Device(p.Dev) == nil {
		return false, nil
	}
	stale, err := r.cfg.Devices.Stale(ctx, p.Dev, p.Offset, p.Gen)
	if err != nil {
		return false, &ReadError{Device: r.cfg.Devices.DeviceName(p.Dev), Sector: int64(p.Offset), Err: err}
	}
	return !stale, nil
}
