package engine

import (
	"context"

	"github.com/go-bcachefs/bcachefs/internal/data"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// SetFeatures makes sure that the superblocks list features: it returns when they do on the devices. A key that needs one may be
// written only then (spec/05 § 0.4).
func (rw *RW) SetFeatures(ctx context.Context, features ...ondisk.Feature) error {
	sb, missing := rw.Super.Superblock(), false
	for _, f := range features {
		missing = missing || !sb.HasFeature(f)
	}
	if !missing {
		return nil
	}
	return rw.updateSuper(ctx, func(sb *ondisk.Superblock) error {
		for _, f := range features {
			sb.SetFeature(f)
		}
		return nil
	})
}

// DataConfig is what it takes to write the data of files, with the options of the superblock. Data that is small lies in its key.
func (rw *RW) DataConfig() data.WriterConfig {
	sb := rw.Super.Superblock()
	required := 1
	if o, _ := ondisk.FindOption("data_replicas_required"); sb.Option(o) > 1 {
		required = int(sb.Option(o))
	}
	c := data.WriterConfig{
		Store: rw.Store, Alloc: rw.Alloc, Space: rw.Space, Members: rw.Devices, Device: rw.Device, Nocow: &rw.nocow,
		DeviceName: func(dev uint8) string {
			if m := rw.Member(dev); m != nil {
				return m.Name()
			}
			return "(no such device)"
		},
		Key: rw.Key, Encrypted: sb.Encrypted(), NewKeyVersion: rw.NewKeyVersion,
		Version: sb.Version, BlockBytes: sb.BlockBytes(), EncodedExtentMax: int(sb.EncodedExtentMax()), ExtentTypes: sb.ExtentTypeU64s(),
		Options: data.Options{
			Checksum: uint8(option(sb, "data_checksum")), Compression: uint8(option(sb, "compression")),
			BackgroundCompression: uint8(option(sb, "background_compression")),
			Replicas:              int(option(sb, "data_replicas")), ReplicasRequired: required,
			ForegroundTarget: uint16(option(sb, "foreground_target")), BackgroundTarget: uint16(option(sb, "background_target")),
			Nocow: option(sb, "nocow") != 0, InlineData: true, WideMACs: option(sb, "wide_macs") != 0,
		},
		Now:      func() int64 { return rw.now().UnixNano() },
		TimeBase: int64(sb.TimeBase), TimePrecision: sb.TimePrecision,
		SetFeatures:  rw.SetFeatures,
		InTarget:     rw.Alloc.InTarget,
		OnWriteError: rw.writeError, OnReadError: rw.errors.readError, OnBadReplica: rw.badReplica,
		Wrote: rw.wrote,
	}
	return c
}
