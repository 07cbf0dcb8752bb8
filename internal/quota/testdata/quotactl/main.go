//go:build linux

// Command quotactl asks the kernel about quotas, and sets limits, for tests in the virtual machine:
//
//	quotactl list MOUNTPOINT TYPE                     who has something or limits, a line for each: id, sectors, inodes, limits
//	quotactl set MOUNTPOINT TYPE ID HARD SOFT HARD SOFT  limits of sectors, which are even, and of inodes
//	quotactl write PATH UID BYTES                     as that user; says how many bytes were written
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

// Of <linux/quota.h>. Blocks are of 1024 bytes.
const (
	sysQuotactlFD = 443
	setQuota      = 0x800008
	getNextQuota  = 0x800009
	validLimits   = 1 | 4
	dqblkSize     = 72
)

func quotactl(path string, command, typ, id uint64, b *[dqblkSize]byte) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, no := syscall.Syscall6(sysQuotactlFD, f.Fd(), uintptr(command<<8|typ), uintptr(id), uintptr(unsafe.Pointer(b)), 0, 0); no != 0 {
		return no
	}
	return nil
}

func number(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func list(path string, typ uint64) error {
	for id := uint64(0); ; id++ {
		var b [dqblkSize]byte
		err := quotactl(path, getNextQuota, typ, id, &b)
		if errors.Is(err, syscall.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
		u64 := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
		id = uint64(binary.LittleEndian.Uint32(b[68:]))
		fmt.Println(id, u64(2)/512, u64(5), u64(0)*2, u64(1)*2, u64(3), u64(4))
	}
}

func set(path string, args []string) error {
	var b [dqblkSize]byte
	for i, at := range []int{0, 1, 3, 4} {
		n := number(args[2+i])
		if i < 2 {
			n /= 2
		}
		binary.LittleEndian.PutUint64(b[8*at:], n)
	}
	binary.LittleEndian.PutUint32(b[64:], validLimits)
	return quotactl(path, setQuota, number(args[0]), number(args[1]), &b)
}

func write(path string, uid, n int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if err := syscall.Setuid(uid); err != nil {
		return err
	}
	done := 0
	for done < n && err == nil {
		var m int
		m, err = f.Write(make([]byte, min(4096, n-done)))
		done += m
	}
	if err == nil {
		err = f.Sync()
	}
	fmt.Println(done, err)
	return nil
}

func main() {
	var err error
	switch a := os.Args[1:]; a[0] {
	case "list":
		err = list(a[1], number(a[2]))
	case "set":
		err = set(a[1], a[2:])
	case "write":
		err = write(a[1], int(number(a[2])), int(number(a[3])))
	default:
		err = errors.New("unknown command")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
