package main

import (
	"bufio"
	"encoding/json"

	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// keyPrinter prints keys of one filesystem as the reference does.
type keyPrinter struct{ env ondisk.TextEnv }

func newKeyPrinter(fs *engine.FS) *keyPrinter {
	p := &keyPrinter{ondisk.TextEnv{Version: fs.SB.Version}}
	p.env.ExtentTypeU64s = fs.SB.ExtentTypeU64s()
	p.env.Device = func(dev uint8) (ondisk.TextDevice, bool) {
		m := fs.Member(dev)
		if m == nil {
			return ondisk.TextDevice{}, false
		}
		d := ondisk.TextDevice{BucketSize: uint32(m.BucketSize), Durability: uint8(m.Durability())}
		if m.Device != nil {
			d.Name = baseName(m.Device.Name())
		}
		return d, true
	}
	return p
}

// append appends a key with its value.
func (p *keyPrinter) append(dst []byte, id ondisk.BtreeID, k *ondisk.Key) []byte {
	return ondisk.AppendKeyText(dst, id, k, &p.env)
}

// appendKey appends a key without its value.
func (p *keyPrinter) appendKey(dst []byte, id ondisk.BtreeID, k *ondisk.Key) []byte {
	bare := *k
	bare.Val = nil
	return ondisk.AppendKeyText(dst, id, &bare, &p.env)
}

// value returns the text of a key's value.
func (p *keyPrinter) value(k *ondisk.Key) string {
	return string(ondisk.AppendValueText(nil, k, &p.env))
}

// writeJSONLine writes v as one line.
func writeJSONLine(w *bufio.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
