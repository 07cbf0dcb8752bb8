//go:build linux

package fusefs

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// device is the connection to the kernel: it reads requests from /dev/fuse, has them answered and writes the answers.
//
// One goroutine leads: it reads a request and, if that is of a kind that seldom takes long, answers it itself before it reads the next. Waking somebody for
// each request would cost more than most of them take. Before it does what may wait for a disk or moves much data it has another one lead; one that takes
// long with what should not is relieved by the watch. The leader sleeps in its reading, so that a request takes two system calls; Go's poller would make it
// four. While it sleeps it keeps one of the turns that GOMAXPROCS allows, until a timer takes that away: there should be more of them than processors.
//
// Where there are many processors and the leader does not come to an end of requests, helpers read, too, as long as there is something to read: each from a
// connection of its own, on which nothing blocks.
type device struct {
	protocol *fuse.ProtocolServer
	file     *os.File
	conn     syscall.RawConn
	fd       int      // of file, which is open until nobody works any more
	clones   chan int // connections of helpers that are not in use

	roles   chan role // to who is waiting for something to do
	workers sync.WaitGroup
	waiting atomic.Int32 // for a role
	helpers atomic.Int32
	allowed int32         // helpers
	dead    chan struct{} // closed when the kernel has no more requests
	die     sync.Once

	turn    atomic.Uint64 // counts what leaders do themselves
	doing   atomic.Uint64 // the turn, while it is going on; 0 if the watch has taken the lead from who does it
	watched atomic.Bool   // the watch is awake
	wake    chan struct{} // wakes it

	buffers chan []byte // for requests and large answers, each of bufferSize
}

type role int

const (
	leader role = iota
	helper
)

const (
	// bufferSize is what the kernel insists on that a reader has room for, and with it for any answer.
	bufferSize = maxIO + 2*4096
	// smallAnswer is room for answers that tell no size before: all but data, listings, attributes and those of ioctl.
	smallAnswer = 8192
	// maxWaiting is how many goroutines and buffers are kept for when there is more to do again.
	maxWaiting = 8
	// patience is how long a leader may take before another one leads. Looking after it more often costs some percent.
	patience = 3 * time.Millisecond
	// smallWrite is how much data, in bytes, the kernel's cache writes in less time than it takes to wake somebody: it goes to the cache of the image.
	smallWrite = 32 << 10
	// watchful is how long the watch stays awake when there is nothing to do.
	watchful = 20
	// crowd is after how many requests the leader looks whether more are waiting, so that a helper would be of use.
	crowd = 8
)

// newDevice begins with /dev/fuse, which was mounted and is closed at the end.
func newDevice(fd int, fs fuse.RawFileSystem, o *fuse.MountOptions) (*device, error) {
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, err
	}
	d := &device{protocol: fuse.NewProtocolServer(fs, o), file: os.NewFile(uintptr(fd), "/dev/fuse"), fd: fd, roles: make(chan role), dead: make(chan struct{}),
		wake: make(chan struct{}, 1), buffers: make(chan []byte, maxWaiting)}
	d.allow(int32(runtime.NumCPU()/2 - 1))
	var err error
	d.conn, err = d.file.SyscallConn()
	return d, err
}

// allow sets how many helpers there may be, before the first request.
func (d *device) allow(helpers int32) {
	d.allowed = max(helpers, 0)
	d.clones = make(chan int, d.allowed)
}

// serve answers requests until the filesystem is unmounted. ended is called when there are no more, while the last ones may still be going on.
func (d *device) serve(ended func()) {
	d.workers.Go(d.watch)
	d.give(leader)
	<-d.dead
	ended()
	d.workers.Wait()
	close(d.clones)
	for fd := range d.clones {
		unix.Close(fd)
	}
	d.file.Close()
}

// end notes that there are no more requests.
func (d *device) end() { d.die.Do(func() { close(d.dead) }) }

// give has another goroutine take a role.
func (d *device) give(r role) {
	select {
	case d.roles <- r:
	default:
		d.workers.Go(func() { d.work(r) })
	}
}

// work takes roles as they come.
func (d *device) work(r role) {
	answer := make([]byte, smallAnswer)
	for {
		switch r {
		case leader:
			d.lead(answer)
		case helper:
			d.help(answer)
		}
		if d.waiting.Add(1) > maxWaiting {
			d.waiting.Add(-1)
			return
		}
		select {
		case r = <-d.roles:
			d.waiting.Add(-1)
		case <-d.dead:
			return
		}
	}
}

// buffer returns a buffer for any request, in which data to be written begins at a page.
func (d *device) buffer() []byte {
	select {
	case b := <-d.buffers:
		return b
	default:
		const page = 4096
		b := make([]byte, bufferSize+page)
		data := int(uintptr(unsafe.Pointer(&b[unsafe.Sizeof(fuse.WriteIn{})])) % page)
		return b[(page-data)%page:][:bufferSize]
	}
}

func (d *device) putBuffer(b []byte) {
	select {
	case d.buffers <- b:
	default:
	}
}

// lead reads requests and answers them, until another leads or there are no more.
func (d *device) lead(answer []byte) {
	in := d.buffer()
	defer func() { d.putBuffer(in) }()
	for read := 1; ; read++ {
		n := d.next(in)
		if n == 0 {
			return
		}
		if d.helpers.Load() < d.allowed && read%crowd == 0 && d.more() {
			d.callHelper()
		}
		if opcode(in) == opInit {
			d.answer(d.fd, in[:n], answer) // before anybody else reads: it says how what follows is to be read
			continue
		}
		if mayWait(in[:n]) {
			d.give(leader)
			d.answer(d.fd, in[:n], answer)
			return
		}
		turn := d.turn.Add(1)
		d.doing.Store(turn)
		if !d.watched.Load() {
			d.wakeWatch()
		}
		d.answer(d.fd, in[:n], answer)
		if !d.doing.CompareAndSwap(turn, 0) {
			return
		}
	}
}

// next reads a request. It returns 0 when there are no more.
func (d *device) next(in []byte) int {
	for {
		switch n, err := unix.Read(d.fd, in); err {
		case nil:
			return n
		case unix.EINTR, unix.ENOENT: // what was there was taken back
		default: // ENODEV: it is not mounted any more
			d.end()
			return 0
		}
	}
}

// more reports whether there is a request to be read.
func (d *device) more() bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}, 0)
	return n == 1 && err == nil
}

// callHelper has another goroutine read requests beside the leader, if that is of use: who makes requests wants half of the processors.
func (d *device) callHelper() {
	if n := d.helpers.Load(); n < d.allowed && d.helpers.CompareAndSwap(n, n+1) {
		d.give(helper)
	}
}

// help answers requests as long as there are some.
func (d *device) help(answer []byte) {
	defer d.helpers.Add(-1)
	fd, err := d.clone()
	if err != nil {
		return // the leader gets there, too
	}
	in := d.buffer()
	defer func() {
		d.putBuffer(in)
		d.clones <- fd
	}()
	for {
		switch n, err := unix.Read(fd, in); err {
		case nil:
			d.answer(fd, in[:n], answer)
		case unix.EINTR, unix.ENOENT:
		default:
			return
		}
	}
}

// clone returns a connection to the kernel on which reading does not block, for one helper. What is read from it has to be answered there.
func (d *device) clone() (int, error) {
	select {
	case fd := <-d.clones:
		return fd, nil
	default:
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	const ioctlClone = 0x8004e500 // FUSE_DEV_IOC_CLONE
	if err := unix.IoctlSetPointerInt(fd, ioctlClone, d.fd); err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// opcode tells what a request is.
func opcode(in []byte) uint32 { return (*fuse.InHeader)(unsafe.Pointer(&in[0])).Opcode }

// mayWait reports whether a request is of a kind that waits for disks, or for other requests, or is much work.
func mayWait(in []byte) bool {
	switch opcode(in) {
	case opWrite:
		if len(in) < int(unsafe.Sizeof(fuse.WriteIn{})) {
			return true
		}
		w := (*fuse.WriteIn)(unsafe.Pointer(&in[0]))
		return w.Size > smallWrite || w.WriteFlags&fuse.WRITE_CACHE == 0
	case opLookup, opForget, opGetAttr, opSetAttr, opReadlink, opSymlink, opMknod, opMkdir, opUnlink, opRmdir, opRename, opLink, opOpen, opStatFS, opRelease,
		opSetXattr, opGetXattr, opListXattr, opRemoveXattr, opFlush, opOpenDir, opReleaseDir, opCreate, opInterrupt, opBatchForget, opRename2, opStatx:
		return false
	}
	return true
}

// The kernel's numbers for what seldom waits, and for what says how large its answer may be.
const (
	opLookup      = 1
	opForget      = 2
	opGetAttr     = 3
	opSetAttr     = 4
	opReadlink    = 5
	opSymlink     = 6
	opMknod       = 8
	opMkdir       = 9
	opUnlink      = 10
	opRmdir       = 11
	opRename      = 12
	opLink        = 13
	opOpen        = 14
	opRead        = 15
	opWrite       = 16
	opStatFS      = 17
	opRelease     = 18
	opSetXattr    = 21
	opGetXattr    = 22
	opListXattr   = 23
	opRemoveXattr = 24
	opFlush       = 25
	opInit        = 26
	opOpenDir     = 27
	opReadDir     = 28
	opReleaseDir  = 29
	opCreate      = 35
	opInterrupt   = 36
	opIoctl       = 39
	opBatchForget = 42
	opReadDirPlus = 44
	opRename2     = 45
	opStatx       = 52
)

// answerSize is how much room the answer to a request wants beyond what fits into a small one.
func answerSize(in []byte) int {
	size := func(off int) int {
		if len(in) < off+4 {
			return 0
		}
		return int(*(*uint32)(unsafe.Pointer(&in[off])))
	}
	switch opcode(in) {
	case opRead, opReadDir, opReadDirPlus:
		return size(int(unsafe.Offsetof(fuse.ReadIn{}.Size)))
	case opGetXattr, opListXattr:
		return size(int(unsafe.Sizeof(fuse.InHeader{})))
	case opIoctl:
		return size(int(unsafe.Offsetof(fuse.IoctlIn{}.OutSize)))
	}
	return 0
}

// answer has a request answered, into small if there is room, and writes the answer to where the request was read from.
func (d *device) answer(fd int, in, small []byte) {
	out := small
	if n := answerSize(in) + 4096; n > bufferSize {
		out = make([]byte, n)
	} else if n > len(small) {
		out = d.buffer()
		defer d.putBuffer(out)
	}
	n, status := d.protocol.HandleRequest([][]byte{in}, [][]byte{out})
	if n == 0 && status.Ok() {
		return // nothing is expected
	}
	if n == 0 {
		h := fuse.OutHeader{Length: uint32(unsafe.Sizeof(fuse.OutHeader{})), Status: -int32(status), Unique: (*fuse.InHeader)(unsafe.Pointer(&in[0])).Unique}
		n = copy(out, unsafe.Slice((*byte)(unsafe.Pointer(&h)), h.Length))
	}
	write(fd, out[:n]) // it fails if nobody waits for it any more
}

func write(fd int, p []byte) error {
	for {
		_, err := unix.Write(fd, p)
		if err != unix.EINTR {
			return err
		}
	}
}

// watch relieves leaders that take long. It sleeps while there is nothing to do.
func (d *device) watch() {
	t := time.NewTicker(patience)
	defer t.Stop()
	d.watched.Store(true)
	var last, seen uint64
	idle := 0
	for {
		select {
		case <-t.C:
		case <-d.dead:
			return
		}
		doing, turn := d.doing.Load(), d.turn.Load()
		if doing != 0 && doing == last && d.doing.CompareAndSwap(doing, 0) {
			d.give(leader)
		}
		last = doing
		if idle++; turn != seen {
			seen, idle = turn, 0
		}
		if idle < watchful {
			continue
		}
		t.Stop()
		d.watched.Store(false)
		if d.doing.Load() == 0 { // who begins now finds that nobody watches
			select {
			case <-d.wake:
			case <-d.dead:
				return
			}
		}
		d.watched.Store(true)
		idle = 0
		t.Reset(patience)
	}
}

func (d *device) wakeWatch() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Codes of what the kernel is told without having asked.
const (
	notifyInvalInode = 2
	notifyInvalEntry = 3
)

// notify tells the kernel something.
func (d *device) notify(code int32, parts ...[]byte) {
	h := fuse.OutHeader{Length: uint32(unsafe.Sizeof(fuse.OutHeader{})), Status: code}
	for _, p := range parts {
		h.Length += uint32(len(p))
	}
	msg := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&h)), unsafe.Sizeof(h))...)
	for _, p := range parts {
		msg = append(msg, p...)
	}
	_ = d.conn.Control(func(uintptr) { write(d.fd, msg) }) // nothing, if it was closed; and what the kernel does not know it need not forget
}

// InodeNotify has the kernel forget attributes of an inode and, where off is not negative, write what it keeps of n bytes from there on (0: all) and
// forget it. It may wait for requests to be answered.
func (d *device) InodeNotify(node uint64, off, n int64) {
	m := fuse.NotifyInvalInodeOut{Ino: node, Off: off, Length: n}
	d.notify(notifyInvalInode, unsafe.Slice((*byte)(unsafe.Pointer(&m)), unsafe.Sizeof(m)))
}

// EntryNotify has the kernel forget a name in a directory. It may wait for requests to be answered.
func (d *device) EntryNotify(parent uint64, name string) {
	m := fuse.NotifyInvalEntryOut{Parent: parent, NameLen: uint32(len(name))}
	d.notify(notifyInvalEntry, unsafe.Slice((*byte)(unsafe.Pointer(&m)), unsafe.Sizeof(m)), append([]byte(name), 0))
}

// stopPolling has the kernel ask whether files can be polled, to hear that they cannot, before Go's poller has it ask, in which the leader waits then.
func stopPolling(mountpoint string) error {
	fd, err := unix.Open(mountpoint+"/.go-fuse-epoll-hack", unix.O_RDONLY|unix.O_CLOEXEC, 0) // a name that package fuse knows
	if err != nil {
		return fmt.Errorf("the mount does not answer: %w", err)
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return nil
}
