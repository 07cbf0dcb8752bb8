package super

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/codec/crypt"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// Device is a device that a new filesystem is made on.
type Device struct {
	Name       string // how targets and errors call it
	Size       int64  // bytes
	MinBlock   int64  // its physical blocks, in bytes; the filesystem's are never smaller
	Block      int64  // what blocks are by default, in bytes; at most 4096 count
	BucketSize int64  // bytes; 0: as chosen
	Label      string // path of disk groups, "ssd.fast"; "" is none

	Discard     bool
	DataAllowed uint64 // bit n set: it may hold data of type n; 0: all of journal, btree and user
	Durability  uint8  // replicas that one here counts for
}

// Config says what filesystem to make.
type Config struct {
	Devices []Device
	// Options have values as text, by their names; those that are missing have their defaults. Targets are names of devices or labels.
	Options map[string]string

	Label          string
	UUID           ondisk.UUID            // external; zero: random
	Version        ondisk.MetadataVersion // 0: [ondisk.VersionDefault]
	SuperblockSize int64                  // bytes that superblocks may grow to; 0: [DefaultSuperblockSize]

	Encrypted  bool
	Passphrase []byte // of the key; nil: it is stored in the clear

	Time   time.Time // of creation
	Random Random
}

// Random is where the random parts of a new superblock come from: it fills b for a purpose, such as "uuid".
type Random func(purpose string, b []byte)

// featuresAll are the incompatible features of every filesystem of version 1.13 (BCH_SB_FEATURES_ALL).
const featuresAll = 0x7ba80

// defaultDataAllowed are the types of data that all devices may hold unless told otherwise.
const defaultDataAllowed = 1<<ondisk.DataJournal | 1<<ondisk.DataBtree | 1<<ondisk.DataUser

// The versions of filesystems that [Build] makes.
const (
	oldestBuilt = ondisk.VersionMinMount
	newestBuilt = ondisk.VersionDefault
)

// Build makes the superblocks of a new filesystem, one for each device. It is what the reference's mkfs leaves if it does not
// initialise: the first mount makes the journal and the btrees.
func Build(c *Config) ([]*ondisk.Superblock, error) {
	if len(c.Devices) == 0 {
		return nil, errors.New("no device given")
	}
	const most = 64
	if len(c.Devices) > most {
		return nil, fmt.Errorf("%d devices: want at most %d", len(c.Devices), most)
	}
	sb, err := c.header()
	if err != nil {
		return nil, err
	}
	geo, err := c.geometry(sb)
	if err != nil {
		return nil, err
	}
	members, err := c.members(geo)
	if err != nil {
		return nil, err
	}
	if err := sb.SetNewMembers(members); err != nil {
		return nil, err
	}
	if err := c.labels(sb, members); err != nil {
		return nil, err
	}
	if err := c.setOptions(sb, geo); err != nil {
		return nil, err
	}
	if c.Encrypted {
		if err := c.encrypt(sb); err != nil {
			return nil, err
		}
	}
	if err := sb.CopyMembersV1(); err != nil {
		return nil, err
	}
	return c.perDevice(sb, geo)
}

// header makes what does not depend on devices and options.
func (c *Config) header() (*ondisk.Superblock, error) {
	sb := &ondisk.Superblock{Version: c.Version, UserUUID: c.UUID, NrDevices: uint8(len(c.Devices)), TimePrecision: 1}
	if sb.Version == 0 {
		sb.Version = newestBuilt
	}
	if sb.Version < oldestBuilt || sb.Version > newestBuilt {
		return nil, fmt.Errorf("version %v: filesystems of versions %v to %v can be made", sb.Version, oldestBuilt, newestBuilt)
	}
	sb.VersionMin = sb.Version
	sb.Features[0] = featuresAll
	if sb.UserUUID.IsZero() {
		sb.UserUUID = c.uuid("external uuid")
	}
	sb.UUID = c.uuid("internal uuid")
	at := c.Time.UnixNano()
	if t := time.Unix(0, at); !t.Equal(c.Time) || at <= 0 {
		return nil, fmt.Errorf("time %v: want one from 1970 to 2262", c.Time.Format(time.RFC3339))
	}
	sb.TimeBase = uint64(at)
	return sb, sb.SetLabel(c.Label)
}

// uuid makes a random UUID, of version 4.
func (c *Config) uuid(purpose string) (u ondisk.UUID) {
	c.Random(purpose, u[:])
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// geometry decides on sizes.
func (c *Config) geometry(sb *ondisk.Superblock) (*geometry, error) {
	asked := func(name string) (int64, error) {
		text, ok := c.Options[name]
		if !ok {
			return 0, nil
		}
		o, _ := FindOption(name)
		v, err := ParseOption(sb, o, text)
		if err == nil && (v > math.MaxInt64 || v&(v-1) != 0 || v < ondisk.SectorSize) {
			err = fmt.Errorf("%s=%s: want a power of two", name, text)
		}
		return int64(v), err
	}
	block, err := asked("block_size")
	if err != nil {
		return nil, err
	}
	node, err := asked("btree_node_size")
	if err != nil {
		return nil, err
	}
	if node != 0 && node < block {
		return nil, fmt.Errorf("btree nodes of %d bytes are smaller than blocks of %d", node, block)
	}
	geo, err := chooseGeometry(c.Devices, block, node)
	if err == nil && geo.node < geo.block {
		err = fmt.Errorf("btree nodes of %d bytes are smaller than blocks of %d", geo.node, geo.block)
	}
	return geo, err
}

func (c *Config) members(geo *geometry) ([]ondisk.Member, error) {
	members := make([]ondisk.Member, len(c.Devices))
	for i := range members {
		d, m := &c.Devices[i], &members[i]
		m.UUID = c.uuid(fmt.Sprintf("uuid of device %d", i))
		m.NBuckets = uint64(d.Size / geo.buckets[i])
		m.BucketSize = uint16(geo.buckets[i] / ondisk.SectorSize)
		if err := SetDataAllowed(m, d.DataAllowed); err != nil {
			return nil, fmt.Errorf("%s: %w", d.Name, err)
		}
		if d.Durability > ondisk.MaxDurability {
			return nil, fmt.Errorf("%s: durability %d: want 0 to %d", d.Name, d.Durability, ondisk.MaxDurability)
		}
		m.SetDurability(d.Durability)
		m.SetDiscard(d.Discard)
	}
	return members, nil
}

// SetDataAllowed sets what a device may hold; 0 stands for all that the choice is of: journal, btree and user.
func SetDataAllowed(m *ondisk.Member, types uint64) error {
	if types == 0 {
		types = defaultDataAllowed
	}
	if types&^defaultDataAllowed != 0 {
		return fmt.Errorf("data_allowed: want some of %s", strings.Join(DataTypes(), ", "))
	}
	m.SetDataAllowed(types)
	return nil
}

// DataTypes are the names of the types of data that devices can be kept for.
func DataTypes() []string {
	return []string{ondisk.DataJournal.String(), ondisk.DataBtree.String(), ondisk.DataUser.String()}
}

// ParseDataAllowed reads names of [DataTypes], separated by commas, into a set for [Device].DataAllowed.
func ParseDataAllowed(text string) (uint64, error) {
	set := uint64(0)
	for _, name := range strings.Split(text, ",") {
		switch name {
		case ondisk.DataJournal.String():
			set |= 1 << ondisk.DataJournal
		case ondisk.DataBtree.String():
			set |= 1 << ondisk.DataBtree
		case ondisk.DataUser.String():
			set |= 1 << ondisk.DataUser
		default:
			return 0, fmt.Errorf("data_allowed=%s: want some of %s, separated by commas", text, strings.Join(DataTypes(), ", "))
		}
	}
	return set, nil
}

// DataAllowedText is the inverse of [ParseDataAllowed].
func DataAllowedText(set uint64) string {
	var names []string
	for t := ondisk.DataType(0); t < ondisk.NumDataTypes; t++ {
		if set>>t&1 != 0 {
			names = append(names, t.String())
		}
	}
	return strings.Join(names, ",")
}

// labels makes the disk groups and puts the devices into them.
func (c *Config) labels(sb *ondisk.Superblock, members []ondisk.Member) error {
	for i := range c.Devices {
		if c.Devices[i].Label == "" {
			continue
		}
		group, err := sb.AddGroup(c.Devices[i].Label)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Devices[i].Name, err)
		}
		members[i].SetGroup(group)
	}
	return sb.SetMembers(members)
}

// setOptions stores all options, those that were not given with their defaults.
func (c *Config) setOptions(sb *ondisk.Superblock, geo *geometry) error {
	for name := range c.Options {
		if o, ok := FindOption(name); !ok || !o.Format {
			return fmt.Errorf("no option of formatting is named %q", name)
		}
	}
	for i := range infos {
		o := infos[i].option()
		v := infos[i].value
		switch text, given := c.Options[o.Name]; {
		case o.Name == "block_size":
			v = uint64(geo.block)
		case o.Name == "btree_node_size":
			v = uint64(geo.node)
		case given:
			var err error
			if v, err = ParseOption(sb, o, c.target(o, text)); err != nil {
				return err
			}
		}
		if err := sb.SetOption(o.Option, v); err != nil {
			return err
		}
	}
	return CheckOptions(sb)
}

// target replaces the name of a device by its index, for options that take either that or a label.
func (c *Config) target(o Option, text string) string {
	if o.IsTarget() {
		for i := range c.Devices {
			if c.Devices[i].Name == text {
				return fmt.Sprintf("device %d", i)
			}
		}
	}
	return text
}

// encrypt makes a key.
func (c *Config) encrypt(sb *ondisk.Superblock) error {
	var master crypt.Key
	c.Random("master key", master[:])
	defer clear(master[:])
	kdf := crypt.KDF{}
	var wrapping *crypt.Key
	if c.Passphrase != nil {
		if len(c.Passphrase) == 0 {
			return errors.New("the passphrase is empty")
		}
		kdf = crypt.DefaultKDF()
		k, err := crypt.DeriveKey(c.Passphrase, kdf)
		if err != nil {
			return err
		}
		defer clear(k[:])
		wrapping = &k
	}
	sb.SetCrypt(&ondisk.Crypt{KDF: kdf, Key: crypt.Wrap(&master, wrapping, sb.UUID)})
	sb.SetEncrypted(true)
	return nil
}

// perDevice makes each device's superblock of what they have in common.
func (c *Config) perDevice(sb *ondisk.Superblock, geo *geometry) ([]*ondisk.Superblock, error) {
	size := c.SuperblockSize
	if size == 0 {
		size = DefaultSuperblockSize
	}
	all := make([]*ondisk.Superblock, len(c.Devices))
	for i := range all {
		d := clone(sb)
		layout, err := newLayout(size, c.Devices[i].Size, geo.buckets[i], geo.block)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Devices[i].Name, err)
		}
		d.Layout, d.DevIdx, d.Offset = layout, uint8(i), layout.Offsets[0]
		d.SetDefaultMagic()
		if n := len(d.Encode()); n > ondisk.SectorSize<<layout.MaxSizeBits {
			return nil, fmt.Errorf("%s: the superblock has %d bytes: a larger superblock_size is needed", c.Devices[i].Name, n)
		}
		if err := d.Validate(ondisk.ValidateWrite); err != nil {
			return nil, err
		}
		all[i] = d
	}
	return all, nil
}
