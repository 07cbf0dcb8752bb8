package journal

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/checksum"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// rig is a journal over devices in memory.
type rig struct {
	testing.TB
	cfg  WriterConfig
	mems []*blockdev.Memory
	w    *Writer
}

const (
	rigBucket  = 64 << 10
	rigBuckets = 16
)

// newRig prepares a journal of fresh rings on n devices, with as many replicas.
func newRig(t testing.TB, n int) *rig {
	r := &rig{TB: t}
	r.cfg = WriterConfig{
		Params: testParams(), Version: ondisk.VersionDefault, Csum: checksum.CRC32CNonzero,
		First: 1, Replicas: n, ReplicasRequired: 1,
		Roots: []ondisk.JsetEntry{testRoot(ondisk.BtreeInodes, 1), testRoot(ondisk.BtreeAlloc, 2)},
		Now:   func() time.Time { return time.Unix(1700000000, 0) },
	}
	for i := range n {
		m := blockdev.NewMemory(64 * rigBucket)
		m.SetName(fmt.Sprint("mem", i))
		r.mems = append(r.mems, m)
		d := WriterDevice{Index: uint8(i), Device: m, BucketBytes: rigBucket, Ring: FreshRing(rigBucket), Durability: 1}
		for b := range uint64(rigBuckets) {
			d.Buckets = append(d.Buckets, 3+2*b)
		}
		r.cfg.Devices = append(r.cfg.Devices, d)
	}
	return r
}

func testRoot(id ondisk.BtreeID, seq uint64) ondisk.JsetEntry {
	k := (&ondisk.BtreePtr{V2: true, Seq: seq, SectorsWritten: 8, Max: ondisk.SPosMax,
		Ptrs: ondisk.AppendNodeAddr(nil, ondisk.NodeAddr{Sector: 8})}).Key()
	return ondisk.JsetEntry{Type: ondisk.JsetBtreeRoot, BtreeID: id, Level: 1, Data: ondisk.AppendKey(nil, k)}
}

func (r *rig) start() *Writer {
	r.Helper()
	w, err := Start(r.cfg)
	if err != nil {
		r.Fatal(err)
	}
	r.w = w
	r.Cleanup(w.Abort)
	return w
}

// put journals a record with an id, of n u64s altogether, at least two, and returns its entry.
func (r *rig) put(id uint64, n int) uint64 {
	r.Helper()
	seq, err := putRecord(ctx, r.w, id, n, WatermarkNormal)
	if err != nil {
		r.Fatal(err)
	}
	return seq
}

func putRecord(ctx context.Context, w *Writer, id uint64, n int, wm Watermark) (uint64, error) {
	var res Reservation
	if err := w.Reserve(ctx, n, wm, &res); err != nil {
		return 0, err
	}
	defer res.Done()
	fillRecord(&res, id, n)
	return res.Seq(), nil
}

// fillRecord writes a log record that holds id and is recognised if it is damaged.
func fillRecord(res *Reservation, id uint64, n int) {
	b := res.Bytes()
	binary.LittleEndian.PutUint16(b, uint16(n-1))
	b[4] = byte(ondisk.JsetLog)
	for i := 1; i < n; i++ {
		binary.LittleEndian.PutUint64(b[8*i:], id*uint64(i))
	}
}

// recordID returns the id of a record of fillRecord.
func recordID(e *ondisk.JsetEntry) (uint64, error) {
	id := binary.LittleEndian.Uint64(e.Data)
	for i := 1; i <= len(e.Data)/8; i++ {
		if binary.LittleEndian.Uint64(e.Data[8*i-8:]) != id*uint64(i) {
			return 0, fmt.Errorf("record %d is damaged", id)
		}
	}
	return id, nil
}

func (r *rig) readConfig(devices ...blockdev.Device) *Config {
	cfg := &Config{Params: r.cfg.Params, BlockSize: r.cfg.Params.BlockBytes}
	for i := range r.cfg.Devices {
		d := &r.cfg.Devices[i]
		if len(d.Buckets) == 0 || devices[i] == nil {
			continue
		}
		cfg.Members = append(cfg.Members, Member{Index: d.Index, Device: devices[i], BucketBytes: d.BucketBytes, Buckets: d.Buckets})
	}
	return cfg
}

func (r *rig) devices() []blockdev.Device {
	var out []blockdev.Device
	for _, m := range r.mems {
		out = append(out, m)
	}
	return out
}

// read is what one reads after a crash, or after a shutdown.
type read struct {
	sel   Selection
	found *Found
	sets  []*ondisk.Jset
	ids   map[uint64]uint64 // of records, to the entry that holds it
	order []uint64
}

func readBack(cfg *Config) (*read, error) {
	found, err := Scan(ctx, cfg)
	if err != nil {
		return nil, err
	}
	out := &read{found: found, sel: Select(found.Candidates, cfg.Blacklist, cfg.Degraded), ids: map[uint64]uint64{}}
	for _, c := range out.sel.Replay {
		js, err := reread(ctx, cfg, c)
		if err != nil {
			return nil, err
		}
		out.sets = append(out.sets, js)
		for i := range js.Entries {
			e := &js.Entries[i]
			if e.Type != ondisk.JsetLog {
				continue
			}
			id, err := recordID(e)
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", js.Seq, err)
			}
			if old, ok := out.ids[id]; ok {
				return nil, fmt.Errorf("record %d is in entries %d and %d", id, old, js.Seq)
			}
			out.ids[id] = js.Seq
			out.order = append(out.order, id)
		}
	}
	return out, nil
}

func (r *rig) readBack() *read {
	r.Helper()
	got, err := readBack(r.readConfig(r.devices()...))
	if err != nil {
		r.Fatal(err)
	}
	return got
}

func (r *rig) stop() *Shutdown {
	r.Helper()
	s, err := r.w.Stop(ctx)
	if err != nil {
		r.Fatal(err)
	}
	return s
}

// holder pins entries until it is told to let go.
type holder struct {
	w   *Writer
	pin Pin
}

func (h *holder) hold(seq uint64) { h.w.AddPin(seq, &h.pin, PinOther, h.flush) }

func (h *holder) flush(context.Context, *Pin, uint64) error { return nil } // later
