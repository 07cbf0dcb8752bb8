package fuzzing

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/go-bcachefs/bcachefs/internal/blockdev"
	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/journal"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Kind is what kind of structure a [Part] is.
type Kind uint8

// The kinds of structures.
const (
	Super Kind = iota // superblock, all copies of it on one device
	Node              // btree node, all replicas of it
	Jset              // journal entry
	Data              // bytes of files, not sealed
	NumKinds
)

// Part is a structure of an image, in clear text.
type Part struct {
	Kind  Kind
	Btree ondisk.BtreeID // of a Node
	Level uint8
	Bytes []byte // must not be changed; of a Node what is written, of a superblock with room to grow

	places []place
	node   *ondisk.RawNode // of a Node: its format and where its bsets begin
}

type place struct {
	dev int
	off int64
}

// Image is a filesystem in memory with all that is known of where its structures are. It does not change.
type Image struct {
	Name    string
	Devices []*blockdev.Memory
	Parts   [NumKinds][]*Part
	Dirty   bool

	block int // bytes
	key   *crypt.Key
}

// Load reads the devices of an image, which has to be sound, and finds its structures.
func Load(ctx context.Context, name string, paths []string, passphrase string) (*Image, error) {
	img := &Image{Name: name}
	for _, path := range paths {
		m, err := blockdev.LoadMemory(path)
		if err != nil {
			return nil, err
		}
		img.Devices = append(img.Devices, m)
	}
	fs, err := engine.Open(ctx, img.Names(), engine.Options{OpenDevice: img.Opener(img.Devices), NoScan: true,
		Passphrase: func(context.Context) ([]byte, error) { return []byte(passphrase), nil }})
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	img.block, img.key, img.Dirty = fs.SB.BlockBytes(), fs.Key, !fs.SB.IsClean()
	if err := img.find(ctx, fs); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return img, nil
}

// Names are what the devices are called.
func (img *Image) Names() []string {
	names := make([]string, len(img.Devices))
	for i := range names {
		names[i] = fmt.Sprintf("%s.%d", img.Name, i)
	}
	return names
}

// Opener opens devices by those names.
func (img *Image) Opener(devices []*blockdev.Memory) func(string) (blockdev.Device, error) {
	names := img.Names()
	return func(name string) (blockdev.Device, error) {
		for i, d := range devices {
			if names[i] == name {
				return d, nil
			}
		}
		return nil, errors.New("no such device")
	}
}

func (img *Image) find(ctx context.Context, fs *engine.FS) error {
	for _, m := range fs.Members {
		if m.Device == nil {
			return errors.New("a device is missing")
		}
		if err := img.addSuper(ctx, m); err != nil {
			return err
		}
	}
	for id := range ondisk.NumBtrees {
		root, ok := fs.Journal.Roots[id]
		if !ok || root.Lost {
			continue
		}
		if err := img.addNodes(ctx, fs, id, root.Level, root.Key); err != nil {
			return err
		}
	}
	return img.addJournal(ctx, fs)
}

// device is the index of a member's device.
func (img *Image) device(fs *engine.FS, member uint8) int {
	d := fs.Device(member)
	for i := range img.Devices {
		if blockdev.Device(img.Devices[i]) == d {
			return i
		}
	}
	return -1
}

func (img *Image) addSuper(ctx context.Context, m *engine.Member) error {
	const room = 4096
	p := &Part{Kind: Super, Bytes: append(m.SB.Encode(), make([]byte, room)...)}
	for i := range img.Devices {
		if blockdev.Device(img.Devices[i]) == m.Device {
			for _, s := range m.SB.Layout.Sectors() {
				p.places = append(p.places, place{i, int64(s) * ondisk.SectorSize})
			}
		}
	}
	img.Parts[Super] = append(img.Parts[Super], p)
	return nil
}

func (img *Image) addNodes(ctx context.Context, fs *engine.FS, id ondisk.BtreeID, level uint8, k ondisk.Key) error {
	ptr, err := ondisk.DecodeBtreePtr(k)
	if err != nil {
		return err
	}
	p := &Part{Kind: Node, Btree: id, Level: level}
	size := int(ptr.SectorsWritten) * ondisk.SectorSize
	if size == 0 {
		return nil // of old filesystems
	}
	for a := range ptr.Addrs() {
		if dev := img.device(fs, a.Dev); dev >= 0 {
			p.places = append(p.places, place{dev, int64(a.Sector) * ondisk.SectorSize})
		}
	}
	if len(p.places) == 0 {
		return fmt.Errorf("%v: node without replica", id)
	}
	p.Bytes = make([]byte, size)
	if err := img.Devices[p.places[0].dev].ReadAt(ctx, p.Bytes, p.places[0].off); err != nil {
		return err
	}
	n, err := ondisk.DecodeRawNode(p.Bytes, img.block, img.key) // decrypts in place
	if err != nil {
		return err
	}
	p.node = n
	img.Parts[Node] = append(img.Parts[Node], p)
	for i := range n.Bsets {
		for k, err := range n.Keys(i) {
			if err != nil {
				return err
			}
			switch {
			case level > 0 && (k.Type == ondisk.KeyBtreePtr || k.Type == ondisk.KeyBtreePtrV2):
				_ = img.addNodes(ctx, fs, id, level-1, k) // what a later bset replaced may be gone
			case id == ondisk.BtreeExtents || id == ondisk.BtreeReflink:
				img.addData(ctx, fs, &k)
			}
		}
	}
	return nil
}

// addData adds the first sector of what an extent points to: of compressed data that is where its headers are.
func (img *Image) addData(ctx context.Context, fs *engine.FS, k *ondisk.Key) {
	if k.Type != ondisk.KeyExtent && k.Type != ondisk.KeyReflinkV {
		return
	}
	ptrs, _, err := ondisk.AppendExtentPtrs(nil, k, fs.SB.ExtentTypeU64s())
	if err != nil {
		return
	}
	for _, e := range ptrs {
		dev := img.device(fs, e.Dev)
		if dev < 0 {
			continue
		}
		p := &Part{Kind: Data, Bytes: make([]byte, ondisk.SectorSize), places: []place{{dev, int64(e.Offset) * ondisk.SectorSize}}}
		if img.Devices[dev].ReadAt(ctx, p.Bytes, p.places[0].off) == nil {
			img.Parts[Data] = append(img.Parts[Data], p)
		}
	}
}

func (img *Image) addJournal(ctx context.Context, fs *engine.FS) error {
	cfg := fs.JournalConfig()
	found, err := journal.Scan(ctx, &cfg)
	if err != nil {
		return err
	}
	journal.Select(found.Candidates, nil, false) // sorts them
	for _, c := range found.Candidates {
		p := &Part{Kind: Jset}
		for _, at := range c.Copies {
			m := &cfg.Members[at.Member]
			p.places = append(p.places, place{img.device(fs, m.Index), at.Offset})
			size := (at.Bytes + img.block - 1) / img.block * img.block
			p.Bytes = make([]byte, size)
			if err := m.Device.ReadAt(ctx, p.Bytes, at.Offset); err != nil {
				return err
			}
		}
		j, _, err := ondisk.DecodeJset(p.Bytes, cfg.Params)
		if err != nil {
			continue
		}
		p.Bytes = clearJset(p.Bytes, j)
		img.Parts[Jset] = append(img.Parts[Jset], p)
	}
	return nil
}

// clearJset is the entry with its decrypted records.
func clearJset(b []byte, j *ondisk.Jset) []byte {
	if !j.CsumType().IsEncryption() {
		return b
	}
	plain := *j
	plain.Flags &^= 0xf // no checksum, no encryption
	enc, err := plain.Encode(ondisk.JsetParams{Magic: j.Magic, BlockBytes: 1})
	if err != nil {
		return b
	}
	out := bytes.Clone(b)
	copy(out[jsetCryptAt:], enc[jsetCryptAt:])
	return out
}

// Changed returns the devices with other bytes in place of those of the given parts, sealed. The image stays as it is.
func (img *Image) Changed(ctx context.Context, parts map[*Part][]byte) ([]*blockdev.Memory, error) {
	devices := make([]*blockdev.Memory, len(img.Devices))
	for i, d := range img.Devices {
		devices[i] = d.Clone()
	}
	for p, b := range parts {
		for _, at := range p.places {
			out := img.sealed(p, b, at)
			if err := devices[at.dev].WriteAt(ctx, out, at.off); err != nil {
				return nil, err
			}
		}
	}
	return devices, nil
}

func (img *Image) sealed(p *Part, b []byte, at place) []byte {
	b = bytes.Clone(b)
	switch p.Kind {
	case Super:
		if bytes.Equal(b[superOffset:superOffset+8], p.Bytes[superOffset:superOffset+8]) {
			binary.LittleEndian.PutUint64(b[superOffset:], uint64(at.off/ondisk.SectorSize))
		}
		sealSuper(b)
	case Node:
		sealNode(b, img.block, img.key)
	case Jset:
		sealJset(b, img.key)
	}
	return b
}
