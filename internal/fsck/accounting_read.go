package fsck

import (
	"context"
	"fmt"
	"slices"

	"github.com/go-bcachefs/bcachefs/internal/ondisk"
)

// accountingRead looks at each counter by itself: does what it counts exist, and is a set of devices that holds something listed in the
// superblock?
func (c *checker) accountingRead(ctx context.Context) error {
	if !c.initialized() || c.version < ondisk.VersionAccounting {
		return nil
	}
	listed := map[string]bool{}
	replicas, err := c.sb.Replicas()
	if err != nil {
		c.nowhere(NoID, "write the superblock anew", "%v", err)
	}
	for _, r := range replicas {
		listed[replicasName(r.DataType, r.Required, r.Devs)] = true
	}
	return c.each(ctx, ondisk.BtreeAccounting, 0, ondisk.PosMin, ondisk.SPosMax, func(k *ondisk.Key) error {
		if k.Type != ondisk.KeyAccounting || !counts(k) {
			return nil
		}
		a, ok := ondisk.DecodeAccountingPos(k.Pos, c.version)
		if !ok {
			if a.Type < ondisk.NumAccountingTypes {
				c.at(idAccountingKeyJunkAtEnd, ondisk.BtreeAccounting, 0, k.Pos, "delete it", "counter of type %v with bytes behind its end", a.Type)
			}
			return nil
		}
		switch a.Type {
		case ondisk.AccountingDevDataType:
			if a.Dev >= 256 || c.byIndex[a.Dev] == nil {
				c.at(idAccountingToInvalidDevice, ondisk.BtreeAccounting, 0, k.Pos, "set it to 0", "%s: there is no such device", c.counterName(&a))
			}
		case ondisk.AccountingReplicas:
			c.checkReplicas(k, &a, listed)
		}
		return nil
	})
}

func (c *checker) checkReplicas(k *ondisk.Key, a *ondisk.AccountingPos, listed map[string]bool) {
	for _, d := range a.DevList() {
		if d != ondisk.DevInvalid && c.byIndex[d] == nil {
			c.at(idAccountingToInvalidDevice, ondisk.BtreeAccounting, 0, k.Pos, "set it to 0", "%s: there is no device %d", c.counterName(a), d)
			return
		}
	}
	// From 1.36 on the superblock lists metadata only.
	if c.sb.VersionIncompat() >= 1<<10|36 && a.DataType > ondisk.DataBtree {
		return
	}
	if !listed[replicasName(a.DataType, a.NrRequired, a.DevList())] {
		c.at(idAccountingReplicasNotMarked, ondisk.BtreeAccounting, 0, k.Pos, "list it", "%s: not listed in the superblock", c.counterName(a))
	}
}

func replicasName(t ondisk.DataType, required uint8, devs []uint8) string {
	return fmt.Sprintf("%v: %d/%d %d", t, required, len(devs), slices.Sorted(slices.Values(devs)))
}

// counts reports whether some counter of an accounting key is not 0.
func counts(k *ondisk.Key) bool {
	return slices.ContainsFunc(k.Val, func(b byte) bool { return b != 0 })
}

// counterName is how the reference names a counter.
func (c *checker) counterName(a *ondisk.AccountingPos) string {
	switch a.Type {
	case ondisk.AccountingPersistentReserved:
		return fmt.Sprintf("%v replicas=%d", a.Type, a.NrReplicas)
	case ondisk.AccountingReplicas:
		return fmt.Sprintf("%v %s", a.Type, replicasName(a.DataType, a.NrRequired, a.DevList()))
	case ondisk.AccountingDevDataType:
		return fmt.Sprintf("%v dev=%d data_type=%v", a.Type, a.Dev, a.DataType)
	case ondisk.AccountingCompression:
		return fmt.Sprintf("%v %v", a.Type, a.Compression)
	case ondisk.AccountingSnapshot:
		if c.since(39) {
			return fmt.Sprintf("%v id=%d btree=%v", a.Type, a.ID, ondisk.BtreeID(a.Btree))
		}
		return fmt.Sprintf("%v id=%d", a.Type, a.ID)
	case ondisk.AccountingBtree:
		return fmt.Sprintf("%v btree=%v", a.Type, ondisk.BtreeID(a.Btree))
	case ondisk.AccountingInum:
		return fmt.Sprintf("%v inum=%d", a.Type, a.Inum)
	}
	return a.Type.String()
}
