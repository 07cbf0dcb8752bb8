package namei_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/go-bcachefs/bcachefs/internal/engine"
	"github.com/go-bcachefs/bcachefs/internal/enginetest"
	"github.com/go-bcachefs/bcachefs/internal/namei"
	"github.com/go-bcachefs/bcachefs/internal/ondisk"
	"github.com/go-bcachefs/bcachefs/internal/trans"
)

// benchmark runs fn with a filesystem in memory, and then says what one of its operations took.
func benchmark(b *testing.B, fn func(w *namei.Writer, update func(fn func(tx *trans.Tx) error))) {
	b.Helper()
	d, err := enginetest.Format(b.Context(), &enginetest.Shape{Bytes: []int64{512 << 20}})
	if err != nil {
		b.Fatal(err)
	}
	rw, err := d.Open(b.Context(), engine.Options{}, engine.WriteOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer rw.Abandon()
	w := namei.NewWriter(namei.WriterConfig{Store: rw.Store, Now: func() int64 { return time.Now().UnixNano() }, TimeBase: rw.SB.TimeBase,
		TimePrecision: rw.SB.TimePrecision, Rand: rand.Uint64, HashType: rw.SB.DirentHash(), ACL: true})
	b.ReportAllocs()
	b.ResetTimer()
	fn(w, func(fn func(tx *trans.Tx) error) {
		if err := rw.Store.Update(b.Context(), fn); err != nil {
			b.Fatal(err)
		}
	})
}

var benchRoot = namei.ID{Subvol: ondisk.RootSubvol, Inum: ondisk.RootInum}

func BenchmarkCreate(b *testing.B) {
	benchmark(b, func(w *namei.Writer, update func(fn func(tx *trans.Tx) error)) {
		n := namei.NewInode{Mode: reg | 0o644}
		for i := range b.N {
			name := fmt.Append(nil, "file", i)
			update(func(tx *trans.Tx) error {
				_, err := w.Create(tx, benchRoot, name, &n)
				return err
			})
		}
	})
}

func BenchmarkCreateUnlinkDelete(b *testing.B) {
	benchmark(b, func(w *namei.Writer, update func(fn func(tx *trans.Tx) error)) {
		n := namei.NewInode{Mode: reg | 0o644}
		for range b.N {
			var a namei.Attr
			update(func(tx *trans.Tx) (err error) {
				a, err = w.Create(tx, benchRoot, []byte("file"), &n)
				return err
			})
			update(func(tx *trans.Tx) error {
				_, err := w.Unlink(tx, benchRoot, []byte("file"), namei.File)
				return err
			})
			if err := w.Delete(b.Context(), a.ID); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkRename(b *testing.B) {
	benchmark(b, func(w *namei.Writer, update func(fn func(tx *trans.Tx) error)) {
		names := [2][]byte{[]byte("one name"), []byte("another name")}
		update(func(tx *trans.Tx) error {
			_, err := w.Create(tx, benchRoot, names[0], &namei.NewInode{Mode: reg})
			return err
		})
		for i := range b.N {
			update(func(tx *trans.Tx) error {
				_, err := w.Rename(tx, benchRoot, names[i&1], benchRoot, names[1-i&1], 0, 0, 0)
				return err
			})
		}
	})
}
