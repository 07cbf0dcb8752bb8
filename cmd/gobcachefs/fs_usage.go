package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/go-bcachefs/bcachefs"
)

func newFSCmd(a *app) *cobra.Command {
	return a.group(&cobra.Command{
		Use:   "fs",
		Short: "Look at a filesystem as a whole",
	}, newFSUsageCmd(a))
}

type fsUsageCmd struct {
	*app
	openFlags
	fields                 []string
	all, human, json       bool
	usage                  *bcachefs.Usage
	devices                map[int]bcachefs.DeviceUsage
	replicas, btree        bool
	compression, perDevice bool
}

func newFSUsageCmd(a *app) *cobra.Command {
	u := &fsUsageCmd{app: a}
	c := a.command(&cobra.Command{
		Use:   "usage [flags] DEV...",
		Short: "Print what the space is used for",
		Long: "usage prints the space of a filesystem by replication, and with -f or -a by\n\n" +
			"  replicas        type of data and devices it is on\n" +
			"  btree           each btree\n" +
			"  compression     type of compression\n" +
			"  rebalance_work  work that is pending (not read offline)\n" +
			"  devices         type of data on each device",
		Args: cobra.MinimumNArgs(1),
	}, u.run)
	f := c.Flags()
	f.StringSliceVarP(&u.fields, "fields", "f", nil, "also print these `FIELDS`: replicas, btree, compression, devices")
	f.BoolVarP(&u.all, "all", "a", false, "print all fields")
	f.Bool("mapper-names", false, "accepted for the habit: devices are called as they were given")
	humanFlag(c, &u.human)
	jsonFlag(c, &u.json)
	u.register(f)
	return c
}

func (u *fsUsageCmd) run(ctx context.Context, args []string) error {
	for _, f := range u.fields {
		switch f {
		case "replicas":
			u.replicas = true
		case "btree":
			u.btree = true
		case "compression":
			u.compression = true
		case "devices":
			u.perDevice = true
		case "rebalance_work":
		default:
			return usagef("--fields %s: want replicas, btree, compression, rebalance_work or devices", f)
		}
	}
	if u.all {
		u.replicas, u.btree, u.compression, u.perDevice = true, true, true, true
	}
	f, _, err := u.open(ctx, u.app, args)
	if err != nil {
		return err
	}
	defer f.Close()
	u.usage, err = f.Usage(ctx)
	if err != nil {
		return failed("read the usage", strings.Join(args, ":"), err)
	}
	if u.json {
		return u.writeJSON(usageToJSON(u.usage))
	}
	u.devices = map[int]bcachefs.DeviceUsage{}
	for _, d := range u.usage.Devices {
		u.devices[d.Index] = d
	}
	u.print()
	return nil
}

func (u *fsUsageCmd) print() {
	us := u.usage
	fmt.Fprintf(u.out, "Filesystem: %s\n", us.UUID)
	t := table{gap: 2}
	t.add(left("Size:"), right(u.size(us.Capacity)))
	t.add(left("Used:"), right(u.size(us.Used)))
	t.add(left("Online reserved:"), right(u.size(0)))
	t.print(u.out)
	u.summary()
	if u.replicas {
		u.printReplicas()
	}
	if u.compression && len(us.Compression) > 0 {
		fmt.Fprintln(u.out, "\nCompression:")
		t := table{gap: 2}
		t.add(left("type"), right("compressed"), right("uncompressed"), right("average extent size"))
		for _, c := range us.Compression {
			average := uint64(0)
			if c.Extents > 0 {
				average = c.UncompressedBytes / c.Extents
			}
			t.add(left(c.Type), right(u.size(c.CompressedBytes)), right(u.size(c.UncompressedBytes)), right(u.size(average)))
		}
		t.print(u.out)
	}
	if u.btree && len(us.Btrees) > 0 {
		fmt.Fprintln(u.out, "\nBtree usage:")
		t := table{gap: 2}
		for _, b := range us.Btrees {
			t.add(left(b.Btree+":"), right(u.size(b.Bytes)))
		}
		t.print(u.out)
	}
	u.printDevices()
}

func (u *fsUsageCmd) size(n uint64) string {
	if u.human {
		return unitSize(n)
	}
	return fmt.Sprint(n)
}

// durability counts how many devices may fail before data on these is lost, plus one, and how much of that is gone.
func (u *fsUsageCmd) durability(r bcachefs.ReplicasUsage) (durability, degraded int) {
	for _, i := range r.Devices {
		d, ok := u.devices[i]
		weight := 1
		if ok {
			weight = d.Durability
		}
		if !ok || d.Missing {
			degraded += weight
		}
		durability += weight
	}
	if r.Required > 1 {
		durability = len(r.Devices) - r.Required + 1
	}
	return durability, degraded
}

// usageClass is a row of the summary: replicas of the same durability, or stripes of the same shape.
type usageClass struct{ data, parity, durability int }

func (c usageClass) label() string {
	if c.data > 1 {
		return fmt.Sprintf("%d+%d:", c.data, c.parity)
	}
	return fmt.Sprintf("%dx:", c.durability)
}

func (u *fsUsageCmd) summary() {
	sums := map[usageClass][]uint64{} // by how much is gone
	cached, columns := uint64(0), 0
	coded := false
	for _, r := range u.usage.Replicas {
		if r.DataType == "cached" {
			cached += r.Bytes
			continue
		}
		durability, degraded := u.durability(r)
		class := usageClass{durability: durability}
		if r.Required > 1 {
			class = usageClass{data: r.Required, parity: len(r.Devices) - r.Required}
			coded = true
		}
		row := sums[class]
		for len(row) <= degraded {
			row = append(row, 0)
		}
		row[degraded] += r.Bytes
		sums[class] = row
		columns = max(columns, len(row))
	}
	classes := make([]usageClass, 0, len(sums))
	for c := range sums {
		classes = append(classes, c)
	}
	slices.SortFunc(classes, func(a, b usageClass) int {
		return cmp.Or(cmp.Compare(a.data, b.data), cmp.Compare(a.parity, b.parity), cmp.Compare(a.durability, b.durability))
	})
	rows := func(stripes bool) {
		t := table{gap: 2}
		head := []cell{left("")}
		for i := range columns {
			if i == 0 {
				head = append(head, right("undegraded"))
			} else {
				head = append(head, right(fmt.Sprintf("-%dx", i)))
			}
		}
		t.add(head...)
		for _, c := range classes {
			if (c.data > 1) != stripes {
				continue
			}
			row := []cell{left(c.label())}
			for _, n := range sums[c] {
				text := ""
				if n > 0 {
					text = u.size(n)
				}
				row = append(row, right(text))
			}
			t.add(row...)
		}
		if len(t.rows) > 1 {
			t.print(u.out)
		}
	}
	fmt.Fprintln(u.out)
	if coded {
		fmt.Fprintln(u.out, "Replicated:")
	}
	rows(false)
	if coded {
		fmt.Fprintln(u.out, "\nErasure coded (data+parity):")
		rows(true)
	}
	t := table{gap: 2}
	if cached > 0 {
		t.add(left("cached:"), right(u.size(cached)))
	}
	if u.usage.Reserved > 0 {
		t.add(left("reserved:"), right(u.size(u.usage.Reserved)))
	}
	t.print(u.out)
}

func (u *fsUsageCmd) printReplicas() {
	fmt.Fprintln(u.out)
	t := table{gap: 2}
	t.add(left("Data type"), left("Required/total"), left("Durability"), left("Devices"), right("Usage"))
	if u.usage.Reserved > 0 {
		t.add(left("reserved:"), left(""), left(""), left("[]"), right(u.size(u.usage.Reserved)))
	}
	for _, r := range u.usage.Replicas {
		durability, _ := u.durability(r)
		names := make([]string, len(r.Devices))
		for i, d := range r.Devices {
			names[i] = fmt.Sprint(d)
			if n := u.devices[d].Name; n != "" {
				names[i] = baseName(n)
			}
		}
		t.add(left(r.DataType+":"), left(fmt.Sprintf("%d/%d", r.Required, len(r.Devices))), left(fmt.Sprint(durability)),
			left("["+strings.Join(names, " ")+"]"), right(u.size(r.Bytes)))
	}
	t.print(u.out)
}

// emptyTypes are the types of data whose buckets are free for use, hiddenTypes those that are not counted as capacity.
var (
	emptyTypes  = []string{"free", "need_gc_gens", "need_discard"}
	hiddenTypes = []string{"sb", "journal"}
)

func (u *fsUsageCmd) printDevices() {
	devices := slices.Clone(u.usage.Devices)
	slices.SortFunc(devices, func(a, b bcachefs.DeviceUsage) int {
		return cmp.Or(cmp.Compare(a.Label, b.Label), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Index, b.Index))
	})
	fmt.Fprintln(u.out)
	if u.perDevice {
		for _, d := range devices {
			u.printDevice(d)
		}
		return
	}
	t := table{gap: 2}
	t.add(left("Device label"), left("Device"), left("State"), right("Size"), right("Used"), right("Use%"))
	for _, d := range devices {
		if d.Missing {
			t.add(left(deviceLabel(d)), left("-"), left("offline"), right("-"), right("-"), right("-"))
			continue
		}
		hidden, used, usedBuckets := uint64(0), uint64(0), uint64(0)
		for _, dt := range d.Types {
			switch {
			case slices.Contains(hiddenTypes, dt.DataType):
				hidden += dt.Bytes
			case slices.Contains(emptyTypes, dt.DataType):
			default:
				usedBuckets += dt.Buckets
				if dt.DataType != "unstriped" {
					used += dt.Bytes
				}
			}
		}
		t.add(left(deviceLabel(d)), left(baseName(d.Name)), left(d.State), right(u.size(d.Bytes-min(hidden, d.Bytes))),
			right(u.size(used)), right(fmt.Sprintf("%2d%%", usedBuckets*100/max(d.Buckets, 1))))
	}
	t.print(u.out)
}

func (u *fsUsageCmd) printDevice(d bcachefs.DeviceUsage) {
	if d.Missing {
		fmt.Fprintf(u.out, "%s  offline  usage unavailable\n\n", deviceLabel(d))
		return
	}
	usedBuckets := uint64(0)
	for _, dt := range d.Types {
		if !slices.Contains(emptyTypes, dt.DataType) && !slices.Contains(hiddenTypes, dt.DataType) {
			usedBuckets += dt.Buckets
		}
	}
	fmt.Fprintf(u.out, "%s  %s  %s  %2d%%\n", deviceLabel(d), baseName(d.Name), d.State, usedBuckets*100/max(d.Buckets, 1))
	t := table{gap: 2}
	t.add(left(""), right("data"), right("buckets"), right("fragmented"))
	for _, dt := range d.Types {
		bytes := dt.Bytes
		if slices.Contains(emptyTypes, dt.DataType) {
			bytes = dt.Buckets * d.BucketBytes
		}
		fragmented := ""
		if dt.Fragmented > 0 {
			fragmented = u.size(dt.Fragmented)
		}
		t.add(left("  "+dt.DataType+":"), right(u.size(bytes)), right(fmt.Sprint(dt.Buckets)), right(fragmented))
	}
	t.add(left("  capacity:"), right(u.size(d.Bytes)), right(fmt.Sprint(d.Buckets)))
	t.add(left("  bucket size:"), right(u.size(d.BucketBytes)))
	t.print(u.out)
	fmt.Fprintln(u.out)
}

func deviceLabel(d bcachefs.DeviceUsage) string {
	label := d.Label
	if label == "" {
		label = "(no label)"
	}
	return fmt.Sprintf("%s (device %d):", label, d.Index)
}

// baseName is the last part of a device's path, as the reference prints it.
func baseName(name string) string { return name[strings.LastIndexAny(name, `/\`)+1:] }
