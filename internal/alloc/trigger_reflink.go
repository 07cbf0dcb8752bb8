package alloc

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// dropUnreferenced makes an indirect extent that nothing refers to any more a deletion.
func dropUnreferenced(k *ondisk.Key, flags TriggerFlags) {
	if flags&TriggerInsert == 0 {
		return
	}
	if v, err := ondisk.DecodeIndirect(*k); err == nil && v.Refcount == 0 {
		k.Type, k.Size, k.Val = ondisk.KeyDeleted, 0, nil
	}
}

// reflinkP is the trigger of reflink pointers: each holds a reference on the indirect extents that overlap what it points to and its
// pads. Of a new one the pads are made such that these are covered whole: when they are split later, the pointer's end will still drop
// the references on all parts.
func (t *Triggers) reflinkP(tx Tx, old, k *ondisk.Key) error {
	if old.Type == ondisk.KeyReflinkP {
		if err := t.reflinkSide(tx, old, false); err != nil {
			return err
		}
	}
	if k.Type == ondisk.KeyReflinkP {
		return t.reflinkSide(tx, k, true)
	}
	return nil
}

func (t *Triggers) reflinkSide(tx Tx, k *ondisk.Key, insert bool) error {
	p, err := ondisk.DecodeReflinkP(*k)
	if err != nil {
		return err
	}
	if insert {
		p.FrontPad, p.BackPad = 0, 0
	}
	if uint64(p.FrontPad) > p.Idx {
		return keyErrorf(ondisk.BtreeExtents, k.Pos, "reflink pointer to %d begins %d before", p.Idx, p.FrontPad)
	}
	start, end := p.Idx, p.Idx+uint64(k.Size)
	for idx, last := start-uint64(p.FrontPad), end+uint64(p.BackPad); idx < last; {
		v, err := t.indirectRef(tx, k, idx, insert)
		if err != nil {
			return err
		}
		if insert {
			front, back := max(start, v.Start().Offset)-v.Start().Offset, max(v.Pos.Offset, end)-end
			if front > math.MaxUint32 || back > math.MaxUint32 {
				return keyErrorf(ondisk.BtreeExtents, k.Pos, "reflink pointer to %d: pads of %d and %d do not fit", p.Idx, front, back)
			}
			p.FrontPad, p.BackPad = max(p.FrontPad, uint32(front)), max(p.BackPad, uint32(back))
		}
		idx = v.Pos.Offset
	}
	if insert {
		k.Val = p.Encode()
	}
	return nil
}

// indirectRef takes or drops a reference on the indirect extent at idx, which it returns.
func (t *Triggers) indirectRef(tx Tx, k *ondisk.Key, idx uint64, take bool) (ondisk.Key, error) {
	v, ok, err := tx.Get(ondisk.BtreeReflink, ondisk.Pos{Offset: idx}, ForUpdate)
	if err != nil {
		return v, err
	}
	if !ok || v.Type != ondisk.KeyReflinkV && v.Type != ondisk.KeyIndirectInlineData || len(v.Val) < 8 {
		return v, keyErrorf(ondisk.BtreeExtents, k.Pos, "reflink pointer to %d, where there is no indirect extent", idx)
	}
	refs := binary.LittleEndian.Uint64(v.Val)
	switch {
	case take:
		refs++
	case refs == 0:
		return v, keyErrorf(ondisk.BtreeReflink, v.Pos, "no reference is left for the reflink pointer at %v", k.Pos)
	default:
		refs--
	}
	v.Val = slices.Clone(v.Val)
	binary.LittleEndian.PutUint64(v.Val, refs)
	return v, tx.Update(ondisk.BtreeReflink, v, 0)
}
