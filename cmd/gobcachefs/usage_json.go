package main

import "github.com/go-bcachefs/bcachefs"

// usageJSON is what fs usage --json tells. Sizes are in bytes.
type usageJSON struct {
	UUID        string            `json:"uuid"`
	Version     string            `json:"version"`
	Size        uint64            `json:"size"`
	Used        uint64            `json:"used"`
	Reserved    uint64            `json:"reserved"`
	Inodes      uint64            `json:"inodes"`
	Replicas    []replicasJSON    `json:"replicas"`
	Compression []compressionJSON `json:"compression"`
	Btrees      map[string]uint64 `json:"btrees"`
	Devices     []usageDeviceJSON `json:"devices"`
	FromAlloc   bool              `json:"from_alloc,omitempty"` // there is no accounting: added up from buckets
}

type replicasJSON struct {
	DataType string `json:"data_type"`
	Required int    `json:"required"`
	Devices  []int  `json:"devices"`
	Size     uint64 `json:"size"`
}

type compressionJSON struct {
	Type         string `json:"type"`
	Extents      uint64 `json:"extents"`
	Compressed   uint64 `json:"compressed"`
	Uncompressed uint64 `json:"uncompressed"`
}

type usageDeviceJSON struct {
	Index      int                     `json:"index"`
	Name       string                  `json:"name,omitempty"`
	Label      string                  `json:"label,omitempty"`
	UUID       string                  `json:"uuid"`
	State      string                  `json:"state"`
	Durability int                     `json:"durability"`
	Missing    bool                    `json:"missing,omitempty"`
	Size       uint64                  `json:"size"`
	BucketSize uint64                  `json:"bucket_size"`
	Buckets    uint64                  `json:"buckets"`
	Types      map[string]dataTypeJSON `json:"types"`
}

type dataTypeJSON struct {
	Size       uint64 `json:"size"`
	Buckets    uint64 `json:"buckets"`
	Fragmented uint64 `json:"fragmented"`
}

func usageToJSON(u *bcachefs.Usage) usageJSON {
	j := usageJSON{
		UUID: u.UUID, Version: u.Version, Size: u.Capacity, Used: u.Used, Reserved: u.Reserved, Inodes: u.Inodes,
		Replicas: []replicasJSON{}, Compression: []compressionJSON{}, Btrees: map[string]uint64{}, Devices: []usageDeviceJSON{},
		FromAlloc: u.FromAlloc,
	}
	for _, r := range u.Replicas {
		j.Replicas = append(j.Replicas, replicasJSON{DataType: r.DataType, Required: r.Required, Devices: r.Devices, Size: r.Bytes})
	}
	for _, c := range u.Compression {
		j.Compression = append(j.Compression, compressionJSON{c.Type, c.Extents, c.CompressedBytes, c.UncompressedBytes})
	}
	for _, b := range u.Btrees {
		j.Btrees[b.Btree] = b.Bytes
	}
	for _, d := range u.Devices {
		dj := usageDeviceJSON{
			Index: d.Index, Name: d.Name, Label: d.Label, UUID: d.UUID, State: d.State, Durability: d.Durability, Missing: d.Missing,
			Size: d.Bytes, BucketSize: d.BucketBytes, Buckets: d.Buckets, Types: map[string]dataTypeJSON{},
		}
		for _, t := range d.Types {
			dj.Types[t.DataType] = dataTypeJSON{t.Bytes, t.Buckets, t.Fragmented}
		}
		j.Devices = append(j.Devices, dj)
	}
	return j
}
